"""The transit engine of Vault and OpenBao (guides/vault.md), which gives no key away; a value names its version."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import OUTSIDE_ARRAYS, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="vault-transit",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=OUTSIDE_ARRAYS,
    options=(
        Option(
            name="transit",
            takes=str,
            needed="the address of its key; add transit",
            says="the key at its server, as in `https://vault.example:8200/transit/app`.",
        ),
    ),
    guide="vault",
    held_by_server=True,
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="rotate the key in Vault, which reads every version, then rewrap every value",
        where="the key is of AES-GCM or ChaCha20-Poly1305 and values have no context and no associated data",
        source="hashicorp/vault sdk/helper/keysutil/policy.go (dbc32821b1b0)",
    ),
)
VAULT_TRANSIT = ValueFormat.of(SPEC)
