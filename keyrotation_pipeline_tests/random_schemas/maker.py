"""What the parts of a random database share: names, roles, grants and the statements so far."""

from dataclasses import dataclass, field
from random import Random

# Each with a base that is unique; the last ones only where the encoding has the letters.
_STRANGE = (
    '{} "quoted"',
    "{}'s",
    "{}.dot",
    "{}\nnew\n-- line",
    "{}; DROP TABLE x; --",
    "{}$tag$",
    "{}\\n",
    "-- Name: {}; Type: TABLE; Schema: public; Owner: x",
    " {} ",
    "{}%s{{}}",
    "{}" + "x" * 63,
    "{}/*",
    "User {}",
)
_LATIN = ("Åäö {}", "{}ß")
_UNICODE = ("{}🦀", "名{}", "{}e\u0301")


@dataclass(frozen=True)
class Features:
    """What a server can do."""

    major: int
    icu: bool
    contrib: bool


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    return (
        "'" + value.replace("'", "''") + "'"
        if "\\" not in value
        else "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
    )


@dataclass
class Table:
    """A table that later parts may use; it has a column `id`, which is its primary key, and a column `v`, varchar."""

    name: str
    owner: str


@dataclass
class Maker:
    rng: Random
    features: Features
    encoding: str
    prefix: str
    statements: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    schemas: list[str] = field(default_factory=lambda: ["public"])
    commented: list[tuple[str, str]] = field(default_factory=list)
    trigger_function: str = ""

    def __post_init__(self) -> None:
        self._number = 0
        # Roles belong to the server, whatever the encoding of a database.
        self.roles = tuple(self.name(f"{self.prefix}_{base}", ()) for base in ("owner", "app", "reader", "auditor"))

    def run(self, *statements: str) -> None:
        self.statements += statements

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def name(self, base: str, more: tuple[str, ...] | None = None) -> str:
        """A new name, quoted; at times a strange one.

        Args:
            more: patterns with letters that only some encodings have; by default those of the database's.
        """
        self._number += 1
        base = f"{base}{self._number}"
        if not self.chance(0.35):
            return base if self.chance(0.8) else quoted(base.title())
        if more is None:
            more = {"SQL_ASCII": (), "LATIN1": _LATIN}.get(self.encoding, _LATIN + _UNICODE)
        wanted = self.rng.choice(_STRANGE + more).format(base)
        return quoted(wanted.encode()[:63].decode(errors="ignore"))

    def within(self, base: str) -> str:
        """A new name in a schema."""
        return f"{self.rng.choice(self.schemas)}.{self.name(base)}"

    def role(self) -> str:
        return self.rng.choice(self.roles)

    def made(self, kind: str, name: str, *, owner: bool = True) -> str:
        """Give an object an owner, and remember that it may get a comment."""
        self.commented.append((kind, name))
        role = self.role()
        if owner:
            self.run(f"ALTER {kind} {name} OWNER TO {role}")
        return role

    def grant(self, kind: str, name: str, privileges: str, owner: str) -> None:
        """Grants, some with grant option, and further ones by whoever got that."""
        if self.chance(0.3):
            self.run(f"REVOKE ALL ON {kind} {name} FROM {self.rng.choice((owner, 'PUBLIC'))}")
        for role in self.rng.sample(self.roles, self.rng.randint(0, 2)):
            if role == owner:
                continue
            self.run(f"GRANT {privileges} ON {kind} {name} TO {role}")
            if self.chance(0.5):
                others = [each for each in self.roles if each not in {role, owner}]
                self.run(
                    f"GRANT {privileges} ON {kind} {name} TO {role} WITH GRANT OPTION",
                    f"SET SESSION AUTHORIZATION {role}",
                    f"GRANT {privileges} ON {kind} {name} TO {self.rng.choice(others)}",
                    "RESET SESSION AUTHORIZATION",
                )
        if self.chance(0.2):
            self.run(f"GRANT {privileges} ON {kind} {name} TO PUBLIC")
