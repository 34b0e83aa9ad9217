"""Names the format of a table's values and how the key of a value is identified. Holds no key and no code.

`codecs.format` has the code that reads and writes each format; the inventory's `format_sql` has its SQL.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from keyrotation_pipeline.fieldcrypto.binding import is_bound_to_row
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, GENERATIONS, SECOND, KeyVersion

# In a layout: between that of a value's column and that of its nonce's column; and between their texts.
BETWEEN = ";"


class IdentifiedBy(StrEnum):
    """How the key of a value is identified, which decides how old values are counted, refused and proved absent."""

    MARKER = "marker"
    MAC = "mac"
    DECRYPT = "decrypt"

    @property
    def evidence(self) -> str:
        """What a count of zero old values rests on, in words."""
        return _EVIDENCE[self]

    @property
    def remark(self) -> str:
        """What is said next to a count of old values, with a space before it; empty where the database counts them."""
        return " (by decrypting: weaker evidence than a count by the database)" if self is IdentifiedBy.DECRYPT else ""

    def refused(self, versions: str) -> str:
        """What the database refuses of retired versions, in words."""
        return f"the logins of {versions}" if self is IdentifiedBy.DECRYPT else versions


_EVIDENCE: Mapping[IdentifiedBy, str] = MappingProxyType(
    {
        IdentifiedBy.MARKER: "every value names its key version, and none names a retired one",
        IdentifiedBy.MAC: (
            "values name no key version: the MAC of each was computed with the signing halves of the retired keys, and "
            "none was right"
        ),
        IdentifiedBy.DECRYPT: (
            "weaker evidence than a count by the database, which cannot tell a value's key: every value was decrypted "
            "twice, the second time with the new key alone after the old login had lost the right to write, and what "
            "was written since was decrypted while nobody could write (of relations named as not read again: only "
            "their new pages, while others could write); a value in an undeclared place is not found, and roles that "
            "can act as the tables' owner can still write any value"
        ),
    }
)


class Derivation(StrEnum):
    """How an application derives keys from passphrases, as the configuration names it.

    Of Rails PBKDF2 with 2^16 rounds, and a salt that is declared; else what packages do, mostly by their names.
    """

    PBKDF2_SHA1 = "pbkdf2-sha1"
    PBKDF2_SHA256 = "pbkdf2-sha256"
    DJANGO_FERNET_FIELDS = "django-fernet-fields"
    DJANGO_FERNET_ENCRYPTED_FIELDS = "django-fernet-encrypted-fields"
    SHA256 = "sha256"
    LOCKBOX = "lockbox"

    @property
    def is_of_passphrases(self) -> bool:
        """Whether keys are derived from texts; else from keys."""
        return self is not Derivation.LOCKBOX

    @property
    def digest(self) -> str:
        """The digest of one of Rails, as hashlib names it."""
        return self.removeprefix("pbkdf2-")


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """The declared format of the values in a table's columns.

    Args:
        name: as in `[format]` of the configuration.
        keep_time: whether a re-encrypted value keeps the time that it was encrypted at, where the format has one.
        layout: how a value is put together, or what follows its marker, where that is declared; see `codecs.layout`. Of
            Laravel its cipher.
        aad: the template of what each value is authenticated with, where there is one; see `binding`.
        logins: where nothing but the writer can be refused: versions with the logins that applications use while they
            encrypt with them.
        derivation: how the application derives a key from each entry of its list; None: the entries are the keys.
        salt: of that derivation.
        generation: of the keys that rotations make from now on; 2 only for `native`.
        row: of `native` only: the column of the row's key, to which values of the second generation are bound, too.
        row_from: the number of the first version whose values are.
        key_bytes: how long the keys are that rotations make; 0: as long as the key that each replaces.
        deterministic: whether equal texts have equal values, which queries look for.
        transit: where a server holds the keys: the address of the key there; see `transit.TransitServer`.
    """

    name: str
    identified_by: IdentifiedBy
    keep_time: bool = False
    layout: str = ""
    aad: str = ""
    logins: tuple[tuple[KeyVersion, str], ...] = ()
    generation: int = FIRST.number
    row: str = ""
    row_from: int = 0

    derivation: Derivation | None = None
    salt: str = field(default="", repr=False)
    deterministic: bool = False
    key_bytes: int = 0
    transit: str = ""

    def logins_of(self, version: KeyVersion) -> frozenset[str]:
        """Returns the logins that applications use while they encrypt with a version."""
        return frozenset(login for each, login in self.logins if each == version)

    @property
    def names_versions(self) -> bool:
        """Whether every value names a version of ours, without any key at hand."""
        return self.name == NATIVE.name

    @property
    def of_all_tables(self) -> "ValueFormat":
        """The same without what is declared for one table alone."""
        return replace(self, row="", row_from=0)

    def binds_rows(self, version: KeyVersion) -> bool:
        """Returns whether values under a version are bound to their row, too."""
        return bool(self.row) and is_bound_to_row(version, self.row_from)

    @property
    def is_held_by_server(self) -> bool:
        """Whether no key leaves its server: whoever may use it reads every version, and writes the newest at once."""
        return self.name == VAULT_TRANSIT.name

    @property
    def is_read_with_data(self) -> bool:
        """Whether associated data is read with each value; else it is the same in all rows of a column."""
        return bool(self.aad) and self.name == AES_GCM.name

    @property
    def is_binary(self) -> bool:
        """Whether values are bytes that no text can hold, so that only columns of bytea have them."""
        return "raw(" in self.layout and not self.is_pair

    @property
    def is_pair(self) -> bool:
        """Whether each value has its nonce in a column of its own."""
        return BETWEEN in self.layout

    @property
    def encrypts_by_gcm(self) -> bool:
        """Whether a key may encrypt only so many values, since AES-GCM must not repeat a nonce."""
        return self.name not in {FERNET.name, KEYED_WRAPPER.name} and not self.layout.endswith("CBC")

    @property
    def layout_option(self) -> str:
        """The option of `[format]` that says how a value is put together."""
        return "cipher" if self.name == LARAVEL.name else "layout"

    def next_of(self, version: KeyVersion) -> KeyVersion:
        """Returns the version that follows another where the key of the next rotation has this format."""
        return version.next(GENERATIONS[self.generation - 1])

    def signed(self) -> str:
        """The format in a signed text."""
        if self.generation == SECOND.number:
            return (
                f"{self.name}, second generation: KC-XAES-256-GCM, identified by the version that each value names; "
                "each value opens only under the label of its column"
            )
        time = "; new values keep the time of the old ones" if self.keep_time else ""
        layout = self.layout.replace(BETWEEN, ", and in a column of its own")
        layout = f"; {self.layout_option} {layout}" if layout else ""
        layout += f"; new keys of {self.key_bytes} bytes" if self.key_bytes else ""
        bound = f"; bound to associated data {json.dumps(self.aad)}" if self.aad else ""
        listed = ", ".join(f"{version} {_one_of_several(login)}" for version, login in self.logins)
        logins = f"; refused by taking the right to write from the login of the old version: {listed}" if listed else ""
        same = "; equal texts have equal values" if self.deterministic else ""
        keys = f"keys that {self.transit} makes and never gives away" if self.transit else "keys as they are"
        if self.derivation is not None and self.name != RAILS.name:
            each = " for each column" if self.derivation is Derivation.LOCKBOX else ""
            keys = f"keys derived by {self.derivation}{each}"
        elif self.derivation is not None:
            salt = hashlib.sha256(self.salt.encode()).hexdigest()[:16]
            keys = f"keys derived by {self.derivation} with the salt of SHA-256 {salt}"
        return f"{self.name}, {keys}, identified by {_SIGNED[self.identified_by]}{time}{same}{layout}{bound}{logins}"


def _one_of_several(name: str) -> str:
    """Returns a name such that it cannot be read as two, or as what follows."""
    return name if set(name).isdisjoint(',;"') else json.dumps(name, ensure_ascii=False)


_SIGNED: Mapping[IdentifiedBy, str] = MappingProxyType(
    {
        IdentifiedBy.MARKER: "the marker in each value",
        IdentifiedBy.MAC: "the MAC of each value",
        IdentifiedBy.DECRYPT: "decrypting each value, which is weaker evidence than a count by the database",
    }
)
NATIVE = ValueFormat("native", IdentifiedBy.MARKER)
# Of a walk from the second generation back to the first, in its signed text.
UNBOUND = (
    f"{NATIVE.name}, back to the first generation: AES-256-GCM, identified by the version that each value names; new "
    "values are bound to no column"
)
FERNET = ValueFormat("fernet", IdentifiedBy.MAC)
AES_GCM = ValueFormat("aes-gcm", IdentifiedBy.DECRYPT)
# Of Lockbox for Ruby, in text; nothing of its values names it.
LOCKBOX = replace(AES_GCM, layout="b64(nonce12 ct tag16)", derivation=Derivation.LOCKBOX)
LARAVEL = ValueFormat("laravel-crypt", IdentifiedBy.DECRYPT, layout="AES-256-CBC")
RAILS = ValueFormat("rails-ar-encryption", IdentifiedBy.MARKER, derivation=Derivation.PBKDF2_SHA256)
CLOAK_47NG = ValueFormat("cloak-47ng", IdentifiedBy.MARKER)
CLOAK_ECTO = ValueFormat("cloak-ecto", IdentifiedBy.MARKER, layout="raw(nonce12 tag16 ct)")
# Of the columns of search indexes, whose texts begin with the version as values of our own do. Nobody declares it.
SEARCH_INDEX = ValueFormat("search-index", IdentifiedBy.MARKER)
TINK = ValueFormat("tink", IdentifiedBy.MARKER, layout="raw(nonce12 ct tag16)")
KEYED_WRAPPER = ValueFormat("fernet-keyed-wrapper", IdentifiedBy.MARKER)
VAULT_TRANSIT = ValueFormat("vault-transit", IdentifiedBy.MARKER)
_ALL = (NATIVE, FERNET, AES_GCM, LARAVEL, RAILS, CLOAK_47NG, CLOAK_ECTO, TINK, KEYED_WRAPPER, VAULT_TRANSIT)
FORMATS: Mapping[str, ValueFormat] = MappingProxyType({each.name: each for each in _ALL})
