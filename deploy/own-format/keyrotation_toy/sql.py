"""Says in SQL where values of the toy format name their key."""

from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Marking
from keyrotation_toy.codec import PATTERN

MARKING = Marking(
    begins="toy:",
    whole=f"{JUDGED} AND {{value}} ~ '^(?:{PATTERN})$' AND mod(octet_length(split_part({{value}}, ':', 3)), 4) = 0",
    before="toy:",
    after=":",
    marker="split_part({value}, ':', 2)",
    elsewhere=("toy:", ":[A-Za-z0-9+/]"),
    grows="^(toy:[^:]*):",
)
