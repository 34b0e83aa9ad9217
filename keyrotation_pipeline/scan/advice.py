"""What can be done about each format today, as data: whether its library reads two keys, and one sentence.

Without two keys at once there is no change of key without downtime in place. This project re-encrypts its own format
and a few others; no sentence names a command that does not exist.
"""

from dataclasses import KW_ONLY, dataclass, replace

from keyrotation_pipeline.scan.report import IdentifiedBy, Place

_NOT_YET = "Not rotated by keyrotation yet"


@dataclass(frozen=True, slots=True)
class Advice:
    """What is known of a format.

    Args:
        identified_by: how the key of a value is recognised.
        next: one sentence.
        reads_two_keys: whether an application can read old and new at once.
    """

    identified_by: IdentifiedBy
    next: str
    _: KW_ONLY
    reads_two_keys: bool | None


def _two_keys(identified_by: IdentifiedBy, how: str) -> Advice:
    """The library reads two keys at once; `how` says by which steps the values move."""
    message = f"{_NOT_YET}; its library reads two keys, so no downtime is needed: {how}."
    return Advice(identified_by, message, reads_two_keys=True)


def _one_key(identified_by: IdentifiedBy, library: str) -> Advice:
    return Advice(
        identified_by,
        f"{_NOT_YET}; {library} reads one key only: a new key takes a maintenance window, or a second column that the "
        "application moves to.",
        reads_two_keys=False,
    )


_CIPHERSWEET = _one_key("decrypt", "CipherSweet")
_CLOAK = _two_keys("marker", "add the new cipher first in the list, then run `mix cloak.migrate.ecto`")
_PGCRYPTO = _one_key("decrypt", "a query with pgcrypto")

ADVICE: dict[str, Advice] = {
    "fernet": _two_keys(
        "mac",
        "give the library a list with the new key first (MultiFernet; FernetEngine of sqlalchemy-utils has none), "
        "then read and save every value",
    ),
    "fernet-keyed-wrapper": _two_keys("marker", "add the new key to its key store, then read and save every value"),
    "django-cryptography": _one_key("mac", "django-cryptography"),
    "rails-ar-encryption": _two_keys(
        "decrypt",
        "add the new key last to `primary_key` (of deterministic attributes, the old scheme to `previous:`), "
        "then call `record.encrypt` for every record",
    ),
    "rails-message-encryptor": _two_keys(
        "decrypt", "`rotate` the old key in the encryptor, then save every value again"
    ),
    "laravel-crypt": _two_keys(
        "decrypt", "from Laravel 11, name the old key in APP_PREVIOUS_KEYS, then save every value again"
    ),
    "cloak-ecto": _CLOAK,
    "cloak-ecto-ctr": _CLOAK,
    "cloak-47ng": _two_keys("marker", "put the old key among the decryption keys, then run the generated migration"),
    "vault-transit": _two_keys("marker", "rotate the key in Vault, which reads every version, then rewrap every value"),
    "tink": _two_keys("marker", "add a key to the keyset and promote it, then decrypt and encrypt every value"),
    "aws-encryption-sdk": _two_keys("marker", "give the keyring both wrapping keys, then encrypt every value again"),
    "jwe": _two_keys("decrypt", "keep both keys in the key set by `kid`, then encrypt every value again"),
    "iron": _two_keys("decrypt", "give `unseal` both passwords by id, then seal every value again"),
    "acra": _two_keys("decrypt", "Acra keeps historical keys; `acra-rotate` moves the values"),
    "n8n-keyid": _two_keys("marker", "n8n reads each value by the key that it names, so save every credential again"),
    "magento": _two_keys(
        "marker", "Magento reads older keys by their number, so save every value again under the new one"
    ),
    "grafana": _two_keys("marker", "rotate its data keys, then run `grafana cli admin secrets-migration re-encrypt`"),
    "ciphersweet-brng": _CIPHERSWEET,
    "ciphersweet-nacl": _CIPHERSWEET,
    "ciphersweet-fips": _CIPHERSWEET,
    "cryptojs-openssl": _one_key("decrypt", "crypto-js"),
    "handmade-hex-colon": _one_key("decrypt", "hand-written code as a rule"),
    "attr_encrypted": _one_key("decrypt", "attr_encrypted"),
    "pgcrypto-pgp": _PGCRYPTO,
    "pgcrypto-armor": _PGCRYPTO,
}
# Of what has no marker the library is not known.
UNKNOWN = Advice(
    "decrypt",
    f"{_NOT_YET}; find out in the application which library writes this and whether it reads two keys: only then is a "
    "new key possible without downtime.",
    reads_two_keys=None,
)

# The sentences hold for what is declared already, too: a scan need not know that.
_ROTATED = "keyrotation rotates it in place, without downtime"


def _once(declared: str, name: str, guide: str, *, where: str = "", also: str = "") -> str:
    """Returns by which declaration a format is rotated; `where` says for which applications and keys."""
    condition = f", where {where}" if where else ""
    return (
        f'Once the {declared} in a `keyrotation.toml` with `[format] name = "{name}"`{also}, {_ROTATED}{condition} '
        f"(`keyrotation docs {guide}`)."
    )


