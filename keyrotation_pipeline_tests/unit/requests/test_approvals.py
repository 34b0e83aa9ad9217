"""Approvals: two officers, over exactly this text, in time, and looked at again whenever it matters."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from keyrotation_pipeline.errors import ApprovalError, RequestError
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.model.environment import BlindSpots, Unsearched
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.requests.approvals import add_approval, approval_text, require_authorised
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V3, FakeSignatures, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

EVE = Officer("Eve", "E" * 40)


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def test_two_officers_authorise_and_one_does_not(world: FakeWorld) -> None:
    rotation = request(world)
    assert sign(world, rotation, ADA) == ("Ada", 1)
    with pytest.raises(ApprovalError, match="needs 1 more signature"):
        require_authorised(world.pipeline, world.ledger.walk(rotation.id), world.pipeline.keys.read())
    assert sign(world, rotation, BEN) == ("Ben", 2)
    require_authorised(world.pipeline, world.ledger.walk(rotation.id), world.pipeline.keys.read())


def test_one_officer_twice_counts_once(world: FakeWorld) -> None:
    rotation = request(world)
    sign(world, rotation, ADA)
    with pytest.raises(ApprovalError, match="Ada has signed this request already"):
        sign(world, rotation, ADA)


def test_signatures_filed_under_other_names_do_not_count_twice(world: FakeWorld) -> None:
    rotation = request(world)
    sign(world, rotation, ADA)
    (stored,) = world.ledger.signatures(rotation.id)
    world.ledger.refuses = False
    world.ledger.add_signature(rotation.id, replace(stored, officer=BEN))
    with pytest.raises(ApprovalError, match="needs 1 more signature"):
        require_authorised(world.pipeline, world.ledger.walk(rotation.id), world.pipeline.keys.read())


def test_a_signature_over_one_space_more_does_not_count(world: FakeWorld) -> None:
    rotation = request(world)
    text = world.ledger.approval_text(rotation.id).replace(b"Reason: ", b"Reason:  ")
    with pytest.raises(ApprovalError, match="not over this text"):
        add_approval(world.pipeline, rotation, FakeSignatures.sign(ADA, text))


@pytest.mark.parametrize(
    ("signed_at", "sentence"),
    [
        pytest.param(START - timedelta(seconds=1), "dated before the request", id="backdated"),
        pytest.param(START + timedelta(seconds=1), "dated in the future", id="from the future"),
        pytest.param(START, None, id="in the second of the request"),
    ],
)
def test_a_signature_counts_from_the_request_until_now(
    world: FakeWorld, signed_at: datetime, sentence: str | None
) -> None:
    world.clock.at = START + timedelta(milliseconds=700)
    rotation = request(world)
    world.signatures.signed_at = signed_at
    if sentence is None:
        assert sign(world, rotation, ADA) == ("Ada", 1)
        return
    with pytest.raises(ApprovalError, match=sentence):
        sign(world, rotation, ADA)
    assert world.ledger.signatures(rotation.id) == ()


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        pytest.param(timedelta(days=31), "did not start by", id="not started in time"),
        pytest.param(timedelta(days=91), "did not start by|was to be finished by", id="not finished in time"),
    ],
)
def test_a_request_past_its_dates_takes_no_signature_and_authorises_nothing(
    world: FakeWorld, after: timedelta, sentence: str
) -> None:
    rotation = approved(world)
    world.clock.at += after
    with pytest.raises(RequestError, match=sentence):
        require_authorised(world.pipeline, rotation, world.pipeline.keys.read())
    with pytest.raises(RequestError, match=sentence):
        sign(world, rotation, ADA)


def test_a_started_rotation_continues_until_it_had_to_be_finished(world: FakeWorld) -> None:
    rotation = approved(world)
    world.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    running = world.ledger.walk(rotation.id)
    world.clock.at += timedelta(days=89)
    require_authorised(world.pipeline, running, world.pipeline.keys.read())
    world.clock.at += timedelta(days=2)
    with pytest.raises(RequestError, match="was to be finished by"):
        require_authorised(world.pipeline, running, world.pipeline.keys.read())


def test_a_rotation_that_is_over_takes_no_signature(world: FakeWorld) -> None:
    rotation = request(world)
    cancel(world.pipeline, rotation)
    with pytest.raises(RequestError, match="is cancelled"):
        sign(world, rotation, ADA)


def fewer_required(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, required=1)


def another_officer(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, officers=(ROSTER.officers[0], EVE))


def one_officer_more(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, officers=(*ROSTER.officers, EVE))


def names_exchanged(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, officers=(Officer("Ada", BEN), Officer("Ben", ADA)))


def another_recipient(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, recipients=("E" * 40,))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (fewer_required, "required in"),
        (another_officer, "officers in"),
        (one_officer_more, "officers in"),
        (names_exchanged, "officers in"),
        (another_recipient, "recipients in"),
    ],
)
def test_a_configured_roster_other_than_the_pinned_one_stops_everything(
    world: FakeWorld, change: Callable[[FakeWorld], None], named: str
) -> None:
    rotation = approved(world)
    change(world)
    for attempt in (
        lambda: require_authorised(world.pipeline, rotation, world.pipeline.keys.read()),
        lambda: sign(world, rotation, ADA),
        lambda: request(world),
    ):
        with pytest.raises(ApprovalError, match=f"{named} keyrotation.toml differ.*restore them.*keyrotation policy"):
            attempt()


def test_the_pinned_roster_in_another_order_is_the_same_roster(world: FakeWorld) -> None:
    rotation = approved(world)
    world.signatures.configured = replace(ROSTER, officers=ROSTER.officers[::-1])
    require_authorised(world.pipeline, rotation, world.pipeline.keys.read())


def test_without_a_pinned_roster_init_comes_first(world: FakeWorld) -> None:
    world.ledger.begin_with(None)
    with pytest.raises(ApprovalError, match="run `keyrotation init`"):
        request(world)


def another_key(world: FakeWorld, rotation: Walk) -> Walk:
    world.keys.live[V1] = KeyMaterial.generate()
    return rotation


def another_store(world: FakeWorld, rotation: Walk) -> Walk:
    world.keys.description = "another key store"
    return rotation


def one_column_more(world: FakeWorld, rotation: Walk) -> Walk:
    wider = EncryptedTable(TableName("public", "clients"), ("first_name", "email", "phone"))
    world.pipeline = replace(world.pipeline, tables=(wider,))
    return rotation


def another_target(world: FakeWorld, rotation: Walk) -> Walk:
    return replace(rotation, target=V3)


def another_reason(world: FakeWorld, rotation: Walk) -> Walk:
    return replace(rotation, reason="none of your business")


def later_finish(world: FakeWorld, rotation: Walk) -> Walk:
    return replace(rotation, finish_by=rotation.finish_by + timedelta(days=1))


def another_head(world: FakeWorld, rotation: Walk) -> Walk:
    return replace(rotation, audit_head=(3, "a" * 64))


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (another_key, "From"),
        (another_store, "Key store"),
        (one_column_more, "Columns"),
        (another_target, "Authorises, To, Rollout"),
        (another_reason, "Reason"),
        (later_finish, "Finish by"),
        (another_head, "Audit head"),
    ],
)
def test_facts_that_differ_from_what_was_signed_are_named(
    world: FakeWorld, change: Callable[[FakeWorld, Walk], Walk], fields: str
) -> None:
    changed = change(world, approved(world))
    with pytest.raises(ApprovalError, match=rf"no longer what its text for signing says \({fields}\)"):
        require_authorised(world.pipeline, changed, world.pipeline.keys.read())


def test_one_column_never_reads_like_two(world: FakeWorld) -> None:
    name = TableName("public", "clients")
    lines, rotation = [], approved(world)
    for columns in (("first_name", "email"), ("first_name, clients.email",), ("notes, old",)):
        world.pipeline = replace(world.pipeline, tables=(EncryptedTable(name, columns),))
        text = approval_text(world.pipeline, rotation).decode()
        lines.append(next(line for line in text.splitlines() if line.startswith("Columns: ")))
    assert lines == [
        "Columns: clients.first_name, clients.email",
        r'Columns: "clients.first_name\u002c clients.email"',
        r'Columns: "clients.notes\u002c old"',
    ]


def test_a_stored_text_that_was_changed_authorises_nothing(world: FakeWorld) -> None:
    rotation = approved(world)
    world.ledger.state.texts[rotation.id] += b"\n"
    with pytest.raises(ApprovalError, match="no longer what its text for signing says"):
        require_authorised(world.pipeline, rotation, world.pipeline.keys.read())


def test_a_stored_signature_that_no_longer_verifies_authorises_nothing(world: FakeWorld) -> None:
    rotation = approved(world)
    ada, ben = world.ledger.signatures(rotation.id)
    world.ledger.state.signatures[rotation.id] = [ada, replace(ben, signature=b"forged")]
    with pytest.raises(ApprovalError, match="not over this text"):
        require_authorised(world.pipeline, rotation, world.pipeline.keys.read())


def test_the_text_says_what_nobody_looks_at_and_no_more_may_be_unseen_when_the_walk_begins(world: FakeWorld) -> None:
    world.database.unseen = replace(world.database.unseen, gone=("reports@local",))
    rotation = approved(world)
    text = world.ledger.approval_text(rotation.id).decode()
    assert "\nNot searched: values that are compressed" in text
    assert "\nNot seen: standbys behind standbys" in text
    assert "\nReplicas declared gone: reports@local\n" in text
    world.database.unseen = replace(world.database.unseen, gone=("reports@local", "exports@local"))
    with pytest.raises(ApprovalError, match=r"no longer what its text for signing says \(Replicas declared gone\)"):
        require_authorised(world.pipeline, rotation, world.pipeline.keys.read())


def test_a_walk_that_has_begun_continues_with_what_was_signed_of_the_unseen(world: FakeWorld) -> None:
    rotation = approved(world)
    world.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    world.database.unseen = BlindSpots((Unsearched("bit strings", ("scans.new",)),), gone=("old@primary",))
    require_authorised(world.pipeline, world.ledger.walk(rotation.id), world.pipeline.keys.read())


def test_what_values_are_bound_to_their_row_by_is_signed_where_there_are_such_values(world: FakeWorld) -> None:
    bound = replace(NATIVE, row="i,d", row_from=3)
    line = b'Format: clients: values under v3x and later open only in their row, by "i\\u002cd"'

    def lines(source: KeyVersion, target: KeyVersion, generation: int) -> list[bytes]:
        table = EncryptedTable(TableName("public", "clients"), ("name",), replace(bound, generation=generation))
        pipeline = replace(world.pipeline, tables=(table,))
        text = approval_text(pipeline, replace(rotation, source=source, target=target))
        return [each for each in text.splitlines() if each.startswith(b"Format: ")]

    rotation = request(world)
    v2x, v3x = KeyVersion(2, 2), KeyVersion(3, 2)
    world.keys.live |= {v2x: KeyMaterial.generate(), v3x: KeyMaterial.generate()}
    assert lines(V1, KeyVersion(2), 1) == []
    assert lines(V1, v2x, 1) == [line]
    assert lines(v3x, v2x, 1) == [line + b", and new values are bound to no row"]
    (signed,) = lines(v2x, v3x, 2)
    assert signed.startswith(b"Format: native, second generation")
    assert signed.endswith(line.removeprefix(b"Format: "))
    assert lines(v3x, V1, 1)[0].startswith(b"Format: native, back to the first generation")
