"""The fields of what each command prints with `--json`."""

from collections.abc import Iterator

from keyrotation_pipeline_tests.acceptance.documents import FIELDS, LISTS
from keyrotation_pipeline_tests.reference.markdown import code, listing, page_of

_INTRODUCTION = """
With `--json` a command prints one object, which begins with `"schema": 1`, or a list of objects where it lists. A
change that a reader would notice is a new schema; a further field is not. Moments are ISO 8601 in UTC, durations end
in `_seconds`, key versions are texts such as `v2`. A command that refuses prints one line on stderr, `{"schema": 1,
"error": "the sentence"}`, wrong usage too, and ends with 1, or 2. [`keyrotation report --format
json`](../guides/auditor.md) has a schema of its own.
"""


def page() -> str:
    """The page."""
    return page_of("JSON", _parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## Fields of each command"
    same: dict[str, list[str]] = {}
    for name in FIELDS:
        same.setdefault(f"{'a list of ' if name in LISTS else ''}{_fields(name)}", []).append(name)
    yield listing((", ".join(map(code, names)), fields) for fields, names in same.items())


def _fields(name: str) -> str:
    """The fields of a command; of one that has all of another's in their order, those that it adds."""
    shorter = next(
        (each for each in FIELDS if len(FIELDS[each]) > 100 and FIELDS[name].startswith(f"{FIELDS[each]} ")), ""
    )
    first = [f"those of {code(shorter)}"] if shorter else []
    return ", ".join(first + list(map(code, FIELDS[name].removeprefix(FIELDS.get(shorter, "")).split())))
