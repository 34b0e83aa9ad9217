"""Checks server, tables and columns before a rotation: a list of checks, each one function.

A check yields problems, which are fatal or warnings. A new check is one function and one line here. A digest of
everything in the catalog that the checks of a table depend on skips repeated ones.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.discovery import unsearchable
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import readable_tree, unless_locked
from keyrotation_pipeline.adapters.postgres.preflight import indexes, logins, plaintext, server, values, writes
from keyrotation_pipeline.adapters.postgres.preflight import table as table_checks
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal
from keyrotation_pipeline.adapters.postgres.retirement.fence import name
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.formats.native import SEARCH_INDEX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import DISK_IS_LARGE_ENOUGH, TABLES_ARE_READABLE, CheckNames, Problem
from keyrotation_pipeline.model.tables import EncryptedTable

# One line per object. Sizes, file nodes and statistics are left out: they change while rows are rewritten. So is our
# own fence. Relations are compared without resolving names, for which our role would need rights on every schema that
# the planner looks at. Functions count with their owners and bodies, and rights with the roles that grant them.
_DIGEST = own("""
WITH tree(oid) AS (SELECT unnest(%(oids)s::bigint[]::oid[])),
index AS (SELECT i.* FROM pg_index i JOIN tree ON i.indrelid = tree.oid),
attribute AS (SELECT a.* FROM pg_attribute a JOIN tree ON a.attrelid = tree.oid WHERE a.attnum > 0),
trigger AS (
    SELECT t.* FROM pg_trigger t JOIN tree ON t.tgrelid = tree.oid JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname <> 'keyrotation'),
line(text) AS (
    SELECT format('class %%s %%s', c.oid, to_jsonb(c) - ARRAY['relfilenode', 'relpages', 'reltuples', 'relallvisible',
           'relallfrozen', 'relfrozenxid', 'relminmxid', 'reltoastrelid', 'relchecks', 'reltablespace'])
    FROM pg_class c JOIN tree USING (oid)
    UNION ALL SELECT format('may %%s %%s %%s', oid, pg_has_role(relowner, 'USAGE'), has_table_privilege(oid, 'SELECT'))
    FROM pg_class JOIN tree USING (oid)
    UNION ALL SELECT format('attribute %%s', to_jsonb(a) - ARRAY['attstattarget', 'attcacheoff', 'attmissingval'])
    FROM attribute a
    UNION ALL SELECT format('default %%s %%s', d.adrelid, pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attrdef d JOIN tree ON d.adrelid = tree.oid
    UNION ALL SELECT format('constraint %%s %%s %%s', c.conrelid, c.conname, pg_get_constraintdef(c.oid))
    FROM pg_constraint c
    WHERE (c.conrelid IN (SELECT oid FROM tree) OR c.contypid IN (SELECT atttypid FROM attribute)
           OR c.confrelid IN (SELECT oid FROM tree)) AND c.conname <> ALL (%(fences)s)
    UNION ALL SELECT format('index %%s %%s %%s %%s', indrelid, pg_get_indexdef(indexrelid), indisvalid, indisreplident)
    FROM index
    UNION ALL SELECT format('trigger %%s %%s %%s', tgrelid, pg_get_triggerdef(oid), tgenabled) FROM trigger
    UNION ALL SELECT format('rule %%s', to_jsonb(r)) FROM pg_rewrite r JOIN tree ON r.ev_class = tree.oid
    UNION ALL SELECT format('policy %%s', to_jsonb(p)) FROM pg_policy p JOIN tree ON p.polrelid = tree.oid
    UNION ALL SELECT format('inherits %%s', to_jsonb(i)) FROM pg_inherits i
    WHERE i.inhrelid IN (SELECT oid FROM tree) OR i.inhparent IN (SELECT oid FROM tree)
    UNION ALL SELECT format('publication %%s', to_jsonb(p)) FROM pg_publication p
    UNION ALL SELECT format('published %%s', to_jsonb(r)) FROM pg_publication_rel r JOIN tree ON r.prrelid = tree.oid
    UNION ALL SELECT format('published as %%s', to_jsonb(t)) FROM pg_publication_tables t
    WHERE (t.schemaname, t.tablename) IN (
        SELECT n.nspname, c.relname FROM pg_class c JOIN tree USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace)
    UNION ALL SELECT format('subscribed %%s %%s', r.srsubid, r.srrelid)
    FROM pg_subscription_rel r JOIN tree ON r.srrelid = tree.oid
    UNION ALL SELECT format('function %%s %%s %%s', p.oid, p.proowner, md5(p.prosrc)) FROM pg_proc p WHERE p.oid IN (
        SELECT tgfoid FROM trigger UNION ALL
        SELECT d.refobjid FROM pg_depend d WHERE d.refclassid = 'pg_proc'::regclass AND (
            d.classid = 'pg_class'::regclass AND d.objid IN (SELECT indexrelid FROM index)
            OR d.classid = 'pg_constraint'::regclass
               AND d.objid IN (SELECT c.oid FROM pg_constraint c JOIN tree ON c.conrelid = tree.oid)
            OR d.classid = 'pg_attrdef'::regclass
               AND d.objid IN (SELECT f.oid FROM pg_attrdef f JOIN tree ON f.adrelid = tree.oid)
            OR d.classid = 'pg_policy'::regclass
               AND d.objid IN (SELECT y.oid FROM pg_policy y JOIN tree ON y.polrelid = tree.oid)))
    UNION ALL SELECT format('role %%s', to_jsonb(r)) FROM pg_roles r WHERE r.rolname = current_user
)
SELECT md5(string_agg(text, E'\\n' ORDER BY text COLLATE "C")) FROM line
""")


def catalog_digest(connection: Connection, relations: Sequence[Relation]) -> str:
    """Returns the digest of a table's whole tree as the catalog describes it now."""
    parameters = {
        "oids": [relation.oid for relation in relations],
        "fences": [name(connection), name(connection, SEARCH_INDEX)],
    }
    (digest,) = connection.execute(_DIGEST, parameters).fetchall()[0]
    return str(digest)


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
    table_checks.columns_are_of_one_home,
    table_checks.none_is_generated,
    table_checks.none_is_in_a_partition_key,
    table_checks.none_is_in_a_foreign_key,
    table_checks.indexes_are_known,
    table_checks.unique_indexes_see_one_key_at_a_time,
    indexes.search_indexes_are_declared,
    indexes.search_indexes_can_be_kept,
    indexes.search_index_columns_hold_nothing_else,
    indexes.unique_search_indexes_come_in_pairs,
    plaintext.plaintext_is_text_in_utf8,
    plaintext.plaintext_columns_have_no_default,
    plaintext.plaintext_is_in_no_unique_index,
    plaintext.plaintext_is_not_searched_by_its_content,
    plaintext.nothing_is_generated_from_plaintext,
    plaintext.readers_of_plaintext_are_known,
    table_checks.rows_have_a_key,
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
        raise PreflightError(problems[0].message)
    if not passed:
        connection.execute(_REMEMBER, (*names, digest))


def _outcome(check: Callable[[Subject], Iterable[Problem]], subject: Subject) -> list[Problem]:
    try:
        with unless_locked(f"table {subject.table.name}"):
            found = list(check(subject))
    except (PreflightError, BlockedError) as error:
        # A check that could not run counts as a problem.
        found = [fatal(str(error))]
    return [replace(problem, check=check.__name__) for problem in found]
