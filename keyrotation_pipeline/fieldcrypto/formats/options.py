"""The settings of `[format]` that several formats take. Standard library only."""

from keyrotation_pipeline.fieldcrypto.format_spec import Option

AAD = Option(
    name="aad",
    takes=str,
    says="what each value is authenticated with, as in `{table}|{column}|{id}`: other names in braces are columns of "
    "the same row, which `tink` does not take.",
)
LOGINS = Option(
    name="logins",
    takes=dict,
    needed="a login of the application for each version of the key, since nothing else tells who writes an old one; "
    'add logins = { v1 = "app_g1", v2 = "app_g2" }, v1 being the present one of a single key',
    says="by version, the login (or a list of them) that applications use while they encrypt with it.",
)


def derivation(says: str) -> Option:
    """Returns how a format's keys may be derived; the names are those of `FormatSpec.derivations`."""
    return Option(name="derivation", takes=None, says=says)
