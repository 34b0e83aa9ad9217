"""The copy of the audit in a member of a fleet: what it holds beyond the audit, and what its owner writes into it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import pytest

from keyrotation_pipeline.adapters.postgres.ledger import mirror
from keyrotation_pipeline.adapters.postgres.ledger.mirror import Mirror, adopt
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import CopyAheadError, PreflightError
from keyrotation_pipeline.model.audit import GENESIS, AuditHead, FormerEvents, hash_of
from keyrotation_pipeline_tests.servers import Server, copy_of

EVENTS = 7


@contextmanager
def writable(connection: Connection) -> Iterator[None]:
    """Whoever owns a database can change what is append-only."""
    tables = ("audit_events", "audit_head")
    for table in tables:
        connection.execute(f"ALTER TABLE keyrotation.{table} DISABLE TRIGGER USER".encode())
    yield
    for table in tables:
        connection.execute(f"ALTER TABLE keyrotation.{table} ENABLE TRIGGER USER".encode())


def append(connection: Connection, number: int, what: str = "counted") -> AuditHead:
    """Appends events with right hashes; returns the head after them."""
    ((seq, digest),) = connection.execute("SELECT seq, hash FROM keyrotation.audit_head").fetchall()
    head = AuditHead(int(str(seq)), str(digest))
    for _ in range(number):
        body = f'{{"event":"{what}","seq":{head.seq + 1}}}'
        later = AuditHead(head.seq + 1, hash_of(head.hash, body))
        connection.execute(
            "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event) VALUES (%s, %s, %s, %s, %s)",
            (later.seq, body, head.hash, later.hash, what),
        )
        connection.execute("UPDATE keyrotation.audit_head SET seq = %s, hash = %s", (later.seq, later.hash))
        head = later
    return head


def events(connection: Connection) -> list[tuple[object, ...]]:
    """Everything that is recorded, and the head."""
    held = connection.execute("SELECT seq, body, previous_hash, hash FROM keyrotation.audit_events ORDER BY seq")
    return held.fetchall() + connection.execute("SELECT seq, hash FROM keyrotation.audit_head").fetchall()


@dataclass
class Pair:
    """The home's own database, and a member."""

    lead: Connection
    member: Connection
    signed: set[AuditHead] = field(default_factory=set)
    kept: dict[str, bytes] = field(default_factory=dict)

    def opened(self) -> Mirror:
        """The copy, as another process finds it."""
        return Mirror(self.member, self.lead, "home", "north", lambda: self.signed, self.kept.__setitem__, {})

    def cut(self, seq: int) -> None:
        """The home's own database is restored to an earlier state."""
        with writable(self.lead):
            self.lead.execute("DELETE FROM keyrotation.audit_events WHERE seq > %s", (seq,))
            self.lead.execute(
                "UPDATE keyrotation.audit_head SET seq = %s, hash = coalesce("
                "(SELECT hash FROM keyrotation.audit_events WHERE seq = %s), %s)",
                (seq, seq, GENESIS),
            )


@pytest.fixture
def pair(server: Server, template: str) -> Iterator[Pair]:
    with ExitStack() as opened:
        urls = [opened.enter_context(copy_of(server, template)) for _ in range(2)]
        lead, member = (opened.enter_context(closing(connect(url))) for url in urls)
        adopt(member, "home", "north", "clinic")
        append(lead, EVENTS)
        made = Pair(lead, member)
        made.opened().bring_up_to_date()
        yield made


