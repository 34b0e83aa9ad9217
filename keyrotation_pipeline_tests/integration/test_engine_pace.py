"""The engine at another pace while it runs: by the word of an operator, and for the sake of slow commits."""

from collections.abc import Iterator

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine import supervisor
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline_tests.contract.ledger_suite import rotation, text_of
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.integration.encrypted_rows import REQUEST, Engine, ring_of
from keyrotation_pipeline_tests.integration.test_engine_throttles import fill, in_the_background, stored_rows, waits
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually


def ledger_on(connection: Connection) -> PostgresLedger:
    identity = "clinic@localhost, system identifier 7"
    return PostgresLedger(connection, SystemClock(), "tester", identity, good_at_start)


def test_the_last_word_of_an_operator_holds_within_seconds(migrated: Connection, database_url: str) -> None:
    """Ten rows a second would take minutes, and the engine owes seconds of it when the next word comes."""
    engine = Engine(database_url, ring_of(1, 2), Limits(max_rows_per_second=10, duty_cycle=1.0))
    fill(migrated, engine, 2_000)
    ledger = ledger_on(migrated)
    ledger.append(PaceSet(rows_per_second=10), "f" * 32)  # of another rotation
    with in_the_background(engine) as done:
        assert eventually(lambda: stored_rows(database_url) > 5)
        ledger.append(PaceSet(rows_per_second=0), REQUEST)
        assert eventually(lambda: bool(done), 60)
    assert done[0].rows == 2_000


def test_a_rotation_at_full_speed_is_slowed_by_a_word_and_goes_as_configured_after_a_reset(
    migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.1)
    engine = Engine(database_url, ring_of(1, 2), Limits(max_rows_per_second=5_000, duty_cycle=1.0))
    fill(migrated, engine, 8_000)
    ledger = ledger_on(migrated)
    with in_the_background(engine) as done:
        assert eventually(lambda: stored_rows(database_url) > 100)
        ledger.append(PaceSet(rows_per_second=1), REQUEST)
        slowed: list[int] = []

        def stands() -> bool:
            slowed.append(stored_rows(database_url))
            return len(slowed) > 20 and slowed[-1] - slowed[-20] <= 2

        assert eventually(stands)
        assert not done
        ledger.append(Note(EventKind.PACE_SET, {"rows_per_second": "many"}), REQUEST)  # what nobody can read is none
        ledger.append(PaceSet(), REQUEST)
        assert eventually(lambda: bool(done))
    assert done[0].rows == 8_000


@pytest.fixture
def durable() -> Iterator[Server]:
    """A server whose commits wait for the disk."""
    server = start_server(EMBEDDED_18, "fsync=on", "commit_siblings=0")
    yield server
    discard(server)


def test_it_goes_slower_while_commits_are_slow_says_why_and_comes_back(
    durable: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.1)
    url = durable.url()
    migrate(url)
    engine = Engine(url, ring_of(1, 2), Limits(max_rows_per_second=4_000, duty_cycle=0.5))
    with connect(url) as connection, psycopg.connect(url, autocommit=True) as admin:
        fill(connection, engine, 8_000)
        opened = rotation(id=REQUEST)
        ledger_on(connection).open(opened, text_of(opened))

        def delay_commits(microseconds: int) -> None:
            admin.execute(f"ALTER SYSTEM SET commit_delay = {microseconds}")
            admin.execute("SELECT pg_reload_conf()")

        with in_the_background(engine) as done:
            assert eventually(lambda: stored_rows(url) > 1_000)
            delay_commits(90_000)
            slow = "going slower: a small commit takes "  # on a loaded machine, waits for a processor are noted before
            assert eventually(lambda: any(slow in each.note for each in engine.progress))
            # Noted after it was reported, by a slow commit.
            assert eventually(lambda: any(each.waiting_for.startswith(slow) for each in waits(connection, REQUEST)))
            (noted,) = waits(connection, REQUEST)
            assert "16 times as long" in noted.waiting_for or eventually(
                lambda: any("resting 16 times" in each.note for each in engine.progress), 20
            )
            before, reported = stored_rows(url), len(engine.progress)
            assert eventually(lambda: len(engine.progress) >= reported + 10)
            assert stored_rows(url) - before < 4_000 * 0.5, "it continues, slowly"
            assert not done
            delay_commits(0)
            assert eventually(lambda: not any(slow in each.waiting_for for each in waits(connection, REQUEST)))
            assert eventually(lambda: bool(done))
    assert done[0].rows == 8_000
    assert slow not in engine.progress[-1].note
