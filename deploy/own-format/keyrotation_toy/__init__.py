"""What is known of the toy format, with the standard library alone; see `keyrotation docs own-format`."""

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import OUTSIDE_ARRAYS, FormatSpec
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="toy",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=OUTSIDE_ARRAYS,
    variable="TOY_KEYS",
    guide="own-format",
    layouts=("",),
    advice=Advice(identified_by=IdentifiedBy.MARKER, steps="add a key first in the list, then save every value"),
)
