"""The fleet as people see it, and instances with a key that they must not have any more."""

from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.incidents.alerts import notices
from keyrotation_pipeline.model.fleet import Decrypted, Failed, Instance
from keyrotation_pipeline.model.requests import RequestStatus, Step
from keyrotation_pipeline.monitoring.fleet import fleet
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


@pytest.fixture
def rotated() -> FakeWorld:
    """A world in which v1 was rotated to v2 and archived."""
    world = before_any_rotation()
    run(world)
    return world


def run(world: FakeWorld, through: Step | None = None) -> str:
    rotation = approved(world)
    for _ in runner.run(world.pipeline, rotation.id, world.report, through):
        pass
    return rotation.id


def problem_of(world: FakeWorld) -> list[str]:
    return [sentence for sentence in overview(world.pipeline).attention if sentence.startswith("instance ")]


def waiting_for(world: FakeWorld) -> str | None:
    rotation = overview(world.pipeline).rotation
    assert rotation is not None
    return rotation.waiting_for


def test_the_fleet_says_who_reads_and_writes_what_and_who_still_needs_an_old_version(rotated: FakeWorld) -> None:
    decrypted = (Decrypted(V1, 12, START - timedelta(minutes=5)),)
    rotated.rollout.running = (
        Instance("web-1", (V2,), V2, START, decrypted=decrypted),
        Instance("web-2", (V1, V2), V2, START - timedelta(hours=3), silent=True),
    )
    assert fleet(rotated.pipeline) == {
        "generated_at": "2026-01-05T09:00:00+00:00",
        "database": "clinic@localhost",
        "mode": "attest",
        "primary": "v2",
        "instances": [
            {
                "instance": "web-1",
                "reads": ["v2"],
                "writes": "v2",
                "unproven": [],
                "names_primary": True,
                "reported_at": "2026-01-05T09:00:00+00:00",
                "silent": False,
                "problem": None,
                "decrypted": {"v1": {"values": 12, "last_at": "2026-01-05T08:55:00+00:00"}},
                "failed": {},
            },
            {
                "instance": "web-2",
                "reads": ["v1", "v2"],
                "writes": "v2",
                "unproven": [],
                "names_primary": True,
                "reported_at": "2026-01-05T06:00:00+00:00",
                "silent": True,
                "problem": None,
                "decrypted": {},
                "failed": {},
            },
        ],
        "workloads": {},
        "waiting_for": None,
        "attention": [],
    }


@pytest.mark.parametrize(
    ("reads", "writes", "sentence"),
    [
        pytest.param((V1, V2), V2, "still holds v1, which was taken from the applications", id="it reads the old key"),
        pytest.param((V1,), V1, "writes v1 while v2 is the primary", id="it writes under it"),
        pytest.param((V2,), V2, None, id="it is as it should be"),
        pytest.param((), None, None, id="nobody knows"),
    ],
)
def test_an_instance_that_comes_back_with_an_old_key_is_seen(
    rotated: FakeWorld, reads: tuple[KeyVersion, ...], writes: KeyVersion | None, sentence: str | None
) -> None:
    rotated.rollout.running = (Instance("web-2", (V2,), V2, START), Instance("old-pod", reads, writes, START))
    if sentence is None:
        assert problem_of(rotated) == []
        return
    [found] = problem_of(rotated)
    assert found.startswith("instance old-pod ")
    assert sentence in found


@pytest.mark.parametrize(
    ("reads", "heard", "found"),
    [
        pytest.param((V1, V2), timedelta(minutes=1), True, id="with the old key, after every one was seen without it"),
        pytest.param((V1, V2), timedelta(minutes=-1), False, id="before, so that its end was waited for or confirmed"),
        pytest.param((V2,), timedelta(minutes=1), False, id="without the old key"),
    ],
)
def test_an_instance_that_came_back_and_fell_silent_is_seen(
    rotated: FakeWorld, reads: tuple[KeyVersion, ...], heard: timedelta, found: bool
) -> None:
    rotated.rollout.running = (Instance("batch", reads, V2, START + heard, silent=True),)
    expected = ["instance batch came back with v1 after every instance had been seen without it, 2026-01-05 09:00 UTC"]
    assert [sentence.partition(", and is silent now")[0] for sentence in problem_of(rotated)] == expected * found


