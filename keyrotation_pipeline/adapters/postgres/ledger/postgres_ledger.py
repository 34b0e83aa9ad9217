"""Implements the ledger: keys, requests, counts, raised flags and the audit, each change with its event.

Any tool may insert a row of `keyrotation.incident_flag`, so nothing in them is trusted.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.ledger.records import KeyRecords, RequestRecords
from keyrotation_pipeline.adapters.postgres.ledger.transactions import LedgerSession, Row
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, codec_of, storable
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.data_events import Counted
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.progress import ShardProgress, Wait
from keyrotation_pipeline.model.records import as_json, json_safe, read
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


def count_of(table: EncryptedTable, facts: Mapping[str, Any], counted_at: datetime) -> TableCount:
    """Converts a `CountedTable` as JSON back."""
    return TableCount(
        table=table,
        rows=facts["rows"],
        values_by_version=_by_version(facts["values_by_version"]),
        empty=facts["empty"],
        unencrypted=facts["unencrypted"],
        near_misses=facts["near_misses"],
        unreadable=facts["unreadable"],
        fenced_against=tuple(KeyVersion.parse(name) for name in facts["fenced_against"]),
        counted_at=counted_at,
        by_column={column: _by_version(values) for column, values in facts["by_column"].items()},
        unencrypted_by_column=facts["unencrypted_by_column"],
    )


def audit_row_of(row: Row) -> RotationAuditWritten:
    """Converts a row of `key_rotation_audit`, whose times are UTC without a zone."""
    completed = row["completion_date"]
    return RotationAuditWritten(
        id=row["id"],
        rotation_date=row["rotation_date"].replace(tzinfo=UTC),
        old_key_version=row["old_key_version"],
        new_key_version=row["new_key_version"],
        rotation_type=row["rotation_type"],
        initiated_by=row["initiated_by"],
        completion_date=completed.replace(tzinfo=UTC) if completed else None,
        records_reencrypted=row["records_reencrypted"],
        notes=row["notes"],
    )


def jsonb(facts: Mapping[str, Any]) -> Jsonb:
    """Converts facts to a parameter; accepts only plain JSON."""
    return Jsonb(json_safe(facts), dumps=lambda plain: json.dumps(plain, ensure_ascii=True))


def _by_version(values: Mapping[str, int]) -> dict[KeyVersion, int]:
    return {KeyVersion.parse(name): number for name, number in values.items()}


ROW = "row "
_AT_ONCE = 200
# Longer texts are refused, so no more of them is read. A time that Python cannot represent counts as missing.
_FLAGS = """
    SELECT id, keyrotation.readable(source, 300) AS source, keyrotation.readable(type, 100) AS type,
           keyrotation.readable(description, 1000) AS description,
           CASE WHEN discovered_at BETWEEN '1900-01-01' AND '9000-01-01' THEN discovered_at END AS discovered_at,
           keyrotation.readable(scope, 1000) AS scope, keyrotation.readable(impact, 1000) AS impact,
           ARRAY(SELECT coalesce(keyrotation.readable(version, 20), '') FROM unnest(key_versions) AS version LIMIT 100)
               AS key_versions
    FROM keyrotation.incident_flag WHERE id <> ALL (%s::bigint[]) ORDER BY id LIMIT %s
"""


class RaisedFlags(LedgerSession):
    """Reads the flags that tools raise. The audit, not a row, says which were taken."""

    def raised_flags(self, taken: Collection[str]) -> tuple[Flag, ...]:
        """See `Ledger.raised_flags`."""
        ids = [int(number) for key in taken if (number := key.removeprefix(ROW)) != key and number.isdecimal()]
        return tuple(
            Flag(
                key=f"{ROW}{row['id']}",
                source=row["source"],
                type=row["type"],
                description=row["description"],
                discovered_at=row["discovered_at"],
                scope=row["scope"],
                impact=row["impact"],
                versions=tuple(row["key_versions"]),
            )
            for row in self.query(_FLAGS, (ids, _AT_ONCE))
        )


# Entries of ended sessions are deleted when the next wait begins. (Of another role's session, ours may see only that it
# exists.)
FORGET = """
DELETE FROM keyrotation.waits AS noted WHERE NOT EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE a.pid = noted.pid AND coalesce(a.backend_start = noted.session_began_at, true)
      AND noted.session_began_at >= pg_postmaster_start_time())
