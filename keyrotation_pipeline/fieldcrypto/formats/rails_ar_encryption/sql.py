"""Says in SQL where values name their key: in the header ``i``, which is added where it is missing."""

from keyrotation_pipeline.fieldcrypto.formats.marking import JUDGED, Marking
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption.codec import (
    AFTER_PAYLOAD,
    BEGINS,
    MARKER_CHARS,
    REFERENCE,
    VALUE_PATTERN,
)

MARKING = Marking(
    begins=BEGINS,
    whole=f"{JUDGED} AND mod(strpos({{value}}, '{AFTER_PAYLOAD}'), 4) = {(len(BEGINS) + 1) % 4} "
    f"AND {{value}} ~ '^(?:{VALUE_PATTERN})$'",
    before=REFERENCE,
    after='"',
    marker=f"substr({{value}}, nullif(strpos({{value}}, '{REFERENCE}'), 0) + {len(REFERENCE)}, {MARKER_CHARS})",
    at_start=False,
    added=f',{REFERENCE}AAAAAA=="',
    # Each level of arrays, rows and texts in JSON escapes or doubles the quotes.
    elsewhere=(r'"i[\\"]+ *: *[\\"]+', r'[\\"]+ *[,}]'),
)
