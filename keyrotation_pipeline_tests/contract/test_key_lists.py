"""The application's own list of keys, as an entry of a secret in AWS and of one in Kubernetes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import pytest

from keyrotation_pipeline.errors import BlockedError, KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.format import new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS, KeyEncoding, as_list, by_commas
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto import CLOAK_ECTO
from keyrotation_pipeline.fieldcrypto.formats.fernet import DJANGO_FERNET_ENCRYPTED_FIELDS, FERNET
from keyrotation_pipeline.fieldcrypto.formats.fernet_keyed_wrapper import KEYED_WRAPPER
from keyrotation_pipeline.fieldcrypto.formats.tink import TINK
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import AesKey, Passphrase
from keyrotation_pipeline.model.fleet import RolloutTarget, TargetKind
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import LAST_APPLIED, TestKeySecrets
from keyrotation_pipeline_tests.contract.key_store import (
    V1,
    V2,
    V3,
    V4,
    Place,
    add,
    archive,
    destroy,
    filled,
    key,
    restore,
    set_primary,
)
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import Stage, add_second, stage  # noqa: F401

NAME = "FERNET_KEYS"
READ_V2 = RolloutTarget(TargetKind.READS, (V2,))


@pytest.fixture
def key_list() -> str:
    return NAME


class ListPlace(Place, Protocol):
    """A store with a list, past which tests look."""

    def open(self) -> KeyStore: ...

    def listed(self) -> str | None: ...

    def change_list(self, text: str | None) -> None: ...


@pytest.fixture(params=["AWS", "Kubernetes"])
def new_place(request: pytest.FixtureRequest) -> Callable[[], ListPlace]:
    made: Callable[[], ListPlace] = request.getfixturevalue(
        {"AWS": "new_secret", "Kubernetes": "new_key_secrets"}[request.param]
    )
    return made


@pytest.fixture
def place(new_place: Callable[[], ListPlace]) -> ListPlace:
    return new_place()


def numbers(place: ListPlace) -> list[int]:
    """The keys of the list, in its order."""
    known = {key(number): number for number in range(1, 10)}
    return [known[each] for each in BARE_KEYS.keys_in(place.listed() or "", NAME)]


def test_an_application_gets_its_own_list_in_two_orders(place: ListPlace) -> None:
    store = place.open()
    add(store, V1, key(1))
    assert place.listed() is None  # nothing says yet which one encrypts
    set_primary(store, V1)
    lists = [numbers(place)]
    changes: tuple[Callable[[], object], ...] = (
        lambda: add(store, V2, key(2)),
        lambda: set_primary(store, V2),
        lambda: add(store, V3, key(3)),
        lambda: archive(store, V1),
        lambda: restore(store, V1),
        lambda: store.replace(V1, key(9), store.read().revision),
        lambda: set_primary(store, V1),
    )
    for change in changes:
        change()
        lists.append(numbers(place))
    assert lists == [[1], [1, 2], [2, 1], [2, 3, 1], [2, 3], [2, 3, 1], [2, 3, 9], [9, 3, 2]]
    assert store.read().undelivered is None
    assert store.preflight() == ()


def test_a_list_that_somebody_changed_is_named_and_delivered_again(place: ListPlace) -> None:
    store = filled(place.open())
    for text, word in (
        (as_list([key(1), key(2)]), "is not the list of the live keys in their order"),
        (None, "is missing"),
    ):
        place.change_list(text)
        seen = store.read()
        assert f"entry {NAME} of " in str(seen.undelivered)
        assert word in str(seen.undelivered)
        assert store.set_primary(V2, seen.revision).undelivered is None
        assert numbers(place) == [2, 1]
    place.change_list(as_list([key(2), key(1), key(3)]))  # an archived key is back
    assert store.read().undelivered is not None
    add(store, V4, key(4))
    assert numbers(place) == [2, 4, 1]


def test_a_key_that_the_store_does_not_know_is_kept_at_the_end_and_named(place: ListPlace) -> None:
    store = filled(place.open())
    place.change_list(as_list([key(8), key(2), key(1)]))
    set_primary(store, V2)
    assert numbers(place) == [2, 1, 8]
    archive(store, V1)
    assert numbers(place) == [2, 8]
    (problem,) = store.preflight()
    assert problem.message == store.read().foreign
    assert "1 key that the key store does not have" in problem.message
    assert not problem.fatal
    place.change_list(as_list([key(2)]))
    assert (store.read().foreign, store.preflight()) == (None, ())


@pytest.mark.parametrize("text", ["hunter2", "[]", "null,"])
def test_what_is_no_list_of_keys_is_not_written_over(place: ListPlace, text: str) -> None:
    store = place.open()
    add(store, V1, key(1))
    place.change_list(text)
    with pytest.raises(KeyStoreError, match=f"entry {NAME} of .* holds something else than keys") as caught:
        set_primary(store, V1)
    assert text not in str(caught.value)
    assert (place.listed(), store.read().primary) == (text, None)


def test_a_list_in_which_a_key_is_twice_is_written_without(place: ListPlace) -> None:
    store = filled(place.open())
    place.change_list(f"{as_list([key(2), key(1)])},{as_list([key(2)])}")
    add(store, V4, key(4))
    assert numbers(place) == [2, 4, 1]


def test_a_list_in_another_encoding_is_read_and_written_in_that(new_place: Callable[[], ListPlace]) -> None:
    """As that of an application with values of its own has it."""
    place = replace(new_place(), notation=by_commas(KeyEncoding.HEX))  # type: ignore[type-var]
    store = place.open()
    add(store, V1, key(1))
    place.change_list("08" * 32)
    set_primary(store, V1)
    assert place.listed() == f"{'01' * 32},{'08' * 32}"
    place.change_list(as_list([key(1)]))
    assert "holds something else than keys" in str(store.read().undelivered)


def test_what_keys_are_derived_from_is_listed_whatever_its_characters(new_place: Callable[[], ListPlace]) -> None:
    declared = replace(FERNET, derivation=DJANGO_FERNET_ENCRYPTED_FIELDS)
    first, second, foreign = (f"django-insecure-)6(#%&$@x=+^*!_:salt {each}" for each in ("one", "2", "(3)"))
    empty = new_place()
    place = replace(empty, notation=notation_of(declared))  # type: ignore[type-var]
    store = place.open()
    add(store, V1, Passphrase(first.encode()))
    add(store, V2, Passphrase(second.encode()))
    place.change_list(f"{first},{foreign}")
    set_primary(store, V2)
    assert place.listed() == f"{second},{first},{foreign}"
    assert store.read().ring().versions == (V1, V2)
    otherwise = replace(empty, notation=BARE_KEYS).open()  # type: ignore[type-var]
    assert "holds something else than keys" in str(otherwise.read().undelivered)
    with pytest.raises(KeyStoreError, match="holds something else than keys"):
        set_primary(otherwise, V1)
    assert place.listed() == f"{second},{first},{foreign}"


def test_a_foreign_key_under_the_name_of_one_of_ours_stops_every_change(new_place: Callable[[], ListPlace]) -> None:
    notation = notation_of(CLOAK_ECTO)
    place = replace(new_place(), notation=notation)  # type: ignore[type-var]
    store, one, two, foreign = place.open(), *(AesKey(bytes([n]) * 32, f"AES.GCM.V{min(n, 2)}") for n in (1, 2, 3))
    add(store, V1, one)
    set_primary(store, V1)
    place.change_list(notation.text_of([one, foreign]))
    with pytest.raises(KeyStoreError, match=r"under the name AES\.GCM\.V2; rename it there"):
        add(store, V2, two)
    assert notation.keys_in(place.listed() or "", NAME) == (one, foreign)
    place.change_list(notation.text_of([one]))
    add(store, V2, two)
    assert notation.keys_in(place.listed() or "", NAME) == (one, two)
    different = replace(place, notation=BARE_KEYS).open()  # type: ignore[type-var]
    place.change_list(None)
    assert "cannot be written" in str(different.read().undelivered)


@pytest.mark.parametrize(("declared", "first"), [(CLOAK_ECTO, "AES.GCM.V1"), (TINK, "7"), (KEYED_WRAPPER, "k.1")])
def test_keys_are_stored_and_listed_with_their_names(
    new_place: Callable[[], ListPlace], declared: ValueFormat, first: str
) -> None:
    notation = notation_of(declared)
    place = replace(new_place(), notation=notation)  # type: ignore[type-var]
    store, one = place.open(), AesKey(bytes(range(32)), first)
    two = new_key(declared, held=[one])
    add(store, V1, one)
    set_primary(store, V1)
    add(store, V2, two)
    seen = set_primary(store, V2)
    assert (seen.material(V1), seen.material(V2), seen.undelivered) == (one, two, None)
    assert notation.keys_in(place.listed() or "", NAME) == (two, one)
    place.change_list(notation.text_of([two, AesKey(bytes(range(32)), "8")]))  # somebody calls it otherwise
    seen = store.read()
    assert ("not the list of the live keys" in str(seen.undelivered), seen.foreign) == (True, None)
    assert store.set_primary(V2, seen.revision).undelivered is None
    assert notation.keys_in(place.listed() or "", NAME) == (two, one)
    archive(store, V1)
    assert notation.keys_in(place.listed() or "", NAME) == (two,)
    assert store.read().archived[V1] == one


def test_a_damaged_key_leaves_the_list_as_it_is(place: ListPlace) -> None:
    store = filled(place.open())
    place.damage(V1, "damaged")
    add(store, V4, key(4))
    assert numbers(place) == [2, 1]
    assert store.read().undelivered is None
    place.damage(V1, base64_of(key(1)))
    assert store.read().undelivered is not None
    set_primary(store, V2)
    assert numbers(place) == [2, 4, 1]


def test_an_archived_and_a_destroyed_key_are_in_no_list_of_any_label(new_secret: Callable[[], TestSecret]) -> None:
    secret = new_secret()
    store = filled(secret.open())
    archive(store, V1)
    destroy(store, V3)
    labels = secret.client.describe_secret(SecretId=secret.name)["VersionIdsToStages"]
    texts = [secret.text(VersionId=version) for version, of_it in labels.items() if of_it]
    assert [sorted(BARE_KEYS.keys_in(json.loads(text)[NAME], NAME) == (key(2),) for text in texts)] == [
        [True] * len(texts)
    ]


def test_a_label_of_somebody_that_leads_to_an_archived_key_in_a_list_is_named(
    new_secret: Callable[[], TestSecret],
) -> None:
    secret = new_secret()
    store = filled(secret.open())
    text = json.dumps({NAME: as_list([key(2), key(1)])})
    secret.client.put_secret_value(SecretId=secret.name, SecretString=text, VersionStages=["mine"])
    archive(store, V1)
    assert "still gives its key under the label mine" in store.read().left_behind[V1]


def test_a_secret_that_is_one_text_is_told_how_to_become_json(new_secret: Callable[[], TestSecret]) -> None:
    secret = new_secret()
    secret.overwrite(as_list([key(1)]))
    with pytest.raises(KeyStoreDamagedError, match=r'not JSON of the form \{"FERNET_KEYS": "<keys>"\}; write its text'):
        secret.open().read()
    secret.overwrite(json.dumps({NAME: [as_list([key(1)])]}))
    with pytest.raises(KeyStoreDamagedError, match=r"entry FERNET_KEYS of secret .* is not text"):
        secret.open().listed()


def test_what_kubectl_keeps_of_the_list_goes_with_the_old_key(new_key_secrets: Callable[[], TestKeySecrets]) -> None:
    secrets = new_key_secrets()
    store = filled(secrets.open())
    applied = json.dumps({"stringData": {NAME: as_list([key(1)])}})
    for _ in range(2):  # it is found again where the key itself is gone already
        secrets.overwrite({}, metadata={"annotations": {LAST_APPLIED: applied, "team": "clinic"}})
        archive(store, V1)
        assert secrets.secret()["metadata"]["annotations"] == {"team": "clinic"}


# --- rollouts -------------------------------------------------------------------------------------------------------


def test_pods_need_the_list_alone(stage: Stage) -> None:  # noqa: F811
    name = stage.fleet.secrets.name
    reference = {"valueFrom": {"secretKeyRef": {"name": name, "key": NAME}}}
    workload = stage.fleet.start(envFrom=None, env=[{"name": NAME, **reference}])
    assert stage.rollout().preflight(V2) == ()
    stage.fleet.change(workload, envFrom=None, env=[{"name": "OTHER", **reference}])
    (problem,) = stage.rollout().preflight(V2)
    assert "container api would not get FERNET_KEYS from" in problem.message
    assert problem.message.endswith("or by a secretKeyRef")


def test_a_list_that_others_change_back_makes_no_pod(stage: Stage) -> None:  # noqa: F811
    workload = stage.fleet.start()
    add_second(stage)
    stage.fleet.secrets.change_list(as_list([key(1)]))
    before = stage.fleet.found(workload)["metadata"]["generation"]
    stage.pause_seconds = 5
    with pytest.raises(BlockedError, match=rf"entry {NAME} of Secret .* is not the list of the live keys"):
        stage.roll_out(READ_V2)
    assert stage.fleet.found(workload)["metadata"]["generation"] == before
    stage.pause_seconds = 0
    set_primary(stage.fleet.secrets.open(), V1)
    stage.roll_out(READ_V2)
