"""What every key store promises. A store's own tests inherit the suite and say where their stores are."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Protocol

import pytest

from keyrotation_pipeline.errors import (
    KeyStoreConflictError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.contract import racing_writer
from keyrotation_pipeline_tests.fakes import ProcessKilled

V1, V2, V3, V4, V10 = (KeyVersion(number) for number in (1, 2, 3, 4, 10))
RACERS = 4


class Place(Protocol):
    """One store of the kind under test, at first empty, and what can happen to it."""

    def open(self) -> KeyStore:
        """The store, opened again."""

    def dying(self, moment: int) -> AbstractContextManager[None]:
        """Inside, `ProcessKilled` is raised before the moment-th call to what is outside the process."""

    def unavailable(self) -> AbstractContextManager[None]:
        """Inside, what is outside the process does not answer."""

    def damage(self, version: KeyVersion, text: str) -> None:
        """Let a live entry hold `text`, which is not a key."""

    def spoil(self) -> None:
        """Damage what holds the whole together."""


def key(number: int) -> KeyMaterial:
    return KeyMaterial(bytes([number]) * 32)


# The changes as tests make them: decided from what is there now.
def add(store: KeyStore, version: KeyVersion, material: KeyMaterial) -> StoredKeys:
    return store.add(version, material, store.read().revision)


def set_primary(store: KeyStore, version: KeyVersion) -> StoredKeys:
    return store.set_primary(version, store.read().revision)


def archive(store: KeyStore, version: KeyVersion) -> StoredKeys:
    return store.archive(version, store.read().revision)


def restore(store: KeyStore, version: KeyVersion) -> StoredKeys:
    return store.restore(version, store.read().revision)


def destroy(store: KeyStore, version: KeyVersion) -> StoredKeys:
    return store.destroy(version, store.read().revision)


def filled(store: KeyStore) -> KeyStore:
    """v1 and v2 live, v3 archived, writes under v2."""
    for version, number in ((V1, 1), (V2, 2), (V3, 3)):
        add(store, version, key(number))
    set_primary(store, V2)
    archive(store, V3)
    return store


# Each change of a filled store: how it is asked for with a revision, and what the store then holds.
CHANGES = [
    pytest.param(lambda store, revision: store.add(V4, key(4), revision), ((V1, V2, V4), (V3,), V2), id="add"),
    pytest.param(lambda store, revision: store.set_primary(V1, revision), ((V1, V2), (V3,), V1), id="set_primary"),
    pytest.param(lambda store, revision: store.archive(V1, revision), ((V2,), (V1, V3), V2), id="archive"),
    pytest.param(lambda store, revision: store.restore(V3, revision), ((V1, V2, V3), (), V2), id="restore"),
    pytest.param(lambda store, revision: store.destroy(V3, revision), ((V1, V2), (), V2), id="destroy"),
]
OWNER = racing_writer.owner_of(V1)
NAMING = [
    pytest.param(lambda store, revision: store.name_owner(OWNER, revision), ((V1, V2), (V3,), V2), id="name_owner")
]
CHANGES += NAMING
TELLING = [
    pytest.param(
        lambda store, revision: store.publish_compromised(frozenset({V1, V3}), revision),
        ((V1, V2), (V3,), V2),
        id="publish_compromised",
    )
]
CHANGES += TELLING
Change = Callable[[KeyStore, str], StoredKeys]
Shape = tuple[tuple[KeyVersion, ...], tuple[KeyVersion, ...], KeyVersion | None]


def shape(stored: StoredKeys) -> Shape:
    return tuple(stored.live), tuple(stored.archived), stored.primary


def same(one: StoredKeys, other: StoredKeys) -> bool:
    return (one.live, one.archived, one.primary, one.owner, one.compromised) == (
        other.live,
        other.archived,
        other.primary,
        other.owner,
        other.compromised,
    )


class KeyStoreContract:
    """Inherit it as `Test…` and override the fixture `new_place`."""

    @pytest.fixture
    def new_place(self) -> Callable[[], Place]:
        """Makes another place at each call."""
        raise NotImplementedError

    @pytest.fixture
    def place(self, new_place: Callable[[], Place]) -> Place:
        return new_place()

    @pytest.fixture
    def store(self, place: Place) -> KeyStore:
        """A store that holds v1 and v2, and writes under v2."""
        store = place.open()
        add(store, V1, key(1))
        add(store, V2, key(2))
        set_primary(store, V2)
        return store

    # --- what it holds ----------------------------------------------------------------------------------------------

    def test_a_new_store_is_empty(self, place: Place) -> None:
        assert shape(place.open().read()) == ((), (), None)

    def test_a_ring_without_a_primary_is_an_error(self, place: Place) -> None:
        stored = add(place.open(), V1, key(1))
        with pytest.raises(KeyStoreDamagedError, match="primary"):
            stored.ring()

    def test_what_is_stored_is_read_by_whoever_opens_the_store(self, store: KeyStore, place: Place) -> None:
        assert shape(store.read()) == ((V1, V2), (), V2)
        read = place.open().read()
        ring = read.ring()
        assert (ring.versions, ring.primary) == ((V1, V2), V2)
        assert (ring.material(V1), ring.material(V2)) == (key(1), key(2))
        assert read.material(V1) == key(1)

    def test_every_read_is_fresh(self, store: KeyStore, place: Place) -> None:
        before = store.read()
        other = place.open()
        add(other, V3, key(3))
        set_primary(other, V3)
        now = store.read()
        assert (shape(now), now.ring().primary) == (((V1, V2, V3), (), V3), V3)
        assert now.material(V3) == key(3)
        assert shape(before) == ((V1, V2), (), V2)

    def test_versions_are_in_order_of_their_numbers(self, store: KeyStore) -> None:
        add(store, V10, key(10))
        assert tuple(add(store, V3, key(3)).live) == (V1, V2, V3, V10)

    def test_the_same_key_again_is_no_change(self, store: KeyStore) -> None:
        before = store.read()
        add(store, V1, key(1))
        assert store.read() == before

    def test_a_different_key_under_a_live_version_is_refused(self, store: KeyStore) -> None:
        with pytest.raises(KeyStoreError, match="different"):
            add(store, V1, key(9))
        assert store.read().material(V1) == key(1)

    def test_a_different_key_under_an_archived_version_is_refused(self, store: KeyStore) -> None:
        archive(store, V1)
        with pytest.raises(KeyStoreError, match="different"):
            add(store, V1, key(9))
        assert (shape(store.read()), store.read().material(V1)) == (((V2,), (V1,), V2), key(1))

    def test_adding_an_archived_key_does_not_bring_it_back(self, store: KeyStore) -> None:
        archive(store, V1)
        assert shape(add(store, V1, key(1))) == ((V2,), (V1,), V2)

    def test_a_key_may_be_archived_from_its_beginning(self, store: KeyStore) -> None:
        for _ in range(2):
            stored = store.add(V3, key(3), store.read().revision, archived=True)
            assert (shape(stored), stored.material(V3)) == (((V1, V2), (V3,), V2), key(3))
        with pytest.raises(KeyStoreError, match="different"):
            store.add(V3, key(9), store.read().revision, archived=True)
        assert store.read().material(V3) == key(3)

    @pytest.mark.parametrize("version", [V1, V3], ids=["archived", "unknown"])
    def test_only_a_live_version_becomes_primary(self, store: KeyStore, version: KeyVersion) -> None:
        archive(store, V1)
        with pytest.raises(KeyStoreError, match=str(version)):
            set_primary(store, version)
        assert store.read().primary == V2

    def test_the_primary_may_go_back(self, store: KeyStore) -> None:
        set_primary(store, V1)
        assert set_primary(store, V1).ring().primary == V1

    def test_plaintext_is_the_primary_of_a_store_until_a_key_is(self, place: Place) -> None:
        store = place.open()
        assert shape(set_primary(store, PLAINTEXT)) == ((), (), PLAINTEXT)
        assert place.open().read().ring().versions == ()
        add(store, V1, key(1))
        ring = place.open().read().ring()
        assert (ring.versions, ring.primary) == ((V1,), PLAINTEXT)
        assert set_primary(store, V1).primary == V1
        with pytest.raises(KeyStoreError, match="nothing leads back to plaintext"):
            set_primary(store, PLAINTEXT)
        assert shape(place.open().read()) == ((V1,), (), V1)

    def test_an_archived_key_leaves_the_ring_and_is_kept(self, store: KeyStore, place: Place) -> None:
        archive(store, V1)
        archive(store, V1)
        read = place.open().read()
        assert (shape(read), read.ring().versions) == (((V2,), (V1,), V2), (V2,))
        assert read.material(V1) == key(1)

    def test_the_primary_is_never_archived(self, store: KeyStore) -> None:
        with pytest.raises(KeyStoreError, match="primary"):
            archive(store, V2)
        assert store.read().ring().versions == (V1, V2)

    def test_a_restored_key_is_in_the_ring_again(self, store: KeyStore) -> None:
        archive(store, V1)
        restore(store, V1)
        read = restore(store, V1)
        assert (read.ring().versions, tuple(read.archived), read.material(V1)) == ((V1, V2), (), key(1))

    def test_a_restored_key_can_be_archived_again(self, store: KeyStore) -> None:
        archive(store, V1)
        restore(store, V1)
        read = archive(store, V1)
        assert (shape(read), read.material(V1)) == (((V2,), (V1,), V2), key(1))

    def test_a_destroyed_key_is_gone_for_whoever_opens_the_store(self, store: KeyStore, place: Place) -> None:
        archive(store, V1)
        destroy(store, V1)
        destroy(store, V1)
        read = place.open().read()
        assert (shape(read), V1 in read) == (((V2,), (), V2), False)
        with pytest.raises(KeyStoreDamagedError, match="holds no v1; put it back with `keyrotation restore-key v1`"):
            read.material(V1)

    @pytest.mark.parametrize("version", [V1, V2], ids=["live", "primary"])
    def test_a_live_key_is_never_destroyed(self, store: KeyStore, version: KeyVersion) -> None:
        with pytest.raises(KeyStoreError, match=f"{version} is live"):
            destroy(store, version)
        assert store.read().ring().versions == (V1, V2)

    def test_destroying_what_was_never_stored_is_no_change(self, store: KeyStore) -> None:
        before = store.read()
        assert destroy(store, V3) == before

    @pytest.mark.parametrize("ask", [archive, restore, lambda store, version: store.read().material(version)])
    def test_a_version_that_was_never_stored_is_an_error(
        self, store: KeyStore, ask: Callable[[KeyStore, KeyVersion], object]
    ) -> None:
        with pytest.raises(KeyStoreError, match="v3"):
            ask(store, V3)

    def test_the_description_is_one_line_the_same_each_time_without_a_key(self, store: KeyStore, place: Place) -> None:
        assert store.description == place.open().description
        assert store.description.isprintable()
        assert base64_of(key(1)) not in store.description

    def test_the_owner_is_kept_and_replaced_and_other_changes_leave_it(self, store: KeyStore, place: Place) -> None:
        assert (store.read().owner, store.read().roster) == (None, None)
        many = tuple(f"clinic_{number}, system identifier 7300000000000000000, schema ñ" for number in range(100))
        for owner in (OWNER, replace(OWNER, places=many), racing_writer.owner_of(V2)):
            before = store.read()
            named = store.name_owner(owner, before.revision)
            assert (named.owner, named.roster, shape(named)) == (owner, owner.roster, shape(before))
            assert place.open().read() == named
            assert named.revision != before.revision
        with pytest.raises(KeyStoreConflictError):
            store.name_owner(OWNER, before.revision)
        for now in (add(store, V3, key(3)), archive(store, V1), destroy(store, V1)):
            assert now.owner == owner

    def test_a_version_that_is_published_as_compromised_never_becomes_the_primary(
        self, store: KeyStore, place: Place
    ) -> None:
        assert store.read().compromised == frozenset()
        with pytest.raises(KeyStoreError, match="v2 is the primary, so applications write under it"):
            store.publish_compromised(frozenset({V1, V2}), store.read().revision)
        before = store.read()
        reported = store.publish_compromised(frozenset({V1}), before.revision)
        assert (reported.compromised, shape(reported)) == (frozenset({V1}), shape(before))
        assert reported.revision != before.revision
        assert place.open().read() == reported == store.publish_compromised(frozenset({V1}), before.revision)
        with pytest.raises(KeyStoreConflictError):
            store.publish_compromised(frozenset({V3}), before.revision)
        with pytest.raises(KeyStoreError, match="v1 is compromised and never becomes the primary again"):
            set_primary(store, V1)
        assert store.publish_compromised(frozenset({V10}), reported.revision).compromised == {V1, V10}
        for now in (add(store, V3, key(3)), archive(store, V1), destroy(store, V1), set_primary(store, V3)):
            assert now.compromised == {V1, V10}
        assert store.read().ring().primary == V3

    # --- changes carry the revision that they were decided from -----------------------------------------------------

    @pytest.mark.parametrize(("change", "after"), CHANGES)
    def test_a_change_gives_back_the_store_as_it_then_reads(self, place: Place, change: Change, after: Shape) -> None:
        store = filled(place.open())
        given = change(store, store.read().revision)
        assert shape(given) == after
        assert given == place.open().read()

    @pytest.mark.parametrize(("change", "after"), CHANGES)
    def test_a_change_decided_from_an_older_state_is_refused_and_does_nothing(
        self, place: Place, change: Change, after: Shape
    ) -> None:
        store = filled(place.open())
        decided = store.read().revision
        now = add(place.open(), V10, key(10))
        with pytest.raises(KeyStoreConflictError, match="changed the key store in the meantime"):
            change(store, decided)
        assert same(store.read(), now)
        live, archived, primary = after
        assert shape(change(store, now.revision)) == (tuple(sorted((*live, V10))), archived, primary)

    @pytest.mark.parametrize(("change", "after"), CHANGES)
    def test_the_same_change_again_is_no_change_whatever_the_revision(
        self, place: Place, change: Change, after: Shape
    ) -> None:
        store = filled(place.open())
        decided = store.read().revision
        assert shape(change(store, decided)) == after
        now = add(place.open(), V10, key(10))
        assert change(store, decided) == now

    def test_every_other_content_has_another_revision(self, place: Place) -> None:
        store = place.open()
        seen = [store.read(), add(store, V1, key(1)), add(store, V2, key(2)), set_primary(store, V2)]
        seen += [archive(store, V1), destroy(store, V1)]
        assert len({stored.revision for stored in seen}) == len(seen)
        assert store.read().revision == store.read().revision

    def test_of_writers_that_race_from_one_revision_one_wins_and_the_others_fail(self, place: Place) -> None:
        store = filled(place.open())
        outcomes = self.race(place, [KeyVersion(number) for number in range(20, 20 + RACERS)], store.read().revision)
        assert sorted(outcomes.values()) == ["KeyStoreConflictError"] * (RACERS - 1) + ["stored"], outcomes
        (winner,) = (version for version, outcome in outcomes.items() if outcome == "stored")
        read = store.read()
        added = (winner,) if winner.number % 2 else ()
        assert shape(read) == ((V1, V2, *added), (V3,), V2)
        assert [read.material(version) for version in (V1, V2, V3, *added)] == [
            *map(key, (1, 2, 3)),
            *(key(9) for _ in added),
        ]
        assert read.owner == (None if added else racing_writer.owner_of(winner))

    def race(self, place: Place, versions: list[KeyVersion], revision: str) -> dict[KeyVersion, str]:
        """Let a process for each version add it at the same time; gives back what came of each."""
        program = [sys.executable, racing_writer.__file__]
        writers = {
            version: subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for version in versions
        }
        for version, writer in writers.items():
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write(pickle.dumps((place.open(), version, revision)))
            writer.stdin.flush()
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers.values():
            assert writer.stdin is not None
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
        return {version: writer.communicate()[0].decode().strip() for version, writer in writers.items()}

    # --- dying between the two halves of a change -------------------------------------------------------------------

    @pytest.mark.parametrize(("change", "after"), CHANGES)
    def test_after_a_death_at_any_moment_no_key_is_lost_and_the_same_change_completes_it(
        self, new_place: Callable[[], Place], change: Change, after: Shape
    ) -> None:
        deaths = 0
        for moment in range(1, 200):
            place = new_place()
            store = filled(place.open())
            decided = store.read().revision
            try:
                with place.dying(moment):
                    change(place.open(), decided)
                break
            except ProcessKilled:
                deaths += 1
            left = place.open().read()
            kept = {*after[0], *after[1]} & {V1, V2, V3}
            assert {version: left.material(version) for version in kept} == {
                version: key(version.number) for version in kept
            }
            assert left.ring().primary in {V2, after[2]}
            done = change(store, left.revision)
            assert shape(done) == after
            assert all(done.material(version) == key(version.number) for version in done.versions)
            assert done == change(store, done.revision) == place.open().read()
        assert deaths > 0

    # --- another key in the place of a live one ---------------------------------------------------------------------

    def test_a_replaced_key_is_nowhere_and_a_replacement_is_guarded_as_every_change(self, place: Place) -> None:
        store = filled(place.open())
        before = store.read()
        done = store.replace(V1, key(9), before.revision)
        assert shape(done) == shape(before)
        assert [done.material(version) for version in (V1, V2, V3)] == [key(9), key(2), key(3)]
        assert done == place.open().read() == store.replace(V1, key(9), before.revision)
        with pytest.raises(KeyStoreConflictError):
            store.replace(V2, key(8), before.revision)
        with pytest.raises(KeyStoreError, match="v3 is not live in the key store"):
            store.replace(V3, key(8), done.revision)
        assert place.open().read() == done

    def test_after_a_death_while_a_key_is_replaced_one_of_the_two_is_there(
        self, new_place: Callable[[], Place]
    ) -> None:
        deaths = 0
        for moment in range(1, 200):
            place = new_place()
            store = filled(place.open())
            decided = store.read().revision
            try:
                with place.dying(moment):
                    place.open().replace(V1, key(9), decided)
                break
            except ProcessKilled:
                deaths += 1
            left = place.open().read()
            assert left.material(V1) in {key(1), key(9)}
            assert store.replace(V1, key(9), left.revision).material(V1) == key(9)
        assert deaths > 0

    # --- unavailable is not damaged ---------------------------------------------------------------------------------

    def test_a_store_that_does_not_answer_is_unavailable_and_unchanged(self, place: Place) -> None:
        store = filled(place.open())
        before = store.read()
        changes: list[Change] = [each.values[0] for each in CHANGES]  # type: ignore[misc]
        asks: list[Callable[[], object]] = [store.read, *(partial(each, store, before.revision) for each in changes)]
        for ask in asks:
            with place.unavailable(), pytest.raises(KeyStoreUnavailableError, match="again"):
                ask()
        assert store.read() == before

    @pytest.mark.parametrize(
        "text", ["", "c2hvcnQ=", "A" * 43 + "?", "A" * 5000], ids=["empty", "short", "not base64", "huge"]
    )
    def test_an_entry_that_is_no_key_hides_no_other_and_shows_nothing_of_itself(self, place: Place, text: str) -> None:
        store = filled(place.open())
        place.damage(V1, text)
        read = store.read()
        assert (read.material(V2), read.material(V3)) == (key(2), key(3))
        assert shape(read) == ((V1, V2), (V3,), V2)
        for ask in (lambda: read.material(V1), read.ring):
            with pytest.raises(KeyStoreDamagedError, match="v1") as caught:
                ask()
            assert not text[:20] or text[:20] not in str(caught.value)

    def test_a_spoilt_store_is_damaged(self, place: Place) -> None:
        store = filled(place.open())
        revision = store.read().revision
        place.spoil()
        with pytest.raises(KeyStoreDamagedError):
            store.read()
        for each in CHANGES:
            with pytest.raises(KeyStoreDamagedError):
                each.values[0](store, revision)  # type: ignore[operator]

    # --- it travels as how to open it -------------------------------------------------------------------------------

    def test_a_pickled_store_holds_no_key_and_opens_the_same(self, store: KeyStore) -> None:
        read = store.read()
        packed = pickle.dumps(store)
        assert not [
            secret for n in (1, 2) for secret in (raw_of(key(n)), base64_of(key(n)).encode()) if secret in packed
        ]
        opened: KeyStore = pickle.loads(packed)  # noqa: S301  our own
        assert (opened.read(), opened.description) == (read, store.description)

    def test_what_is_read_shows_no_key(self, store: KeyStore) -> None:
        shown = repr(store.read()) + repr(store)
        assert not [n for n in (1, 2) if base64_of(key(n)) in shown or repr(raw_of(key(n))) in shown]
