"""Says in SQL where values name their key: a byte, the length of the label, the label."""

from keyrotation_pipeline.fieldcrypto.codecs.marked import NAME_PATTERN
from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto.codec import SHORTEST_BYTES
from keyrotation_pipeline.fieldcrypto.formats.marking import Prefix

MARKING = Prefix(
    size="2 + get_byte(raw, 1)",
    fits=f"octet_length(raw) >= get_byte(raw, 1) + {2 + SHORTEST_BYTES} AND get_byte(raw, 0) = 1 "
    f"AND encode(substr(raw, 3, get_byte(raw, 1)), 'escape') ~ '^{NAME_PATTERN}$'",
    shortest=3 + SHORTEST_BYTES,
)