def test_one_that_fell_silent_is_news_for_a_day(rotated: FakeWorld) -> None:
    rotated.rollout.running = (Instance("batch", (V1, V2), V2, START + timedelta(minutes=1), silent=True),)
    rotated.clock.at = START + timedelta(hours=25)
    assert problem_of(rotated) == []


def test_a_report_that_does_not_count_is_attention_with_the_number_of_its_row(rotated: FakeWorld) -> None:
    problem = "row 7 of keyrotation.instance_reports: it has no valid proof that the instance holds v2"
    rotated.rollout.running = (
        Instance("web-1", (V2,), V2, START),
        Instance("web-2", (), None, START, unproven=(V2,), problem=problem),
    )
    [found] = problem_of(rotated)
    assert found.startswith(f"instance web-2: {problem}; compare its keys")
    assert fleet(rotated.pipeline)["attention"] == [found]
    assert fleet(rotated.pipeline)["instances"][1]["unproven"] == ["v2"]
    rotated.rollout.running = (replace(rotated.rollout.running[1], silent=True),)
    assert problem_of(rotated) == [found]
    rotated.clock.at = START + timedelta(hours=25)
    assert problem_of(rotated) == []


def test_a_key_that_the_key_store_lost_is_to_be_put_back_and_no_instance_is_blamed_for_having_it(
    rotated: FakeWorld,
) -> None:
    """As after a Secret was reverted: what instances have and report is right, and nothing is to be restarted."""
    unknown = "row 7 of keyrotation.instance_reports: it names a key that is not in the key store"
    rotated.rollout.running = (
        Instance("web-1", (V2,), V2, START, unproven=(V2,)),
        Instance("web-2", (), None, START, problem=unknown),
    )
    before = rotated.keys.live.copy()
    for live, primary, said in (
        ({}, V2, "restore-key v2"),
        ({V1: rotated.keys.shelf[V1]}, V1, "restore-key v2"),
        ({**before, V1: rotated.keys.shelf[V1]}, V1, "primary is v1, but v2 is active"),
    ):
        rotated.keys.live, rotated.keys.primary_version = dict(live), primary
        attention = overview(rotated.pipeline).attention
        assert any(said in each for each in attention), attention
        assert not [each for each in attention if "present keys" in each or "web-1" in each], attention
        if before.keys() - live.keys():
            assert not [each for each in attention if "revoke" in each], attention
            assert not [each for each in fleet(rotated.pipeline)["attention"] if "restore-key" not in each]


def test_many_reports_that_do_not_count_are_one_sentence_that_stays_the_same(rotated: FakeWorld) -> None:
    """Whoever inserts them must not be able to cause an alert with each."""
    said = set()
    for names in ("abcd", "abcdefgh"):
        rotated.rollout.running = tuple(Instance(each, (), None, START, problem=f"row {each}") for each in names)
        [found] = [each for each in overview(rotated.pipeline).attention if "do not count" in each]
        said.add(found.lstrip("0123456789"))
    assert len(said) == 1


def test_one_that_claims_an_old_key_without_proof_is_seen_too(rotated: FakeWorld) -> None:
    rotated.rollout.running = (Instance("web-1", (V2,), V2, START, unproven=(V1,)),)
    [found] = problem_of(rotated)
    assert "still holds v1, which was taken from the applications" in found


@pytest.mark.parametrize("silent", [False, True], ids=["it runs", "it ended"])
def test_values_decrypted_under_a_key_that_every_instance_had_let_go_are_reported_in_the_same_words_each_time(
    rotated: FakeWorld, silent: bool
) -> None:
    said = []
    for minutes, values in ((-1, 1), (1, 2), (5, 3)):
        decrypted = (Decrypted(V1, values, START + timedelta(minutes=minutes)),)
        rotated.rollout.running = (Instance("web-1", (V2,), V2, START, silent=silent, decrypted=decrypted),)
        said.append(problem_of(rotated))
    assert said[0] == []
    assert said[1] == said[2]
    assert said[1][0].startswith("instance web-1 decrypted values of v1 after every instance had been seen without it")


