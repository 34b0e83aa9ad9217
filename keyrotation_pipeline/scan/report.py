"""What a scan of a database reports: places, what was found in each, and what was not looked at.

Holds counts and names, never a value.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Place:
    """Where values were sampled.

    Args:
        table: ``schema.name``, quoted as PostgreSQL would where needed.
        column: as the catalog writes it.
        path: of a leaf inside JSON (also JSON in a text column), elements of arrays inside it as ``[]``; else None.
        elements: whether the values are the elements of a PostgreSQL array.
        type: as ``format_type()`` writes it.
        domain_of: of a domain, the type that it stands for.
    """

    table: str
    column: str
    path: tuple[str, ...] | None
    elements: bool
    type: str
    domain_of: str | None = None

    @property
    def base_type(self) -> str:
        """The type of what is stored."""
        return self.domain_of or self.type


Tier = Literal["certain", "likely", "possible"]
IdentifiedBy = Literal["marker", "mac", "decrypt"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One format in one place.

    Args:
        place: where.
        format: its name, or what its bytes look like (``unknown-aead``, ``unknown-cbc``) where nothing marks it.
        tier: ``certain``: a format's own grammar; ``likely``: bytes and lengths fit encryption only; ``possible``: they
            fit other data as well.
        share: of the non-empty sampled values, 0 to 1.
        values: non-empty values looked at.
        key_ids: of the keys that the values themselves name, the most frequent first.
        identified_by: how the key of a value is recognised.
        reads_two_keys: whether the library of the format can read two keys; None where the library is not known.
        next: one sentence: rotate in place, migrate, or why not yet.
        notes: sentences: plaintext among ciphertext, values encrypted twice, blind index, companion columns.
        wrapped: whether values stand behind a prefix or in another encoding, so that they are not rotated in place.
    """

    place: Place
    format: str
    tier: Tier
    share: float
    values: int
    key_ids: tuple[str, ...]
    identified_by: IdentifiedBy
    reads_two_keys: bool | None
    next: str
    notes: tuple[str, ...]
    wrapped: bool = False


NATIVE = "native"


@dataclass(frozen=True, slots=True)
class NotLookedAt:
    """A place that was not read, or not fully.

    Args:
        place: a relation, column, or kind of object, as people would name it.
        reason: a phrase.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The result of a scan.

    Args:
        database: ``name@host``, without user and password.
        tables: that were read, a partitioned one once.
        columns: of these that can hold text or bytes.
        values: that were examined.
        sampled: tables of which only a part was read.
    """

    database: str
    findings: tuple[Finding, ...]
    not_looked_at: tuple[NotLookedAt, ...]
    tables: int
    columns: int
    values: int
    sampled: int

    def as_json(self) -> Mapping[str, Any]:
        """Returns the document that `scan --json` prints; what is noted on a place stands at the end of `next`."""
        return {
            "database": self.database,
            "places": [as_json_of(finding) for finding in self.findings],
            "not_looked_at": [str(each) for each in self.not_looked_at],
        }


def name_of(place: Place) -> str:
    """Returns ``public.users.profile -> otp -> secret``, ``public.users.tags[]``."""
    elements = "[]" if place.elements else ""
    return " -> ".join((f"{place.table}.{place.column}{elements}", *(place.path or ())))


def share_of(finding: Finding) -> str:
    """Returns ``all 1,000``, ``12 % of 1,000``, of values."""
    if finding.share == 1:
        return f"all {finding.values:,}"
    return f"{min(max(round(100 * finding.share), 1), 99)} % of {finding.values:,}"


def in_other_formats(
    findings: Iterable[Finding],
    rotated: str = NATIVE,
    declared: Collection[tuple[str, str, tuple[str, ...] | None]] = (),
) -> tuple[Finding, ...]:
    """Returns what is certainly encrypted and is left as it is by a rotation.

    Args:
        rotated: the format that a rotation is of. Undeclared values in our own are what `inventory` searches for.
        declared: table, column and path, as places name them.
    """
    return tuple(
        each
        for each in findings
        if each.tier == "certain"
        and not each.format == rotated == NATIVE
        and not (each.format == rotated and (each.place.table, each.place.column, each.place.path) in declared)
    )


def as_json_of(finding: Finding) -> Mapping[str, Any]:
    """Returns one place as JSON."""
    place = finding.place
    return {
        "table": place.table,
        "column": place.column,
        "path": None if place.path is None else list(place.path),
        "elements": place.elements,
        "type": place.type,
        "format": finding.format,
        "tier": finding.tier,
        "share": round(finding.share, 4),
        "values": finding.values,
        "key_ids": list(finding.key_ids),
        "identified_by": finding.identified_by,
        "reads_two_keys": finding.reads_two_keys,
        "next": " ".join((finding.next, *finding.notes)),
    }
