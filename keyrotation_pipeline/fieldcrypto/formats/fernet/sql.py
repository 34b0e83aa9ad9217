"""Says in SQL what form tokens have, and where their MAC is."""

from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import (
    BLOCK_BYTES,
    FRAME_BYTES,
    MAC_BYTES,
    SHAPE_PATTERN,
    SHORTEST_CHARS,
)
from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Mac

MAC = Mac(
    # What the parser accepts: characters of base64, and a length of which the frame and whole blocks come out.
    shape=f"""octet_length({{value}}) >= {SHORTEST_CHARS} AND mod(octet_length({{value}}), 4) = 0
    AND mod(octet_length(rtrim({{value}}, '=')) - octet_length({{value}}) / 4 - {FRAME_BYTES}, {BLOCK_BYTES}) = 0
    AND {JUDGED} AND {{value}} ~ '^{SHAPE_PATTERN}$'""",
    raw="decode(translate({value}, '-_', '+/'), 'base64')",
    mac_bytes=MAC_BYTES,
    begins="gAAAAA",  # every token of this century
    characters="A-Za-z0-9_-",
    prefix="^g[A-P]",
    shortest=SHORTEST_CHARS - 2,
)
