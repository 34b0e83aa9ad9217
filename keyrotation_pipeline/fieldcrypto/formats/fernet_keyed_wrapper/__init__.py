"""A Fernet token wrapped with the id of its key, as Sentry stores it (guides/sentry.md)."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import OUTSIDE_ARRAYS, FormatSpec
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="fernet-keyed-wrapper",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=OUTSIDE_ARRAYS,
    variable="SENTRY_FERNET_KEYS",
    guide="sentry",
    layouts=("",),
    limited=False,
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="add the new key to its key store, then read and save every value",
        source="getsentry/sentry src/sentry/db/models/fields/encryption/_base.py (4a016ef1a880)",
    ),
)
KEYED_WRAPPER = ValueFormat.of(SPEC)
