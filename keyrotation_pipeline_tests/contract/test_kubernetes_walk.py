"""A whole walk with keys in a Kubernetes Secret, in which each call fails once, in each way."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.clusters import (
    Exchange,
    Once,
    TestKeySecrets,
    exchanging,
    refusing,
    timing_out_after_the_effect,
)
from keyrotation_pipeline_tests.contract.faulty_walk import EachPoint, assert_ended_right, walk, world_with
from keyrotation_pipeline_tests.contract.key_store import V2
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import Stage
from keyrotation_pipeline_tests.fakes import FakeWorld
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.unit.rotation.requests import approved


def kind_in(path: str) -> str:
    found = re.search(r"/namespaces/[^/]+/([a-z]+)", path)
    assert found is not None
    return found[1]


class SecondKeys:
    """What was ever the key of v2; and that v1 is somewhere, whenever it is looked."""

    def __init__(self, secrets: TestKeySecrets) -> None:
        self.secrets = secrets
        self.ever: set[str] = set()

    def look(self) -> None:
        held = self.secrets.entries()
        assert "v1" in self.secrets.entries(self.secrets.archive) or "ENCRYPTION_MASTER_KEY" in held
        self.ever.update(text for name, text in held.items() if name.endswith("_V2"))

    def assert_one(self, world: FakeWorld) -> None:
        assert self.ever <= {base64_of(world.pipeline.keys.read().material(V2))}, "never a second key"


@pytest.mark.extended
@pytest.mark.parametrize(
    ("fault", "refused", "refused_first"),
    [
        pytest.param(refusing(500), False, False, id="an error"),
        pytest.param(refusing(429), False, False, id="throttled"),
        pytest.param(timing_out_after_the_effect, False, False, id="a time-out after the effect"),
        # The first change names the owner, and is decided again at once.
        pytest.param(refusing(409), True, False, id="a conflict"),
        pytest.param(refusing(403), True, True, id="no access"),
    ],
)
def test_a_walk_ends_right_whichever_change_fails_once(
    new_key_secrets: Callable[[], TestKeySecrets], fault: Exchange, refused: bool, refused_first: bool
) -> None:
    for moment in range(1, 20):
        secrets = new_key_secrets()
        world, second = world_with(secrets.open()), SecondKeys(secrets)
        rotation = approved(world)
        once = Once(moment, fault)
        with exchanging(once):
            refusals = walk(world, rotation.id, second.look)
        if not once.hit:
            break
        assert refusals == int(refused if moment > 1 else refused_first)
        assert_ended_right(world, rotation.id)
        second.assert_one(world)
    assert moment == 9, "the owner, three stamps, the new key, the primary, the archive, the old key out of the Secret"


@pytest.mark.parametrize(
    ("fault", "refused"),
    [
        pytest.param(refusing(500), False, id="an error", marks=pytest.mark.extended),
        pytest.param(refusing(429), False, id="throttled", marks=pytest.mark.extended),
        pytest.param(timing_out_after_the_effect, False, id="a time-out after the effect"),
        pytest.param(refusing(403), True, id="no access"),
    ],
)
def test_a_walk_with_its_rollouts_ends_right_though_each_call_fails_at_its_first_time(
    new_key_secrets: Callable[[], TestKeySecrets], fault: Exchange, refused: bool
) -> None:
    """Those that only read too, each from every place that makes it; of Secrets, workloads and Pods."""
    secrets = new_key_secrets()
    world, second, each = world_with(secrets.open()), SecondKeys(secrets), EachPoint()
    stage = Stage(TestFleet(secrets))
    stage.fleet.start()
    world = replace(world, pipeline=replace(world.pipeline, rollout=stage.rollout()))
    rotation = approved(world)

    def fail(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        if each.is_new(f"{method} {kind_in(path)}"):
            return fault(pool, method, path, send)
        return send()

    with exchanging(fail):
        refusals = walk(world, rotation.id, second.look if refused else lambda: None)
    stage.fleet.stop()
    assert_ended_right(world, rotation.id)
    second.assert_one(world)
    assert refusals == (len(each.points) if refused else 0)
    kinds = ("GET secrets", "PATCH secrets", "GET deployments", "PATCH deployments", "GET replicasets", "GET pods")
    assert set(each.points.values()) == set(kinds)
