"""The copy of the audit in a member of a fleet, which says whose the member is and is never read as the audit.

Nothing is decided by it: pauses, paces and signatures are read in the home's own database. What the engine takes as
hints where it works (which versions there are, since when a request runs) is the same there as in a single database.
Before each use it is compared with the audit, and what is missing is appended.
"""

import json
from collections.abc import Callable, Collection, Iterator, MutableMapping
from typing import Any, cast

import psycopg

from keyrotation_pipeline.adapters.own_schema import create_unless_there, own, schema_of
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import CopyAheadError, PreflightError
from keyrotation_pipeline.model.audit import GENESIS, AuditHead, FormerEvents, hash_of

_CREATE = own("""
CREATE TABLE IF NOT EXISTS keyrotation.mirror_of (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    home text NOT NULL,
    member text NOT NULL,
    lead text NOT NULL
)
""")
_THERE = own("SELECT to_regclass('keyrotation.mirror_of') IS NOT NULL")
_READ = own("SELECT home, member, lead FROM keyrotation.mirror_of")
_ADOPT = own("INSERT INTO keyrotation.mirror_of (home, member, lead) VALUES (%s, %s, %s)")
_HEAD = own("SELECT seq, hash FROM keyrotation.audit_head")
_IS_WHOLE = own("""
SELECT seq = coalesce((SELECT max(seq) FROM keyrotation.audit_events), 0)
   AND coalesce((SELECT min(seq) FROM keyrotation.audit_events), 1) = 1 FROM keyrotation.audit_head
""")
_COLUMNS = "seq, body, previous_hash, hash, event, request, signature"
_BATCH_EVENTS = 1000
_SINCE = own(f"SELECT {_COLUMNS} FROM keyrotation.audit_events WHERE seq > %s ORDER BY seq LIMIT %s")  # noqa: S608
_APPEND = own(f"INSERT INTO keyrotation.audit_events ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s)")  # noqa: S608
_MOVE = own("UPDATE keyrotation.audit_head SET seq = %s, hash = %s")
# One at a time; another process may append many.
_LOCK = own("SET LOCAL lock_timeout = '30s'; LOCK TABLE keyrotation.audit_head IN EXCLUSIVE MODE")
_HASH_AT = own("SELECT hash FROM keyrotation.audit_events WHERE seq = %s")
# As there, nobody changes or removes what is recorded but by what officers have signed.
_OPENED = (
    own("ALTER TABLE keyrotation.audit_events DISABLE TRIGGER append_only"),
    own("ALTER TABLE keyrotation.audit_head DISABLE TRIGGER moves_on_by_one"),
)
_CUT = own("DELETE FROM keyrotation.audit_events WHERE seq > %s")
_CLOSED = (
    own("ALTER TABLE keyrotation.audit_events ENABLE TRIGGER append_only"),
    own("ALTER TABLE keyrotation.audit_head ENABLE TRIGGER moves_on_by_one"),
)
_DIGEST = own("""
SELECT count(*), md5(coalesce(string_agg(md5(concat_ws('|',
    seq, body, previous_hash, hash, event, coalesce(request, '-'), coalesce(signature, '-'))), '' ORDER BY seq), ''))
FROM keyrotation.audit_events WHERE seq > %s AND seq <= %s
""")
_LAST = 2**62


def require_no_mirror(connection: Connection) -> None:
    """Refuses a database that is a member of a home, as `[database]` of any.

    Raises:
        PreflightError: names the home's own database.
    """
    if (found := _read(connection)) is not None:
        raise PreflightError(
            f"{display_name(connection.info.dsn)} is the member {found[1]} of the home in {found[2]}, and its audit is "
            "a copy; give the address of that database as [database] url"
        )


