"""Defines `[format]` and `[[tables]]`: which values are encrypted, and how."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from keyrotation_pipeline.errors import ConfigurationError, InvalidBindingError, InvalidKeyError, InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.binding import checked_label
from keyrotation_pipeline.fieldcrypto.blind_index import Algorithm, BlindIndexForm
from keyrotation_pipeline.fieldcrypto.codecs.associated_data import AssociatedData
from keyrotation_pipeline.fieldcrypto.codecs.bare_keys import KeyEncoding
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import DERIVATIONS
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    AES_GCM,
    CLOAK_47NG,
    CLOAK_ECTO,
    FERNET,
    FORMATS,
    KEYED_WRAPPER,
    LOCKBOX,
    NATIVE,
    RAILS,
    TINK,
    VAULT_TRANSIT,
    Derivation,
    ValueFormat,
)
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER, KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import FULL_BYTES, SHORTEST_BYTES, IndexForm, Normalisation
from keyrotation_pipeline.fieldcrypto.transit import server_at
from keyrotation_pipeline.model.tables import Place, SearchIndex
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.settings.values import Section, Text, repeated


class KeyVariable(Section):
    """`[format.keys]`: where the application has its keys; only `init` reads it.

    Args:
        env: the name of an environment variable.
    """

    env: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


# What has a name of its own here, and is a form of another format.
_LOCKBOX = "lockbox"
_NAMES: Mapping[str, ValueFormat] = MappingProxyType({**FORMATS, _LOCKBOX: LOCKBOX})
_USUAL_VARIABLES = {
    FERNET.name: "FERNET_KEYS",
    AES_GCM.name: "FIELD_KEYS",
    _LOCKBOX: "LOCKBOX_MASTER_KEY",
    RAILS.name: "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY",
    CLOAK_47NG.name: "FIELD_ENCRYPTION_KEYS",
    CLOAK_ECTO.name: "CLOAK_KEYS",
    TINK.name: "TINK_KEYSET",
    KEYED_WRAPPER.name: "SENTRY_FERNET_KEYS",
}


class FormatSettings(Section):
    """`[format]`: the format of the values in all `[[tables]]`.

    Args:
        name: `native` (our own), `fernet`, `aes-gcm`, `rails-ar-encryption`, `cloak-47ng`, `cloak-ecto`,
            `tink`, `fernet-keyed-wrapper`, `vault-transit` or `lockbox`, which is `aes-gcm` with the derivation
            `lockbox` and the layout `b64(nonce12 ct tag16)`.
        keys: of all but `native` and `vault-transit`, and needed there: the application's own list, in its library's
            notation. `init` imports it, and the key store delivers keys under the same name.
        keep_time: of `fernet` only: a re-encrypted token keeps its time, as readers with a TTL need it.
        layout: of `aes-gcm`, and needed there: how a value is put together, as in `b64(nonce12 ct tag16)`,
            `hex(nonce12):hex(tag16):hex(ct)` or, in columns of bytea, `raw(nonce12 ct tag16)`;
            `b64(ct tag16); b64(nonce12)` if the nonce is in a column of its own. Of `lockbox` only in bytea.
        aad: of `aes-gcm`, `lockbox` and `tink`: what each value is authenticated with, as in `{table}|{column}|{id}`:
            any name in braces but these two is a column of the same row, which `tink` does not take. Without it values
            are bound to nothing.
        key_encoding: of `aes-gcm` only: how each key of the list is written, `b64`, `b64url` or `hex`.
        key_bytes: of `aes-gcm` only: how long the keys are that rotations make, 16, 24 or 32 bytes (default: as long as
            the key that each replaces).
        logins: of `aes-gcm` and `lockbox`, and needed there: by version, the login (or a list of them) that
            applications use while they encrypt with it.
        iv_length: of `cloak-ecto` only: that of the application's ciphers, 12 (default) or 16.
        derivation: how the application derives keys from its list. Of `rails-ar-encryption`: `pbkdf2-sha256` (default;
            `load_defaults` of Rails 7.1 and later) or `pbkdf2-sha1`. Of `fernet`: `django-fernet-encrypted-fields`,
            whose list has pairs `SECRET_KEY:SALT_KEY`; `django-fernet-fields`; or `sha256`. Of `aes-gcm`: `sha256`, or
            `lockbox`, whose list has master keys. Default: keys as they are.
        salt: of `rails-ar-encryption` only, and needed there: its `key_derivation_salt`, which is no secret here.
        generation: of `native` only: of the keys that rotations make from now on. 2: KC-XAES-256-GCM, with values bound
            to their columns; every application must read it first.
        deterministic: of `rails-ar-encryption` only: the list is of `deterministic_key`, and queries find the values.
        transit: of `vault-transit` only, and needed there: the key at its server, as in
            `https://vault.example:8200/transit/app`: the server, the path of the engine, the name of the key.
    """

    name: Text = NATIVE.name
    keys: KeyVariable | None = None
    keep_time: StrictBool = False
    layout: Text | None = None
    aad: Text | None = None
    key_encoding: KeyEncoding = KeyEncoding.B64URL
    key_bytes: Literal[16, 24, 32] | None = None
    logins: dict[Text, Text | tuple[Text, ...]] = Field(default_factory=dict)
    iv_length: Literal[12, 16] | None = None
    derivation: Derivation | None = None
    salt: Text | None = None
    generation: Literal[1, 2] = 1
    deterministic: StrictBool = False
    transit: Text | None = None

    @model_validator(mode="after")
    def _is_known_and_complete(self) -> Self:
        names = ", ".join(f'"{name}"' for name in _NAMES)
        if self.name not in _NAMES:
            raise ConfigurationError(
                f"[format] name = {json.dumps(self.name)} cannot be rotated by this version, which rotates {names}; "
                "leave out tables with other values"
            )
        taken = _OPTIONS[self.name]
        for option in type(self).model_fields:
            if option in self.model_fields_set and option not in {"name", *taken}:
                others = " and ".join(f'"{name}"' for name, options in _OPTIONS.items() if option in options)
                raise ConfigurationError(f"[format] {option} is for name = {others} alone; leave it out")
        if self.name == VAULT_TRANSIT.name:
            server_at(self.transit or "")  # raises where it names no key
        elif self.name != NATIVE.name and self.keys is None:
            raise ConfigurationError(
                f'[format] name = "{self.name}" needs to know where the application has its keys; add '
                f'keys = {{ env = "{_USUAL_VARIABLES[self.name]}" }}, or the name that it uses'
            )
        if self.derivation is not None and self.derivation not in _DERIVATIONS[self.name]:
            known = " or ".join(f'"{each}"' for each in _DERIVATIONS[self.name])
            raise ConfigurationError(f'[format] derivation of name = "{self.name}" is {known}; write one of these')
        if self.name == RAILS.name and self.salt is None:
            raise ConfigurationError(
                f'[format] name = "{RAILS.name}" needs the salt that the application derives its keys with; add '
                'salt = "…" with its key_derivation_salt'
            )
        if _NAMES[self.name].name == AES_GCM.name:
            self._require_layout()
            self._require_logins()
        if self.aad is not None:
            self._require_template(self.aad)
        return self

    @model_validator(mode="after")
    def _says_nothing_of_derived_keys(self) -> Self:
        for option in ("key_encoding", "key_bytes"):
            if self.derivation is not None and option in self.model_fields_set:
                raise ConfigurationError(
                    f'[format] {option} says how keys are, and with derivation = "{self.derivation}" the list has what '
                    f"they are derived from; leave {option} out"
                )
        return self

    def _require_template(self, aad: str) -> None:
        try:
            in_row = AssociatedData(aad).row_columns
        except InvalidLayoutError as error:
            raise ConfigurationError(f"[format] {error}") from None
        if in_row and self.name == TINK.name:
            raise ConfigurationError(
                f'[format] aad names {{{in_row[0]}}}, and name = "{TINK.name}" knows only associated data that are the '
                "same in all rows; write {table} and {column} alone, or leave out tables with other values"
            )

    def _require_layout(self) -> None:
        layout = self.layout or _NAMES[self.name].layout
        if not layout:
            raise ConfigurationError(
                f'[format] name = "{AES_GCM.name}" needs to know how values are put together; add '
                'layout = "b64(nonce12 ct tag16)", or as the application does it'
            )
        try:
            Layout(layout)
        except InvalidLayoutError as error:
            raise ConfigurationError(f"[format] {error}") from None

    def _require_logins(self) -> None:
        if not self._logins():
            raise ConfigurationError(
                f'[format] name = "{self.name}" needs a login of the application for each version of the key, since '
                "nothing else tells who writes an old one; add "
                'logins = { v1 = "app_g1", v2 = "app_g2" }, v1 being the present one of a single key'
            )
        if twice := repeated(login for _, login in self._logins()):
            raise ConfigurationError(
                f"[format] logins has {twice} twice; an old login loses the right to write, so each version needs one "
                "of its own"
            )

    def _logins(self) -> tuple[tuple[KeyVersion, str], ...]:
        pairs = []
        for name, logins in self.logins.items():
            try:
                version = KeyVersion.parse(name)
            except InvalidKeyError:
                raise ConfigurationError(
                    f"[format] logins names {json.dumps(name)}, which is no version; write v1, v2, …"
                ) from None
            pairs += [(version, login) for login in ([logins] if isinstance(logins, str) else logins)]
        return tuple(sorted(pairs))

    @property
    def value_format(self) -> ValueFormat:
        """The same as a value of the procedure."""
        known = _NAMES[self.name]
        return replace(
            known,
            keep_time=self.keep_time,
            layout=f"raw(nonce{self.iv_length} tag16 ct)" if self.iv_length else self.layout or known.layout,
            aad=self.aad or "",
            key_bytes=self.key_bytes or 0,
            logins=self._logins(),
            derivation=self.derivation or known.derivation,
            salt=self.salt or "",
            generation=self.generation,
            deterministic=self.deterministic,
            transit=self.transit or "",
        )


_OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        NATIVE.name: frozenset({"generation"}),
        FERNET.name: frozenset({"keys", "keep_time", "derivation"}),
        AES_GCM.name: frozenset({"keys", "layout", "aad", "key_encoding", "key_bytes", "logins", "derivation"}),
        _LOCKBOX: frozenset({"keys", "layout", "aad", "logins"}),
        RAILS.name: frozenset({"keys", "derivation", "salt", "deterministic"}),
        CLOAK_47NG.name: frozenset({"keys"}),
        CLOAK_ECTO.name: frozenset({"keys", "iv_length"}),
        TINK.name: frozenset({"keys", "aad"}),
        KEYED_WRAPPER.name: frozenset({"keys"}),
        VAULT_TRANSIT.name: frozenset({"transit"}),
    }
)


_DERIVATIONS: Mapping[str, tuple[Derivation, ...]] = MappingProxyType(
    {
        RAILS.name: (Derivation.PBKDF2_SHA1, Derivation.PBKDF2_SHA256),
        **DERIVATIONS,
    }
)


class PlaceSettings(Section):
    """An entry of `columns`: ``"email"``, ``{ column = "payload", path = ["token"] }`` and the like.

    Args:
        column: the column that the values are in.
        path: of a jsonb column: the keys that lead to the value.
        elements: of an array: each element is a value.
        iv: of `aes-gcm` only: the column of the value's nonce, where it is in a column of its own.
        when: of a column that also holds text that is not encrypted: a boolean column of the same row, true where the
            value is encrypted. Of `fernet` only.
    """

    column: Text
    path: tuple[str, ...] = ()
    elements: StrictBool = False
    iv: Text | None = None
    when: Text | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.iv is not None and (self.path or self.elements):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has its nonce in column {self.iv}, and a path or elements; only a "
                "value that is a column of its own can have one, so remove it from [[tables]]"
            )
        if self.path and self.elements:
            raise ConfigurationError(
                f"[[tables]] column {self.column} has a path and elements, and arrays inside documents cannot be "
                'rotated yet; name each element by its path, such as ["tokens", "0"]'
            )
        if self.when is not None and (self.path or self.elements):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has when, which is for values that are the whole column, and path or "
                "elements; leave one out"
            )
        if self.when is not None and is_hidden(self.when):
            raise ConfigurationError(
                f"[[tables]] column {self.column} names a column in when with characters that cannot be seen, which "
                "nobody could sign; rename that column"
            )
        if any(is_hidden(key) for key in self.path):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has a path with characters that cannot be seen, which nobody could "
                "sign; rename that key"
            )
        return self

    @property
    def place(self) -> Place:
        """The same as a value of the procedure."""
        return Place(self.column, self.path, self.elements, self.when or "", self.iv or "")


def _as_place(entry: object) -> object:
    if isinstance(entry, str):
        return {"column": entry}
    if not isinstance(entry, dict):
        raise ConfigurationError(
            f'[[tables]] columns has the entry {entry!r}; write "name", or {{ column = "name", path = ["key"] }}'
        )
    return entry


class IndexSettings(Section):
    """An entry of `indexes`: a search index (blind index) of an encrypted column, in two columns of the same table.

    Args:
        of: the encrypted column.
        odd: the column for indexes under keys with an odd number.
        even: the column for indexes under keys with an even number.
        normalise: what is done to a text first, in this order: `strip`, `lower`, `nfc`. As in `SearchIndex`.
        size_bytes: how much of the 32 bytes is kept, 2 to 32. As in `SearchIndex`.
        algorithm: of `lockbox` only: that of blind_index, with its own costs: `argon2id` (default), `argon2id-slow`,
            `pbkdf2-sha256`, `pbkdf2-sha256-slow` or `scrypt`.
    """

    of: Text
    odd: Text
    even: Text
    normalise: tuple[Normalisation, ...] = ()
    size_bytes: Annotated[int, Field(ge=SHORTEST_BYTES, le=FULL_BYTES)] = FULL_BYTES
    algorithm: Algorithm | None = None

    def index(self, label: str, *, of_lockbox: bool) -> SearchIndex:
        """The same as a value of the procedure.

        Args:
            label: of the encrypted column.
            of_lockbox: whether blind_index makes it from the master key.
        """
        if of_lockbox:
            table = label.rpartition(".")[0]
            form = BlindIndexForm(table, self.odd, self.even, self.algorithm or Algorithm.ARGON2ID, self.size_bytes)
            return SearchIndex(self.of, self.odd, self.even, form)
        return SearchIndex(self.of, self.odd, self.even, IndexForm(label, self.normalise, self.size_bytes))


class RowSettings(Section):
    """`[tables.row]`: binds values of the second generation to their row; in `EncryptedType` alike.

    Args:
        key: the column with the row's key: a whole number, a UUID or a text that never changes.
        since: the number of the first version of the second generation whose values are bound to it: 3 for v3x.
    """

    key: Text
    since: Annotated[int, Field(alias="from", ge=1, le=MAX_VERSION_NUMBER)]


class TableSettings(Section):
    """One `[[tables]]`: a table with encrypted columns.

    Args:
        name: ``name`` or ``schema.name``, without quoting.
        columns: the encrypted ones, each by its name; a value in documents of a jsonb column as ``{ column =
            "payload", path = ["secrets", "token"] }``, the elements of a text[] column as ``{ column = "tags",
            elements = true }``.
        bindings: of columns whose values of the second generation are bound to another label than ``table.column``, as
            after a renaming: these labels. Search indexes are bound to them in both generations. Of Lockbox, table and
            attribute by whose names it derives the key of a column, where they are others.
        row: binds values to their row, too, as ``{ key = "id", from = 3 }``.
        indexes: search indexes of columns, as ``{ of = "email", odd = "email_odd", even = "email_even" }``.
    """

    name: Text
    columns: Annotated[tuple[Annotated[PlaceSettings, BeforeValidator(_as_place)], ...], Field(min_length=1)]
    bindings: dict[Text, Text] = Field(default_factory=dict)
    row: RowSettings | None = None
    indexes: tuple[IndexSettings, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the values are."""
        return tuple(each.place for each in self.columns)

    @model_validator(mode="after")
    def _name_and_columns(self) -> Self:
        if not all(self.name.split(".")) or self.name.count(".") > 1:
            raise ConfigurationError(f'[[tables]] {self.name} is not a table\'s name; write "name" or "schema.name"')
        if twice := repeated(each.name for each in self.places):
            raise ConfigurationError(f"column {twice} is listed twice in [[tables]] {self.name}; remove one")
        stored = Counter(column for each in self.places for column in dict.fromkeys(each.stored_columns))
        for each in self.places:
            if each.iv and (each.iv == each.column or stored[each.iv] > 1):
                raise ConfigurationError(
                    f"[[tables]] {self.name} has a second use for {each.iv}, the nonces of column {each.column}; every "
                    "value needs a nonce of its own, so leave these columns out until it has"
                )
        paths = sorted((each.column, each.path) for each in self.places)
        for (column, outer), (same, inner) in pairwise(paths):
            if column == same and inner[: len(outer)] == outer:
                raise ConfigurationError(
                    f"[[tables]] {self.name} lists a place within another one of column {column}; remove one"
                )
        if other := sorted(set(self.bindings).difference(each.name for each in self.places)):
            raise ConfigurationError(
                f"[[tables]] {self.name} has a binding of {other[0]}, which is not among its columns; correct its name"
            )
        for label in self.bindings.values():
            try:
                checked_label(label)
            except InvalidBindingError as error:
                raise ConfigurationError(f"[[tables]] {self.name}, bindings: {error}") from None
        return self

    @model_validator(mode="after")
    def _row(self) -> Self:
        if self.row is None:
            return self
        if inside := next((each for each in self.places if not each.is_declared_alone), None):
            raise ConfigurationError(
                f"[[tables]] {self.name} has row, which binds values that are columns of their own, and "
                f"{inside.name}, which is more than that; leave one out"
            )
        written = {each.column for each in self.places} | {c for each in self.indexes for c in (each.odd, each.even)}
        if self.row.key in written:
            raise ConfigurationError(
                f"[[tables]] {self.name} has row = {{ key = {json.dumps(self.row.key)} }}, a column that changes with "
                "the encryption key; name the column of the row's own key"
            )
        if is_hidden(self.row.key):
            raise ConfigurationError(
                f"[[tables]] {self.name} names a column in row with characters that cannot be seen, which nobody could "
                "sign; rename that column"
            )
        return self

    @model_validator(mode="after")
    def _indexes(self) -> Self:
        values = {each.name for each in self.places if each.is_declared_alone}
        stored = {each.column for each in self.places}
        for index in self.indexes:
            if index.of not in values:
                raise ConfigurationError(
                    f"[[tables]] {self.name} has a search index of {index.of}, which is none of its encrypted columns "
                    "(or a value in a document, an array, or some rows alone); correct `of`"
                )
            if inside := stored & {index.odd, index.even}:
                raise ConfigurationError(
                    f"[[tables]] {self.name}: column {min(inside)} is encrypted and cannot hold a search index; give "
                    "the index columns of its own"
                )
        if twice := repeated(index.of for index in self.indexes):
            raise ConfigurationError(
                f"[[tables]] {self.name} has two search indexes of {twice}, and a column has one; remove the other"
            )
        if twice := repeated(column for index in self.indexes for column in (index.odd, index.even)):
            raise ConfigurationError(
                f"[[tables]] {self.name}: column {twice} is named twice in indexes; each index needs two columns of "
                "its own, one for keys with an odd number and one for the others"
            )
        return self
