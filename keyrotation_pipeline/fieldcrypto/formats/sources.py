"""Finds every format that values are taken from, by its name. Imports their specs, and no code of theirs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import chain, product
from pkgutil import iter_modules
from types import MappingProxyType

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto import formats
from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

# What a column is taken from that was never encrypted: it has no key, and no spec.
NEVER_ENCRYPTED = "plaintext"


@dataclass(frozen=True, order=True, slots=True)
class SourceForm:
    """A source as an application uses it.

    Args:
        name: of the `SourceSpec`.
        options: what it says of each option, in the order of these.
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> "SourceForm":
        """Returns the form that a declaration means.

        Raises:
            ConfigurationError: no such source, an option that it does not have, or one that is missing.
        """
        if (spec := sources().get(name)) is None:
            raise ConfigurationError(
                f'"{name[:60]}" is no format that values can be taken from; write {NEVER_ENCRYPTED} or '
                f"{', '.join(sources())}"
            )
        if other := sorted(set(options).difference(each.name for each in spec.options)):
            raise ConfigurationError(f'format = "{name}" has no {other[0]}; leave it out')
        for each in spec.options:
            if each.optional and each.name not in options:
                continue
            if not each.choices:
                _require_name(name, each.name, options.get(each.name))
            elif options.get(each.name) not in each.choices:
                listed = ", ".join(f'"{choice}"' for choice in each.choices)
                raise ConfigurationError(
                    f'format = "{name}" needs {each.name}, one of {listed}; the library takes "{each.choices[0]}" '
                    "where the application says nothing"
                )
        return cls(name, tuple((each.name, str(options[each.name])) for each in spec.options if each.name in options))

    @property
    def spec(self) -> SourceSpec:
        """What is known of it."""
        return sources()[self.name]

    @property
    def others(self) -> "Iterator[SourceForm]":
        """Every other form of the same source."""
        choices = {each.name: each.choices for each in self.spec.options}
        for said in product(*(choices[name] or (own,) for name, own in self.options)):
            other = SourceForm(self.name, tuple(zip((name for name, _ in self.options), said, strict=True)))
            if other != self:
                yield other

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the row that hold a part of each value, in the order of the source's options."""
        named = {each.name for each in self.spec.options if each.column}
        return tuple(said for name, said in self.options if name in named)

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{name} {said}" for name, said in self.options)])


_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_FORM = re.compile(rf"([a-z][a-z0-9-]{{0,59}})((?:, [a-z_]{{1,30}} {_NAME.pattern})*)", re.ASCII)


def _require_name(source: str, option: str, said: object) -> None:
    """Checks what is said where an application may give any name.

    Raises:
        ConfigurationError: nothing, or no name that a signed text can have.
    """
    if not isinstance(said, str) or _NAME.fullmatch(said) is None:
        raise ConfigurationError(
            f'format = "{source}" needs {option}, a name of letters, digits, dots, hyphens and underscores; add it as '
            "the application has it"
        )


def parsed(text: str) -> SourceForm:
    """Returns the form whose `str` this is.

    Raises:
        ConfigurationError: it is none.
    """
    if (match := _FORM.fullmatch(text)) is None:
        raise ConfigurationError("this is no format that values can be taken from")
    said = (each.split(" ") for each in match[2].split(", ")[1:])
    return SourceForm.of(match[1], dict(said))


@cache
def sources() -> Mapping[str, SourceSpec]:
    """Returns the spec of every source by its name. The first call imports them, which an application seldom needs."""
    modules = iter_modules(formats.__path__, f"{formats.__name__}.")
    packages = (import_module(module.name) for module in modules if module.ispkg)
    specs: Iterator[SourceSpec] = chain.from_iterable(getattr(each, "SOURCES", ()) for each in packages)
    return MappingProxyType({each.name: each for each in specs})
