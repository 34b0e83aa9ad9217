"""Says in SQL where values name their key: by its id, with which they begin."""

from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Marking
from keyrotation_pipeline.fieldcrypto.formats.n8n_keyid.codec import SHORTEST_CHARS, VALUE_PATTERN

MARKING = Marking(
    begins="",
    whole=f"{JUDGED} AND {{value}} ~ '^(?:{VALUE_PATTERN})$' AND mod(octet_length(split_part({{value}}, ':', 2)), 4) "
    f"= 0 AND octet_length(split_part({{value}}, ':', 2)) >= {SHORTEST_CHARS}",
    before="",
    after=":",
    marker="split_part({value}, ':', 1)",
    elsewhere=("", ":A[Q-Za-f]"),
)
