"""Decides what of a dump an unprivileged role restores, what a superuser must create, and what depends on that."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.adapters.postgres.server.archive import ArchiveEntry, key_of
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.dump_text import Statement, statements, unquoted
from keyrotation_pipeline.errors import IncompleteRestoreError
from keyrotation_pipeline.model.backups import DatabaseContent, DatabaseCopy, RelationContent
from keyrotation_pipeline.model.tables import TableName

# From contrib: types, indexes, triggers and statistics; none opens a file, a connection or another session.
BY_SUPERUSER = frozenset({
    "amcheck", "autoinc", "bloom", "earthdistance", "insert_username", "moddatetime", "pg_buffercache",
    "pg_freespacemap", "pg_prewarm", "pg_stat_statements", "pg_visibility", "pgrowlocks", "pgstattuple", "refint",
    "sslinfo",
})  # fmt: skip
# These reach other servers or files, and hold no rows.
REACHING_OUT = frozenset({"dblink", "file_fdw", "postgres_fdw"})
# Only a superuser creates these, or they need what only a superuser creates. Names of kinds end at a blank.
_KINDS = (
    "EVENT TRIGGER ", "SUBSCRIPTION ", "FOREIGN DATA WRAPPER ", "SERVER ", "USER MAPPING ", "FOREIGN TABLE ",
    "PUBLICATION TABLES IN SCHEMA ", "SECURITY LABEL ", "PROCEDURAL LANGUAGE ", "ACCESS METHOD ", "OPERATOR CLASS ",
    "OPERATOR FAMILY ", "TEXT SEARCH PARSER ", "TEXT SEARCH TEMPLATE ", "TRANSFORM ",
)  # fmt: skip
# By kind of entry, words of those that only a superuser may execute.
_WORDS = {
    "FUNCTION": re.compile(r" LANGUAGE (?:c|internal) | LEAKPROOF | SUPPORT "),
    "PROCEDURE": re.compile(r" LANGUAGE (?:c|internal) "),
    "PUBLICATION": re.compile(r" FOR ALL "),
    # Of one of the types it must be the owner: those of the server have no schema here.
    "CAST": re.compile(r" WITHOUT FUNCTION |^CREATE CAST \( [^.]*? \) WITH "),
    "TYPE": re.compile(r"^CREATE TYPE \S+(?: \. \S+)? \( (?:INTERNALLENGTH|INPUT) "),
}
# A parameter that a function sets while it runs.
_SET = re.compile(r' SET ("[^"]+"|[a-z_]+) TO ')
_EXTENSION = "EXTENSION - "
# The handover executes these as somebody who may; a comment on an extension is mostly its own.
_LATER = ("COMMENT - EXTENSION ", "ROW SECURITY ")
_BUILT_IN = frozenset({"public", "pg_catalog"})
_ANYBODY_SETS = "SELECT lower(name) FROM pg_settings WHERE context = 'user'"
_OFFERED = """
SELECT v.name, bool_or(v.trusted OR NOT v.superuser) FROM pg_available_extension_versions v
JOIN pg_available_extensions e ON e.name = v.name AND e.default_version = v.version GROUP BY v.name
"""


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that a dump creates, and its schema."""

    name: str
    schema: str


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """Who restores what.

    Args:
        restored: entries for pg_restore, as an unprivileged role.
        extensions: what a superuser creates beforehand, each with its schema.
        left_out: entries for a superuser who decides to execute them.
    """

    restored: tuple[ArchiveEntry, ...]
    extensions: tuple[Extension, ...]
    left_out: tuple[ArchiveEntry, ...]

    @property
    def schemas(self) -> frozenset[str]:
        """The schemas of the extensions, except those that every database has."""
        return frozenset(each.schema for each in self.extensions) - _BUILT_IN

    @property
    def left_out_keys(self) -> frozenset[str]:
        """What `key_of` returns for entries that are left out."""
        return frozenset(each.text for each in self.left_out)


@dataclass(frozen=True, slots=True)
class ServerRules:
    """What a server has, and who may use it.

    Args:
        offered: extensions, and whether an unprivileged role may create them.
        by_superuser: extensions that its superuser creates.
        anybody_sets: parameters that every role may set, in lower case.
    """

    offered: Mapping[str, bool]
    by_superuser: frozenset[str]
    anybody_sets: frozenset[str] = frozenset()

    def of(self, name: str) -> bool | None:
        """Returns whether an extension can be created here; None: the server does not have it."""
        return None if name not in self.offered else self.offered[name] or name in self.by_superuser


def rules_of(connection: Connection, by_superuser: frozenset[str]) -> ServerRules:
    """Returns what a server has.

    Args:
        by_superuser: extensions that the connection's role creates, as a superuser.
    """
    offered = {str(name): bool(free) for name, free in connection.execute(_OFFERED)}
    return ServerRules(offered, by_superuser, frozenset(str(name) for (name,) in connection.execute(_ANYBODY_SETS)))


def plan(listed: Sequence[ArchiveEntry], text: str, there: ServerRules, dump: DatabaseCopy, server: str) -> RestorePlan:
    """Decides who restores each entry of a dump.

    Args:
        text: the dump's SQL.
        server: for messages.

    Raises:
        IncompleteRestoreError: the server lacks an extension, or rows depend on what only a superuser creates.
    """
    _require_offered(listed, there, dump, server)
    chosen = {key_of(each.entry): each for each in statements(text) if each.entry and _decides(each, there)}
    left_out = _with_dependents(listed, [each for each in listed if _needs_superuser(each, chosen, there)])
    _require_rows(left_out, dump)
    created = tuple(
        Extension(name, schema)
        for name, schema in map(_extension_in, chosen.values())
        if name in there.by_superuser and not there.offered[name]
    )
    schemas = tuple(f"SCHEMA - {each.schema} " for each in created if each.schema not in _BUILT_IN)
    ours = tuple(f"{_EXTENSION}{each.name} " for each in created)
    missing = {each.number for each in left_out}
    restored = tuple(
        each for each in listed if each.number not in missing and not each.text.startswith((*_LATER, *schemas, *ours))
    )
    return RestorePlan(restored, created, tuple(each for each in listed if each.number in missing))


