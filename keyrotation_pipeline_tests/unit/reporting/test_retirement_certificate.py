"""A certificate of key death is refused for a key that is used again, and its envelope is as DSSE has it."""

import re
from dataclasses import fields, replace
from datetime import datetime, timedelta

import pytest

from keyrotation_pipeline.audit.history import whole_history
from keyrotation_pipeline.audit.retirements import Retirement, retirement_of
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import Fact, to_sign
from keyrotation_pipeline.model.data_events import (
    Counted,
    CountedTable,
    DecryptedTable,
    UndeclaredColumnsSearched,
    UndeclaredValues,
    ValuesDecrypted,
)
from keyrotation_pipeline.model.key_events import KeyRestoreIntended, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestAction, RequestStatus
from keyrotation_pipeline.reporting.retirement_certificate import last_rotation, require_dead
from keyrotation_pipeline_tests.fakes import START, V1, FakeWorld, rotation_of
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

V2 = KeyVersion(2)
RETIRED = KeyRetired(V1, ("clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "key.gpg")


def after(*facts: Fact) -> Retirement:
    world = before_any_rotation()
    rotation = rotation_of(world).id
    world.ledger.set_key_state(V1, KeyState.DEACTIVATED, rotation)
    world.ledger.append(RETIRED, rotation)
    (key,) = world.ledger.keys()
    for fact in facts:
        own = replace(fact, fingerprint=key.fingerprint) if isinstance(fact, KeyStateChanged) else fact
        world.ledger.append(own, rotation)
    return retired_in(world, rotation)


def retired_in(world: FakeWorld, rotation: str) -> Retirement:
    entries, state = whole_history(world.ledger.events(), world.ledger.verify)
    assert state.faults == ()
    found = retirement_of(entries, rotation)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("facts", "back"),
    [
        pytest.param((), (), id="nothing since"),
        pytest.param((KeyRestoreIntended(V1, "f"),), ("v1",), id="a rollback brings it back"),
        pytest.param((KeyRestoreIntended(V1, "f", "file", "live"),), ("v1",), id="restored from a backup, live"),
        pytest.param((KeyRestoreIntended(V1, "f", "file", "archive"),), (), id="restored into the archive"),
        pytest.param((KeyRestoreIntended(V2, "f"),), (), id="another version"),
        pytest.param((KeyStateChanged(V1, KeyState.DEACTIVATED, KeyState.ACTIVE, "f"),), ("v1",), id="active again"),
        pytest.param((KeyStateChanged(V1, KeyState.DEACTIVATED, KeyState.ARCHIVED, "f"),), (), id="archived"),
    ],
)
def test_a_key_that_was_brought_back_is_not_dead(facts: tuple[Fact, ...], back: tuple[str, ...]) -> None:
    found = after(*facts)
    assert found.revived == back
    if back:
        with pytest.raises(RequestError, match="was brought back after rotation"):
            require_dead(found)


def counted(number: int, at: datetime = START) -> Counted:
    table = CountedTable("clients", ("email",), 3, {"v1": number, "v2": 3}, 0, 0, 0, 0, (), {}, {}, at)
    return Counted((table,))


def verified(failures: int) -> ValuesDecrypted:
    return ValuesDecrypted((DecryptedTable("clients", 3, 3, failures, START),))


def searched(*versions: KeyVersion, at: datetime = START) -> UndeclaredColumnsSearched:
    found = (UndeclaredValues("scratch.copy", "email", 4, 0, versions),) if versions else ()
    return UndeclaredColumnsSearched(at, found, ())


DAY = timedelta(days=1)
EARLIER = START - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        pytest.param((counted(0), verified(0), searched()), None, id="nothing was found"),
        pytest.param((counted(2),), "a count found 2 values under v1 in clients", id="a count"),
        pytest.param((counted(2), counted(0)), None, id="a newer count finds none"),
        pytest.param((counted(0), counted(2)), "a count found 2 values", id="a newer count finds some"),
        pytest.param((counted(2, EARLIER),), None, id="a count of before the proof"),
        pytest.param((verified(1),), "could not decrypt 1 value in clients", id="verify"),
        pytest.param((verified(1), counted(0)), "could not decrypt 1 value in clients", id="a count clears no verify"),
        pytest.param((searched(V1),), "scratch.copy.email (4 values)", id="an inventory"),
        pytest.param((searched(V2),), None, id="an inventory of the new key"),
    ],
)
def test_a_key_that_a_later_reading_found_is_not_certified_as_dead(facts: tuple[Fact, ...], found: str | None) -> None:
    retired = after(*facts)
    if found is None:
        assert retired.contradicted_by == ()
        require_dead(retired)
    else:
        with pytest.raises(RequestError, match=re.escape(found)):
            require_dead(retired)


def test_what_was_found_and_is_gone_stays_on_record() -> None:
    retired = after(counted(2), counted(0), verified(0))
    assert [each.found for each in retired.found] == ["a count found 2 values under v1 in clients"]
    assert [(each.entry.kind, each.found) for each in retired.newest] == [("counted", None), ("values_decrypted", None)]


def test_what_was_not_read_again_is_read_by_a_later_inventory_only() -> None:
    world = before_any_rotation()
    large = replace(RETIRED, not_read_again=("audit.log",), searched_from=EARLIER)
    rotation = rotation_of(world).id
    world.ledger.append(large, rotation)
    for number, (fact, unread) in enumerate(
        ((counted(0), True), (searched(at=EARLIER), True), (searched(at=START), False), (counted(0), False)), 1
    ):
        world.ledger.append(fact)
        assert (retired_in(world, rotation).unread is not None) is unread, number


def test_the_last_rotation_is_the_one_that_finished_last() -> None:
    opened = rotation_of(before_any_rotation())
    first, second, rollback = (
        replace(opened, id=name * 32, status=RequestStatus.FINISHED, action=action, finished_at=START + number * DAY)
        for number, (name, action) in enumerate(
            (("a", RequestAction.ROTATE), ("b", RequestAction.ROTATE), ("c", RequestAction.ROLLBACK)), 1
        )
    )
    for requests in ((opened, rollback, second, first), (first, second, rollback, opened)):
        assert last_rotation(requests).id == second.id
    with pytest.raises(RequestError, match="no rotation has finished yet"):
        last_rotation((opened, rollback))


def test_a_rotation_that_retired_nothing_has_no_retirement() -> None:
    assert retirement_of((), "ab" * 16) is None


def test_every_fact_of_a_retirement_is_known_to_the_certificate() -> None:
    # A new fact has to be put into the statement, or left out on purpose.
    assert {each.name for each in fields(KeyRetired)} == {
        "version", "tables", "old_values", "values", "fence_lsn", "proven_at", "fenced_against",
        "taken_from_applications", "target", "target_backup", "not_searched", "not_seen", "not_read_again",
        "searched_from", "format", "identified_by", "members",
    }  # fmt: skip


def test_what_is_signed_is_type_and_content_with_their_lengths() -> None:
    assert to_sign(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
