"""Lockbox for Ruby (guides/lockbox.md): AES-GCM in text, under a key for each column; nothing of a value names it."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_spec import COLUMNS, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.formats import aes_gcm
from keyrotation_pipeline.fieldcrypto.formats.options import AAD, LOGINS

_LAYOUT = "b64(nonce12 ct tag16)"
_NOTE = (
    "Named as Lockbox names its columns: it reads older keys by `previous_versions`, and keyrotation rotates its "
    'master key in place (`[format] name = "lockbox"`, `keyrotation docs lockbox`).'
)
SPEC = FormatSpec(
    name="lockbox",
    package=__name__,
    identified_by=aes_gcm.SPEC.identified_by,
    places=COLUMNS,
    options=(
        Option(
            name="layout",
            takes=str,
            layout="{}",
            says=f"`{_LAYOUT.replace('b64', 'raw')}` in columns of bytea (default: `{_LAYOUT}`).",
        ),
        AAD,
        LOGINS,
    ),
    variable="LOCKBOX_MASTER_KEY",
    guide="lockbox",
    layout=_LAYOUT,
    layouts=(_LAYOUT, _LAYOUT.replace("b64", "raw")),
    derivation=aes_gcm.FOR_EACH_COLUMN,
    convention=("_ciphertext", _NOTE),
    form_of=aes_gcm.SPEC,
)
LOCKBOX = ValueFormat.of(SPEC)
