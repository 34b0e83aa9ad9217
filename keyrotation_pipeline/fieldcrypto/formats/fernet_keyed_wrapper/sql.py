"""Says in SQL where values name their key: by its id, which may be longer than that of another."""

from keyrotation_pipeline.fieldcrypto.formats.fernet.sql import MAC
from keyrotation_pipeline.fieldcrypto.formats.fernet_keyed_wrapper.codec import BEGINS, VALUE_PATTERN
from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Marking

# The token is text in base64, of which the second decode makes the text again.
_TOKEN = """(SELECT {shape} FROM (
    SELECT encode(decode(split_part({value}, ':', 4), 'base64'), 'escape') COLLATE "C" OFFSET 0
) AS token (text))""".replace("{shape}", MAC.shape.replace("{value}", "token.text"))
MARKING = Marking(
    begins=BEGINS,
    whole=f"{JUDGED} AND CASE WHEN {{value}} ~ '^(?:{VALUE_PATTERN})$' AND mod(octet_length(split_part("
    f"{{value}}, ':', 4)), 4) = 0 THEN {_TOKEN} ELSE false END",
    before=BEGINS,
    after=":",
    marker="split_part({value}, ':', 3)",
    elsewhere=(r"enc:fernet:", r":[A-Za-z0-9+/]"),
    grows=r"^(enc:fernet:[^:]*):",
)