@pytest.mark.parametrize("batch", [3, EVENTS])
def test_a_copy_is_made_in_batches(pair: Pair, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(mirror, "_BATCH_EVENTS", batch)
    append(pair.lead, EVENTS)
    pair.opened().bring_up_to_date()
    assert events(pair.member) == events(pair.lead)


def test_a_process_compares_the_whole_once_and_then_what_was_added(pair: Pair) -> None:
    opened = pair.opened()
    opened.bring_up_to_date()
    with writable(pair.member):
        pair.member.execute("UPDATE keyrotation.audit_events SET body = '{}' WHERE seq = 2")
    append(pair.lead, 1)
    opened.bring_up_to_date()
    with pytest.raises(PreflightError, match="is not this home's; find out whose it is"):
        pair.opened().bring_up_to_date()
    with writable(pair.member):
        pair.member.execute("UPDATE keyrotation.audit_events SET body = '{}' WHERE seq = %s", (EVENTS + 1,))
        pair.member.execute("UPDATE keyrotation.audit_head SET hash = repeat('b', 64)")
    with pytest.raises(PreflightError, match="is not this home's; find out whose it is"):
        opened.bring_up_to_date()


@pytest.mark.parametrize("left", [0, EVENTS - 1, EVENTS])
@pytest.mark.parametrize("since", [0, 20])
def test_what_a_copy_holds_beyond_a_restored_audit_is_found_and_set_aside(pair: Pair, left: int, since: int) -> None:
    """However many events the audit has had since."""
    ahead = append(pair.lead, 3)
    pair.opened().bring_up_to_date()
    before = events(pair.member)
    pair.cut(left)
    append(pair.lead, since, "others")
    expected = FormerEvents(left + 1, ahead)
    assert pair.opened().former() == expected
    for signed in (set(), {AuditHead(ahead.seq, "b" * 64), AuditHead(ahead.seq - 1, ahead.hash)}):
        pair.signed = signed
        with pytest.raises(CopyAheadError, match=f"has events {left + 1} to {ahead.seq}, which this audit lacks"):
            pair.opened().bring_up_to_date()
    assert (events(pair.member), pair.kept) == (before, {})
    pair.signed = {ahead}
    pair.opened().bring_up_to_date()
    assert events(pair.member) == events(pair.lead)
    ((name, content),) = pair.kept.items()
    assert name == f"north-{left + 1}-{ahead.seq}-{ahead.hash[:16]}.jsonl"
    assert content.count(b"\n") == ahead.seq - left
    with pytest.raises(Exception, match="append-only"):
        pair.member.execute("DELETE FROM keyrotation.audit_events")


def test_what_cannot_be_kept_is_not_removed(pair: Pair) -> None:
    pair.signed = {append(pair.member, 2)}
    before = events(pair.member)

    def full(name: str, content: bytes) -> None:
        raise OSError(name, len(content))

    broken = Mirror(pair.member, pair.lead, "home", "north", lambda: pair.signed, full, {})
    with pytest.raises(OSError, match="north-8-9"):
        broken.bring_up_to_date()
    assert events(pair.member) == before


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param("UPDATE keyrotation.audit_head SET seq = 10", id="a head without events"),
        pytest.param("UPDATE keyrotation.audit_head SET hash = '../../../etc/cron.d/x'", id="a path as its hash"),
        pytest.param("UPDATE keyrotation.audit_events SET body = '{}' WHERE seq = 9", id="another last event"),
        pytest.param("UPDATE keyrotation.audit_events SET body = '{}' WHERE seq = 8", id="another event before it"),
        pytest.param("UPDATE keyrotation.audit_events SET hash = 'x' WHERE seq = 4", id="another hash of what is same"),
        pytest.param("DELETE FROM keyrotation.audit_events WHERE seq = 8", id="a gap"),
        pytest.param("DELETE FROM keyrotation.audit_events WHERE seq < 8", id="its end alone"),
    ],
)
def test_what_is_no_chain_is_not_asked_to_be_signed(pair: Pair, forge: str) -> None:
    """Even where officers have signed that head."""
    pair.signed = {append(pair.member, 2)}
    with writable(pair.member):
        pair.member.execute(forge.encode())
    asked: tuple[Callable[[], object], ...] = (pair.opened().former, pair.opened().bring_up_to_date)
    for each in asked:
        with pytest.raises(PreflightError, match="is not this home's; find out whose it is"):
            each()
    assert pair.kept == {}
