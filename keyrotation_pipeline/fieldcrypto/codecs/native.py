"""Our own format, ``vN:<nonce>:<ciphertext ‖ tag>``: `grammar`, `cipher`, `batch` and `codec.c` put together."""

from keyrotation_pipeline.fieldcrypto import cipher
from keyrotation_pipeline.fieldcrypto.batch import Rewriter
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import Defect


class NativeFormat:
    """`Format` for values that name their key version."""

    def rewriter(self, ring: KeyRing, target: KeyVersion) -> Rewriter:
        """See `Format.rewriter`."""
        return Rewriter(ring, target)

    def native_codec(self, ring: KeyRing, target: KeyVersion) -> NativeCodec | None:
        """See `Format.native_codec`."""
        return native_codec(ring, target)

    def opened_by(self, ring: KeyRing, stored: str) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        value = cipher.parsed(stored)
        return None if value is None else (value.version, cipher.opened_by(ring, value))

    def plaintext(self, ring: KeyRing, stored: str) -> bytes | Defect:
        """See `Format.plaintext`."""
        return cipher.plaintext(ring, stored)