_COLUMN, _PLACE = "column is declared", "place is declared"
_BY_LIST = "the application reads a list of keys"
_NATIVE_ELSEWHERE = (
    "Not rotated here yet: keyrotation rotates its own format in columns of text, varchar and bytea, at a path in "
    "jsonb and in the elements of text[] and varchar[], with nothing around it."
)
_AES_GCM = Advice(
    "decrypt",
    "Find out in the application how it encrypts. Where that is AES-256-GCM with a list of keys, declare the place in "
    'a `keyrotation.toml` with `[format] name = "aes-gcm"` and its layout: keyrotation rotates it in place, without '
    "downtime (`keyrotation docs aes-gcm`). Code that reads one key only must read two first.",
    reads_two_keys=None,
)
_ATTR_ENCRYPTED = (
    "Give attr_encrypted an encryptor that reads a list of keys, then declare both columns in a `keyrotation.toml` "
    'with `[format] name = "aes-gcm"` and `layout = "b64lines(ct tag16); b64lines(nonce12)"`: '
    f"{_ROTATED} (`keyrotation docs aes-gcm`)."
)
# How places are declared: a column of text or of bytea alone, a path in jsonb, the elements of an array; "": not.
_COLUMNS = frozenset({"text", "bytea"})
_BYTEA = frozenset({"bytea"})
_INSIDE = frozenset({"path", "elements"})
_OUTSIDE_ARRAYS = _COLUMNS | {"path"}
_ANYWHERE = _COLUMNS | _INSIDE
# What is rotated where; elsewhere ADVICE holds.
_IN_PLACE = (
    ("native", _COLUMNS, Advice(
        "marker", f"Once the column is declared in `keyrotation.toml`, {_ROTATED}.", reads_two_keys=True)),
    ("native", _INSIDE, Advice(
        "marker", "Once the place is declared in `keyrotation.toml` (`keyrotation docs prepare-database`), "
        f"{_ROTATED}.", reads_two_keys=True)),
    ("native", {""}, Advice("marker", _NATIVE_ELSEWHERE, reads_two_keys=True)),
    ("fernet", _COLUMNS, Advice(
        "mac", _once(_COLUMN, "fernet", "fernet", where=_BY_LIST), reads_two_keys=True)),
    ("fernet", _INSIDE, Advice(
        "mac", _once(f"{_PLACE} (`keyrotation docs prepare-database`)", "fernet", "fernet", where=_BY_LIST),
        reads_two_keys=True)),
    ("rails-ar-encryption", _OUTSIDE_ARRAYS, Advice(
        "decrypt", _once(_PLACE, "rails-ar-encryption", "rails", also=" (deterministic attributes in one of their own) "
        "and the application stores key references"), reads_two_keys=True)),
    ("cloak-47ng", _OUTSIDE_ARRAYS, Advice("marker", _once(_PLACE, "cloak-47ng", "prisma"), reads_two_keys=True)),
    ("fernet-keyed-wrapper", _OUTSIDE_ARRAYS, Advice(
        "marker", _once(_PLACE, "fernet-keyed-wrapper", "sentry"), reads_two_keys=True)),
    ("vault-transit", _OUTSIDE_ARRAYS, Advice(
        "marker", _once(_PLACE, "vault-transit", "vault", where="the key is of AES-GCM or ChaCha20-Poly1305 and values "
        "have no context and no associated data"), reads_two_keys=True)),
    ("attr_encrypted", _COLUMNS, Advice("decrypt", _ATTR_ENCRYPTED, reads_two_keys=False)),
    ("cloak-ecto", _BYTEA, Advice("marker", _once(_COLUMN, "cloak-ecto", "elixir"), reads_two_keys=True)),
    ("tink", _BYTEA, Advice(
        "marker", _once(_COLUMN, "tink", "tink", where="the keyset has AES-GCM keys and associated data are the same "
        "in all rows"), reads_two_keys=True)),
    ("laravel-crypt", _ANYWHERE, Advice(
        "decrypt", _once(_PLACE, "laravel-crypt", "laravel", where="the application runs Laravel 11 or later"),
        reads_two_keys=True)),
    ("handmade-hex-colon", _ANYWHERE, _AES_GCM),
    ("unknown-aead", _ANYWHERE, _AES_GCM),
)  # fmt: skip
_CITEXT = "citext"  # of an extension, in whatever schema
_ARRAY_TYPES = ("text[]", "character varying")
# Keys that vary, and arrays inside documents, are no path.
_NO_KEYS = frozenset({"*", "[]"})


def advice_for(format_name: str, place: Place, *, wrapped: bool, names_keys: bool) -> Advice:
    """Returns what to do about a format in a place.

    Args:
        format_name: of a finding.
        place: where; it is rotated where a place can be declared.
        wrapped: whether the values stand behind a prefix or in another encoding.
        names_keys: whether the values name keys, as some do of formats that need not.
    """
    declared = "" if wrapped else _declaration_of(place)
    in_place = (each for name, places, each in _IN_PLACE if name == format_name and declared in places)
    advice = next(in_place, ADVICE.get(format_name, UNKNOWN))
    if names_keys and advice.identified_by == "decrypt":
        return replace(advice, identified_by="marker")
    return advice


def is_column(place: Place) -> bool:
    """Returns whether a declaration names the column alone."""
    return _declaration_of(place) in _COLUMNS


def _declaration_of(place: Place) -> str:
    """Returns how a place is declared; empty if it cannot be."""
    base = place.base_type
    if place.path is not None:
        return "path" if base == "jsonb" and not place.elements and _NO_KEYS.isdisjoint(place.path) else ""
    if place.elements or base.endswith("[]"):
        is_text = place.elements and base.startswith(_ARRAY_TYPES) and base.endswith("[]")
        return "elements" if is_text else ""
    if base.startswith("bytea"):
        return "bytea"
    return "text" if base.startswith(("text", "character varying")) or base.rpartition(".")[2] == _CITEXT else ""