def adopt(connection: Connection, home: str, member: str, lead: str) -> None:
    """Records whose member a database is from now on; repeating it changes nothing.

    Args:
        home: its id.
        lead: the home's own database, for people.

    Raises:
        PreflightError: it is another home's member, or holds a home's audit itself.
    """
    if _read(connection) is None:
        if connection.execute(_HEAD).fetchone() != (0, "0" * 64):
            raise PreflightError(
                f"its schema {schema_of(connection)} holds the audit of another home; leave it out of "
                "[[databases]], or give the homes different schemas in [database]"
            )
        create_unless_there(connection, _THERE, _CREATE)
        connection.execute(_ADOPT, (home, member, lead))
    require_member(connection, home, member)


def require_member(connection: Connection, home: str, member: str) -> None:
    """Refuses a database that does not say itself that it is this member of this home.

    Raises:
        PreflightError: it says nothing, as one that was made anew under the old name; or it is another one.
    """
    found = _read(connection)
    if found is None:
        raise PreflightError(
            "it does not say that it is a member of this home; run `keyrotation init` if it is new, but if it was made "
            f"in place of the former one, bring that one back: `keyrotation recover --database {member}`"
        )
    if found[:2] != (home, member):
        whose = "this" if found[0] == home else "another"
        raise PreflightError(
            f"it is the member {found[1]} of {whose} home, in {found[2]}; correct its url in [[databases]]"
        )


