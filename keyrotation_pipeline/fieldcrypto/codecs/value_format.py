"""Declares the format of a table's values: what is known of it (`format_spec`), and what the configuration says.

`codecs.format` has the code that reads and writes each format; the inventory's `format_sql` has its SQL.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Self

from keyrotation_pipeline.fieldcrypto.binding import is_bound_to_row
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation, FormatSpec
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, GENERATIONS, SECOND, KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

# In a layout: between that of a value's column and that of its nonce's column; and between their texts.
BETWEEN = ";"


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """The declared format of the values in a table's columns.

    Args:
        spec: what is known of the format; of a form of another one, that of the other.
        keep_time: whether a re-encrypted value keeps the time that it was encrypted at, where the format has one.
        layout: how a value is put together, or what follows its marker, where that is declared; see `codecs.layout`.
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

    spec: FormatSpec
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

    @classmethod
    def of(cls, spec: FormatSpec) -> Self:
        """Returns a format of which nothing more is declared."""
        return cls(spec.form_of or spec, layout=spec.layout, derivation=spec.derivation)

    @property
    def name(self) -> str:
        """As in `[format]` of the configuration."""
        return self.spec.name

    @property
    def identified_by(self) -> IdentifiedBy:
        """How the key of a value is told."""
        return self.spec.identified_by

    def logins_of(self, version: KeyVersion) -> frozenset[str]:
        """Returns the logins that applications use while they encrypt with a version."""
        return frozenset(login for each, login in self.logins if each == version)

    @property
    def names_versions(self) -> bool:
        """Whether every value names a version of ours, without any key at hand."""
        return self.spec.names_versions

    @property
    def of_all_tables(self) -> "ValueFormat":
        """The same without what is declared for one table alone."""
        return replace(self, row="", row_from=0)

    def binds_rows(self, version: KeyVersion) -> bool:
        """Returns whether values under a version are bound to their row, too."""
        return bool(self.row) and is_bound_to_row(version, self.row_from)

    @property
    def has_keys_of_columns(self) -> bool:
        """Whether a key is derived for each column."""
        return self.derivation is not None and self.derivation.for_each_column

    @property
    def is_held_by_server(self) -> bool:
        """Whether no key leaves its server: whoever may use it reads every version, and writes the newest at once."""
        return self.spec.held_by_server

    @property
    def is_read_with_data(self) -> bool:
        """Whether associated data is read with each value; else it is the same in all rows of a column."""
        return bool(self.aad) and self.spec.row_data

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
        return self.spec.limited and not self.layout.endswith("CBC")

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
        layout = f"; {self.spec.layout_option} {layout}" if layout else ""
        layout += f"; new keys of {self.key_bytes} bytes" if self.key_bytes else ""
        bound = f"; bound to associated data {json.dumps(self.aad)}" if self.aad else ""
        listed = ", ".join(f"{version} {_one_of_several(login)}" for version, login in self.logins)
        logins = f"; refused by taking the right to write from the login of the old version: {listed}" if listed else ""
        same = "; equal texts have equal values" if self.deterministic else ""
        keys = f"keys that {self.transit} makes and never gives away" if self.transit else "keys as they are"
        if self.derivation is not None:
            keys = f"keys derived by {self.derivation}{' for each column' if self.has_keys_of_columns else ''}"
            if self.derivation.salted:
                keys += f" with the salt of SHA-256 {hashlib.sha256(self.salt.encode()).hexdigest()[:16]}"
        return f"{self.name}, {keys}, identified by {self.identified_by.signed}{time}{same}{layout}{bound}{logins}"


def _one_of_several(name: str) -> str:
    """Returns a name such that it cannot be read as two, or as what follows."""
    return name if set(name).isdisjoint(',;"') else json.dumps(name, ensure_ascii=False)
