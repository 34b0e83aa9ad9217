"""What is requested: from the primary to a version that was never used, in words that officers cannot misread."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyrotation_pipeline.errors import (
    ApprovalError,
    BlockedError,
    KeyRotationError,
    KeyStoreDamagedError,
    PreflightError,
    RequestError,
    WrongKeyError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import RotationType
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.requests.approvals import approval_text
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.rotation.key_checks import misdeclared, require_keys_open
from keyrotation_pipeline_tests.fakes import START, V1, V2, V3, FakeWorld
from keyrotation_pipeline_tests.fakes.inventory import FakeInventory, declared_tokens
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation, request

V9 = KeyVersion(9)


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def test_a_request_names_the_primary_the_next_version_and_the_audits_head(world: FakeWorld) -> None:
    world.ledger.append(Note(EventKind.BACKUP_MADE, {}))
    head = world.ledger.head()
    rotation = request(world)
    assert (rotation.source, rotation.target, rotation.type) == (V1, V2, RotationType.ROUTINE)
    assert rotation.source_fingerprint == world.keys.get(V1).fingerprint
    assert rotation.audit_head == (head.seq, head.hash)
    assert world.ledger.walk(rotation.id) == rotation
    assert f"Audit head: {head.seq} {head.hash}\n".encode() in world.ledger.approval_text(rotation.id)


def test_the_stored_text_is_what_the_facts_rebuild(world: FakeWorld) -> None:
    rotation = request(world)
    assert approval_text(world.pipeline, rotation) == world.ledger.approval_text(rotation.id)


def test_two_requests_never_have_the_same_id(world: FakeWorld) -> None:
    first = request(world)
    cancel(world.pipeline, first)
    assert request(world).id != first.id


def registered_and_destroyed(world: FakeWorld) -> None:
    world.ledger.state.keys[V2] = KeyRecord(V2, KeyState.DESTROYED, "2f" * 32, START)


def stored_only(world: FakeWorld) -> None:
    world.keys.live[V2] = KeyMaterial.generate()


def archived_only(world: FakeWorld) -> None:
    world.keys.shelf[V2] = KeyMaterial.generate()


def seen_in_the_data(world: FakeWorld) -> None:
    world.database.rows["clients"][0]["email"] = "v2:written by a stranger"


@pytest.mark.parametrize("trace", [stored_only, archived_only])
def test_a_key_of_which_the_database_knows_nothing_stops_the_request(
    world: FakeWorld, trace: Callable[[FakeWorld], None]
) -> None:
    trace(world)
    with pytest.raises(BlockedError, match=r"holds v2, of which the database knows nothing.*keyrotation reconcile"):
        request(world)


@pytest.mark.parametrize(("trace", "incident"), [(registered_and_destroyed, None), (seen_in_the_data, "INC-7")])
def test_a_version_that_was_ever_used_is_never_used_again(
    world: FakeWorld, trace: Callable[[FakeWorld], None], incident: str | None
) -> None:
    trace(world)
    assert request(world, incident=incident).target == V3


def test_values_of_a_version_without_a_key_stop_a_routine_request_and_no_emergency(world: FakeWorld) -> None:
    seen_in_the_data(world)
    with pytest.raises(WrongKeyError, match=r"values under v2 \(1 tried\), and no key for it .* `keyrotation init`"):
        request(world)
    assert request(world, incident="INC-7").target == V3


def test_a_key_that_opens_no_value_stops_an_emergency_too(world: FakeWorld) -> None:
    world.database.sealed_under[V1] = KeyMaterial.generate().fingerprint
    with pytest.raises(WrongKeyError, match=r"decrypts none of the .* values tried under v1"):
        request(world, incident="INC-7")


def test_one_damaged_value_of_another_version_stops_no_emergency(world: FakeWorld) -> None:
    """As of an older version after a rotation that has not finished; whoever may write a row can write it."""
    key = world.keys.live[V2] = KeyMaterial.generate()
    world.ledger.state.keys[V2] = KeyRecord(V2, KeyState.DEACTIVATED, key.fingerprint, START)
    world.database.rows["clients"].append({"first_name": "v2:damaged", "email": None})
    world.database.sealed_under[V2] = KeyMaterial.generate().fingerprint
    with pytest.raises(WrongKeyError, match=r"decrypts none of the 1 values tried under v2"):
        request(world)
    assert request(world, incident="INC-7").target == V3


@pytest.mark.parametrize(
    ("given", "start", "finish"),
    [
        pytest.param({}, timedelta(days=30), timedelta(days=90), id="routine"),
        pytest.param({"incident": "INC-7"}, timedelta(days=7), timedelta(days=7), id="emergency"),
        pytest.param(
            {"start_by": START + timedelta(days=1, microseconds=5), "finish_by": START + timedelta(days=2)},
            timedelta(days=1),
            timedelta(days=2),
            id="given, to the second",
        ),
        pytest.param(
            {"finish_by": START + timedelta(days=2)}, timedelta(days=2), timedelta(days=2), id="finish before any start"
        ),
    ],
)
def test_the_dates_follow_the_kind_of_rotation(
    world: FakeWorld, given: dict[str, object], start: timedelta, finish: timedelta
) -> None:
    rotation = request(world, **given)
    assert (rotation.start_by - START, rotation.finish_by - START) == (start, finish)


def test_an_incident_makes_it_an_emergency_and_is_signed(world: FakeWorld) -> None:
    rotation = request(world, incident="INC-7")
    assert rotation.type is RotationType.EMERGENCY
    assert b"Reason: incident INC-7: yearly rotation\n" in world.ledger.approval_text(rotation.id)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        pytest.param({"reason": "a\nAction: destroy"}, ApprovalError, "Reason holds", id="newline in the reason"),
        pytest.param({"reason": "a\u202eb"}, ApprovalError, "Reason holds", id="bidi in the reason"),
        pytest.param({"reason": ""}, ApprovalError, "Reason is empty", id="no reason"),
        pytest.param({"reason": "x" * 1001}, ApprovalError, "at most 1000", id="endless reason"),
        pytest.param({"incident": "a\nb"}, ApprovalError, "Incident holds", id="newline in the incident"),
        pytest.param(
            {"requested_by": "x" * 256},
            ApprovalError,
            "at most 255",
            id="name too long for the source procedure's column",
        ),
        pytest.param({"finish_by": START}, RequestError, "correct the two dates", id="finishes before it starts"),
        pytest.param({"start_by": START - timedelta(1)}, RequestError, "correct the two dates", id="starts before now"),
    ],
)
def test_what_officers_could_misread_or_never_keep_is_refused(
    world: FakeWorld, given: dict[str, object], error: type[KeyRotationError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        request(world, **given)
    assert world.ledger.requests() == ()


def test_a_second_request_is_refused_and_names_the_first(world: FakeWorld) -> None:
    first = request(world)
    with pytest.raises(RequestError, match=first.id):
        request(world)


def test_a_table_that_cannot_be_rotated_stops_the_request(world: FakeWorld) -> None:
    world.database.problems = (Problem("column clients.email is too narrow; widen it to 200", fatal=True),)
    with pytest.raises(PreflightError, match="too narrow"):
        request(world)
    assert world.ledger.current() is None


def test_applications_that_would_not_get_the_new_key_stop_the_request(world: FakeWorld) -> None:
    world.rollout.problems = (Problem("Deployment/api: container web would not get it; add envFrom", fatal=True),)
    with pytest.raises(PreflightError, match="Deployment/api: container web would not get it"):
        request(world)
    assert world.ledger.current() is None


def test_a_key_store_with_another_key_under_the_same_version_stops_the_request(world: FakeWorld) -> None:
    world.keys.live[V1] = KeyMaterial.generate()
    with pytest.raises(KeyStoreDamagedError, match=r"another v1 .* than the registered one"):
        request(world)


def test_without_a_primary_init_comes_first(world: FakeWorld) -> None:
    world.keys.primary_version = None
    with pytest.raises(RequestError, match="run `keyrotation init`"):
        request(world)


def test_another_primary_than_the_database_knows_stops_the_request(world: FakeWorld) -> None:
    world.keys.primary_version = V9
    with pytest.raises(BlockedError, match="primary is v9, but v1 is active in the database"):
        request(world)


def test_an_emergency_of_many_tables_tries_keys_for_seconds_and_a_routine_request_all(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    look = FakeInventory.decrypt_sample

    def slowly(inventory: FakeInventory, table: EncryptedTable, *arguments: Any) -> KeyTrial:  # noqa: ANN401
        tried.append(str(table.name))
        world.clock.at += timedelta(seconds=2)
        return look(inventory, table, *arguments)

    monkeypatch.setattr(FakeInventory, "decrypt_sample", slowly)
    tables = tuple(EncryptedTable(TableName("public", f"t{number}"), ("email",)) for number in range(5))
    world.database.rows |= {str(table.name): [] for table in tables}
    pipeline, stored = replace(world.pipeline, tables=tables), world.keys.read()
    require_keys_open(pipeline, stored, {}, emergency=True)
    assert tried == ["t0", "t1"]
    require_keys_open(pipeline, stored, {})
    assert tried == ["t0", "t1", "t0", "t1", "t2", "t3", "t4"]


def test_a_refusal_names_a_few_of_many_versions_that_somebody_wrote_names_of(world: FakeWorld) -> None:
    world.database.rows["clients"] += [{"first_name": f"v{number}:x", "email": None} for number in range(100, 130)]
    with pytest.raises(WrongKeyError, match=r"under v100 .*; and 25 more versions$"):
        request(world)


def all_in_another_format(world: FakeWorld) -> None:
    for row in world.database.rows["clients"]:
        row["email"] = "gAAAAAtoken"


@pytest.mark.parametrize("share", [0.51, 1.0])
def test_a_column_in_another_format_stops_a_routine_request_and_no_emergency(world: FakeWorld, share: float) -> None:
    all_in_another_format(world)
    world.database.other_formats = (replace(declared_tokens("clients", "email"), share=share),)
    with pytest.raises(PreflightError, match=r"clients\.email is declared as native, but .* are fernet, and none is"):
        request(world)
    assert request(world, incident="INC-7").target == V2


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_column_of_a_member_in_another_format_stops_a_request_by_its_name(
    world: FakeWorld, *, elsewhere: bool
) -> None:
    """And no other database's table of the same name."""
    north, found = (
        EncryptedTable(TableName("public", "clients", "north"), ("email",)),
        declared_tokens("clients", "email"),
    )
    world.database.rows["north:clients"] = [{"email": "gAAAAAtoken"}]
    at = replace(found.place, table=f"{'south' if elsewhere else 'north'}:public.clients")
    world.database.other_formats = (replace(found, place=at),)
    pipeline = replace(world.pipeline, tables=(*world.pipeline.tables, north))
    wrong = misdeclared(pipeline, pipeline.inventory.count(pipeline.tables))
    assert [each.partition(" is declared")[0] for each in wrong] == ([] if elsewhere else ["north:clients.email"])


@pytest.mark.parametrize(
    ("column", "share", "own"),
    [
        pytest.param("email", 1.0, "v1:of our own", id="one value of ours"),
        pytest.param("email", 0.5, "gAAAAAtoken", id="half of them"),
        pytest.param("first_name", 1.0, "gAAAAAtoken", id="another column"),
    ],
)
def test_values_of_another_format_next_to_ours_are_no_reason_to_refuse(
    world: FakeWorld, column: str, share: float, own: str
) -> None:
    all_in_another_format(world)
    world.database.rows["clients"][0]["email"] = own
    world.database.other_formats = (replace(declared_tokens("clients", column), share=share),)
    assert request(world).target == V2
