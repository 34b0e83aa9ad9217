"""Says in SQL where values name their key: by its fingerprint, at a fixed place."""

from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng.codec import (
    BEGINS,
    HEAD_CHARS,
    MARKER_CHARS,
    SHORTEST_BODY_CHARS,
    VALUE_PATTERN,
)
from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Marking

MARKING = Marking(
    begins=BEGINS,
    whole=f"{JUDGED} AND mod(octet_length({{value}}), 4) = {HEAD_CHARS % 4} "
    f"AND octet_length({{value}}) >= {HEAD_CHARS + SHORTEST_BODY_CHARS} AND {{value}} ~ '^(?:{VALUE_PATTERN})$'",
    before=BEGINS,
    after=".",
    marker=f"substr({{value}}, {len(BEGINS) + 1}, {MARKER_CHARS})",
    elsewhere=(r"v1\.aesgcm256\.", r"\.[A-Za-z0-9_-]"),
)
