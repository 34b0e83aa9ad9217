"""Each flag is taken exactly once, whatever dies; a malformed one is rejected with its reason."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.incidents.opening import poll_flags
from keyrotation_pipeline.model.incidents import Flag, IncidentType, checked
from keyrotation_pipeline_tests.fakes import START, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.unit.incidents.cases import FLAG, raised
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

KEY = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


@pytest.mark.parametrize("type_", IncidentType)
def test_every_trigger_of_the_procedure_is_a_type(type_: IncidentType) -> None:
    assert checked(replace(FLAG, type=str(type_)), START).type is type_


@pytest.mark.parametrize("version", [KeyVersion(2), KeyVersion(2, 2)], ids=str)
@pytest.mark.parametrize("plaintext", ["", "a", "ab", "abc"])
def test_a_stored_value_of_either_generation_is_rejected_whatever_its_padding(
    version: KeyVersion, plaintext: str
) -> None:
    ring = KeyRing({version: KeyMaterial.generate()}, version)
    value = encrypt(ring, plaintext, "clients.email")
    with pytest.raises(IncidentError, match="its description holds what looks like"):
        checked(replace(FLAG, description=f"seen in the log: {value}"), START)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"type": "fire"}, "its type is not one of key_exposed, unauthorized_access", id="unknown type"),
        pytest.param({"type": None}, "its type", id="no type"),
        pytest.param({"source": None}, "its source is missing", id="no source"),
        pytest.param({"description": " "}, "its description is missing", id="empty description"),
        pytest.param({"description": "a\nb"}, "one plain line", id="two lines"),
        pytest.param({"description": "a\u202eb"}, "one plain line", id="text that runs backwards"),
        pytest.param({"description": "a\u3164b"}, "one plain line", id="a letter that is blank"),
        pytest.param({"scope": "a\x9bb"}, "one plain line", id="a control character of 8 bits"),
        pytest.param({"description": "x" * 801}, "more than 800", id="too long"),
        pytest.param({"description": f"key {KEY} leaked"}, "looks like a key", id="a key"),
        pytest.param({"scope": "v1:AAAAAAAAAAAAAAAA:AAAA"}, "its scope holds what looks like", id="a stored value"),
        pytest.param({"discovered_at": None}, "its discovered_at is missing", id="no moment"),
        pytest.param({"discovered_at": datetime(1999, 1, 1, tzinfo=UTC)}, "not a date since 2000", id="long ago"),
        pytest.param({"discovered_at": START + timedelta(hours=1)}, "in the future", id="to come"),
        pytest.param({"versions": ("v01",)}, "not a version", id="no version"),
    ],
)
def test_a_malformed_flag_is_rejected_and_its_reason_shows_nothing_of_it(
    world: FakeWorld, changes: dict[str, object], reason: str
) -> None:
    world.ledger.flags = [replace(FLAG, **changes)]  # type: ignore[arg-type]
    (taken,) = poll_flags(world.pipeline, (), "sensor").taken
    assert taken.incident is None
    assert reason in (taken.set_aside or "")
    assert KEY not in json.dumps(world.ledger.facts_of("incident_flag_set_aside"))
    assert poll_flags(world.pipeline, (), "sensor").taken == ()


def test_a_clock_that_is_a_minute_ahead_does_no_harm() -> None:
    assert checked(replace(FLAG, discovered_at=START + timedelta(minutes=1)), START).discovered_at == START


def test_flags_are_taken_once_through_kills_restarts_and_duplicates(world: FakeWorld) -> None:
    """Thirty flags, of which every third repeats the one before, and every tenth is malformed."""
    world.ledger.flags = [
        raised(
            number, description=f"log file {number - (number % 3 == 2)}", type="fire" if number % 10 == 0 else "insider"
        )
        for number in range(1, 31)
    ]
    deaths, allowed = 0, 0
    while True:
        world.journal.die_at = len(world.journal.entries) + allowed
        before = world.ledger.head().seq
        try:
            poll_flags(world.pipeline, (), "sensor")
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
            allowed = allowed + 1 if world.ledger.head().seq == before else 0
        else:
            break
    names = world.ledger.event_names()
    flags = [json.loads(event.body)["facts"].get("flag") for event in world.ledger.state.events]
    assert sorted(filter(None, flags), key=lambda key: int(key.split()[1])) == [f"row {each}" for each in range(1, 31)]
    assert names.count("incident_flag_set_aside") == 3
    assert names.count("incident_flag_repeated") == 8
    opened = incidents(world.ledger)
    assert len(opened.by_id) == names.count("incident_opened") == 19
    assert len({each.request for each in opened.by_id.values()}) == 1
    assert deaths > 30


class Alarms:
    """A source that does not answer, and one whose flag stays up."""

    def __init__(self, *flags: Flag) -> None:
        self.flags = flags

    def raised(self) -> tuple[Flag, ...]:
        if not self.flags:
            raise IncidentError("CloudWatch does not report its alarms")
        return self.flags


def test_an_alarm_that_stays_up_is_taken_once_and_a_dead_source_hides_no_other(world: FakeWorld) -> None:
    world.ledger.flags = [raised(1)]
    alarm = raised(2, key="alarm key-access 2026-01-05T08:00:00+00:00")
    first = poll_flags(world.pipeline, (Alarms(), Alarms(alarm)), "sensor")
    assert [each.incident for each in first.taken] == ["INC-2026-001", "INC-2026-002"]
    assert first.trouble == ("CloudWatch does not report its alarms",)
    assert poll_flags(world.pipeline, (Alarms(alarm),), "sensor").taken == ()
