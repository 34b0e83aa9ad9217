"""Laravel's Crypt and its `encrypted` casts (guides/laravel.md): only decryption tells the key."""

from typing import Literal

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import ANYWHERE, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.formats.options import LOGINS
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

SPEC = FormatSpec(
    name="laravel-crypt",
    package=__name__,
    identified_by=IdentifiedBy.DECRYPT,
    places=ANYWHERE,
    options=(
        Option(
            name="cipher",
            takes=Literal["AES-256-CBC", "AES-256-GCM", "AES-128-CBC", "AES-128-GCM"],
            layout="{}",
            says="as in config/app.php; default `AES-256-CBC`.",
        ),
        LOGINS,
    ),
    variable="APP_KEYS",
    guide="laravel",
    layout="AES-256-CBC",
    layout_option="cipher",
    layouts=("AES-256-CBC", "AES-256-GCM", "AES-128-CBC", "AES-128-GCM"),
    advice=Advice(
        identified_by=IdentifiedBy.DECRYPT,
        steps="from Laravel 11, name the old key in APP_PREVIOUS_KEYS, then save every value again",
        where="the application runs Laravel 11 or later",
        source="laravel/framework src/Illuminate/Encryption/Encrypter.php (bd71b45fbb7e)",
    ),
)
LARAVEL = ValueFormat.of(SPEC)
