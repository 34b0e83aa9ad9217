"""A sweep reads where the server has seen something to rewrite, and misses nothing that stays or moves."""

import threading
from collections.abc import Callable

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.batch import TraversalContext
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.ranges import SweptPageRanges
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import StatementPipeline
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    become,
    insert,
    read_back,
    ring_of,
    running,
    sealed,
    table_of,
    under_v2,
)

CASES = table_of("cases", "a", "b")
ROWS = 2000  # five on a page
LEFT = {0: (1, 2), 1000: (2, 1), 1999: (1, 1)}
EXPECTED = {n: under_v2("a", "b") for n in range(ROWS)}


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def engine(migrated: Connection, database_url: str, ring: KeyRing) -> Engine:
    migrated.execute(
        "CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, pad text DEFAULT repeat('x', 1300), n int)"
    )
    values = {(column, version): sealed(ring, version, column) for column in "ab" for version in (1, 2)}
    versions = ((n, *LEFT.get(n, (2, 2))) for n in range(ROWS))
    insert(migrated, "public.cases (id, a, b)", [(n, values["a", a], values["b", b]) for n, a, b in versions])
    return Engine(database_url, ring, Limits().in_an_emergency())


@pytest.fixture
def pages_read(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Every page that a sweep has asked for."""
    asked: set[int] = set()

    def noting(method: Callable[..., object]) -> Callable[..., object]:
        def noted(subject: object, statement: bytes, parameters: dict[str, str]) -> object:
            if "first" in parameters:
                first, end = (int(parameters[name][1:-3]) for name in ("first", "end"))
                asked.update(range(first, end))
            return method(subject, statement, parameters)

        return noted

    monkeypatch.setattr(StatementPipeline, "send", noting(StatementPipeline.send))
    monkeypatch.setattr(TraversalContext, "run", noting(TraversalContext.run))
    return asked


@pytest.mark.parametrize("wait", [False, True])
def test_only_pages_near_what_is_left_are_read(
    migrated: Connection, engine: Engine, ring: KeyRing, pages_read: set[int], wait: bool
) -> None:
    assert engine.sweep(CASES, wait=wait).rows == 3
    assert {0, 200, 399} <= pages_read
    assert len(pages_read) <= 3 * 64
    assert read_back(migrated, ring, CASES, "id") == EXPECTED
    pages_read.clear()
    assert engine.sweep(CASES, wait=wait).rows == 0
    assert not pages_read


@pytest.fixture
def after_the_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run something when the server has said where there is something left, and nothing is read yet."""

    def patched(action: Callable[[], object]) -> None:
        look = SweptPageRanges._parts  # noqa: SLF001  between two statements of one sweep

        def looked(ranges: SweptPageRanges, *given: object) -> list[int]:
            found = look(ranges, *given)  # type: ignore[arg-type]
            action()
            return found

        monkeypatch.setattr(SweptPageRanges, "_parts", looked)

    return patched


@pytest.mark.parametrize("rewrite", ["VACUUM FULL public.cases", "CLUSTER public.cases USING by_n"])
def test_a_table_that_is_rewritten_after_the_look_is_walked_again(
    migrated: Connection,
    engine: Engine,
    ring: KeyRing,
    after_the_look: Callable[[Callable[[], object]], None],
    rewrite: str,
) -> None:
    migrated.execute("DELETE FROM public.cases WHERE id BETWEEN 1 AND 900; UPDATE public.cases SET n = -id")
    migrated.execute("CREATE INDEX by_n ON public.cases (n)")
    after_the_look(lambda: migrated.execute(rewrite.encode()))
    done = engine.sweep(CASES)
    assert (done.rows, done.skipped) == (3, 0)
    assert read_back(migrated, ring, CASES, "id") == {n: EXPECTED[n] for n in (0, *range(901, ROWS))}


def test_a_row_that_moves_after_the_look_is_left_to_the_next_sweep(
    migrated: Connection,
    engine: Engine,
    ring: KeyRing,
    after_the_look: Callable[[Callable[[], object]], None],
) -> None:
    migrated.execute("DELETE FROM public.cases WHERE id >= 1990")  # so that nothing is left at the end
    # Its page is full, so it goes to the end.
    after_the_look(lambda: migrated.execute("UPDATE public.cases SET n = 1 WHERE id = 0 AND n IS NULL"))
    assert engine.sweep(CASES).rows == 1
    assert engine.sweep(CASES).rows == 1
    assert read_back(migrated, ring, CASES, "id") == {n: EXPECTED[n] for n in range(1990)}
    assert migrated.execute("SELECT n FROM public.cases WHERE id = 0").fetchone() == (1,)


def test_a_table_that_is_locked_for_a_moment_is_swept_after_it(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE cases IN ACCESS EXCLUSIVE MODE")
        threading.Timer(1.2, holder.commit).start()
        assert engine.sweep(CASES).rows == 3
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


def test_a_sweep_obeys_a_pause(migrated: Connection, engine: Engine) -> None:
    running(migrated, "emergency")
    become(migrated, "paused")
    with pytest.raises(BlockedError, match="was paused"):
        engine.sweep(CASES)
