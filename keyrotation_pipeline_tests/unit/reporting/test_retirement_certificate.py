"""A certificate of key death is refused for a key that is used again, and its envelope is as DSSE has it."""

from dataclasses import fields

import pytest

from keyrotation_pipeline.audit.history import whole_history
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import Fact, to_sign
from keyrotation_pipeline.model.key_events import KeyRestoreIntended, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.reporting.retirement_certificate import revived, told_of
from keyrotation_pipeline_tests.fakes import START, V1
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

ROTATION = "ab" * 16
V2 = KeyVersion(2)
RETIRED = KeyRetired(V1, ("clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "key.gpg")


def after(*facts: Fact) -> tuple[str, ...]:
    world = before_any_rotation()
    world.ledger.append(RETIRED, ROTATION)
    for fact in facts:
        world.ledger.append(fact, "cd" * 16)
    told, _ = whole_history(world.ledger.events(), world.ledger.verify)
    return revived(told, ROTATION)


@pytest.mark.parametrize(
    ("facts", "back"),
    [
        pytest.param((), (), id="nothing since"),
        pytest.param((KeyRestoreIntended(V1, "f"),), ("v1",), id="a rollback brings it back"),
        pytest.param((KeyRestoreIntended(V1, "f", "file", "live"),), ("v1",), id="restored from a backup, live"),
        pytest.param((KeyRestoreIntended(V1, "f", "file", "archive"),), (), id="restored into the archive"),
        pytest.param((KeyRestoreIntended(V2, "f"),), (), id="another version"),
        pytest.param((KeyStateChanged(V1, KeyState.ARCHIVED, KeyState.ACTIVE, "f"),), ("v1",), id="active again"),
        pytest.param((KeyStateChanged(V1, KeyState.DEACTIVATED, KeyState.ARCHIVED, "f"),), (), id="archived"),
    ],
)
def test_a_key_that_was_brought_back_is_not_dead(facts: tuple[Fact, ...], back: tuple[str, ...]) -> None:
    assert after(*facts) == back


def test_a_rotation_that_retired_nothing_has_no_certificate() -> None:
    with pytest.raises(RequestError, match="has retired no key"):
        told_of((), ROTATION)


def test_every_fact_of_a_retirement_is_known_to_the_certificate() -> None:
    # A new fact has to be put into the statement, or left out on purpose.
    assert {each.name for each in fields(KeyRetired)} == {
        "version", "tables", "old_values", "values", "fence_lsn", "proven_at", "fenced_against",
        "taken_from_applications", "target", "target_backup", "not_searched", "not_seen",
    }  # fmt: skip


def test_what_is_signed_is_type_and_content_with_their_lengths() -> None:
    assert to_sign(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
