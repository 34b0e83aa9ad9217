"""Our own format, in both generations: `grammar`, `cipher`, `batch` and `codec.c` put together."""

from keyrotation_pipeline.fieldcrypto import cipher
from keyrotation_pipeline.fieldcrypto.batch import Labels, Rewriter
from keyrotation_pipeline.fieldcrypto.binding import associated_data
from keyrotation_pipeline.fieldcrypto.grammar import SECOND, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import Defect


class NativeFormat:
    """`Format` for values that name their key version."""

    def rewriter(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> Rewriter:
        """See `Format.rewriter`."""
        return Rewriter(ring, target, labels)

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:
        """See `Format.native_codec`; None also where a column has no label that the second generation needs."""
        second = next((version for version in ring.versions if version.generation == SECOND), None)
        if second is None:
            return native_codec(ring, target)
        if not labels or None in labels:
            return None
        bound = [associated_data(second, label) or b"" for label in labels]
        return native_codec(ring, target, bound=bound)

    def opened_by(
        self, ring: KeyRing, stored: bytes, label: str | None = None
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        value = cipher.parsed(_text(stored))
        return None if value is None else (value.version, cipher.opened_by(ring, value, label))

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:
        """See `Format.plaintext`."""
        return cipher.plaintext(ring, _text(stored), label)


def _text(stored: bytes) -> str:
    # What is not ASCII is no value, whatever its characters are.
    return stored.decode("latin-1")
