"""n8n with key rotation on (guides/n8n.md); the id of its key, a UUID, stands before each value."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import OUTSIDE_ARRAYS, FormatSpec
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="n8n-keyid",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=OUTSIDE_ARRAYS,
    variable="N8N_DATA_KEYS",
    guide="n8n",
    layouts=("",),
    limited=False,
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="n8n reads each value by the key that it names, so save every credential again",
        source="n8n-io/n8n packages/core/src/encryption (14631178d66d)",
    ),
)
N8N = ValueFormat.of(SPEC)
