"""What key stores promise that are asked over a network: an answer may be lost, and one may be some seconds old."""

from contextlib import AbstractContextManager
from typing import Protocol

import pytest

from keyrotation_pipeline.errors import KeyStoreConflictError, KeyStoreUnavailableError
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.contract.key_store import (
    CHANGES,
    V1,
    V2,
    V3,
    V10,
    Change,
    Place,
    Shape,
    add,
    filled,
    key,
    same,
    shape,
)


class RemotePlace(Place, Protocol):
    """A store over a network."""

    def losing_answers(self) -> AbstractContextManager[None]:
        """Inside, each change is made, and whoever asked for it never learns so."""


class LatePlace(Protocol):
    """A store whose reads may be late."""

    def open(self) -> KeyStore: ...

    def elsewhere(self) -> KeyStore:
        """The same one for somebody whom the answers of the present reach."""

    def late(self) -> AbstractContextManager[None]:
        """Inside, what is changed is not seen at once by whoever opened the store."""


class LostAnswersContract:
    """Inherit it as `Test…` and override the fixture `remote`."""

    @pytest.fixture
    def remote(self) -> RemotePlace:
        raise NotImplementedError

    @pytest.mark.parametrize(("change", "after"), CHANGES)
    def test_a_change_whose_answer_is_lost_keeps_every_key_and_is_completed_by_the_same_again(
        self, remote: RemotePlace, change: Change, after: Shape
    ) -> None:
        store = filled(remote.open())
        decided = store.read().revision
        with remote.losing_answers(), pytest.raises(KeyStoreUnavailableError):
            change(store, decided)
        left = remote.open().read()
        kept = {*after[0], *after[1]} & {V1, V2, V3}
        assert {version: left.material(version) for version in kept} == {each: key(each.number) for each in kept}
        assert left.primary in {V2, after[2]}
        done = change(store, left.revision)
        assert shape(done) == after
        assert done == remote.open().read()


class LateAnswersContract:
    """Inherit it as `Test…` and override the fixture `late`."""

    @pytest.fixture
    def late(self) -> LatePlace:
        raise NotImplementedError

    @pytest.mark.parametrize("change", [pytest.param(each.values[0], id=each.id) for each in CHANGES])
    def test_a_change_decided_from_a_late_answer_is_refused_and_takes_nothing_away(
        self, late: LatePlace, change: Change
    ) -> None:
        store = filled(late.open())
        with late.late():
            now = add(late.elsewhere(), V10, key(10))
            seen = store.read()
            assert (V10 in seen, V10 in now) == (False, True), "the answer is late"
            with pytest.raises((KeyStoreConflictError, KeyStoreUnavailableError)):
                change(store, seen.revision)
        left = late.elsewhere().read()
        assert left.material(V10) == key(10)
        assert all(left.material(version) == now.material(version) for version in now.versions)
        assert (left.live, left.primary, left.roster, left.compromised) == (
            now.live, now.primary, now.roster, now.compromised,
        )  # fmt: skip
        assert same(left, now) or {*left.archived} > {*now.archived}, "at most one more copy in the archive"

    @pytest.mark.parametrize(("change", "after"), CHANGES)
    def test_whoever_changed_the_store_sees_the_change_in_each_later_answer(
        self, late: LatePlace, change: Change, after: Shape
    ) -> None:
        store = filled(late.open())
        with late.late():
            done = change(store, store.read().revision)
            assert shape(done) == after
            assert store.read() == done == late.elsewhere().read()
