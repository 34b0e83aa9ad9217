"""One plain sentence for a wrong setting."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from keyrotation_pipeline.settings.sections import FILE_NAME, File


def sentence_for(errors: Sequence[ErrorDetails], content: Mapping[str, Any]) -> str:
    """One plain sentence for the first error, a misspelt name before all others: it often causes them."""
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    *parents, last = first["loc"]
    if isinstance(last, int):  # an item of a list is named by the list
        *parents, last = parents
    place = _place(parents, content)
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(last), _known(parents), n=1, cutoff=0)[0]
        return f"{place} has no setting {str(last)!r}; did you mean {nearest!r}?"
    if first["type"] == "missing":
        return f"{place} lacks {str(last)!r}; add it"
    message = first["msg"].replace("a valid tuple", "a list").replace("Tuple should", "the list should")
    message = message.removesuffix(" after validation, not 0")
    return f"{place} {last}: {message[:1].lower()}{message[1:]}; correct it"


def _place(parents: Sequence[int | str], content: Mapping[str, Any]) -> str:
    """The TOML heading of a location: ``[keys.file]``, ``[[tables]] clients``; the file itself for the top level."""
    names = ".".join(str(part) for part in parents if isinstance(part, str))
    index = next((part for part in parents if isinstance(part, int)), None)
    if not names:
        return FILE_NAME
    if index is None:
        return f"[{names}]"
    entry: Any = content
    for part in parents:
        entry = entry[part]
    label = entry.get("name") if isinstance(entry, Mapping) else None
    return f"[[{names}]] {label or f'number {index + 1}'}"


def _known(parents: Sequence[int | str]) -> list[str]:
    """The settings that a location knows."""
    model: type[BaseModel] = File
    for part in parents:
        if isinstance(part, str):
            field = next(f for name, f in model.model_fields.items() if part in {name, f.alias})
            model = _section_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