def _decides(statement: Statement, there: ServerRules) -> bool:
    """Returns whether the plan depends on a statement's words."""
    kind = statement.entry.kind if statement.entry else ""
    words = _spaced(statement)
    sets = {unquoted(each).lower() for each in _SET.findall(words)}
    if kind in {"FUNCTION", "PROCEDURE"} and not sets <= there.anybody_sets:
        return True
    return kind == "EXTENSION" or bool((form := _WORDS.get(kind)) and form.search(words))


def _spaced(statement: Statement) -> str:
    return " ".join("''" if word.kind in {"text", "dollar"} else word.text for word in statement.words)


def _needs_superuser(entry: ArchiveEntry, chosen: Mapping[str, Statement], there: ServerRules) -> bool:
    if (extension := _extension(entry)) is not None:
        return extension in REACHING_OUT or not there.of(extension)
    return entry.text.startswith(_KINDS) or entry.text in chosen


def _with_dependents(listed: Sequence[ArchiveEntry], roots: Iterable[ArchiveEntry]) -> list[ArchiveEntry]:
    by_need = defaultdict(list)
    for each in listed:
        for need in each.needs:
            by_need[need].append(each)
    found, open_ones = {}, list(roots)
    while open_ones:
        entry = open_ones.pop()
        if entry.number not in found:
            found[entry.number] = entry
            open_ones += by_need[entry.number]
    return list(found.values())


def _require_offered(listed: Sequence[ArchiveEntry], there: ServerRules, dump: DatabaseCopy, server: str) -> None:
    needed = frozenset(filter(None, map(_extension, listed))) - REACHING_OUT
    if missing := sorted(each for each in needed if there.of(each) is None):
        raise IncompleteRestoreError(
            f"{dump.file.name} needs the extension {', '.join(missing)}, which {server} does not have; install the "
            f"package postgresql-{dump.server_major} or its own, or name programs that have it in [backup] "
            "postgres_binaries"
        )


def _require_rows(left_out: Sequence[ArchiveEntry], dump: DatabaseCopy) -> None:
    """Refuses to leave out anything that holds rows."""
    for each in left_out:
        if each.text.startswith(("TABLE DATA ", "BLOB")):
            causes = [cause.shown for cause in left_out if cause.number in _needed_by(each, left_out)]
            advice = (
                "if its SQL may use that, name it in [recovery] superuser_extensions"
                if all(cause.startswith(_EXTENSION) for cause in causes)
                else "make the rows independent of that and back up again, or have a superuser restore this dump: "
                f"`gpg -d {dump.file.name} | pg_restore -d DATABASE`"
            )
            raise IncompleteRestoreError(
                f"{dump.file.name} has rows of {each.shown.removeprefix('TABLE DATA ')} that need what only a "
                f"superuser can create ({'; '.join(causes)}), and its SQL is restored without power; {advice}"
            )


def _needed_by(entry: ArchiveEntry, among: Sequence[ArchiveEntry]) -> set[int]:
    """Returns the numbers of what an entry needs in the end: those that need nothing else among these."""
    known, open_ones = {each.number: each for each in among}, [entry]
    ends, seen = set[int](), set[int]()
    while open_ones:
        current = open_ones.pop()
        further = [known[need] for need in current.needs if need in known]
        if not further and current is not entry:
            ends.add(current.number)
        open_ones += [each for each in further if each.number not in seen]
        seen.update(each.number for each in further)
    return ends


def _extension(entry: ArchiveEntry) -> str | None:
    # The owner, the last part, is empty.
    text = entry.text
    return text.removeprefix(_EXTENSION).rpartition(" ")[0] if text.startswith(_EXTENSION) else None


def _extension_in(statement: Statement) -> tuple[str, str]:
    """Returns name and schema of ``CREATE EXTENSION IF NOT EXISTS x WITH SCHEMA y``; blank for other statements."""
    words = [word.text for word in statement.words]
    if words[:5] != ["CREATE", "EXTENSION", "IF", "NOT", "EXISTS"] or words[6:8] != ["WITH", "SCHEMA"]:
        return "", ""
    return unquoted(words[5]), unquoted(words[8])


def missing(content: DatabaseContent, left_out: Iterable[ArchiveEntry]) -> frozenset[TableName]:
    """Returns the names of the relations that are left out."""
    texts = tuple(each.text for each in left_out)
    return frozenset(
        each.name for each in content.relations if any(text.startswith(_shown_name(each)) for text in texts)
    )


def _shown_name(relation: RelationContent) -> str:
    """Returns how the text of a relation's entry begins."""
    kind = {"partitioned table": "table", "materialized view without data": "materialized view"}
    name = f"{relation.name.schema} {relation.name.table} ".replace("\n", " ").replace("\r", " ")
    return f"{kind.get(relation.kind, relation.kind).upper()} {name}"


def phrases(entries: Iterable[ArchiveEntry]) -> Iterator[str]:
    """Yields a phrase for each entry that is worth a message: comments and privileges follow from others."""
    yield from (each.shown for each in entries if not each.text.startswith(("COMMENT ", "ACL ", "EXTENSION - plpgsql")))
