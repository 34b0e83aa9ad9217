"""Of a small table the first shard is all of it; whatever its size becomes, each record says what was done."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.requests import Step, StepRecord
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, fake_pipeline, rotation_of
from keyrotation_pipeline_tests.integration.encrypted_rows import sealed, table_of

SHARDS = 4
ROWS_A_PAGE = 4
# Of a table with fewer pages the first shard is all of it.
SMALL = 8
BEFORE_ROWS = (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT)


class KilledError(Exception):
    """The process ends here."""


@dataclass
class Notes:
    """A real table in a rotation whose rows are due; `pages` of it are filled, each updated in place."""

    connection: Connection
    url: str

    def __post_init__(self) -> None:
        self.table = table_of("notes", "body")
        self.world = fake_pipeline({"notes": []})
        self.ring = self.world.keys.read().ring()
        limits = Limits(pages_per_worker=SMALL, duty_cycle=1.0)
        rewriting = PostgresRewriting(self.connection, lambda: connect(self.url), limits)
        self.world.pipeline = replace(self.world.pipeline, rewriting=rewriting, tables=(self.table,), shards=SHARDS)
        self.rotation = rotation_of(self.world, V1, V2)
        for step in BEFORE_ROWS:
            self.world.ledger.finish_step(self.rotation.id, StepRecord(step, None, None, START, {}))

    def grow(self, pages: int, version: int) -> None:
        value = sealed(self.ring, version, "x" * 560)
        self.connection.execute(
            "INSERT INTO public.notes (body) SELECT %s FROM generate_series(1, %s)", (value, pages * ROWS_A_PAGE)
        )

    def shrink(self, pages: int) -> None:
        """The rows after so many pages are deleted, and the file ends there."""
        self.connection.execute("DELETE FROM public.notes WHERE ctid >= %s::tid", (f"({pages},0)",))
        self.connection.execute("VACUUM (TRUNCATE) public.notes")
        assert self.pages() == pages

    def pages(self) -> int:
        ((pages,),) = self.connection.execute("SELECT pg_relation_size('public.notes') / 8192").fetchall()
        return int(str(pages))

    def old_rows(self) -> int:
        return self.world.pipeline.fencing.old_rows(self.table, [V1], None).rows

    def perform(self, *shards: int, report: Callable[[Progress], None] = lambda _: None) -> None:
        for index in shards:
            task = Task(Step.ROWS, Shard(self.table, index, SHARDS))
            runner.run_step(self.world.pipeline, self.rotation.id, task, report)

    def rest(self) -> None:
        list(runner.run_shards(self.world.pipeline, self.rotation.id, self.world.report))

    def recorded(self) -> dict[int | None, int]:
        """The rows that each shard's record names."""
        steps = self.world.ledger.walk(self.rotation.id).steps
        return {each.shard: each.facts["rows"] for each in steps if each.step is Step.ROWS}


@pytest.fixture
def notes(migrated: Connection, database_url: str) -> Notes:
    """An empty table, half of each page of which stays free for updates."""
    migrated.execute(
        "CREATE TABLE public.notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text STORAGE PLAIN)"
        " WITH (fillfactor = 45, autovacuum_enabled = off)"
    )
    return Notes(migrated, database_url)


def test_shards_of_a_table_that_shrank_after_its_first_one_do_their_own_part(notes: Notes) -> None:
    notes.grow(2 * SMALL, 1)
    notes.perform(0)
    assert notes.recorded() == {0: SMALL // 2 * ROWS_A_PAGE}
    notes.shrink(SMALL - 1)
    notes.rest()
    assert notes.old_rows() == 0
    assert notes.recorded() == {0: SMALL // 2 * ROWS_A_PAGE, 1: (SMALL // 2 - 1) * ROWS_A_PAGE, 2: 0, 3: 0}


def test_a_first_shard_that_was_begun_as_a_part_ends_as_one_though_the_table_shrank(notes: Notes) -> None:
    notes.grow(2 * SMALL, 1)

    def kill(_: Progress) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        notes.perform(0, report=kill)
    notes.shrink(SMALL - 1)
    notes.rest()
    assert notes.old_rows() == 0
    assert sum(notes.recorded().values()) == (SMALL - 1) * ROWS_A_PAGE


def test_a_first_shard_that_was_begun_as_the_whole_table_ends_as_that_though_the_table_grew(notes: Notes) -> None:
    notes.grow(SMALL - 1, 1)

    def kill(_: Progress) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        notes.perform(0, report=kill)
    notes.grow(2 * SMALL, 2)
    notes.perform(0)
    assert notes.old_rows() == 0
    assert notes.recorded() == {0: (SMALL - 1) * ROWS_A_PAGE, 1: 0, 2: 0, 3: 0}


@pytest.mark.parametrize("grown", [0, 2 * SMALL])
def test_a_later_shard_of_a_small_table_that_is_asked_first_does_its_own_part(notes: Notes, grown: int) -> None:
    notes.grow(SMALL - 4, 1)
    notes.perform(2)
    assert notes.recorded() == {2: ROWS_A_PAGE}
    notes.grow(grown, 2)
    notes.rest()
    assert notes.old_rows() == 0
    assert notes.recorded() == dict.fromkeys(range(SHARDS), ROWS_A_PAGE)


def test_no_shard_of_a_table_that_grew_after_it_was_done_as_a_whole_is_due(notes: Notes) -> None:
    notes.grow(SMALL - 1, 1)
    notes.perform(0)
    notes.grow(2 * SMALL, 2)
    notes.rest()
    assert notes.old_rows() == 0
    assert notes.recorded() == {0: (SMALL - 1) * ROWS_A_PAGE, 1: 0, 2: 0, 3: 0}


def test_a_first_shard_is_a_part_if_another_one_is_begun_while_it_is_at_the_whole_table(notes: Notes) -> None:
    notes.grow(SMALL - 4, 1)

    def begin_another(_: Progress) -> None:
        if 3 not in notes.recorded():
            notes.perform(3)

    notes.perform(0, report=begin_another)
    assert notes.recorded().keys() == {0, 3}
    notes.rest()
    assert notes.old_rows() == 0
    assert sum(notes.recorded().values()) == (SMALL - 4) * ROWS_A_PAGE
