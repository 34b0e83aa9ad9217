"""Says in SQL where values name their key: a byte, and the key's id of four."""

from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of
from keyrotation_pipeline.fieldcrypto.formats.marking import Prefix
from keyrotation_pipeline.fieldcrypto.formats.tink import TINK
from keyrotation_pipeline.fieldcrypto.formats.tink.codec import PREFIX_BYTES

MARKING = Prefix(
    size=str(PREFIX_BYTES), fits="get_byte(raw, 0) = 1", shortest=PREFIX_BYTES + layout_of(TINK).shortest_bytes
)
