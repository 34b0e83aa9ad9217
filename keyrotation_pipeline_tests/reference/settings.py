"""Every setting of keyrotation.toml: what it takes, its default, and what it is, from the docstring of its section."""

import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from keyrotation_pipeline.settings.backups import SecretPlace
from keyrotation_pipeline.settings.file import File
from keyrotation_pipeline.settings.tables import PlaceSettings
from keyrotation_pipeline.settings.values import Section
from keyrotation_pipeline_tests.reference.markdown import code, in_markdown, listing, page_of

_INTRODUCTION = """
`keyrotation init` writes a commented `keyrotation.toml` from what it finds in the database. Relative paths are
relative to the file. A secret is never in it: `{ env = "NAME" }` or `{ file = "PATH" }` says where it is. An unknown
or misspelt setting is an error that names the nearest known one.
"""
_ENVIRONMENT = {
    "KEYROTATION_CONFIG": "the configuration file, where `--config` does not name one",
    "KEYROTATION_HOME": "the home with everything that is ours; default `.keyrotation` next to the file",
    "KEYROTATION_DATABASE_URL": "the database for `init` and `recover` before there is a file",
    "ENCRYPTION_MASTER_KEY": "v1, which `init` imports; `ENCRYPTION_MASTER_KEY_V2` … are later versions",
    "ENCRYPTION_PRIMARY_VERSION": "the version that applications write, such as `v2`",
    "ENCRYPTION_COMPROMISED_VERSIONS": "versions that applications must not make the primary, such as `v1,v2`",
    "POD_NAMESPACE": "with `POD_UID`: the Pod in which an application reports itself",
}
_SIMPLE: dict[Any, str] = {
    SecretStr: "place of a secret", SecretPlace: "place of a secret", PlaceSettings: "a column, or a place in one",
    Path: "path", bool: "true, false", int: "number",
    float: "number", str: "text", date: "date",
}  # fmt: skip


def page() -> str:
    """The page."""
    return page_of("Settings", _parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## Environment variables"
    yield listing((code(name), meaning) for name, meaning in _ENVIRONMENT.items())
    for heading, section in sections():
        yield f"## {heading}"
        about, meanings = _documented(section)
        if section is not File:
            yield in_markdown(about)
        own = _own(section).items()
        if own:
            yield listing((", ".join(names), meaning) for meaning, names in _alike(own, meanings).items())


def _alike(own: Iterable[tuple[str, FieldInfo]], meanings: dict[str, str]) -> dict[str, list[str]]:
    """Each setting with its limits, by what it is, of which several may be the same."""
    alike: dict[str, list[str]] = {}
    for name, each in own:
        alike.setdefault(meanings[name], []).append(code(each.alias or name) + _limits(each))
    return alike


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Each section with its heading, in the order of the file; what stands at its top first."""
    yield "At the top of the file", File
    yield from _below("", File)


def _below(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        inner, many = _section(field.annotation)
        if inner is not None:
            whole = f"{path}.{field.alias or name}".removeprefix(".")
            yield f"[[{whole}]]" if many else f"[{whole}]", inner
            yield from _below(whole, inner)


def _own(section: type[Section]) -> dict[str, FieldInfo]:
    return {name: each for name, each in section.model_fields.items() if _section(each.annotation)[0] is None}


def _section(annotation: object) -> tuple[type[Section] | None, bool]:
    """The section that a field holds, and whether it may be repeated."""
    for each in (annotation, *typing.get_args(annotation)):
        if isinstance(each, type) and issubclass(each, Section) and each is not SecretPlace:
            return each, typing.get_origin(annotation) is tuple
    return None, False


def _documented(section: type[Section]) -> tuple[str, dict[str, str]]:
    """What the docstring says of the section, and of each of its own settings."""
    about, _, arguments = (inspect.getdoc(section) or "").partition("\n\nArgs:\n")
    about = re.sub(r"^(?:One )?`\[\[?[^`]*\]`(?:,|:| of)? *", "", about)
    meanings: dict[str, str] = {}
    for names, meaning in re.findall(r"(?ms)^    (\w+(?:, \w+)*): (.*?)(?=^    \w|\Z)", arguments):
        meanings |= dict.fromkeys(names.split(", "), in_markdown(meaning).replace("\n\n", " "))
    said = {name: field.description for name, field in section.model_fields.items() if field.description}
    meanings |= {name: in_markdown(meaning) for name, meaning in said.items()}
    missing = set(_own(section)) - set(meanings)
    assert not missing, f"the docstring of {section.__name__} says under Args nothing of {', '.join(sorted(missing))}"
    return about[:1].upper() + about[1:], meanings


def _limits(field: FieldInfo) -> str:
    """What the setting takes, unless that is any text, and its default."""
    kind, default = _kind(field), _default(field)
    said = [] if kind in {"text", "true, false"} else [kind.removeprefix("number, ")]
    said += [f"default {default}" if default.startswith("`") else default] if default else []
    return f" ({'; '.join(said)})" if said else ""


def _kind(field: FieldInfo) -> str:
    kind = _takes(field.annotation)
    limits = {type(each): each for each in field.metadata}
    least, most, longest = (limits.get(each) for each in (Ge, Le, MaxLen))
    if isinstance(least, Ge):
        kind += f", {least.ge} to {most.le}" if isinstance(most, Le) else f", {least.ge} or more"
    if isinstance(longest, MaxLen):
        kind += f", at most {longest.max_length} characters"
    return kind


def _takes(annotation: Any) -> str:  # noqa: ANN401  whatever stands at a field
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _takes(arguments[0])
    if origin is Literal:
        return ", ".join(code(json.dumps(each)) for each in arguments)
    if origin in {tuple, dict}:
        return f"list: {_takes(arguments[0])}" if origin is tuple else f"table: {_takes(arguments[1])}"
    if origin in {typing.Union, types.UnionType}:
        return ", ".join(dict.fromkeys(_takes(each) for each in arguments if each is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(code(f'"{each}"') for each in annotation)
    return _SIMPLE[annotation]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    if field.default in (None, (), ""):
        return ""
    if isinstance(field.default, bool):
        return code(str(field.default).lower())
    return code(f'"{field.default}"' if isinstance(field.default, str) else str(field.default))
