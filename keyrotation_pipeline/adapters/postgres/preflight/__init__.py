"""Checks server, tables and columns before a rotation: a list of checks, each one function.

A check yields problems, which are fatal or warnings. A new check is one function and one line here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.discovery import unsearchable
from keyrotation_pipeline.adapters.postgres.inventory.scans import readable_tree
from keyrotation_pipeline.adapters.postgres.preflight import indexes, logins, rows, server, values, writes
from keyrotation_pipeline.adapters.postgres.preflight import table as table_checks
from keyrotation_pipeline.adapters.postgres.preflight.digest import catalog_digest
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.surroundings import DISK_IS_LARGE_ENOUGH, TABLES_ARE_READABLE, CheckNames, Problem
from keyrotation_pipeline.model.tables import EncryptedTable

RELATIONS_ARE_SEARCHABLE = "relations_are_searchable"
NO_TABLE_IS_DECLARED_TWICE = "no_table_is_declared_twice"

SERVER_CHECKS: tuple[Callable[[Connection], Iterable[Problem]], ...] = (
    server.is_reached_directly,
    server.takes_writes,
    server.version_is_known,
    server.transactions_are_read_committed,
    server.no_long_transaction,
    server.no_prepared_transaction,
    server.no_slot_holds_snapshots,
    server.standbys_are_known,
    server.sessions_are_visible,
    server.no_ciphertext_is_logged,
    writes.role_is_no_superuser,
    writes.no_foreign_event_trigger_fires,
    writes.schema_is_ours,
)

TABLE_CHECKS: tuple[Callable[[Subject], Iterable[Problem]], ...] = (
    table_checks.rows_are_in_heaps,
    table_checks.rows_are_on_this_server,
    table_checks.types_hold_text,
    table_checks.none_is_generated,
    table_checks.none_is_in_a_partition_key,
    table_checks.none_is_in_a_foreign_key,
    table_checks.indexes_are_known,
    table_checks.unique_indexes_see_one_key_at_a_time,
    indexes.search_indexes_are_declared,
    indexes.search_indexes_can_be_kept,
    indexes.search_index_columns_hold_nothing_else,
    indexes.unique_search_indexes_come_in_pairs,
    rows.rows_have_a_key,
    writes.role_may_read_and_write,
    writes.role_may_fence,
    writes.fence_name_is_free,
    logins.logins_can_be_kept_from_writing,
    writes.row_security_does_not_apply,
    writes.triggers_stay_quiet,
    writes.no_foreign_code_runs,
    writes.no_rule_rewrites_updates,
    writes.replica_identity_is_there,
    table_checks.updates_are_published,
    table_checks.rows_do_not_come_by_subscription,
    writes.disk_has_room,
    table_checks.vacuums_read_indexes_once,
    values.rows_fit,
    values.values_fit,
    values.domains_accept_target,
    values.checks_accept_target,
)


def names() -> CheckNames:
    """Lists the names of all checks of `preflight`."""
    return CheckNames(
        server=tuple(check.__name__ for check in SERVER_CHECKS),
        tables=(
            TABLES_ARE_READABLE,
            NO_TABLE_IS_DECLARED_TWICE,
            *(check.__name__ for check in TABLE_CHECKS),
            RELATIONS_ARE_SEARCHABLE,
        ),
    )


def preflight(connection: Connection, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
    """Runs every check and returns what was found, fatal problems first. Changes nothing.

    Args:
        target: the version to re-encrypt values to.

    Raises:
        DatabaseUnavailableError: the connection was lost.
    """
    found = [replace(problem, check=check.__name__) for check in SERVER_CHECKS for problem in check(connection)]
    seen: dict[int, EncryptedTable] = {}
    for table in tables:
        try:
            subject = Subject(connection, table, readable_tree(connection, table), target)
        except (PreflightError, BlockedError) as error:
            found.append(replace(fatal(str(error)), check=TABLES_ARE_READABLE))
            continue
        found += [replace(problem, check=NO_TABLE_IS_DECLARED_TWICE) for problem in _overlaps(subject, seen)]
        found += [problem for check in TABLE_CHECKS for problem in _outcome(check, subject)]
    found += _unsearchable(connection, tables)
    found += [replace(problem, check=DISK_IS_LARGE_ENOUGH) for problem in server.too_small(connection, tables)]
    return tuple(sorted(dict.fromkeys(found), key=lambda problem: not problem.fatal))


def _unsearchable(connection: Connection, tables: Sequence[EncryptedTable]) -> list[Problem]:
    """Reports relations that cannot be searched: retirement searches every one, and an unreadable one blocks it."""
    try:
        found = list(unsearchable(connection, tables))
    except (PreflightError, BlockedError):
        return []  # other checks report what is wrong with a declared table
    return [
        replace(
            fatal(f"every relation is searched before the old key is retired: {each}"), check=RELATIONS_ARE_SEARCHABLE
        )
        for each in found
    ]


def _overlaps(subject: Subject, seen: dict[int, EncryptedTable]) -> Iterable[Problem]:
    """Refuses a relation of two declared tables: its rows would be counted and its fence put on twice."""
    for relation in subject.relations:
        other = seen.setdefault(relation.oid, subject.table)
        if other is not subject.table:
            yield fatal(
                f"{relation.label} belongs to two declared tables, {other.name} and {subject.table.name}; declare the "
                "parent alone in [[tables]]"
            )
            return


_CHECKED = own("""
SELECT digest FROM keyrotation.checked_tables WHERE (request, table_name, target_version) = (%s, %s, %s)
""")

_REMEMBER = own("""
INSERT INTO keyrotation.checked_tables (request, table_name, target_version, digest, checked_at)
VALUES (%s, %s, %s, %s, clock_timestamp())
ON CONFLICT (request, table_name, target_version) DO UPDATE SET digest = excluded.digest, checked_at = now()
""")


def require_unchanged(connection: Connection, request: str, table: EncryptedTable, target: KeyVersion) -> None:
    """Runs a table's fatal checks again, unless its catalog digest is the same as when they last passed.

    Args:
        request: the rotation that is about to write to the table.

    Raises:
        PreflightError: a change would harm the application or the rotation.
        BlockedError: another session has locked the table.
    """
    relations = readable_tree(connection, table)
    names = (request, str(table.name), target.code)
    digest = catalog_digest(connection, relations)
    subject = Subject(connection, table, relations, target)
    # Whose code runs is checked each time: it depends on more of the catalog than the digest covers.
    passed = connection.execute(_CHECKED, names).fetchone() == (digest,)
    checks = (writes.no_foreign_code_runs,) if passed else TABLE_CHECKS
    problems = [problem for check in checks for problem in _outcome(check, subject) if problem.fatal]
    if problems:
        raise PreflightError(problems[0].sentence)
    if not passed:
        connection.execute(_REMEMBER, (*names, digest))


def _outcome(check: Callable[[Subject], Iterable[Problem]], subject: Subject) -> list[Problem]:
    try:
        found = list(check(subject))
    except (PreflightError, BlockedError) as error:
        # A check that could not run counts as a problem.
        found = [fatal(str(error))]
    return [replace(problem, check=check.__name__) for problem in found]
