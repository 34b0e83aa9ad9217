"""A whole walk with keys in a Kubernetes Secret, in which each call that changes something fails once, in each way."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from keyrotation_pipeline.errors import KeyStoreConflictError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.model.request import RequestStatus
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.rotation import performing
from keyrotation_pipeline_tests.clusters import (
    Exchange,
    Once,
    TestKeySecrets,
    exchanging,
    refusing,
    timing_out_after_the_effect,
)
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, set_primary, shape
from keyrotation_pipeline_tests.fakes import FakeRollout, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


class Following:
    """What an instance of the application gets."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store

    @property
    def live(self) -> tuple[KeyVersion, ...]:
        return tuple(self.store.read().live)

    @property
    def primary_version(self) -> KeyVersion | None:
        return self.store.read().primary


def world_in(secrets: TestKeySecrets) -> FakeWorld:
    """Before any rotation, with the keys of the fake world in the Secret."""
    world = before_any_rotation()
    store = secrets.open()
    add(store, V1, world.keys.get(V1))
    set_primary(store, V1)
    rollout = FakeRollout(Following(store), world.clock)  # type: ignore[arg-type]
    return replace(world, pipeline=replace(world.pipeline, keys=store, rollout=rollout))


def walk(world: FakeWorld, request: str, secrets: TestKeySecrets) -> tuple[int, set[str]]:
    """Run it to its end, again after each refusal as the conductor does.

    Returns:
        How often it was refused, and every text that was ever v2's, as it was at each refusal.
    """
    ever: set[str] = set()
    for refusals in count():
        try:
            list(performing.run(world.pipeline, request, world.report))
        except (KeyStoreUnavailableError, KeyStoreConflictError):
            held = secrets.entries()
            assert "v1" in secrets.entries(secrets.archive) or "ENCRYPTION_MASTER_KEY" in held
            ever.update(text for name, text in held.items() if name.endswith("_V2"))
            continue
        return refusals, ever
    raise AssertionError


@pytest.mark.parametrize(
    ("fault", "refused"),
    [
        pytest.param(refusing(500), False, id="an error"),
        pytest.param(refusing(429), False, id="throttled"),
        pytest.param(timing_out_after_the_effect, False, id="a time-out after the effect"),
        pytest.param(refusing(409), True, id="a conflict"),
        pytest.param(refusing(403), True, id="no access"),
    ],
)
def test_a_walk_ends_right_whichever_call_fails_once(
    new_key_secrets: Callable[[], TestKeySecrets], fault: Exchange, refused: bool
) -> None:
    for moment in range(1, 20):
        secrets = new_key_secrets()
        world = world_in(secrets)
        rotation = approved(world)
        once = Once(moment, fault)
        with exchanging(once):
            refusals, ever = walk(world, rotation.id, secrets)
        if not once.hit:
            break
        assert refusals == int(refused)
        assert world.ledger.request(rotation.id).status is RequestStatus.FINISHED
        stored = world.pipeline.keys.read()
        assert shape(stored) == ((V2,), (V1,), V2)
        assert stored.material(V1) == world.keys.get(V1)
        assert ever <= {base64_of(stored.material(V2))}, "never a second key"
    assert moment == 5, "the new key, the primary, the archive, and the old key out of the live Secret"
