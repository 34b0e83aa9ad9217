"""A whole walk with the keys in a real store, for suites in which calls to that store fail."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.errors import BlockedError, KeyStoreConflictError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, set_primary, shape
from keyrotation_pipeline_tests.fakes import ROSTER, FakeRollout, FakeWorld
from keyrotation_pipeline_tests.fakes.journal import OWNER
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

# A call of ours, the method of the store that makes it, and who asked the store.
FRAMES = 7
REFUSALS = 300


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


def world_with(store: KeyStore) -> FakeWorld:
    """Before any rotation, with the keys of the fake world in a store."""
    world = before_any_rotation()
    add(store, V1, world.keys.get(V1))
    set_primary(store, V1)
    store.name_owner(replace(OWNER, places=(), roster=ROSTER.digest), store.read().revision)
    rollout = FakeRollout(Following(store), world.clock)  # type: ignore[arg-type]
    return replace(world, pipeline=replace(world.pipeline, keys=OwnedKeyStore(store, world.ledger), rollout=rollout))


def walk(world: FakeWorld, request: str, refused: Callable[[], None] = lambda: None) -> int:
    """Run it to its end, again after each refusal as the conductor does; gives back how often it was refused.

    Args:
        refused: what is looked at after each refusal.
    """
    for refusals in count():
        try:
            list(runner.run(world.pipeline, request, world.report))
        except (KeyStoreUnavailableError, KeyStoreConflictError, BlockedError):
            assert refusals < REFUSALS, world.ledger.walk(request).blocked_by
            refused()
            continue
        return refusals
    raise AssertionError


def assert_ended_right(world: FakeWorld, request: str) -> None:
    """v1 is archived, v2 alone is live, and each is one key."""
    assert world.ledger.request(request).status is RequestStatus.FINISHED
    stored = world.pipeline.keys.read()
    assert shape(stored) == ((V2,), (V1,), V2)
    assert stored.material(V1) == world.keys.get(V1)


@dataclass
class EachPoint:
    """Tells the first call from each point of our code; `points` has what each was."""

    points: dict[tuple[tuple[str, int | None], ...], str] = field(default_factory=dict)

    def is_new(self, call: str) -> bool:
        """Whether none was made before from where this one is made."""
        ours = (
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_stack(None)
            if "/keyrotation_pipeline/" in frame.f_code.co_filename
        )
        point = tuple(frame for frame, _ in zip(ours, range(FRAMES), strict=False))
        if not point or point in self.points:  # a test looks for itself, or again
            return False
        self.points[point] = call
        return True
