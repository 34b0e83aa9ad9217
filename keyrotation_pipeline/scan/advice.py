"""What can be done about each format today, as data: whether its library reads two keys, and one sentence.

Without two keys at once there is no change of key without downtime in place. This project re-encrypts its own format
and a few others; no sentence names a command that does not exist.
"""

from dataclasses import dataclass

from keyrotation_pipeline.scan.report import IdentifiedBy, Place

_NOT_YET = "Not rotated by keyrotation yet"


@dataclass(frozen=True, slots=True)
class Advice:
    """What is known of a format.

    Args:
        identified_by: how the key of a value is recognised.
        reads_two_keys: whether an application can read old and new at once.
        next: one sentence.
    """

    identified_by: IdentifiedBy
    reads_two_keys: bool | None
    next: str


def _two_keys(identified_by: IdentifiedBy, how: str) -> Advice:
    """The library reads two keys at once; `how` says by which steps the values move."""
    return Advice(identified_by, True, f"{_NOT_YET}; its library reads two keys, so no downtime is needed: {how}.")  # noqa: FBT003


def _one_key(identified_by: IdentifiedBy, library: str) -> Advice:
    return Advice(
        identified_by, False,  # noqa: FBT003
        f"{_NOT_YET}; {library} reads one key only: a new key takes a maintenance window, or a second column that the "
        "application moves to.",
    )  # fmt: skip


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
    "decrypt", None,
    f"{_NOT_YET}; find out in the application which library writes this and whether it reads two keys: only then is a "
    "new key possible without downtime.",
)  # fmt: skip

# The sentences hold for what is declared already, too: a scan need not know that.
_ROTATED = "keyrotation rotates it in place, without downtime"
_NATIVE_HERE = f"Once the column is declared in `keyrotation.toml`, {_ROTATED}."
_NATIVE_ELSEWHERE = (
    "Not rotated here yet: keyrotation rotates its own format in columns of text, varchar and bytea, at a path in "
    "jsonb and in the elements of text[] and varchar[], with nothing around it."
)
_NATIVE_PLACE = f"Once the place is declared in `keyrotation.toml` (`keyrotation docs prepare-database`), {_ROTATED}."
FERNET_HERE = (
    f'Once the column is declared in a `keyrotation.toml` with `[format] name = "fernet"`, {_ROTATED}, where the '
    "application reads a list of keys (`keyrotation docs fernet`)."
)
_FERNET_PLACE = (
    "Once the place is declared (`keyrotation docs prepare-database`) in a `keyrotation.toml` with "
    f'`[format] name = "fernet"`, {_ROTATED}, where the application reads a list of keys (`keyrotation docs fernet`).'
)
_RAILS_HERE = (
    'Once the place is declared in a `keyrotation.toml` with `[format] name = "rails-ar-encryption"` (deterministic '
    f"attributes in one of their own) and the application stores key references, {_ROTATED} (`keyrotation docs rails`)."
)
_CLOAK_47NG_HERE = (
    f'Once the place is declared in a `keyrotation.toml` with `[format] name = "cloak-47ng"`, {_ROTATED} '
    "(`keyrotation docs prisma`)."
)
_KEYED_WRAPPER_HERE = (
    f'Once the place is declared in a `keyrotation.toml` with `[format] name = "fernet-keyed-wrapper"`, {_ROTATED} '
    "(`keyrotation docs sentry`)."
)
_CLOAK_ECTO_HERE = (
    f'Once the column is declared in a `keyrotation.toml` with `[format] name = "cloak-ecto"`, {_ROTATED} '
    "(`keyrotation docs elixir`)."
)
_TINK_HERE = (
    f'Once the column is declared in a `keyrotation.toml` with `[format] name = "tink"`, {_ROTATED}, where the keyset '
    "has AES-GCM keys and associated data are the same in all rows (`keyrotation docs tink`)."
)
_AES_GCM_HERE = (
    "Find out in the application how it encrypts. Where that is AES-256-GCM with a list of keys, declare the place in "
    'a `keyrotation.toml` with `[format] name = "aes-gcm"` and its layout: keyrotation rotates it in place, without '
    "downtime (`keyrotation docs aes-gcm`). Code that reads one key only must read two first."
)
_ATTR_ENCRYPTED = (
    "Give attr_encrypted an encryptor that reads a list of keys, then declare both columns in a `keyrotation.toml` "
    'with `[format] name = "aes-gcm"` and `layout = "b64lines(ct tag16); b64lines(nonce12)"`: '
    f"{_ROTATED} (`keyrotation docs aes-gcm`)."
)
_LARAVEL_HERE = (
    f'Once the place is declared in a `keyrotation.toml` with `[format] name = "laravel-crypt"`, {_ROTATED}, where the '
    "application runs Laravel 11 or later (`keyrotation docs laravel`)."
)
_VAULT_TRANSIT_HERE = (
    f'Once the place is declared in a `keyrotation.toml` with `[format] name = "vault-transit"`, {_ROTATED}, where the '
    "key is of AES-GCM or ChaCha20-Poly1305 and values have no context and no associated data (`keyrotation docs "
    "vault`)."
)
_OUTSIDE_ARRAYS = {
    "cloak-47ng": _CLOAK_47NG_HERE,
    "fernet-keyed-wrapper": _KEYED_WRAPPER_HERE,
    "vault-transit": _VAULT_TRANSIT_HERE,
}
_IN_BYTEA = {"cloak-ecto": _CLOAK_ECTO_HERE, "tink": _TINK_HERE}
_MAY_BE_AES_GCM = frozenset({"handmade-hex-colon", "unknown-aead"})
_COLUMN_TYPES = ("text", "character varying", "bytea")
_CITEXT = "citext"  # of an extension, in whatever schema
_ARRAY_TYPES = ("text[]", "character varying")
# Keys that vary, and arrays inside documents, are no path.
_NO_KEYS = frozenset({"*", "[]"})


