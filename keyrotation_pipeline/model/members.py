"""The members of a fleet among what officers sign: each with its place, and the rules that cover later ones.

A rule is a name with ``*`` on one server. Its place is that of a member, with the rule in place of the name:
``databases tenant_* at tenant_*, system identifier 7`` covers ``databases tenant_1 at tenant_1, system identifier 7``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from keyrotation_pipeline.model.signed_lines import PLACE
from keyrotation_pipeline.model.tables import MEMBER_NAME, NAME_RULE, TableName

MEMBER = "databases "
_SYSTEM = re.compile(r".+, system identifier ([0-9]+)(?:, schema [a-z0-9_]+)?")
_WITHOUT = " without "
_LISTING = re.compile(
    r"\s*SELECT\s+([a-z_]\w*)\s+FROM\s+(?:([a-z_]\w*)\.)?([a-z_]\w*)(?:\s+WHERE\s+([a-z_]\w*))?\s*",
    re.ASCII | re.IGNORECASE,
)
_RULE = re.compile(
    rf"({NAME_RULE})(?:{_WITHOUT}({MEMBER_NAME}(?:, {MEMBER_NAME})*))?(, system identifier .+)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class MemberRule:
    """The names of databases that are members without a line of their own.

    Args:
        name: with ``*`` for any characters.
        gone: names that it matches and does not cover.
    """

    name: str
    gone: tuple[str, ...] = ()

    @classmethod
    def of(cls, place: str) -> tuple[Self, str] | None:
        """The rule of a place, and what follows it; None: it is the place of no rule."""
        if (found := _RULE.fullmatch(place)) is None:
            return None
        return cls(found[1], tuple(found[2].split(", ")) if found[2] else ()), found[3]

    def covers(self, member: str) -> bool:
        """Whether a database of this name is one of them."""
        pattern = ".*".join(map(re.escape, self.name.split("*")))
        return member not in self.gone and re.fullmatch(pattern, member) is not None

    def place(self, anywhere: str) -> str:
        """Its place on a server.

        Args:
            anywhere: the place of any database of that server.
        """
        without = f"{_WITHOUT}{', '.join(self.gone)}" if self.gone else ""
        return f"{self.name}{without}{_after_name(anywhere)}"


@dataclass(frozen=True, slots=True)
class Listing:
    """Where the home's own database lists the names that a rule may cover.

    No SQL of the configuration is run: a query may call functions of whoever owns what it reads.

    Args:
        column: of type text or varchar; one name a row.
        when: a boolean column: only rows in which it is true; "": all rows.
    """

    table: TableName
    column: str
    when: str = ""

    @classmethod
    def parse(cls, query: str) -> Self | None:
        """Reads ``SELECT name FROM public.tenants WHERE active``, or without `WHERE`; None: it is other SQL.

        As in SQL without quotes, capital letters are small ones.
        """
        if (found := _LISTING.fullmatch(query)) is None:
            return None
        column, schema, table, when = (each and each.lower() for each in found.groups())
        return cls(TableName(schema or "public", table), column, when or "")


@dataclass(frozen=True, slots=True)
class Listed:
    """How the listings of rules differ from the members.

    Args:
        unjoined: listed, and no members yet.
        lost: members that are listed no more, and stay members until officers sign them away.
    """

    unjoined: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def sentences(self) -> Iterator[str]:
        """What to do about each."""
        if self.unjoined:
            yield (
                f"{some(self.unjoined)} is listed by [[databases]] and no member yet, so nobody has looked for the old "
                "key there; run `keyrotation init`"
            )
        if self.lost:
            yield (
                f"{some(self.lost)} is no longer listed by [[databases]] and stays a member; list it again, or name it "
                "in gone and have that signed with `keyrotation policy --reason TEXT`"
            )


def some(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    return f"database {names[0]}{f' (and {len(names) - 1} more)' if names[1:] else ''}"


def not_examined(why: Mapping[str, str]) -> str:
    """A sentence about databases that could not be examined while the others were: by name, why."""
    first, *others = why.values()
    return f"{len(why)} databases were not examined ({', '.join(why)}); the first: {first}" if others else first


def same_database(own: str, hosts: Sequence[str], signed: Mapping[str, str]) -> str | None:
    """A sentence about a member that is the home's own database, or another member, by a second name; None: none is.

    Args:
        own: the place of the home's own database.
        hosts: with the members as they are to be signed.
        signed: the places of members that are signed already, which were asked then.
    """
    there, members = {own: "[database]"}, members_among(hosts)
    # Those that are signed come first, wherever they stand: a new one is the second name.
    for name, place in sorted(members.items(), key=lambda each: signed.get(each[0]) != each[1]):
        known = there.setdefault(place, f"[[databases]] {name}")
        if known != f"[[databases]] {name}" and signed.get(name) != place:
            return f"[[databases]] {name} is {place}, and so is {known}; correct its url, or leave it out"
    return None


def place_by_rule(member: str, place: str) -> str | None:
    """The place that a rule gives to a member; None: it does not cover it.

    Args:
        place: of the rule.
    """
    if (found := MemberRule.of(place)) is None:
        return None
    rule, where = found
    return f"{member}{where}" if rule.covers(member) and re.fullmatch(MEMBER_NAME, member) else None


def _after_name(place: str) -> str:
    return place[place.rindex(", system identifier ") :]


def member_line(name: str, place: str) -> str:
    """A member of a fleet among the hosts, such as ``databases north at clinic, system identifier 7``; or a rule."""
    return f"{MEMBER}{name} at {place}"


def members_among(hosts: Sequence[str]) -> Mapping[str, str]:
    """The places of a fleet's members among hosts, by name."""
    return {name: place for name, place in _places_among(hosts) if "*" not in name}


def rules_among(hosts: Sequence[str]) -> Mapping[str, str]:
    """The places of the rules among hosts, by name."""
    return {name: place for name, place in _places_among(hosts) if "*" in name}


def _places_among(hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for each in hosts:
        if each.startswith(MEMBER):
            name, _, place = each.removeprefix(MEMBER).partition(" at ")
            yield name, place


def servers_among(hosts: Sequence[str]) -> Mapping[str, str]:
    """The server of each of a fleet's members among hosts, by the member's name: its system identifier, in digits.

    A server may have several names of a host, and its system identifier is what officers have signed.
    """
    found = {name: _SYSTEM.fullmatch(place) for name, place in members_among(hosts).items()}
    return {name: number[1] for name, number in found.items() if number is not None}


def place_lines(hosts: Sequence[str], values: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """The lines of a fleet's members and rules."""
    counted = {name: f"; {number}" for name, number in values.items()}
    return [(f"{PLACE}{name}", f"{place}{counted.get(name, '')}") for name, place in _places_among(hosts)]


def places_in(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The places of a fleet's members and rules in the fields of a canonical text, by name."""
    return {
        name.removeprefix(PLACE): value.partition("; ")[0] for name, value in fields.items() if name.startswith(PLACE)
    }


def members_in(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The same of its members alone."""
    return {name: place for name, place in places_in(fields).items() if "*" not in name}


def values_in(fields: Mapping[str, str]) -> Mapping[str, str]:
    """How many values each of them had when it was signed, by name."""
    lines = {name: fields[f"{PLACE}{name}"].partition("; ")[2] for name in members_in(fields)}
    return {name: counted for name, counted in lines.items() if counted}