class Mirror:
    """The copy in one member.

    Args:
        connection: of the member.
        lead: of the home's own database.
        home: the home's id.
        member: the member's name.
        set_aside: returns the last events of copies that officers have signed to be made anew.
        keep: stores a file of this name and content outside of the member.
        compared: by member, up to which event this process has found its copy to be the audit.
    """

    def __init__(
        self,
        connection: Connection,
        lead: Connection,
        home: str,
        member: str,
        set_aside: Callable[[], Collection[AuditHead]],
        keep: Callable[[str, bytes], None],
        compared: MutableMapping[str, AuditHead],
    ) -> None:
        self._connection = connection
        self._lead = lead
        self._home = home
        self._member = member
        self._set_aside = set_aside
        self._keep = keep
        self._all_compared = compared

    @property
    def _compared(self) -> AuditHead:
        return self._all_compared.get(self._member, AuditHead(0, GENESIS))

    def require_copy(self) -> None:
        """Refuses a copy whose last event is not in the audit; raises as `bring_up_to_date`, and writes nothing.

        Events that were added to it are noticed, and what was changed in others is by its next user.
        """
        if (former := self.former()) is not None:
            self._require_set_aside(former)
        elif self._connection.execute(_IS_WHOLE).fetchone() != (True,):
            raise self._altered()

    def bring_up_to_date(self) -> None:
        """Compares it with the audit, the first time as a whole and then what was added, and appends what it lacks.

        What is not committed yet is not copied: in a transaction of the ledger this does nothing.

        Raises:
            PreflightError: it is no member of this home, or its copy was altered.
            CopyAheadError: its copy holds what the audit does not, and no officers have signed that it is made anew.
        """
        if self._lead.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            return
        if self._compared.seq and self._compared == _head(self._connection) == _head(self._lead):
            return
        while self._is_continued():
            pass

    def _is_continued(self) -> bool:
        """Compares what was not compared, and appends a batch; returns whether that was a whole one.

        Each batch is a transaction: the head moves by one event, and each move passes by all before it in the same one.
        """
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(_LOCK.as_bytes(self._connection))
            if (former := self.former()) is not None:
                self._leave(former)
            here = self._require_same()
            events = cast("list[tuple[Any, ...]]", self._lead.execute(_SINCE, (here.seq, _BATCH_EVENTS)).fetchall())
            heads = [AuditHead(event[0], event[3]) for event in events]
            cursor.executemany(_APPEND, events)
            cursor.executemany(_MOVE, [(each.seq, each.hash) for each in heads])
        self._all_compared[self._member] = [here, *heads][-1]
        return len(events) == _BATCH_EVENTS

    def former(self) -> FormerEvents | None:
        """The events that it holds and the audit does not; None: its last one is in the audit.

        Raises:
            PreflightError: it is no member of this home, or they are no chain that continues the audit.
        """
        require_member(self._connection, self._home, self._member)
        last = _head(self._connection)
        if _hash_at(self._lead, last.seq) == last.hash:
            return None
        common, beyond = 0, min(last.seq, _head(self._lead).seq) + 1
        while beyond - common > 1:
            seq = (common + beyond) // 2
            is_same = _hash_at(self._connection, seq) == _hash_at(self._lead, seq)
            common, beyond = (seq, beyond) if is_same else (common, seq)
        found = AuditHead(common, _hash_at(self._lead, common))
        for seq, body, previous, stored, *_ in self._events(common):
            if (seq, previous) != (found.seq + 1, found.hash) or hash_of(previous, body) != stored:
                raise self._altered()
            found = AuditHead(seq, stored)
        if found != last:
            raise self._altered()
        return FormerEvents(common + 1, last)

    def _require_set_aside(self, former: FormerEvents) -> None:
        if former.last not in self._set_aside():
            raise CopyAheadError(
                f"its copy of the audit has events {former.first} to {former.last.seq}, which this audit lacks, as "
                "after the home's database was restored; have it made anew: `keyrotation reconcile`"
            )

    def _leave(self, former: FormerEvents) -> None:
        """Keeps what the audit does not hold in a file, and removes it here, if officers have signed that."""
        self._require_set_aside(former)
        last = former.last
        columns, events = _COLUMNS.split(", "), self._events(former.first - 1)
        lines = [json.dumps(dict(zip(columns, each, strict=True))) for each in events]
        name = f"{self._member}-{former.first}-{last.seq}-{last.hash[:16]}.jsonl"
        self._keep(name, "".join(f"{line}\n" for line in lines).encode())
        for each in _OPENED:
            self._connection.execute(each)
        self._connection.execute(_CUT, (former.first - 1,))
        self._connection.execute(_MOVE, (former.first - 1, _hash_at(self._lead, former.first - 1)))
        for each in _CLOSED:
            self._connection.execute(each)

    def _events(self, seq: int) -> Iterator[Any]:
        while events := self._connection.execute(_SINCE, (seq, _BATCH_EVENTS)).fetchall():
            yield from events
            seq = cast("int", events[-1][0])

    def _altered(self) -> PreflightError:
        return PreflightError(
            f"its copy of the audit, in the schema {schema_of(self._connection)}, is not this home's; find out "
            "whose it is, DROP that SCHEMA, then run `keyrotation init`"
        )

    def _require_same(self) -> AuditHead:
        """Returns its last event; what this process has compared before is told by the hash of the last one alone."""
        here, known = _head(self._connection), self._compared
        if here.seq < known.seq or _hash_at(self._connection, known.seq) != known.hash:
            known = AuditHead(0, GENESIS)  # somebody has made it anew
        held, there = (
            connection.execute(_DIGEST, (known.seq, until)).fetchall()
            for connection, until in ((self._connection, _LAST), (self._lead, here.seq))
        )
        if held != there or there[0][0] != here.seq - known.seq:
            raise self._altered()
        return here


def _head(connection: Connection) -> AuditHead:
    row = connection.execute(_HEAD).fetchone()
    return AuditHead(0, GENESIS) if row is None else AuditHead(*cast("tuple[int, str]", row))


def _hash_at(connection: Connection, seq: int) -> str:
    row = connection.execute(_HASH_AT, (seq,)).fetchone() if seq else (GENESIS,)
    return "" if row is None else str(row[0])


def _read(connection: Connection) -> tuple[str, str, str] | None:
    if connection.execute(_THERE).fetchone() != (True,):
        return None
    return cast("tuple[str, str, str] | None", connection.execute(_READ).fetchone())
