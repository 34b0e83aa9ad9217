"""@47ng/cloak, which prisma-field-encryption writes (guides/prisma.md); a value names its key's fingerprint."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import OUTSIDE_ARRAYS, FormatSpec
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="cloak-47ng",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=OUTSIDE_ARRAYS,
    variable="FIELD_ENCRYPTION_KEYS",
    guide="prisma",
    layouts=("",),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="put the old key among the decryption keys, then run the generated migration",
        source="47ng/cloak src/message.ts (b4eefb7f70ec)",
    ),
)
CLOAK_47NG = ValueFormat.of(SPEC)
