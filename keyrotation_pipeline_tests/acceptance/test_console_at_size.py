"""The console of a home with 50 000 events: whoever looks at the first page gets the one that was made last."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.audit.events import RECORDS, entry_of
from keyrotation_pipeline.audit.rules import RULES
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import open_home
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, Note, body_of, hash_of
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.console_server import serving_console
from keyrotation_pipeline_tests.acceptance.test_browser_situations import sign

pytestmark = pytest.mark.extended
EVENTS, LOOKS, MOST_SECONDS = 50_000, 100, 0.3
STORE = "COPY keyrotation.audit_events (seq, body, previous_hash, hash, event, request, signature) FROM STDIN"


def test_the_first_page_is_quick_in_a_home_of_fifty_thousand_events(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.NONE)
    with open_home(settings, 100, lambda _line: None) as pipeline:
        folder.run("backup")
        request = folder.run("request", "--reason", "yearly rotation").strip()
        sign(folder, request, officers)
        folder.run("rotate", request)
        folder.run("status", "--count")
        assert isinstance(pipeline.ledger, PostgresLedger)
        routine = grow(pipeline.ledger, EVENTS)
        assert f"{pipeline.ledger.head().seq:,}" in folder.run("audit", "verify")
        with serving_console(folder) as served:
            served.page()
            shown = []
            for look in range(LOOKS):
                if not look % 10:  # something happens meanwhile
                    pipeline.ledger.append(routine)
                SystemClock().sleep(0.1)
                shown.append(seconds(served.page))
    assert quantiles(shown, n=20)[-1] < MOST_SECONDS, shown


def grow(ledger: PostgresLedger, events: int) -> Note:
    """Appends copies of what happens in every home, signed and in the chain, to so many events; returns one of them."""
    with ledger.change():
        head = ledger.head()
        (newest,) = ledger.events(after_seq=head.seq - 1)
        signing, at = ledger._signing(newest), entry_of(newest).at  # noqa: SLF001 - as the ledger itself appends
        assert signing is not None
        known = [entry_of(each) for each in ledger.events()]
        routine = [each for each in known if each.request is None and RECORDS.get(each.kind) not in RULES]
        seq, previous = head.seq, head.hash
        with ledger.connection.cursor() as cursor, cursor.copy(STORE) as copy:
            for entry in cycle(routine):
                if seq == events:
                    break
                seq += 1
                body = body_of(
                    seq=seq, at=at, actor=entry.actor, database=entry.database, request=None,
                    event=EventKind(entry.kind), facts=entry.facts,
                )  # fmt: skip
                digest = hash_of(previous, body)
                copy.write_row((seq, body, previous, digest, entry.kind, None, signing.signature(seq, digest)))
                previous = digest
        ledger.query("ALTER TABLE keyrotation.audit_head DISABLE TRIGGER USER")  # which lets it move by one event
        ledger._move_head(AuditEvent(seq, "", "", previous, "", None, None))  # noqa: SLF001
        ledger.query("ALTER TABLE keyrotation.audit_head ENABLE TRIGGER USER")
        ledger._has_changed = True  # noqa: SLF001
    return Note(EventKind(routine[-1].kind), routine[-1].facts)


def seconds(look: Callable[[], object]) -> float:
    began = perf_counter()
    look()
    return perf_counter() - began
