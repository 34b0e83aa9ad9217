"""Reads every declared and undeclared place before the retiring transaction, which then checks only what has changed.

Reading all of a large database takes hours, and the retiring transaction holds locks. So all of it is read before,
without any lasting lock, by the same counts and searches. What the transaction may reuse:

- No old value has come into a declared column since: the fence is older than the proof, and so than this search; and
  each relation of the tree is the same one that was read, its definition and its own copy of the fence unchanged.
  (Whatever loosens a constraint, even manually, leaves its transaction's number in `pg_constraint` or `pg_class`.)
- A relation that is new, changed or rewritten since then is read again as a whole.
- Every other one is read again as a whole, while that takes seconds, the small ones first. Of the larger ones, only the
  pages added since then are read. A row written since then into older pages of such a relation is not seen here, just
  like a row written a second after the retirement. The evidence right after the rotation searches for both, and later
  the rolling search.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.evidence.evidence import ReadAgain
from keyrotation_pipeline.adapters.postgres.inventory import catalog_search, discovery
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan, readable_tree
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import Searched
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn

# About 64 MB: counted within seconds by one process.
READ_AGAIN_PAGES = 8192

# The rows of the catalog that say what a relation is: another transaction has written one of them after any change or
# rewrite, also a manual one that was undone; but not after VACUUM, ANALYZE or CREATE INDEX, which write in place.
# A heap of 60 MB may have 500 GB of TOAST, which would be read with it. A foreign table has no known size; it counts as
# large.
_RELATIONS = """
SELECT c.oid::bigint,
       concat_ws(' ', c.xmin,
           (SELECT string_agg(concat_ws(' ', a.attnum, a.xmin), ',' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
           {fences}),
       CASE c.relkind WHEN 'f' THEN 2147483647 ELSE coalesce(pg_relation_size(c.oid), 0) / block_size END,
       CASE c.relkind WHEN 'f' THEN 2147483647
            ELSE (coalesce(pg_relation_size(c.oid), 0) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0))
                 / block_size END,
       CASE WHEN c.oid = 'pg_largeobject'::regclass THEN 'large objects'
            ELSE concat_ws('.', nullif(n.nspname, 'public'), c.relname) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
     (SELECT current_setting('block_size')::bigint) AS setting (block_size)
WHERE c.oid = ANY (%s::bigint[]::oid[])
"""


@dataclass(frozen=True, slots=True)
class RelationStates:
    """The state of relations at one moment: identity, pages of the heap, pages with TOAST, and label, by oid."""

    identities: Mapping[int, str]
    pages: Mapping[int, int]
    pages_with_toast: Mapping[int, int]
    labels: Mapping[int, str]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over all identities."""
        return hashlib.sha256(repr(sorted(self.identities.items())).encode()).hexdigest()

    @classmethod
    def now(cls, connection: Connection, tables: Sequence[EncryptedTable]) -> "RelationStates":
        """Reads every relation that holds declared columns or is searched for others, and large objects."""
        oids = {relation.oid for table in tables for relation in readable_tree(connection, table)}
        fences = dict.fromkeys(evidence_of(connection, table).refusal for table in tables)
        identities: list[sql.Composable] = [sql.SQL("({})").format(fence.IDENTITY) for fence in fences]
        query = sql.SQL(_RELATIONS).format(fences=sql.SQL(", ").join(identities or [sql.SQL("NULL")]))
        oids |= {relation.oid for relation in discovery.searched(connection, tables)}
        with heap_scan(connection, "the catalog"):
            rows = connection.execute(query, ([*oids, catalog_search.LARGE_OBJECTS],)).fetchall()
        by_oid: list[dict[int, Any]] = [{row[0]: row[number] for row in cast("list[Any]", rows)} for number in range(5)]
        return cls(*by_oid[1:])


def search(
    connection: Connection,
    tables: Sequence[EncryptedTable],
    version: KeyVersion,
    retired: Sequence[KeyVersion],
    report: Report,
    keys: CurrentKeys | None = None,
) -> Searched:
    """Counts every declared column and searches everything else, holding no lock between two relations.

    Args:
        keys: for tables whose values SQL cannot tell apart.

    Raises:
        FenceError: an old value.
        ProofError: an unencrypted value, or a finding.
        PreflightError, BlockedError: something cannot be read to its end.
    """
    (began_at,) = connection.execute("SELECT clock_timestamp()").fetchall()[0]
    then = RelationStates.now(connection, tables)
    versions = tuple(sorted({*retired, version}))
    values, since, plaintext = dict[str, int](), dict[str, int](), 0
    for table in tables:
        name, evidence = str(table.name), evidence_of(connection, table, keys)
        report(_progress(f"{table.name} counted"))
        values[name], read_from = evidence.search(versions, report)
        plaintext += evidence.plaintext
        if read_from is not None:
            since[name] = read_from
    require_nothing_found(
        discovery.discover(connection, tables, announce=lambda name: report(_progress(name))), retired
    )
    return Searched(values, then.identities, then.pages, then.labels, cast("datetime", began_at), since, plaintext)


def require_nothing_found(findings: Iterable[FoundColumn], retired: Sequence[KeyVersion]) -> None:
    """Refuses values of ours in undeclared places.

    Raises:
        ProofError: there is one that needs a retired key.
    """
    for finding in findings:
        if finding.blocks(retired):
            raise ProofError(
                f"{finding.relation}, column {finding.column}: {counted(finding.values, 'encrypted value')} "
                f"({counted(finding.near_misses, 'near-miss')}), {finding.reason}; re-encrypt or remove them, and "
                "declare the column in [[tables]] before the next rotation"
            )


def _progress(subject: str) -> Progress:
    return Progress(Step.RETIRED_KEY, subject, 0, 0, note="searched for old values")


def read_again(now: RelationStates, searched: Searched) -> ReadAgain:
    """Returns what must be read again.

    Raises:
        BlockedError: a changed relation is so large that it must be read before.
    """
    changed = frozenset(oid for oid, identity in now.identities.items() if searched.identities.get(oid) != identity)
    if sum(now.pages_with_toast[oid] for oid in changed) > READ_AGAIN_PAGES:
        raise BlockedError(
            "large tables were created or changed during the search for old values; run this step again, which "
            "searches them first"
        )
    first, left = {}, READ_AGAIN_PAGES
    for oid, pages in sorted(now.pages_with_toast.items(), key=lambda each: each[1]):
        if oid in changed or pages <= left:
            left -= pages
        else:
            first[oid] = searched.pages[oid]
    return ReadAgain(searched, first, changed)
