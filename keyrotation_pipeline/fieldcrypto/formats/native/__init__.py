"""Our own format: ``v<N>:<nonce>:<ciphertext ‖ tag>``; see `fieldcrypto.grammar`."""

from typing import Literal

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import ANYWHERE, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="native",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    names_versions=True,
    places=ANYWHERE,
    options=(
        Option(
            name="generation",
            takes=Literal[1, 2],
            default=1,
            says="of the keys that rotations make from now on. 2: KC-XAES-256-GCM, with values bound to their columns; "
            "every application must read it first.",
        ),
    ),
    guide="second-generation",
    layouts=("",),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        elsewhere="Not rotated here yet: keyrotation rotates its own format in columns of text, varchar and bytea, at "
        "a path in jsonb and in the elements of text[] and varchar[], with nothing around it.",
        source="fieldcrypto/grammar.py",
    ),
)
NATIVE = ValueFormat.of(SPEC)
# Of a walk from the second generation back to the first, in its signed text.
UNBOUND = (
    f"{NATIVE.name}, back to the first generation: AES-256-GCM, identified by the version that each value names; new "
    "values are bound to no column"
)
# Of the columns of search indexes, whose texts begin with the version as our values do. Nobody declares it.
SEARCH_INDEX = ValueFormat.of(
    FormatSpec(name="search-index", package=__name__, identified_by=IdentifiedBy.MARKER, places=frozenset())
)