"""

NOTE = """
INSERT INTO keyrotation.waits (request, place, pid, session_began_at, waiting_for)
SELECT %s, %s, pid, backend_start, %s FROM pg_stat_activity WHERE pid = pg_backend_pid()
ON CONFLICT (request, place, pid) DO UPDATE SET waiting_for = excluded.waiting_for
"""

END = "DELETE FROM keyrotation.waits WHERE (request, place, pid) = (%s, %s, pg_backend_pid())"

LIVE = """
SELECT place, min(waiting_for) AS waiting_for, min(since) AS since FROM keyrotation.waits AS noted
WHERE request = %s AND EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE a.pid = noted.pid AND coalesce(a.backend_start = noted.session_began_at, true)
      AND noted.session_began_at >= pg_postmaster_start_time())
GROUP BY place ORDER BY min(since), place
"""


def note_wait(connection: Connection, request: str, place: str, waiting_for: str) -> None:
    """Records that a step waits, or now waits for another reason; its age is that of the whole wait."""
    connection.execute(own(FORGET))
    connection.execute(own(NOTE), storable((request, place, waiting_for), codec_of(connection)))


def end_wait(connection: Connection, request: str, place: str) -> None:
    """Records that it continues."""
    connection.execute(own(END), storable((request, place), codec_of(connection)))


_SHARDS = """
    SELECT table_name, shard, sum(next_page - first_page)::bigint AS done_pages,
           sum(end_page - first_page)::bigint AS total_pages, sum(rows)::bigint AS rows, sum(seconds) AS seconds,
           greatest(1, count(DISTINCT slice) FILTER (WHERE next_page < end_page)) AS workers
    FROM keyrotation.shard_walks WHERE request = %s GROUP BY table_name, shard ORDER BY table_name, shard
"""

_SAVE_COUNT = """
    INSERT INTO keyrotation.table_counts (table_name, counts, counted_at) VALUES (%s, %s, %s)
    ON CONFLICT (table_name) DO UPDATE SET counts = excluded.counts, counted_at = excluded.counted_at
"""
# What a member of a fleet answered stands there, too, under its name and a colon, which no table's name ends with.
_SAVE_ANSWERS = """
    INSERT INTO keyrotation.table_counts (table_name, counts, counted_at)
    SELECT name || ':', answer, asked_at
    FROM unnest(%s::text[], %s::jsonb[], %s::timestamptz[]) AS given (name, answer, asked_at)
    ON CONFLICT (table_name) DO UPDATE SET counts = excluded.counts, counted_at = excluded.counted_at
"""
_ANSWERS = "SELECT counts FROM keyrotation.table_counts WHERE right(table_name, 1) = ':' ORDER BY table_name"
_COUNTS = "SELECT table_name, counts, counted_at FROM keyrotation.table_counts WHERE right(table_name, 1) <> ':'"

_ROTATION_AUDIT = """
    INSERT INTO keyrotation.key_rotation_audit
        (rotation_date, old_key_version, new_key_version, rotation_type, initiated_by, completion_date,
         records_reencrypted, notes, request)
    VALUES (%(started)s, %(old)s, %(new)s, %(type)s, %(by)s, %(completed)s, %(records)s, %(notes)s, %(request)s)
    ON CONFLICT (request) DO UPDATE
        SET completion_date = excluded.completion_date, records_reencrypted = excluded.records_reencrypted
        WHERE key_rotation_audit.completion_date IS NULL
    RETURNING id::text, rotation_date, old_key_version, new_key_version, rotation_type, initiated_by, completion_date,
              records_reencrypted, notes
