"""Re-encrypts AES-GCM in a declared layout: see `codecs.unmarked` and `codecs.layout`."""

from keyrotation_pipeline.fieldcrypto.codecs.format import Codec, layout_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, by_commas, listed_derived
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedFormat
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm.derived import NOTATION


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> UnmarkedFormat:
        return UnmarkedFormat(layout_of(declared), bound=bool(declared.aad), derivation=declared.derivation)

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:
        if declared.derivation is None:
            return by_commas(encoding)
        return NOTATION if declared.derivation.for_each_column else listed_derived(declared.derivation)


CODEC = _Codec()
