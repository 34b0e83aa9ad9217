"""Compares the catalogue of a restored database with the dump's SQL: definitions, owners, privileges, settings."""

import re
import subprocess
from collections.abc import Iterable, Iterator

from keyrotation_pipeline.adapters.postgres.server.archive import key_of, shown
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.dump_comparison import Difference, compare
from keyrotation_pipeline.adapters.postgres.server.dump_text import Statement, decoded, statements
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import IncompleteRestoreError

_OPTIONS = (
    "--schema-only", "--create", "--no-tablespaces", "--no-security-labels", "--no-password", "--lock-wait-timeout=60s",
)  # fmt: skip
# A text of `pg_dump --schema-only` has none of these; large objects and sequences are compared otherwise.
_DATA = ("BLOB", "BLOB METADATA", "SEQUENCE SET")
# Versions of pg_dump write the same definition, owner or list of privileges differently.
_ACROSS_VERSIONS = frozenset({"missing", "additional"})
_SETVAL = re.compile(r"SELECT pg_catalog \. setval \( ('[^']*(?:''[^']*)*') , (-? ?\d+) , (true|false) \) ;")
_LAST_VALUE = "SELECT last_value, is_called FROM "


def differences(
    programs: Programs,
    wanted: str,
    copy: str,
    left_out: frozenset[str],
    refused: Iterable[Statement],
    *,
    encoding: str,
    is_same: bool,
) -> tuple[str, ...]:
    """Returns a phrase for each difference between a dump and the database that was restored from it.

    Who owns the database and may connect to it is not compared: that is decided last.

    Args:
        programs: of the version of the server that has the copy.
        wanted: the dump's SQL.
        copy: URL of the copy, of a role that may read its catalogue and lock its tables.
        left_out: what `key_of` returns for entries that were not restored on purpose.
        refused: statements that were not executed since our role may not.
        encoding: of the copy, whatever it sets for its clients.
        is_same: the dumped server was of the same version.

    Raises:
        IncompleteRestoreError: the copy cannot be dumped.
    """
    done = subprocess.run(  # noqa: S603  arguments of our own
        die_with_parent(programs.command("pg_dump", *_OPTIONS, f"--encoding={encoding}")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=programs.environment(copy),
    )
    if done.returncode:
        said = next(iter(done.stderr.decode(errors="replace").splitlines()), f"it ended with {done.returncode}")
        raise IncompleteRestoreError(
            "the restored database cannot be compared with the dump: pg_dump cannot read its catalogue "
            f"({shown(said)}); correct that, then restore again"
        )
    excepted = {(each.entry.kind, each.entry.schema, each.entry.name) for each in refused if each.entry}
    return tuple(
        f"{shown(each.entry.label)} ({each.what})"
        for each in compare(wanted, decoded(done.stdout))
        if not (
            _is_of_the_database(each)
            or each.entry.kind in _DATA
            or each.entry.name.startswith("LARGE OBJECT")
            or key_of(each.entry) in left_out
            or (each.entry.kind, each.entry.schema, each.entry.name) in excepted
            or (not is_same and each.what not in _ACROSS_VERSIONS)
        )
    )


def _is_of_the_database(difference: Difference) -> bool:
    kind, name = difference.entry.kind, difference.entry.name
    return (kind == "DATABASE" and difference.what == "owner") or (kind == "ACL" and name.startswith("DATABASE "))


def sequences_behind(connection: Connection, text: str, left_out: frozenset[str]) -> Iterator[str]:
    """Yields a phrase for each sequence that does not continue where it was dumped."""
    for statement in statements(text):
        entry = statement.entry
        if entry is None or entry.kind != "SEQUENCE SET" or key_of(entry) in left_out:
            continue
        found = _SETVAL.fullmatch(" ".join(word.text for word in statement.words))
        if found is None or not _continues(connection, *found.groups()):
            yield f"{shown(f'SEQUENCE {entry.schema} {entry.name}')} (its next value is not that of the dump)"


def _continues(connection: Connection, quoted: str, value: str, called: str) -> bool:
    name = quoted[1:-1].replace("''", "'")
    ((sequence,),) = connection.execute("SELECT to_regclass(%s)::text", (name,)).fetchall()
    if sequence is None:
        return False
    rows = connection.execute(f"{_LAST_VALUE}{sequence}".encode()).fetchall()
    return rows == [(int(value.replace(" ", "")), called == "true")]
