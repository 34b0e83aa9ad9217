"""Defines `[format]`: how values are put together, under whose keys, and what each format may say."""

import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError, InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.binding import AssociatedData
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import DERIVATIONS
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    AES_GCM,
    CLOAK_47NG,
    CLOAK_ECTO,
    FERNET,
    FORMATS,
    KEYED_WRAPPER,
    LARAVEL,
    LOCKBOX,
    NATIVE,
    RAILS,
    TINK,
    VAULT_TRANSIT,
    Derivation,
    IdentifiedBy,
    ValueFormat,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.transit import server_at
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
    LARAVEL.name: "APP_KEYS",
}


class FormatSettings(Section):
    """`[format]`: the format of the values in all `[[tables]]`.

    Args:
        name: `native` (our own), `fernet`, `aes-gcm`, `rails-ar-encryption`, `cloak-47ng`, `cloak-ecto`,
            `tink`, `fernet-keyed-wrapper`, `laravel-crypt`, `vault-transit` or `lockbox`, which is `aes-gcm` with the
            derivation `lockbox` and the layout `b64(nonce12 ct tag16)`.
        keys: of all but `native` and `vault-transit`, and needed there: the application's own list, in its library's
            notation. `init` imports it, and the key store delivers keys under the same name.
        keep_time: of `fernet` only: a re-encrypted token keeps its time, as readers with a TTL need it.
        layout: of `aes-gcm`, and needed there: how a value is put together, as in `b64(nonce12 ct tag16)`,
            `hex(nonce12):hex(tag16):hex(ct)` or, in columns of bytea, `raw(nonce12 ct tag16)`;
            `b64(ct tag16); b64(nonce12)` if the nonce is in a column of its own. Of `lockbox` only in bytea.
        aad: of `aes-gcm`, `lockbox` and `tink`: what each value is authenticated with, as in `{table}|{column}|{id}`:
            any name in braces but these two is a column of the same row, which `tink` does not take. Without it values
            are bound to nothing.
        key_encoding: of `aes-gcm` only: how each key of the list is written.
        key_bytes: of `aes-gcm` only: how long new keys are; default: as long as the key that each replaces.
        cipher: of `laravel-crypt` only: as in config/app.php; default `AES-256-CBC`.
        logins: of `aes-gcm`, `lockbox` and `laravel-crypt`, and needed there: by version, the login (or a list of
            them) that applications use while they encrypt with it.
        iv_length: of `cloak-ecto` only: that of the application's ciphers; default 12.
        derivation: how the application derives keys from its list; default: not at all, of `rails-ar-encryption`
            `pbkdf2-sha256`. `pbkdf2-…` are of Rails, `django-…` of `fernet`, `sha256` of `fernet` and `aes-gcm`,
            `lockbox` of `aes-gcm`.
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
    cipher: Literal["AES-256-CBC", "AES-256-GCM", "AES-128-CBC", "AES-128-GCM"] | None = None
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
        self._require_derivation()
        if _NAMES[self.name].name == AES_GCM.name:
            self._require_layout()
        if _NAMES[self.name].identified_by is IdentifiedBy.DECRYPT:
            self._require_logins()
        if self.aad is not None:
            self._require_template(self.aad)
        return self

    def _require_derivation(self) -> None:
        if self.derivation is not None and self.derivation not in _DERIVATIONS[self.name]:
            known = " or ".join(f'"{each}"' for each in _DERIVATIONS[self.name])
            raise ConfigurationError(f'[format] derivation of name = "{self.name}" is {known}; write one of these')
        if self.name == RAILS.name and self.salt is None:
            raise ConfigurationError(
                f'[format] name = "{RAILS.name}" needs the salt that the application derives its keys with; add '
                'salt = "…" with its key_derivation_salt'
            )

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
        layout = f"raw(nonce{self.iv_length} tag16 ct)" if self.iv_length else self.layout or self.cipher
        return replace(
            known,
            keep_time=self.keep_time,
            layout=layout or known.layout,
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
        LARAVEL.name: frozenset({"keys", "cipher", "logins"}),
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
