"""Cloak for Elixir (guides/elixir.md); a label before each value names its key."""

from typing import Literal

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import BYTEA, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_LAYOUT = "raw(nonce{} tag16 ct)"
SPEC = FormatSpec(
    name="cloak-ecto",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=frozenset({BYTEA}),
    options=(
        Option(
            name="iv_length",
            takes=Literal[12, 16],
            layout=_LAYOUT,
            says="that of the application's ciphers; default 12.",
        ),
    ),
    variable="CLOAK_KEYS",
    guide="elixir",
    layout=_LAYOUT.format(12),
    layouts=(_LAYOUT.format(12), _LAYOUT.format(16)),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="add the new cipher first in the list, then run `mix cloak.migrate.ecto`",
        source="danielberkompas/cloak lib/cloak/ciphers (9a3d10c351f4)",
    ),
)
CLOAK_ECTO = ValueFormat.of(SPEC)
