"""A fleet's retirement, explored: what holds, and what happens without each guard of the evidence of members."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from keyrotation_pipeline.adapters.fleet import retirement
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.errors import MemberUnavailableError
from keyrotation_pipeline.model.proof import MemberEvidence, MemberState
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.protocol import members
from keyrotation_pipeline_tests.protocol.members import ModelMember, OwnDatabase, Switch, explore, patched

_SAME, _EACH = FleetEvidence.require_same, FleetEvidence.members
STEPS = {
    *(f"searches {name}" for name in members.NAMES), *(f"takes the evidence of {name}" for name in members.DATABASES),
    *(f"asks {name} again" for name in members.NAMES),
    "locks home", "records MemberProven", "records ReplicasAccounted", "records KeyRetired", "withdraws v1", "commits",
}  # fmt: skip


AGAIN = {f"takes the evidence of {name} again" for name in members.DATABASES}


@pytest.mark.parametrize("decrypting", [False, True])
@pytest.mark.parametrize("changes", [2, pytest.param(3, marks=pytest.mark.extended)])
def test_nothing_old_is_left_in_a_member_and_every_retirement_can_still_end(changes: int, *, decrypting: bool) -> None:
    with patched():
        found = explore(changes, decrypting=decrypting)
    assert found.broken is None, "\n".join([str(found.broken), *found.counterexample])
    assert found.stuck == 0
    assert found.steps == STEPS | (AGAIN if decrypting else set())
    print(f"{len(found.parents):,} states")  # noqa: T201  shown by `pytest -s`
    for refusal in (
        "became a member after the proof", "database north has changed since it gave its evidence",
        "the home's own database has changed since it gave its evidence", "its WAL is behind",
    ):  # fmt: skip
        assert any(refusal in each for each in found.refusals), refusal


def _first_asked(self: FleetEvidence, *arguments: Any) -> None:  # noqa: ANN401
    tables, position, evidence, *others = arguments
    _asked(self, tables, position, evidence[:1], *others)


def _asked(self: FleetEvidence, *arguments: Any) -> None:  # noqa: ANN401
    """As the real comparison, but for whether anybody is left out."""
    _, _, evidence, *_ = arguments
    kept = {name: each for name, each in self.fleet.open.items() if name in {e.member for e in evidence}}
    whole, self.fleet.open = self.fleet.open, kept
    try:
        _SAME(self, *arguments)
    finally:
        self.fleet.open = whole


def _of_those_that_answer(self: FleetEvidence, *arguments: Any) -> None:  # noqa: ANN401
    try:
        _SAME(self, *arguments)
    except MemberUnavailableError:
        return


def _first_alone(self: FleetEvidence, *arguments: Any) -> Iterator[MemberEvidence]:  # noqa: ANN401
    yield next(_EACH(self, *arguments))


def _not_locked(self: OwnDatabase, _tables: object) -> None:
    """Whoever changes a table changes it as well after it was compared."""
    self.run.at(f"locks {self.name}")


SAME = MemberState("", 1, {}, "")
LEAVES_OUT: Switch = (FleetEvidence, "members", _first_alone)
IS_SIGNED: Switch = (members, "members_are_signed", lambda *_: True)
GUARDS: Sequence[Any] = [
    pytest.param([(FleetEvidence, "require_same", lambda *_: None)], 2, ("loses its fence",), id="no comparison"),
    pytest.param(
        [(members, "fence_of", lambda each: str(bool(each.fence)))], 3, ("loses", "row", "fence again"),
        id="no transaction of the fence",
    ),
    pytest.param([(members, "place_of", lambda _: "clinic")], 1, ("is exchanged",), id="no system identifier"),
    pytest.param([(members, "timeline_of", lambda _: 1)], 1, ("by a standby",), id="no timeline"),
    pytest.param([(ModelMember, "has_reached", lambda *_: True)], 1, ("is restored",), id="no WAL position"),
    pytest.param([(FleetEvidence, "require_same", _first_asked)], 1, ("south",), id="one is not asked again"),
    pytest.param(
        [(FleetEvidence, "require_same", _of_those_that_answer)], 2, ("not answer",), id="one does not answer"
    ),
    pytest.param([(OwnDatabase, "state", lambda *_: SAME)], 1, ("home loses its fence",), id="not the own database"),
    pytest.param([(OwnDatabase, "lock", _not_locked)], 1, ("home loses its fence",), id="no lock at last"),
    pytest.param(
        [LEAVES_OUT, IS_SIGNED, (FleetEvidence, "require_same", _asked)], 1, ("a retirement begins",),
        id="one is left out",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("switches", "changes", "way"), GUARDS)
def test_without_a_guard_of_the_evidence_of_members_a_key_is_withdrawn_that_rows_need(
    switches: Sequence[Switch], changes: int, way: Sequence[str]
) -> None:
    with patched(switches):
        found = explore(changes)
    sys.stdout.write("\n  ".join([str(found.broken), *found.counterexample]) + "\n")
    assert found.broken is not None
    assert found.broken.startswith("v1 is withdrawn")
    for each in way:
        assert any(each in label for label in found.counterexample), found.counterexample


@pytest.mark.parametrize("unasked", [members.NAMES, (members.HOME,)])
def test_without_all_evidence_again_a_writer_whose_right_was_back_for_a_moment_is_missed(
    unasked: tuple[str, ...],
) -> None:
    """Where only decrypting tells a key: its row is all that it leaves."""
    rests = retirement._rests_on_writers  # noqa: SLF001

    def asked(tables: Sequence[EncryptedTable]) -> bool:
        return rests(tables) and (tables[0].name.database or members.HOME) not in unasked

    with patched([(retirement, "_rests_on_writers", asked)]):
        found = explore(1, decrypting=True)
    assert found.broken is not None
    assert found.broken.startswith("v1 is withdrawn")
    assert any(each.startswith(unasked) and each.endswith(members.BY_A_WRITER) for each in found.counterexample)


@pytest.mark.parametrize(("switches", "refusal"), [
    pytest.param([LEAVES_OUT, IS_SIGNED], "gave no evidence", id="the comparison"),
    pytest.param(
        [LEAVES_OUT, (FleetEvidence, "require_same", _asked)], "not of the members that officers signed", id="the audit"
    ),
])  # fmt: skip
def test_a_member_that_gives_no_evidence_is_missed_by(switches: Sequence[Switch], refusal: str) -> None:
    with patched(switches):
        found = explore(1)
    assert found.broken is None
    assert any(refusal in each for each in found.refusals)
