"""Defines `[format]`: how values are put together, under whose keys, and what each format may say."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, create_model, model_validator

from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError, InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.binding import AssociatedData
from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_spec import FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.registry import DERIVATIONS, SPECS
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import server_at
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.settings.values import Section, Text, repeated


class KeyVariable(Section):
    """`[format.keys]`: where the application has its keys; only `init` reads it.

    Args:
        env: the name of an environment variable.
    """

    env: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def named(formats: Iterable[str]) -> str:
    """Returns names of formats as a sentence has them."""
    return " and ".join(f'"{name}"' for name in formats)


# What else stands there, the formats say: see `_fields`.
class FormatSection(Section):
    """`[format]`: the format of the values in all `[[tables]]`.

    Args:
        name: of the format.
        keys: of other libraries' formats: the application's own list, in its library's notation. `init` imports it, and
            the key store delivers keys under the same name.
    """

    name: Text = NATIVE.name
    keys: KeyVariable | None = None

    @property
    def spec(self) -> FormatSpec:
        """What is known of the format."""
        return SPECS[self.name]

    @property
    def encoding_of_keys(self) -> KeyEncoding:
        """How each key of the list is written, where the library has no notation of its own."""
        return KeyEncoding(self._said("key_encoding") or KeyEncoding.B64URL)

    @property
    def held_at(self) -> str | None:
        """The address of the key, where a server holds it."""
        address: str | None = self._said("transit")
        return address

    def _said(self, option: str) -> Any:  # noqa: ANN401  as the option takes it
        return getattr(self, option, None)

    @model_validator(mode="after")
    def _is_known_and_complete(self) -> Self:
        if self.name not in SPECS:
            names = ", ".join(f'"{name}"' for name in SPECS)
            raise ConfigurationError(
                f"[format] name = {json.dumps(self.name)} cannot be rotated by this version, which rotates {names}; "
                "leave out tables with other values"
            )
        self._require_own_options()
        if self.spec.held_by_server:
            server_at(self.held_at or "")  # raises where it names no key
        elif self.spec.lists_keys and self.keys is None:
            raise ConfigurationError(
                f'[format] name = "{self.name}" needs the application\'s keys; add keys = {{ env = '
                f'"{self.spec.variable}" }}, or the name that it uses'
            )
        self._require_derivation()
        self._require_logins()
        for option in self.spec.options:
            if option.needed and not self._said(option.name) and not (option.layout and self.spec.layout):
                raise ConfigurationError(f'[format] name = "{self.name}" needs {option.needed}')
        self._require_layout()
        if (aad := self._said("aad")) is not None:
            self._require_template(aad)
        return self

    def _require_own_options(self) -> None:
        for option in type(self).model_fields:
            takers = [
                name for name, spec in SPECS.items() if spec.takes(option) or (option == "keys" and spec.lists_keys)
            ]
            if option in self.model_fields_set and option != "name" and self.name not in takers:
                raise ConfigurationError(f"[format] {option} is for name = {named(takers)} alone; leave it out")

    def _require_derivation(self) -> None:
        known = [each.name for each in self.spec.derivations]
        derivation = self._said("derivation")
        if derivation is not None and derivation not in known:
            listed = " or ".join(f'"{each}"' for each in known)
            raise ConfigurationError(f'[format] derivation of name = "{self.name}" is {listed}; write one of these')

    @model_validator(mode="after")
    def _says_nothing_of_derived_keys(self) -> Self:
        for option in ("key_encoding", "key_bytes"):
            if self._said("derivation") is not None and option in self.model_fields_set:
                raise ConfigurationError(
                    f'[format] {option} says how keys are, and with derivation = "{self._said("derivation")}" the list '
                    f"has what they are derived from; leave {option} out"
                )
        return self

    def _require_template(self, aad: str) -> None:
        try:
            in_row = AssociatedData(aad).row_columns
        except InvalidLayoutError as error:
            raise ConfigurationError(f"[format] {error}") from None
        if in_row and not self.value_format.spec.row_data:
            raise ConfigurationError(
                f'[format] aad names {{{in_row[0]}}}, and name = "{self.name}" knows only data that all rows share; '
                f"write {{table}} and {{column}} alone"
            )

    def _require_layout(self) -> None:
        try:
            if (declared := self.value_format).layout:
                layout_of(declared)
        except InvalidLayoutError as error:
            raise ConfigurationError(f"[format] {error}") from None

    def _require_logins(self) -> None:
        if twice := repeated(login for _, login in self._logins()):
            raise ConfigurationError(
                f"[format] logins has {twice} twice; an old login loses the right to write, so each version needs one "
                "of its own"
            )

    def _logins(self) -> tuple[tuple[KeyVersion, str], ...]:
        pairs = []
        for name, logins in (self._said("logins") or {}).items():
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
        said: dict[str, Any] = {}
        for option in self.spec.options:
            value = self._said(option.name)
            if option.layout and value is not None:
                said["layout"] = option.layout.format(value)
            elif value is not None and option.name in _DECLARED:
                said[option.name] = value
        if "derivation" in said:
            said["derivation"] = DERIVATIONS[said["derivation"]]
        return replace(ValueFormat.of(self.spec), **said | {"logins": self._logins()})


_DECLARED = frozenset(each.name for each in fields(ValueFormat)) - {"logins"}


def _options() -> Iterator[tuple[str, list[Option], list[str]]]:
    """Yields the name of each option, what each format says of it, and the names of these formats."""
    names = dict.fromkeys(each.name for spec in SPECS.values() for each in spec.options)
    for name in names:
        takers = [(each, spec.name) for spec in SPECS.values() for each in spec.options if each.name == name]
        yield name, [each for each, _ in takers], [taker for _, taker in takers]


_NEEDED = ", and needed there"


def _description(options: list[Option], takers: list[str]) -> str:
    """Returns what the reference says of an option: once, if all formats say the same of it."""
    if len(set(options)) > 1:
        each_of = zip(options, takers, strict=True)
        return " ".join(f"Of `{of}`{_NEEDED if each.needed else ''}: {each.says}" for each, of in each_of)
    *others, last = (f"`{each}`" for each in takers)
    of = f"{', '.join(others)} and {last}" if others else f"{last} only"
    return f"of {of}{_NEEDED if options[0].needed else ''}: {options[0].says}"


def _fields() -> Iterator[tuple[str, Any]]:
    names = f"{', '.join(f'`{name}`' for name in SPECS)}; `{NATIVE.name}` is our own."
    yield "name", (Text, Field(NATIVE.name, description=names))
    for name, options, takers in _options():
        takes, default = _taken(options[0])
        yield name, (takes, Field(description=_description(options, takers), **default))


def _taken(option: Option) -> tuple[Any, dict[str, Any]]:
    """Returns the type of a setting, and its default."""
    if option.takes is dict:
        return dict[Text, Text | tuple[Text, ...]], {"default_factory": dict}
    known: Any = Literal[tuple(DERIVATIONS)] if option.name == "derivation" else option.takes
    takes = {bool: StrictBool, str: Text}.get(known, known)
    return takes if option.default is not None else takes | None, {"default": option.default}


if TYPE_CHECKING:
    FormatSettings = FormatSection
else:
    FormatSettings = create_model(
        "FormatSettings", __base__=FormatSection, __doc__=FormatSection.__doc__, **dict(_fields())
    )
