"""Puts our own format together, in both generations: `grammar`, `cipher`, `batch` and `codec.c`."""

from keyrotation_pipeline.fieldcrypto import cipher
from keyrotation_pipeline.fieldcrypto.batch import Labels, Reencryptor
from keyrotation_pipeline.fieldcrypto.binding import Row, associated_data, divided
from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, by_commas
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import SECOND, KeyVersion, parsed
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import Defect


class NativeFormat:
    """`Format` for values that name their key version.

    Args:
        since: the number of the first version whose values are bound to their row; each value is then read with the key
            of its row. 0: there is none.
    """

    def __init__(self, since: int = 0) -> None:
        self._since = since

    def reencryptor(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> Reencryptor:
        """See `Format.reencryptor`."""
        return Reencryptor(ring, target, labels, self._since)

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:
        """See `Format.native_codec`; None also where a column has no label that the second generation needs."""
        second = next((version for version in ring.versions if version.generation == SECOND), None)
        if second is None:
            return native_codec(ring, target, since=self._since)
        if not labels or None in labels:
            return None
        bound = [associated_data(second, label) or b"" for label in labels]
        return native_codec(ring, target, bound=bound, since=self._since)

    def opened_by(
        self, ring: KeyRing, stored: bytes, label: str | None = None
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        stored, row = self._divided(stored)
        value = parsed(_text(stored))
        return None if value is None else (value.version, cipher.opened_by(ring, value, label, row))

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:
        """See `Format.plaintext`."""
        stored, row = self._divided(stored)
        return cipher.plaintext(ring, _text(stored), label, row)

    def _divided(self, stored: bytes) -> tuple[bytes, Row | None]:
        return divided(stored, self._since) if self._since else (stored, None)


def _text(stored: bytes) -> str:
    # What is not ASCII is no value, whatever its characters are.
    return stored.decode("latin-1")


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> NativeFormat:
        return NativeFormat(declared.row_from if declared.row else 0)

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return by_commas(KeyEncoding.B64, of_aes=False)


CODEC = _Codec()
