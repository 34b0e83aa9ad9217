"""Fernet tokens (guides/fernet.md), of which the MAC tells the key."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import ANYWHERE, Derivation, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.formats.derivations import SHA256
from keyrotation_pipeline.fieldcrypto.formats.options import derivation
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

DJANGO_FERNET_FIELDS = Derivation("django-fernet-fields", f"{__name__}.derived:of_fernet_fields")
DJANGO_FERNET_ENCRYPTED_FIELDS = Derivation("django-fernet-encrypted-fields", f"{__name__}.derived:of_pair", pairs=True)
SPEC = FormatSpec(
    name="fernet",
    package=__name__,
    identified_by=IdentifiedBy.MAC,
    places=ANYWHERE,
    options=(
        Option(
            name="keep_time",
            takes=bool,
            default=False,
            says="a re-encrypted token keeps its time, as readers with a TTL need it.",
        ),
        derivation("`sha256`, or that of a package for Django."),
    ),
    variable="FERNET_KEYS",
    guide="fernet",
    layouts=("",),
    derivations=(SHA256, DJANGO_FERNET_FIELDS, DJANGO_FERNET_ENCRYPTED_FIELDS),
    limited=False,
    conditional=True,
    template="""\
# Columns of Fernet tokens, which the application reads with its own library; see `keyrotation docs fernet`.
[format]
name = "fernet"
keys = { env = "FERNET_KEYS" }    # the variable of the application's list of keys, of which the first encrypts
# keep_time = true                # tokens keep their time, as readers with a TTL need it

""",
    advice=Advice(
        identified_by=IdentifiedBy.MAC,
        steps="give the library a list with the new key first (MultiFernet; FernetEngine of sqlalchemy-utils has "
        "none), then read and save every value",
        where="the application reads a list of keys",
        source="the Fernet specification; MultiFernet of pyca/cryptography src/cryptography/fernet.py (383ed975f05d)",
    ),
)
FERNET = ValueFormat.of(SPEC)
