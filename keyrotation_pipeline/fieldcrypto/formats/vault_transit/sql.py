"""Says in SQL where values name their key: by the number of its version."""

from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Marking
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.codec import (
    BEFORE,
    BEGINS,
    SHORTEST_BODY_CHARS,
    VALUE_PATTERN,
)

MARKING = Marking(
    begins=BEGINS,
    whole=f"{JUDGED} AND {{value}} ~ '^(?:{VALUE_PATTERN})$' AND mod(octet_length(split_part({{value}}, ':', 3)), 4) "
    f"= 0 AND octet_length(split_part({{value}}, ':', 3)) >= {SHORTEST_BODY_CHARS}",
    before=BEFORE,
    after=":",
    marker="split_part({value}, ':', 2)",
    elsewhere=(r"vault:", r":[A-Za-z0-9+/]"),
    grows=r"^(vault:v[^:]*):",
)
