"""Sensors, console and status show what members answered; each is asked rarely, over one connection at a time."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from time import process_time
from typing import Any, cast

import pytest

from keyrotation_pipeline.adapters.fleet.answers import FleetQuestions
from keyrotation_pipeline.adapters.fleet.members import KEPT_OPEN, Members, OwnTables
from keyrotation_pipeline.assembly.fleet import over_members
from keyrotation_pipeline.cli.status import lines
from keyrotation_pipeline.console.gathering import console
from keyrotation_pipeline.console.pages import databases_page, front_page
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.status_page import status_metadata
from keyrotation_pipeline.errors import CopyAheadError, DatabaseUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import DatabaseServer, MemberFound
from keyrotation_pipeline.model.fleet_summary import FleetSummary, databases_of, tables_in_fleet
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.members import member_line
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.proof import MemberState
from keyrotation_pipeline.model.records import as_json
from keyrotation_pipeline.model.requests import WALK, Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.monitoring.members import ASKED_EVERY, Asked, ask_due, blind_spots
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.database import DatabasePorts
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.conductor import decide
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.fences import last_change
from keyrotation_pipeline.settings.loading import CONSOLE_VARIABLE
from keyrotation_pipeline_tests.fakes import V1, FakeWorld, fake_pipeline
from keyrotation_pipeline_tests.fakes.journal import CLIENTS
from keyrotation_pipeline_tests.fakes.world import rotation_of

TABLES = 10


@dataclass
class Watched:
    """A world of members over fakes, each opened as a real one is; what was opened, and what the lead was asked."""

    world: FakeWorld
    ports: DatabasePorts
    opened: Counter[str] = field(default_factory=Counter)
    open_now: int = 0
    most_open: int = 0
    down: set[str] = field(default_factory=set)
    ahead: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)

    @property
    def pipeline(self) -> Pipeline:
        return self.world.pipeline

    def member(self, name: str) -> "FakeMember":
        self.opened[name] += 1
        if name in self.down:
            raise DatabaseUnavailableError("no server answers there; correct host and port in [database] url")
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        return FakeMember(name, self)


@dataclass
class FakeMember:
    name: str
    watched: Watched
    is_open: bool = True

    @property
    def ports(self) -> DatabasePorts:
        return self.watched.ports

    def bring_up_to_date(self) -> None:
        """It is."""

    def require_unmoved(self) -> None:
        """It is."""

    def require_copy(self) -> None:
        if self.name in self.watched.ahead:
            raise CopyAheadError("its copy of the audit has events; run `keyrotation reconcile`")

    def found(self) -> MemberFound:
        return MemberFound(DatabaseServer("there", 1), None)

    def transaction(self) -> AbstractContextManager[object]:
        return nullcontext()

    def limited(self, seconds: float) -> AbstractContextManager[None]:
        assert seconds > 0
        return nullcontext()

    def state(self, tables: Sequence[EncryptedTable], relations: str = "") -> MemberState:
        raise NotImplementedError

    def wal_position(self) -> str:
        return "0/0"

    def has_reached(self, lsn: str) -> bool:
        return bool(lsn)

    def close(self) -> None:
        assert self.is_open
        self.is_open = False
        self.watched.open_now -= 1


class Counting:
    """A port that counts what it is asked."""

    def __init__(self, port: object, asked: Counter[str]) -> None:
        self._port, self._asked = port, asked

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the port has
        self._asked[f"{type(self._port).__name__}.{name}"] += 1
        return getattr(self._port, name)


def fleet_of(members: int, tables: int = TABLES) -> tuple[Watched, Members]:
    names = [f"m{number:04d}" for number in range(members)]
    world = fake_pipeline({"clients": [], **{f"{name}:t{number}": [] for name in names for number in range(tables)}})
    own = world.pipeline
    lead = DatabasePorts(own.inventory, own.rewriting, own.fencing, own.evidence, own.environment)
    watched = Watched(world, lead)
    counting = DatabasePorts(
        **{each.name: cast("Any", Counting(getattr(lead, each.name), watched.asked)) for each in fields(lead)}
    )
    opener = Members(counting, {name: partial(watched.member, name) for name in names})
    ports = over_members(counting, opener, cast("OwnTables", None))
    fleet_pipeline = replace(
        world.pipeline,
        ledger=cast("Any", Counting(world.ledger, watched.asked)),
        hosts=tuple(member_line(name, "clinic, system identifier 7") for name in names),
        ask_member=FleetQuestions(opener, world.ledger, world.clock),
        **{each.name: getattr(ports, each.name) for each in fields(ports)},
    )
    world.pipeline = fleet_pipeline
    return watched, opener


@pytest.fixture
def small() -> tuple[Watched, Members]:
    return fleet_of(3, 1)


def _walk(pipeline: Pipeline) -> Walk:
    walk = pipeline.ledger.current()
    assert walk is not None
    return walk


LOOKS: dict[str, Callable[[Pipeline], object]] = {
    "status": overview,
    "console": console,
    "conductor": lambda pipeline: runner.next_decision(Situation(pipeline), _walk(pipeline)),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_asks_no_member_and_the_lead_as_often_however_many_there_are(look: str) -> None:
    asked = dict[int, Counter[str]]()
    for members in (2, 1000):
        watched, _ = fleet_of(members)
        rotation_of(watched.world)
        assert ask_due(watched.pipeline) == Asked(members, 0)
        watched.opened.clear()
        watched.asked.clear()
        LOOKS[look](watched.pipeline)
        assert not watched.opened
        asked[members] = +watched.asked
    assert asked[2]
    assert asked[2] == asked[1000]


def test_each_member_is_asked_once_in_fifteen_minutes_over_one_connection_at_a_time() -> None:
    watched, _ = fleet_of(200)
    pipeline, clock = watched.pipeline, watched.world.clock
    for minutes in range(45):
        ask_due(pipeline)
        assert set(watched.opened.values()) == {1 + minutes // 15}
        clock.at += timedelta(minutes=1)
    assert (watched.most_open, watched.open_now) == (1, 0)


def test_a_round_begins_with_no_further_member_when_its_time_is_over_and_the_next_goes_on() -> None:
    watched, opener = fleet_of(4, 1)
    pipeline, clock = watched.pipeline, watched.world.clock
    ask = pipeline.ask_member

    assert ask is not None

    def slow(member: str, tables: Sequence[EncryptedTable], others: Sequence[str]) -> MemberAnswer:
        clock.sleep(6)
        return ask(member, tables, others)

    pipeline = replace(pipeline, ask_member=slow)
    assert ask_due(pipeline, seconds=10) == Asked(2, 2)
    assert ask_due(pipeline, seconds=10) == Asked(2, 0)
    assert set(watched.opened.values()) == {1}
    assert set(opener.open) == set(watched.opened)


def test_one_that_is_down_is_named_and_a_person_has_it_asked_again(small: tuple[Watched, Members]) -> None:
    watched, opener = small
    pipeline, clock = watched.pipeline, watched.world.clock
    watched.down.add("m0001")
    ask_due(pipeline)
    told = [each for each in overview(pipeline).attention if "m0001" in each and "was not seen" in each]
    assert len(told) == 1
    assert "[[databases]] m0001 url" in told[0]
    answer = overview(pipeline).answers["m0001"]
    assert (answer.answered_at, answer.asked_at) == (None, clock.now())
    watched.down.clear()
    opener._silent.clear()  # noqa: SLF001 - another process asks
    clock.at += timedelta(minutes=1)
    assert ask_due(pipeline) == Asked(0, 0)
    assert ask_due(pipeline, by_person=True) == Asked(1, 0)
    assert not [each for each in overview(pipeline).attention if "was not seen" in each]


def test_many_that_are_down_are_one_sentence() -> None:
    watched, _ = fleet_of(20, 1)
    watched.down |= {f"m{number:04d}" for number in range(10)}
    ask_due(watched.pipeline)
    (told,) = (each for each in overview(watched.pipeline).attention if "do not answer" in each)
    assert "10 databases do not answer" in told
    assert "m0009" in told


def test_a_copy_of_the_audit_that_is_ahead_is_told(small: tuple[Watched, Members]) -> None:
    watched, _ = small
    watched.ahead.add("m0002")
    ask_due(watched.pipeline)
    assert any("m0002" in each and "reconcile" in each for each in overview(watched.pipeline).attention)


def test_after_a_change_of_keys_nothing_is_said_of_fences_seen_before_until_members_are_asked_again(
    small: tuple[Watched, Members],
) -> None:
    """A retirement is one: what it fenced would look as if it was taken away."""
    watched, _ = small
    watched.world.database.fence_state["m0000:t0"] = (V1,)

    def refused() -> Sequence[KeyVersion]:
        shown = overview(watched.pipeline).tables
        return next(each.fenced_against for each in shown if str(each.table.name) == "m0000:t0")

    ask_due(watched.pipeline)
    assert refused() == (V1,)
    ledger = watched.world.ledger
    before = last_change(ledger) - 1
    ledger.save_answers([replace(each, audit_seq=before) for each in ledger.answers().values()])
    assert refused() == ()
    assert ask_due(watched.pipeline) == Asked(3, 0)
    assert refused() == (V1,)
    assert ask_due(watched.pipeline) == Asked(0, 0)


def test_what_nobody_asked_for_an_hour_is_a_warning(small: tuple[Watched, Members]) -> None:
    watched, _ = small
    pipeline, clock = watched.pipeline, watched.world.clock
    assert any("none of m0000, m0001, m0002 was ever asked" in each for each in overview(pipeline).warnings)
    ask_due(pipeline)
    assert not [each for each in overview(pipeline).warnings if "asked" in each]
    clock.at += ASKED_EVERY * 5
    assert any("was asked since" in each for each in overview(pipeline).warnings)


def test_what_is_signed_asks_members_whatever_they_answered_before(small: tuple[Watched, Members]) -> None:
    watched, _ = small
    pipeline = watched.pipeline
    watched.down.add("m0000")
    ask_due(pipeline)
    watched.down.clear()
    watched.opened.clear()
    pipeline.environment.blind_spots()
    assert {"m0001", "m0002"} <= set(watched.opened)


def test_so_many_stay_open_and_what_is_in_use_is_not_closed() -> None:
    watched, opener = fleet_of(KEPT_OPEN + 20, 1)
    names = list(opener.open)
    with opener.member(names[0]) as first:
        for name in names:
            with opener.at(name):
                pass
        assert first.is_open
    assert watched.most_open == KEPT_OPEN
    assert set(watched.opened.values()) == {1}
    opener.close()
    assert watched.open_now == 0


class Tables(tuple[EncryptedTable, ...]):
    """Counts how often it is gone through."""

    __slots__ = ()
    passes = 0

    def __iter__(self) -> Iterator[EncryptedTable]:
        Tables.passes += 1
        return super().__iter__()


def test_a_decision_goes_through_the_tables_once_however_many_databases_they_are_in() -> None:
    world = fake_pipeline()
    rotation = rotation_of(world)
    tables = Tables(EncryptedTable(TableName("public", "t", f"m{number}"), CLIENTS.columns) for number in range(50))
    done = tuple(StepRecord(step, None, None, world.clock.now(), {}) for step in WALK[: WALK.index(Step.ROWS)])
    Tables.passes = 0
    walk = replace(rotation, steps=tuple(sorted(done, key=lambda each: each.order)))
    tasks = decide(walk, 2, tables, 2, world.clock.now()).tasks
    assert [str(each.shard.table.name) for each in tasks if each.shard][:3] == ["m0:t", "m0:t", "m1:t"]
    assert (len(tasks), Tables.passes) == (100, 1)


def fleet_at_rows(databases: int) -> Pipeline:
    """In the middle of a walk: m0007 is down, m0009 is not begun, all others are re-encrypted."""
    watched, opener = fleet_of(databases)
    rotation, database = rotation_of(watched.world), watched.world.database
    for name in ("m0000:t0", "m0001:t0"):
        database.fence_state[name] = (V1,)
    opener.close()
    watched.down.add("m0007")
    ask_due(watched.pipeline)
    pipeline = watched.pipeline
    pipeline.ledger.save_counts(watched.ports.inventory.count(pipeline.tables))
    began = watched.world.clock.now()
    steps = [StepRecord(step, None, None, began, {}) for step in WALK[: WALK.index(Step.ROWS)]]
    steps += [
        StepRecord(Step.ROWS, str(table.name), shard, began, as_json(Rewritten()))
        for table in pipeline.tables
        if table.name.database != "m0009"
        for shard in range(pipeline.shards)
    ]
    requests = watched.world.ledger.state.requests
    requests[rotation.id] = replace(rotation, started_at=began, steps=tuple(sorted(steps, key=lambda each: each.order)))
    return pipeline


def test_the_status_of_two_hundred_databases_is_a_few_lines_and_verbose_names_each() -> None:
    pipeline = fleet_at_rows(200)
    shown = overview(pipeline)
    text = [str(each) for each in lines(shown, blind_spots(pipeline.environment, shown.answers.values()), (), None)]
    assert len(text) < 60
    (fleet,) = (each for each in text if "201 databases" in each)
    assert (
        "201 databases, 200 re-encrypted, slowest m0009 at 0%; see to m0007; asked 0 s ago" in fleet
    )  # m0000: no backup
    (first,) = (each for each in tables_in_fleet(shown.tables) if str(each.name) == "t0")
    assert (first.databases, first.refuses) == (200, "v1 (2 of 200)")
    every = lines(shown, blind_spots(pipeline.environment, shown.answers.values()), (), None, verbose=True)
    assert sum("Member" in str(each) for each in every) == 200
    page = front_page(console(pipeline), None).decode()
    assert page.count('class="bar"') == TABLES + 1
    assert "201 databases, 200 re-encrypted" in page
    assert 'href="/console/databases"' in page


def test_a_page_lists_each_database_and_those_first_that_need_somebody() -> None:
    pipeline = fleet_at_rows(20)
    needy, begun, *done = databases_of(overview(pipeline))
    assert (needy.name, needy.state) == ("m0007", "does not answer, or cannot be used")
    assert len([each for each in needy.needs if "no server answers there" in each]) == 1
    assert (begun.name, begun.share, begun.state) == ("m0009", 0.0, "answers")
    assert {each.share for each in done} == {1.0}
    assert [each.state for each in done if not each.name] == ["the home's own"]
    page = (databases_page(pipeline, None) or b"").decode()
    assert page.count('<th scope="row">') == 21
    assert "What needs a person" in page
    assert page.rindex("m0007") < page.rindex("m0009") < page.rindex("m0000")


def test_one_database_has_no_page_of_databases() -> None:
    assert databases_page(fake_pipeline().pipeline, None) is None


def test_dagster_shows_a_fleet_in_a_sentence_and_links_to_each_database(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = overview(fleet_at_rows(20))
    monkeypatch.setenv(CONSOLE_VARIABLE, "/")
    text = str(status_metadata(shown, OWN)["databases"].value)
    said = "21 databases, 20 re-encrypted, slowest m0009 at 0%; see to m0007"
    assert said in " ".join(text.replace("\\", "").split())
    assert "[each database](/console/databases)" in text
    assert "databases" not in status_metadata(overview(fake_pipeline().pipeline), OWN)


def test_of_many_that_need_somebody_a_sentence_names_three() -> None:
    watched, _ = fleet_of(20, 1)
    watched.down |= set(watched.pipeline.members)
    ask_due(watched.pipeline)
    shown = overview(watched.pipeline)
    assert FleetSummary.of(shown).in_words == "21 databases; see to m0000, m0001, m0002 and 17 more"


@pytest.mark.parametrize("make", [lambda own: front_page(console(own), None), lambda own: databases_page(own, None)])
def test_a_page_of_a_thousand_databases_takes_less_than_three_seconds(make: Callable[[Pipeline], object]) -> None:
    pipeline = fleet_at_rows(1000)
    began = process_time()
    make(pipeline)
    assert process_time() - began < 3
