"""Google Tink's AES-GCM with the TINK prefix (guides/tink.md); the prefix holds the id of the key."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import BYTEA, FormatSpec
from keyrotation_pipeline.fieldcrypto.formats.options import AAD
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_LAYOUT = "raw(nonce12 ct tag16)"
SPEC = FormatSpec(
    name="tink",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=frozenset({BYTEA}),
    options=(AAD,),
    variable="TINK_KEYSET",
    guide="tink",
    layout=_LAYOUT,
    layouts=(_LAYOUT,),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="add a key to the keyset and promote it, then decrypt and encrypt every value",
        where="the keyset has AES-GCM keys and associated data are the same in all rows",
        source="tink-crypto/tink-py tink/core/_crypto_format.py (8efb8eac3a85)",
    ),
)
TINK = ValueFormat.of(SPEC)
