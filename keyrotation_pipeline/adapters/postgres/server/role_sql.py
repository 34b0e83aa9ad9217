"""Writes the SQL by which roles of one server get what those of another had.

A name may be hostile: whoever may create roles chose it, and a superuser pastes the SQL. So names are quoted in a way
that no terminal, shell or psql can take for its own, and nothing here makes a role as powerful as a superuser: what
would is named apart, for people to decide.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from keyrotation_pipeline.model.undumped import DatabaseRole, Membership, RoleAttribute, Roles, RoleSQL
from keyrotation_pipeline.model.visible_text import is_hidden

# Their members can become superusers, says PostgreSQL's documentation (Predefined Roles).
_POWERFUL = frozenset({"pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"})
# From 16 on, memberships have options, and CREATEROLE does not reach every role.
_FIRST_WITH_OPTIONS = 160_000
# The server shortens longer names: then they would be another role's.
_LONGEST_BYTES = 63
_HARMLESS = frozenset("_ .@-")
_BMP = 0xFFFF


def role_sql(wanted: Roles, here: Roles, server_version: int) -> RoleSQL:
    """Returns what roles lack on a server; nothing is taken away that they have there.

    Args:
        wanted: as recorded on another one.
        here: every role of the server.
    """
    target = _Target.of(wanted, here, bounded=server_version >= _FIRST_WITH_OPTIONS)
    steps = [*map(target.role, wanted.roles), *map(target.membership, wanted.memberships)]
    return RoleSQL(
        tuple(line for each in steps for line in each.statements),
        tuple(line for each in steps for line in each.apart),
        tuple(line for each in steps for line in each.logins),
    )


def quoted(name: str) -> str:
    """Returns a name for SQL in which only letters, digits and a few harmless characters stand for themselves."""
    if all(map(_is_harmless, name)):
        return f'"{name}"'
    return f'U&"{"".join(each if _is_harmless(each) else _escaped(each) for each in name)}"'


def _is_harmless(character: str) -> bool:
    return character in _HARMLESS or (character.isalnum() and not is_hidden(character))


def _escaped(character: str) -> str:
    number = ord(character)
    return rf"\{number:04X}" if number <= _BMP else rf"\+{number:06X}"


def _is_possible(name: str) -> bool:
    return len(name.encode(errors="replace")) <= _LONGEST_BYTES and not name.startswith("pg_")


def _with_any(roles: Roles, attributes: frozenset[RoleAttribute]) -> Iterator[str]:
    return (each.name for each in roles.roles if not attributes.isdisjoint(each.attributes))


def _reaching(roots: Iterable[str], memberships: Iterable[Membership]) -> frozenset[str]:
    """Returns these roles, and all that are members of them, directly or not."""
    members: dict[str, list[str]] = {}
    for each in memberships:
        members.setdefault(each.role, []).append(each.member)
    found, open_ones = set[str](), [*roots]
    while open_ones:
        if (role := open_ones.pop()) not in found:
            found.add(role)
            open_ones += members.get(role, ())
    return frozenset(found)


@dataclass(frozen=True)
class _Target:
    """The server that gets the roles.

    Args:
        here: its roles.
        known: those, and what its roles will be then; whether memberships in one are inherited by default.
        there: its memberships.
        strong: its superusers, and who reaches one.
        powerful: who would reach one with every recorded membership.
        bounded: memberships have options, and CREATEROLE does not reach every role.
    """

    here: Mapping[str, DatabaseRole]
    known: Mapping[str, bool]
    there: Mapping[tuple[str, str], Membership]
    strong: frozenset[str]
    powerful: frozenset[str]
    bounded: bool

    @classmethod
    def of(cls, wanted: Roles, here: Roles, *, bounded: bool) -> "_Target":
        possible = [each for each in wanted.roles if _is_possible(each.name)]
        without = {each.name for each in (*here.roles, *possible) if RoleAttribute.NOINHERIT in each.attributes}
        # Whoever may create roles lets themselves into any, before memberships have options.
        by_attribute = frozenset(
            {RoleAttribute.SUPERUSER} if bounded else {RoleAttribute.SUPERUSER, RoleAttribute.CREATEROLE}
        )
        strong = {*_POWERFUL, *_with_any(here, by_attribute)}
        return cls(
            {each.name: each for each in here.roles},
            {each.name: each.name not in without for each in (*here.roles, *possible)},
            {(each.role, each.member): each for each in here.memberships},
            _reaching(strong, here.memberships),
            _reaching({*strong, *_with_any(wanted, by_attribute)}, (*here.memberships, *wanted.memberships)),
            bounded,
        )

    def role(self, wanted: DatabaseRole) -> RoleSQL:
        """Returns what gives a role its attributes."""
        name = quoted(wanted.name)
        if not _is_possible(wanted.name):
            return RoleSQL(apart=(f"no role of this server can have the name {name}",))
        there = self.here.get(wanted.name)
        has = frozenset(there.attributes) if there is not None else frozenset[RoleAttribute]()
        refused = dict(self._refused(wanted, has))
        apart = [f"{name} {why}" for why in refused.values()]
        if more := sorted(has - frozenset(wanted.attributes)):
            apart.append(f"{name} has {', '.join(more)} on this server, had not, and keeps it")
        given = [each for each in wanted.attributes if each not in has and each not in refused]
        statements = [] if there is not None else [f"CREATE ROLE {name};"]
        if options := _options(wanted, given, is_new=not has):
            statements.append(f"ALTER ROLE {name} {options};")
        return RoleSQL(tuple(statements), tuple(apart), (name,) if RoleAttribute.LOGIN in given else ())

    def _refused(self, wanted: DatabaseRole, has: frozenset[RoleAttribute]) -> Iterator[tuple[RoleAttribute, str]]:
        """Yields the attributes that are left to people, and why."""
        for each in sorted(frozenset(wanted.attributes) - has):
            if each is RoleAttribute.SUPERUSER:
                yield each, "was a superuser, and is none on this server"
            elif wanted.name in self.strong:
                yield each, f"had {each}, and has a superuser's power on this server"
            elif each is RoleAttribute.CREATEROLE and not self.bounded:
                yield each, "had CREATEROLE, with which it could act as almost any role of this server"
            elif each is RoleAttribute.NOINHERIT and has:
                yield each, "had NOINHERIT, and inherits on this server, where it is in use"

    def membership(self, wanted: Membership) -> RoleSQL:
        """Returns what makes a role a member of another one, with the options that it had."""
        there = self.there.get((wanted.role, wanted.member))
        if there is not None and _covers(there, wanted):
            return RoleSQL()
        pair = f"{quoted(wanted.member)} was a member of {quoted(wanted.role)}"
        if wanted.role not in self.known or wanted.member not in self.known:
            return RoleSQL(apart=(f"{pair}, and this server has no such role",))
        if wanted.role in self.powerful:
            return RoleSQL(apart=(f"{pair}, and would have a superuser's power on this server",))
        options = self._options(wanted, there)
        return RoleSQL((f"GRANT {quoted(wanted.role)} TO {quoted(wanted.member)}{options};",))

    def _options(self, wanted: Membership, there: Membership | None) -> str:
        if not self.bounded:
            return " WITH ADMIN OPTION" if wanted.admin else ""
        if there is not None:
            wanted = replace(
                wanted,
                admin=wanted.admin or there.admin,
                inherits=wanted.inherits or there.inherits,
                sets=wanted.sets or there.sets,
            )
        options = {"ADMIN": wanted.admin, "INHERIT": wanted.inherits, "SET": wanted.sets}
        by_default = {"ADMIN": False, "INHERIT": True, "SET": True}
        if there is None and self.known[wanted.member]:
            options = {name: value for name, value in options.items() if value != by_default[name]}
        return f" WITH {', '.join(f'{name} {value}'.upper() for name, value in options.items())}" if options else ""


def _options(wanted: DatabaseRole, given: Iterable[RoleAttribute], *, is_new: bool) -> str:
    """Returns the options of ALTER ROLE; a role that is in use already is not restricted."""
    options = [each.value for each in given]
    if is_new and wanted.connection_limit >= 0:
        options.append(f"CONNECTION LIMIT {wanted.connection_limit}")
    if is_new and wanted.valid_until is not None:
        options.append(f"VALID UNTIL '{wanted.valid_until}'")
    return " ".join(options)


def _covers(there: Membership, wanted: Membership) -> bool:
    return there.admin >= wanted.admin and there.inherits >= wanted.inherits and there.sets >= wanted.sets