def advice_for(format_name: str, place: Place, *, wrapped: bool, names_keys: bool) -> Advice:  # noqa: PLR0911  one for each
    """Returns what to do about a format in a place.

    Args:
        format_name: of a finding.
        place: where; it is rotated where a place can be declared.
        wrapped: whether the values stand behind a prefix or in another encoding.
        names_keys: whether the values name keys, as some do of formats that need not.
    """
    column = _is_column(place) and not wrapped
    inside = _is_inside(place) and not wrapped
    if format_name == "native":
        sentence = _NATIVE_HERE if column else _NATIVE_PLACE if inside else _NATIVE_ELSEWHERE
        return Advice("marker", True, sentence)  # noqa: FBT003
    if format_name == "fernet" and (column or inside):
        return Advice("mac", True, FERNET_HERE if column else _FERNET_PLACE)  # noqa: FBT003
    outside_arrays = column or (inside and not place.elements)
    if format_name == "rails-ar-encryption" and outside_arrays:
        return Advice("marker" if names_keys else "decrypt", True, _RAILS_HERE)  # noqa: FBT003
    if format_name in _OUTSIDE_ARRAYS and outside_arrays:
        return Advice("marker", True, _OUTSIDE_ARRAYS[format_name])  # noqa: FBT003
    if format_name == "attr_encrypted" and column:
        return Advice("decrypt", False, _ATTR_ENCRYPTED)  # noqa: FBT003
    if format_name in _IN_BYTEA and column and place.base_type.startswith("bytea"):
        return Advice("marker", True, _IN_BYTEA[format_name])  # noqa: FBT003
    if format_name == "laravel-crypt" and (column or inside):
        return Advice("decrypt", True, _LARAVEL_HERE)  # noqa: FBT003
    if format_name in _MAY_BE_AES_GCM and (column or inside):
        return Advice("decrypt", None, _AES_GCM_HERE)
    advice = ADVICE.get(format_name, UNKNOWN)
    if names_keys and advice.identified_by == "decrypt":
        return Advice("marker", advice.reads_two_keys, advice.next)
    return advice


def _is_column(place: Place) -> bool:
    """Returns whether a declaration names the column alone."""
    is_array = place.elements or place.base_type.endswith("[]")
    in_text = place.base_type.startswith(_COLUMN_TYPES) or place.base_type.rpartition(".")[2] == _CITEXT
    return place.path is None and not is_array and in_text


def _is_inside(place: Place) -> bool:
    """Returns whether a declaration names a path in the column's documents, or the elements of its arrays."""
    if place.path is not None:
        return place.base_type == "jsonb" and not place.elements and _NO_KEYS.isdisjoint(place.path)
    return place.elements and place.base_type.startswith(_ARRAY_TYPES) and place.base_type.endswith("[]")