"""


class PostgresLedger(KeyRecords, RequestRecords, RaisedFlags):
    """`Ledger` in a schema of the application's database.

    Args (of the constructor, see `LedgerSession`): the control connection, a clock, the actor and the database's
    identity, both as named in the audit.
    """

    def shard_progress(self, request: str) -> tuple[ShardProgress, ...]:
        """See `Ledger.shard_progress`."""
        return tuple(
            ShardProgress(
                row["table_name"],
                row["shard"],
                row["done_pages"],
                row["total_pages"],
                row["rows"],
                row["seconds"],
                row["workers"],
            )
            for row in self.query(_SHARDS, (request,))
        )

    def note_wait(self, request: str, place: str, waiting_for: str) -> None:
        """See `Ledger.note_wait`."""
        self.query(FORGET)
        self.query(NOTE, (request, place, waiting_for))

    def end_wait(self, request: str, place: str) -> None:
        """See `Ledger.end_wait`."""
        # A lost connection has already ended it.
        if not self.connection.closed:
            self.query(END, (request, place))

    def waits(self, request: str) -> tuple[Wait, ...]:
        """See `Ledger.waits`."""
        return tuple(Wait(**row) for row in self.query(LIVE, (request,)))

    def save_counts(self, counts: Sequence[TableCount], not_counted: Sequence[EncryptedTable] = ()) -> None:
        """See `Ledger.save_counts`."""
        if not counts:
            return
        with self.change():
            counted = Counted.of(counts, not_counted)
            for count, facts in zip(counts, counted.as_json()["tables"], strict=True):
                self.query(_SAVE_COUNT, (facts["table"], jsonb(facts), count.counted_at))
            self.append(counted)

    def counts(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """See `Ledger.counts`; ignores counts of columns other than the declared ones."""
        rows = self.query(_COUNTS)
        kept = {row["table_name"]: row for row in rows}
        return tuple(
            count_of(table, row["counts"], row["counted_at"])
            for table in tables
            if (row := kept.get(str(table.name))) and row["counts"]["columns"] == list(table.columns)
        )

    def save_answers(self, answers: Sequence[MemberAnswer]) -> None:
        """See `Ledger.save_answers`; in one statement, however many there are."""
        if answers:
            names, moments = [each.member for each in answers], [each.asked_at for each in answers]
            # As a text within JSON: a database may store no other characters than ASCII.
            self.query(_SAVE_ANSWERS, (names, [Jsonb(json.dumps(as_json(each))) for each in answers], moments))

    def answers(self) -> Mapping[str, MemberAnswer]:
        """See `Ledger.answers`; one that cannot be read was never given."""
        found = dict[str, MemberAnswer]()
        for row in self.query(_ANSWERS):
            with suppress(AuditError, TypeError, ValueError):
                answer = read(MemberAnswer, json.loads(row["counts"]))
                found[answer.member] = answer
        return found

    def rotation_audit(self) -> tuple[tuple[str | None, RotationAuditWritten], ...]:
        """See `Ledger.rotation_audit`."""
        rows = self.query(
            "SELECT id::text, rotation_date, old_key_version, new_key_version, rotation_type, initiated_by,"
            " completion_date, records_reencrypted, notes, request FROM keyrotation.key_rotation_audit"
        )
        return tuple((row["request"], audit_row_of(row)) for row in rows)

    def write_rotation_audit(
        self, rotation: Walk, initiated_by: str, records_reencrypted: int, completed_at: datetime | None
    ) -> None:
        """See `Ledger.write_rotation_audit`; UTC without a zone, as the source procedure has it; complete rows stay."""
        row = {
            "started": _seed_time(rotation.started_at or self.clock.now()),
            "old": str(rotation.source),
            "new": str(rotation.target),
            "type": rotation.kind,
            "by": initiated_by,
            "completed": _seed_time(completed_at) if completed_at else None,
            "records": records_reencrypted,
            "notes": rotation.reason,
            "request": rotation.id,
        }
        with self.change():
            for written in self.query(_ROTATION_AUDIT, row):
                self.append(audit_row_of(written), rotation.id)


def _seed_time(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