def test_what_a_rotation_waits_for_is_said_by_the_rotation_alone() -> None:
    world = before_any_rotation()
    run(world, Step.RETIRED_KEY)
    world.rollout.running = (Instance("web-1", (V1, V2), V2, START),)
    assert problem_of(world) == []
    assert "web-1 (reads v1, v2): not seen to be without v1" in str(waiting_for(world))
    world.rollout.running = None
    assert waiting_for(world) is None


def test_status_says_what_is_waited_for_before_anybody_ran_into_it() -> None:
    world = before_any_rotation()
    world.rollout.running = ()
    with pytest.raises(BlockedError):
        run(world)
    world.ledger.block(world.ledger.requests()[0].id, None)
    assert "no application instance reports itself" in str(waiting_for(world))
    assert "no application instance reports itself" in fleet(world.pipeline)["waiting_for"]


def test_status_says_why_a_step_that_runs_stands_still_and_since_when() -> None:
    world = before_any_rotation()
    run(world, Step.PRIMARY_KEY_ROLLOUT)
    (walk,) = world.ledger.requests()
    world.ledger.note_wait(walk.id, "clients shard 00", "pausing: standby x is late")
    assert waiting_for(world) == "clients shard 00: pausing: standby x is late (since 2026-01-05 09:00:00 UTC)"
    world.ledger.set_status(walk.id, RequestStatus.PAUSED)
    assert "is paused; continue with" in str(waiting_for(world))
    assert str(waiting_for(world)).endswith(" (since 2026-01-05 09:00:00 UTC)")


NINE = START.replace(minute=0, second=0)


def failing(name: str, **by_version: dict[timedelta, int]) -> Instance:
    failed = tuple(
        Failed(version, sum(minutes.values()), START, {NINE - ago: number for ago, number in minutes.items()})
        for version, minutes in by_version.items()
    )
    return Instance(name, (V1, V2), V2, START, failed=failed)


NOW, BEFORE, LONG_AGO = timedelta(0), timedelta(hours=2), timedelta(hours=25)


@pytest.mark.parametrize(
    ("instances", "reported"),
    [
        pytest.param((failing("a", v1={NOW: 10}),), None, id="ten"),
        pytest.param((failing("a", v1={NOW: 11}),), "11 values", id="eleven"),
        pytest.param((failing("a", v1={NOW: 6}), failing("b", v2={NOW: 5})), "11 values", id="of two together"),
        pytest.param((failing("a", v1={NOW: 6, BEFORE: 6}),), None, id="in two minutes"),
        pytest.param((failing("a", none={NOW: 11}),), "under none", id="that name no version"),
        pytest.param((failing("a", v1={LONG_AGO: 500}),), None, id="a day ago"),
        pytest.param((failing("a", v1={BEFORE: 30, NOW: 11}),), "30 values", id="the worst minute"),
    ],
)
def test_too_many_values_that_cannot_be_decrypted_are_attention_and_reported_once_an_hour(
    rotated: FakeWorld, instances: tuple[Instance, ...], reported: str | None
) -> None:
    rotated.rollout.running = instances
    sentences = [each for each in overview(rotated.pipeline).attention if "could not decrypt" in each]
    assert [each for each in fleet(rotated.pipeline)["attention"] if "could not decrypt" in each] == sentences
    alerts = {each.alert.key for each in notices(rotated.pipeline) if "decrypt" in each.alert.key}
    if reported is None:
        assert (sentences, alerts) == ([], set())
        return
    (sentence,) = sentences
    assert reported in sentence
    latest = max(minute for each in instances for failed in each.failed for minute in failed.minutes)
    assert alerts == {f"decrypt-failures/{latest:%Y-%m-%dT%H}"}
