"""Says what a scan found that an earlier one did not, and the reverse."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.scan.report import Finding, ScanReport, as_json_of, name_of

_SCHEMA = 1
# Nothing marks these: a sample of a few values is taken for either.
_UNMARKED = "unknown-"
_NAMES = ("table", "column", "format")

Known = tuple[str, str, tuple[str, ...] | None, bool, str]


class NotAScanError(ValueError):
    """A text is not what `scan --json` prints; the message says what it lacks, and holds no part of it."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier scan found.

    Args:
        database: as it named it.
        known: its places, with their formats.
    """

    database: str
    known: frozenset[Known]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between two scans.

    Args:
        database: of the earlier one.
        new: findings that it did not have.
        gone: places of the earlier one that have nothing in that format now, as people would name them.
    """

    database: str
    new: tuple[Finding, ...]
    gone: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether something new is certainly or likely encrypted."""
        return any(finding.tier != "possible" for finding in self.new)

    def as_json(self) -> Mapping[str, Any]:
        """Returns the fields that `--compare` adds."""
        return {"new": [as_json_of(finding) for finding in self.new], "gone": list(self.gone)}


def earlier_scan(text: str) -> Earlier:
    """Parses what `scan --json` printed.

    Raises:
        NotAScanError: it is something else.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise NotAScanError("it is not JSON") from None
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise NotAScanError("its schema is not 1")
    database, places = document.get("database"), document.get("places")
    if not isinstance(database, str) or not isinstance(places, list):
        raise NotAScanError("it has no database or no places")
    return Earlier(database, frozenset(_known(place) for place in places))


def compared(report: ScanReport, earlier: Earlier) -> Comparison:
    """Compares a scan with an earlier one, of the same database or of its like."""
    now = {_key_of(finding): finding for finding in report.findings}
    gone = sorted(_shown(known) for known in earlier.known - now.keys())
    return Comparison(
        earlier.database, tuple(found for known, found in now.items() if known not in earlier.known), tuple(gone)
    )


def _known(place: object) -> Known:
    if not isinstance(place, dict) or not all(isinstance(place.get(name), str) for name in _NAMES):
        raise NotAScanError("one of its places has no table, column or format")
    path = place.get("path")
    if path is not None and not (isinstance(path, list) and all(isinstance(key, str) for key in path)):
        raise NotAScanError("the path of one of its places is not a list of texts")
    steps: Sequence[str] | None = path
    return _of(place["table"], place["column"], steps, bool(place.get("elements")), place["format"])


def _key_of(finding: Finding) -> Known:
    place = finding.place
    return _of(place.table, place.column, place.path, place.elements, finding.format)


def _of(table: str, column: str, path: Sequence[str] | None, elements: bool, name: str) -> Known:  # noqa: FBT001
    kind = _UNMARKED if name.startswith(_UNMARKED) else name
    return table, column, None if path is None else tuple(path), elements, kind


def _shown(known: Known) -> str:
    table, column, path, elements, name = known
    place = " -> ".join((f"{table}.{column}{'[]' if elements else ''}", *(path or ())))
    return f"{place}: {'unknown' if name == _UNMARKED else name}"


def names_of(findings: Sequence[Finding]) -> list[str]:
    """Returns places with their formats, as people would name them."""
    return [f"{name_of(finding.place)}: {finding.format} ({finding.tier})" for finding in findings]
