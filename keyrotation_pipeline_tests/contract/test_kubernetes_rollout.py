"""The rollout over workloads in Kubernetes, over HTTP: a stand-in of the API server, or a real one."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.adapters.rollouts.templates import Fleet, Workload
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import Gone, Instance, Pod, RolloutMode, RolloutTarget, TargetKind
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline_tests.clusters import (
    Exchange,
    Once,
    TestKeySecrets,
    exchanging,
    refusing,
    timing_out_after_the_effect,
)
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, archive, key, restore, set_primary
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2, report_nothing
from keyrotation_pipeline_tests.fleets import BROKEN, CRASHES, TestFleet
from keyrotation_pipeline_tests.waiting import eventually

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.rollouts.kubernetes import KubernetesRollout

WRITE_V2, WITHOUT_V1 = RolloutTarget(TargetKind.WRITES, (V2,)), RolloutTarget(TargetKind.WITHOUT, (V1,))
KIND = ["Deployment", "StatefulSet", "DaemonSet"]


class NobodyReports(ReportedInstances):
    """`ReportedInstances` of which a test says what is in the table."""

    def __init__(self) -> None:
        self.rows: tuple[Instance, ...] = ()
        self.pods: set[Pod] = set()

    def forget(self, gone: Collection[Gone] = ()) -> None:
        self.rows = tuple(each for each in self.rows if Gone(each.name, each.reported_at) not in gone)

    def instances(self) -> tuple[Instance, ...]:
        return self.rows

    def see_pods(self, present: Collection[Pod]) -> None:
        self.pods |= {each.pod for each in self.rows if each.pod in present and each.pod is not None}

    def seen_pods(self) -> frozenset[Pod]:
        return frozenset(self.pods)


class ControllersClock(SystemClock):
    """A pause in which the controllers of the cluster work.

    Args:
        meddle: what others do in it.
        seconds: how much longer it seems to be than it is.
    """

    def __init__(self, fleet: TestFleet, meddle: Callable[[], None], seconds: float) -> None:
        self._fleet, self._meddle, self._seconds = fleet, meddle, seconds
        self._passed = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._passed

    def sleep(self, _seconds: float) -> None:
        self._passed += self._seconds
        self._meddle()
        self._fleet.tick()


@dataclass
class Stage:
    """A fleet whose Secret holds v1, the primary; and v2, stored and not read by anybody.

    Args:
        meddle: what others do in each pause between two polls.
        pause_seconds: how much longer a pause seems to be than it is.
        settle_seconds: how long the Secret must not have changed before Pods are made.
        waits: what waits for the API server.
    """

    fleet: TestFleet
    meddle: Callable[[], None] = lambda: None
    pause_seconds: float = 0
    settle_seconds: float = 0
    waits: Clock = field(default_factory=SystemClock)
    reported: NobodyReports = field(default_factory=NobodyReports)
    stated: list[str] = field(default_factory=list)

    def rollout(self, *workloads: Workload, timeout_seconds: float = 60) -> "KubernetesRollout":
        from keyrotation_pipeline.adapters.cluster import Access, Cluster  # noqa: PLC0415
        from keyrotation_pipeline.adapters.rollouts.kubernetes import KubernetesRollout  # noqa: PLC0415

        secrets = self.fleet.secrets
        chosen = workloads or tuple(self.fleet.workloads)
        fleet = Fleet(secrets.cluster.namespace, secrets.name, chosen, secrets.variable)
        clock = ControllersClock(self.fleet, self.meddle, self.pause_seconds)
        cluster, keys = Cluster(Access(secrets.kubeconfig), self.waits), secrets.open(self.waits)
        return KubernetesRollout(cluster, fleet, keys, self.reported, timeout_seconds, clock, self.settle_seconds)

    def roll_out(self, target: RolloutTarget, **options: float) -> tuple[Instance, ...]:
        def lacking(instances: Sequence[Instance]) -> PendingReason | None:
            names = [each.name for each in instances if not target.met_by(each)]
            return PendingReason(PendingCode.INSTANCES, "instances", f"{', '.join(names)} lags") if names else None

        def report(_done: int, _total: int, reason: PendingReason | None) -> None:
            self.stated.append("" if reason is None else str(reason))

        return self.rollout(**options).roll_out(target, lacking, report)


@pytest.fixture
def stage(new_key_secrets: Callable[[], TestKeySecrets]) -> Iterator[Stage]:
    secrets = new_key_secrets()
    store = secrets.open()
    add(store, V1, key(1))
    set_primary(store, V1)
    fleet = TestFleet(secrets)
    yield Stage(fleet)
    fleet.stop()


def add_second(stage: Stage) -> None:
    add(stage.fleet.secrets.open(), V2, key(2))


def seen(instances: Sequence[Instance]) -> set[tuple[tuple[KeyVersion, ...], KeyVersion | None]]:
    return {(each.reads, each.writes) for each in instances}


@pytest.mark.parametrize("kind", KIND)
def test_each_rollout_replaces_every_pod_and_is_waited_for_until_it_is_seen(stage: Stage, kind: str) -> None:
    workload = stage.fleet.start(kind, replicas=2)
    assert seen(stage.rollout().instances()) == {((), None)}, "a Pod from before says nothing of itself"
    store = stage.fleet.secrets.open()
    add_second(stage)
    before = {pod["metadata"]["uid"] for pod in stage.fleet.pods(workload)}
    for target, change, state in (
        (READ_V2, lambda: None, ((V1, V2), V1)),
        (WRITE_V2, lambda: set_primary(store, V2), ((V1, V2), V2)),
        (WITHOUT_V1, lambda: archive(store, V1), ((V2,), V2)),
    ):
        change()
        assert seen(stage.roll_out(target)) == {state}
        after = {pod["metadata"]["uid"] for pod in stage.fleet.pods(workload)}
        assert not before & after
        before = after
        assert stage.rollout().waiting() == {}
    assert f"{workload}: its new template has not been observed yet" in stage.stated[0]
    assert stage.stated[-1] == ""


def test_the_way_back_is_made_by_the_same_rollouts(stage: Stage) -> None:
    stage.fleet.start()
    store = stage.fleet.secrets.open()
    add_second(stage)
    set_primary(store, V2)
    archive(store, V1)
    assert seen(stage.roll_out(WITHOUT_V1)) == {((V2,), V2)}
    restore(store, V1)
    assert seen(stage.roll_out(RolloutTarget(TargetKind.READS, (V1,)))) == {((V1, V2), V2)}
    set_primary(store, V1)
    assert seen(stage.roll_out(RolloutTarget(TargetKind.WRITES, (V1,)))) == {((V1, V2), V1)}
    archive(store, V2)
    assert seen(stage.roll_out(RolloutTarget(TargetKind.WITHOUT, (V2,)))) == {((V1,), V1)}


def test_the_same_rollout_again_changes_nothing(stage: Stage) -> None:
    workload = stage.fleet.start()
    add_second(stage)
    stage.roll_out(READ_V2)
    before = stage.fleet.found(workload)["metadata"]
    stage.roll_out(READ_V2)
    assert stage.fleet.found(workload)["metadata"]["generation"] == before["generation"]


@pytest.mark.parametrize("fault", [refusing(500), refusing(409), timing_out_after_the_effect])
def test_a_rollout_whose_patch_fails_once_ends_right_and_is_one_rollout(stage: Stage, fault: Exchange) -> None:
    workload = stage.fleet.start()
    add_second(stage)
    once = Once(1, fault)
    with exchanging(once):
        stage.roll_out(READ_V2)
    assert once.hit
    assert stage.fleet.found(workload)["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        pytest.param(BROKEN, f"Pod api-.*, container api: ({CRASHES})", id="crash loop"),
        pytest.param(
            {"image": "localhost/none:no-such-tag"},
            r"Pod api-.*, container api: (ImagePullBackOff|Err)",
            id="bad image",
        ),
    ],
)
def test_a_rollout_that_fails_stops_before_the_next_workload_and_continues_after_the_repair(
    stage: Stage, broken: dict[str, Any], why: str
) -> None:
    first, second = stage.fleet.start(replicas=2), stage.fleet.start()
    add_second(stage)
    stage.fleet.change(first, **broken)
    with pytest.raises(BlockedError, match=f"the rollout of {first} failed: {why}") as caught:
        stage.roll_out(READ_V2)
    assert "repair it, and run `keyrotation rotate` again" in str(caught.value)
    assert "SECRET-TEXT" not in str(caught.value)
    assert stage.fleet.found(second)["metadata"]["generation"] == 1, "the second was not touched"
    stage.fleet.change(first)
    assert seen(stage.roll_out(READ_V2)) == {((V1, V2), V1)}


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        pytest.param(
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
            "its progress deadline has passed, and not ready is",
            id="deadline",
        ),
        pytest.param(
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: small"},
            r"its Pods cannot be created \(quota small is used up\)",
            id="quota",
        ),
    ],
)
def test_a_condition_that_reports_failure_stops_the_rollout(stage: Stage, condition: dict[str, str], why: str) -> None:
    if stage.fleet.cluster.standin is None:
        pytest.skip("needs a status that no controller corrects")
    workload = stage.fleet.start()
    add_second(stage)
    for _ in range(2):
        with pytest.raises(BlockedError, match=r"has not been observed|are new"):
            stage.roll_out(READ_V2, timeout_seconds=0)
        stage.fleet.tick()
    path = f"/apis/apps/v1/namespaces/{stage.fleet.cluster.namespace}/deployments/{workload.name}/status"
    stage.fleet.cluster.ask("PATCH", path, {"status": {"conditions": [condition]}})
    with pytest.raises(BlockedError, match=f"the rollout of {workload} failed: {why}"):
        stage.roll_out(READ_V2)


def test_a_pod_that_terminates_is_still_an_instance(stage: Stage) -> None:
    """It may write until it has ended."""
    if stage.fleet.cluster.standin is None:
        pytest.skip("needs a controller that can be held")
    workload = stage.fleet.start()
    [before] = stage.fleet.pods(workload)
    add_second(stage)
    while "deletionTimestamp" not in before["metadata"]:
        with pytest.raises(BlockedError):
            stage.roll_out(READ_V2, timeout_seconds=0)
        stage.fleet.tick()
        before = stage.fleet.cluster.ask("GET", f"pods/{before['metadata']['name']}")
    status = stage.fleet.found(workload)["status"]
    assert (status["replicas"], status["updatedReplicas"], status["availableReplicas"]) == (1, 1, 1), (
        "kubectl is content"
    )
    assert seen(stage.rollout().instances()) == {((), None), ((V1, V2), V1)}
    see = f"`kubectl --namespace {stage.fleet.secrets.cluster.namespace} rollout status {str(workload).lower()}`"
    with pytest.raises(
        BlockedError,
        match=f"of an older template is {before['metadata']['name']}, which has not ended; "
        f"see {see}, and run `keyrotation rotate` again",
    ):
        stage.roll_out(READ_V2, timeout_seconds=0)
    stage.fleet.tick()
    assert seen(stage.roll_out(READ_V2, timeout_seconds=0)) == {((V1, V2), V1)}


def test_a_wait_that_takes_too_long_says_what_for(stage: Stage) -> None:
    workload = stage.fleet.start()
    add_second(stage)
    with pytest.raises(BlockedError, match=rf"{workload}: its new template has not been observed"):
        stage.roll_out(READ_V2, timeout_seconds=0)


def test_whoever_judges_can_end_the_wait_before_anything_is_changed(stage: Stage) -> None:
    workload = stage.fleet.start()
    add_second(stage)

    def paused(_instances: Sequence[Instance]) -> PendingReason | None:
        raise BlockedError("the rotation was paused; resume it")

    with pytest.raises(BlockedError, match="paused"):
        stage.rollout().roll_out(READ_V2, paused, report_nothing)
    assert stage.fleet.found(workload)["metadata"]["generation"] == 1


def test_a_pod_of_another_key_under_the_same_version_does_not_read_it(stage: Stage) -> None:
    stage.fleet.start()
    add_second(stage)
    stage.roll_out(READ_V2)
    from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of  # noqa: PLC0415

    stage.fleet.secrets.overwrite({"ENCRYPTION_MASTER_KEY_V2": base64_of(key(9))})
    assert seen(stage.rollout().instances()) == {((V1,), V1)}


# --- before anything is changed -------------------------------------------------------------------------------------


def test_a_workload_that_would_not_get_the_key_is_refused(stage: Stage) -> None:
    workload = stage.fleet.start(envFrom=[])
    [problem] = stage.rollout().preflight(V2)
    assert problem.fatal
    assert problem.message.startswith(f"{workload}: container api would not get ENCRYPTION_MASTER_KEY from")
    add_second(stage)
    with pytest.raises(BlockedError, match="would not get ENCRYPTION_MASTER_KEY"):
        stage.roll_out(READ_V2)
    assert stage.fleet.found(workload)["metadata"]["generation"] == 1


def test_a_workload_that_gets_the_keys_and_is_not_declared_is_refused(stage: Stage) -> None:
    declared, forgotten = stage.fleet.start(), stage.fleet.start()
    [problem] = stage.rollout(declared).preflight(V2)
    assert f"Pod {forgotten.name}-" in problem.message
    assert "of no workload in [[rollout.workloads]]; add that there" in problem.message


def test_a_pod_of_nobody_that_gets_the_keys_is_an_instance_of_which_nobody_knows(stage: Stage) -> None:
    secrets = stage.fleet.secrets
    stage.fleet.start()
    add_second(stage)
    stage.roll_out(READ_V2)
    container = stage.fleet.container()
    spec = {"containers": [container], "hostNetwork": True, "terminationGracePeriodSeconds": 0}
    secrets.cluster.ask("POST", "pods", {"metadata": {"name": "by-hand"}, "spec": spec})
    try:
        assert stage.rollout().preflight(V2) == ()
        assert [each.writes for each in stage.rollout().instances() if each.name == "by-hand"] == [None]
    finally:
        secrets.cluster.ask("DELETE", "pods/by-hand")


def test_a_pod_whose_ephemeral_container_gets_the_keys_is_an_instance_until_that_has_ended(stage: Stage) -> None:
    """`kubectl debug` adds one to a Pod that had nothing of the Secret."""
    cluster = stage.fleet.cluster
    stage.fleet.start()
    add_second(stage)
    stage.roll_out(READ_V2)
    spec = {"containers": [stage.fleet.container(envFrom=[])], "hostNetwork": True, "terminationGracePeriodSeconds": 0}
    cluster.ask("POST", "pods", {"metadata": {"name": "debugged"}, "spec": spec})
    try:
        assert "debugged" not in [each.name for each in stage.rollout().instances()]
        added = {"spec": {"ephemeralContainers": [{**stage.fleet.container(), "name": "debugger"}]}}
        cluster.ask("PATCH", "pods/debugged/ephemeralcontainers", added)
        assert [each.writes for each in stage.rollout().instances() if each.name == "debugged"] == [None]
        if cluster.standin is not None:
            status = {"name": "debugger", "state": {"running": {}}}
            ended = {"phase": "Succeeded", "ephemeralContainerStatuses": [status]}
            cluster.ask("PATCH", "pods/debugged/status", {"status": ended})
            assert "debugged" in [each.name for each in stage.rollout().instances()], "it still runs"
            status["state"] = {"terminated": {"exitCode": 0}}
            cluster.ask("PATCH", "pods/debugged/status", {"status": ended})
            assert "debugged" not in [each.name for each in stage.rollout().instances()]
    finally:
        cluster.ask("DELETE", "pods/debugged")


def test_a_workload_that_is_not_there_is_refused(stage: Stage) -> None:
    rollout = stage.rollout(Workload("Deployment", "nobody", "api"))
    with pytest.raises(BlockedError, match=r"get Deployment/nobody \(there is none; correct \[\[rollout.workloads\]\]"):
        rollout.preflight(V2)


@pytest.mark.parametrize(("status", "sentence"), [(403, "this account may not; give it the Role"), (503, "HTTP 503")])
def test_what_the_cluster_refuses_is_said_without_its_own_text(stage: Stage, status: int, sentence: str) -> None:
    stage.fleet.start()
    keys = stage.fleet.secrets.open().read()
    rollout = stage.rollout()

    def refuse(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        return send() if "/secrets/" in path else refusing(status)(pool, method, path, send)

    with exchanging(refuse), pytest.raises(BlockedError, match=sentence) as caught:
        rollout.instances()
    assert "SECRET-TEXT" not in str(caught.value)
    assert keys.primary == V1


# --- instances that report themselves -------------------------------------------------------------------------------


def reported(name: str, pod: Pod | None, *, silent: bool = True) -> Instance:
    return Instance(name, (V1,), V1, datetime.now(UTC), silent, pod=pod)


def test_an_instance_is_gone_when_its_pod_was_seen_here_and_has_ended(stage: Stage) -> None:
    workload = stage.fleet.start()
    [pod] = stage.fleet.pods(workload)
    name, namespace = pod["metadata"]["name"], stage.fleet.cluster.namespace
    own = Pod(namespace, pod["metadata"]["uid"])
    stage.reported.rows = (reported(f"{name}/1-aa", own), reported(f"{name}/2-bb", own, silent=False))
    rollout = stage.rollout()
    rollout.forget()
    assert [each.name for each in rollout.instances()] == [name, f"{name}/1-aa", f"{name}/2-bb"], "its Pod is there"
    stage.fleet.stop()
    assert eventually(lambda: stage.fleet.pods(workload) == [])
    stage.fleet.workloads.clear()
    rollout = stage.rollout(stage.fleet.start())
    assert f"{name}/1-aa" not in [each.name for each in rollout.instances()]
    assert f"{name}/2-bb" in [each.name for each in rollout.instances()], "one that still reports has not ended"
    rollout.forget()
    assert [each.name for each in stage.reported.rows] == [f"{name}/2-bb"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(None, id="a virtual machine of such a name"),
        pytest.param(
            Pod("", "0d5c1c5e-0000-4000-8000-000000000000"), id="a Pod of the same Deployment in another cluster"
        ),
        pytest.param(Pod("other", "uid of a Pod that was seen"), id="a Pod of another namespace"),
    ],
)
def test_by_its_name_alone_no_instance_has_ended_with_a_pod(stage: Stage, elsewhere: Pod | None) -> None:
    workload = stage.fleet.start()
    pod = elsewhere and replace(elsewhere, namespace=elsewhere.namespace or stage.fleet.cluster.namespace)
    names = [f"{workload.name}-east1", f"{workload.name}-0123456789-abcde/1-aa"]
    stage.reported.rows = tuple(reported(name, pod) for name in names)
    rollout = stage.rollout()
    rollout.forget()
    assert [each.name for each in rollout.instances()][1:] == names
    assert rollout.mode is RolloutMode.KUBERNETES
