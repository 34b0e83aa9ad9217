"""Rolls out keys from a Kubernetes Secret: gives workloads a new Pod template and waits until Pods run it.

An annotation of the template (`pod_keys`) says what the Secret held when the template was made, and its revision.
Where the Secret has changed since, a Pod may have been started with something else, or a container of it restarted: the
workload is rolled out again, unless every Pod of it proves what it holds. Nobody knows what a Pod reads that gets the
Secret but has no such annotation.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from keyrotation_pipeline.adapters.cluster import (
    POD,
    REPLICA_SET,
    SECRET,
    WORKLOADS,
    Cluster,
    RefusalError,
    UnreachableError,
)
from keyrotation_pipeline.adapters.rollouts import pod_keys, progress, templates
from keyrotation_pipeline.adapters.rollouts.pod_keys import (
    ANNOTATION,
    annotated,
    described,
    instance_of,
    names_same_keys,
)
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.adapters.rollouts.reverts import Reverts
from keyrotation_pipeline.adapters.rollouts.templates import Fleet, Workload
from keyrotation_pipeline.errors import BlockedError, RolloutPendingError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.fleet import Gone, Instance, Pod, RolloutMode, RolloutTarget, TargetKind
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.pending import PendingReason, of_cluster
from keyrotation_pipeline.ports.clock import Clock, attempts
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.rollout import PendingCheck, ProgressCallback

POLL_SECONDS = 1.0  # each poll lists the Pods of a namespace
# A controller may answer each change of the Secret with one of its own (External Secrets writes a hash of the content),
# and a kubelet may be a moment late: Pods are made when the Secret has not changed for so long.
SETTLE_SECONDS = 2.0
_NAMED_AT_MOST = 3
Json = dict[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The namespace at one moment.

    Args:
        secret: the metadata of the Secret.
        pods: those that have not ended, and get the Secret or belong to a workload.
        present: every Pod that has not ended.
    """

    keys: StoredKeys
    secret: Json
    found: dict[Workload, Json]
    pods: tuple[Json, ...]
    present: frozenset[Pod]
    replica_sets: Sequence[Json]

    def pods_of(self, workload: Workload) -> list[Json]:
        selector = self.found[workload]["spec"]["selector"]
        return [pod for pod in self.pods if progress.selects(selector, progress.labels_of(pod))]

    def newest_of(self, workload: Workload) -> list[Json]:
        found = self.found[workload]
        return [pod for pod in self.pods_of(workload) if progress.is_newest(found, self.replica_sets, pod)]

    def earlier_of(self, workload: Workload) -> list[str]:
        """Returns the annotations of a Deployment's templates, present and earlier; other kinds keep none to list."""
        owned = progress.owned_by(self.found[workload], self.replica_sets)
        return [annotated(each["spec"]["template"]) for each in owned]


class KubernetesRollout:
    """`Rollout` over workloads of one namespace, and over other instances that report themselves.

    Args:
        keys: the store over the Secret.
        reported: instances that call `attest`, in Pods or not; a lagging one counts.
        settle_seconds: how long the Secret must not have changed before Pods are made.
    """

    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        keys: KeyStore,
        reported: ReportedInstances,
        timeout_seconds: float,
        clock: Clock,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._keys = keys
        self._reported = reported
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._settle_seconds = settle_seconds

    @property
    def mode(self) -> RolloutMode:
        """See `Rollout.mode`."""
        return RolloutMode.KUBERNETES

    @property
    def workloads(self) -> tuple[str, ...]:
        """See `Rollout.workloads`."""
        return tuple(map(str, self._fleet.workloads))

    def preflight(self, target: KeyVersion) -> tuple[Problem, ...]:
        """See `Rollout.preflight`."""
        return tuple(Problem(message, fatal=True) for message in self._problems(self._take_snapshot(), (target,)))

    def waiting(self) -> Mapping[str, str]:
        """See `Rollout.waiting`."""
        snapshot = self._take_snapshot()
        return {str(each): waits for each in self._fleet.workloads if (waits := _unfinished(snapshot, each))}

    def instances(self) -> tuple[Instance, ...]:
        """See `Rollout.instances`: every Pod that gets the Secret, and every instance that reports itself."""
        return self._instances(self._take_snapshot())

    def forget(self, gone: Collection[Gone] = ()) -> None:
        """See `Rollout.forget`; also those whose Pod has ended."""
        snapshot = self._take_snapshot()
        self._reported.see_pods(snapshot.present)
        ended = self._ended(self._reported.instances(), snapshot)
        self._reported.forget((*gone, *Gone.of(ended)))

    def roll_out(self, target: RolloutTarget, pending: PendingCheck, report: ProgressCallback) -> tuple[Instance, ...]:
        """See `Rollout.roll_out`. Workloads are changed one after another, so a bad template stops it early."""
        self.forget()
        reason: PendingReason | None = None
        reverts = Reverts(target, self._fleet)
        for _ in attempts(self._clock, pause_seconds=POLL_SECONDS, patience_seconds=self._timeout_seconds):
            snapshot = self._take_snapshot()
            if problems := self._problems(snapshot, () if target.kind is TargetKind.WITHOUT else target.versions):
                raise BlockedError(problems[0])
            self._reported.see_pods(snapshot.present)
            instances = self._instances(snapshot)
            lacks = pending(instances)  # raises to end the wait of a paused request
            now = self._clock.monotonic()
            reverts.see(snapshot.secret, now)
            undone = reverts.contradiction(snapshot.keys, snapshot.secret, now)
            reason = undone or self._roll(snapshot, instances, reverts) or lacks
            report(sum(target.met_by(each) for each in instances if not each.silent), len(instances), reason)
            if reason is None:
                return instances
        raise (BlockedError if reason is not lacks else RolloutPendingError)(str(reason))

    def _roll(self, snapshot: _Snapshot, instances: Sequence[Instance], reverts: Reverts) -> PendingReason | None:
        """Gives the first workload without it its new template; returns what that waits for, None: nothing is left."""
        wanted = described(snapshot.keys, str(snapshot.secret["resourceVersion"]))
        for workload in self._fleet.workloads:
            text = annotated(snapshot.found[workload]["spec"]["template"])
            proven = names_same_keys(text, wanted) and pod_keys.are_proven(
                snapshot.pods_of(workload), self._fleet.secret, instances, reverts.target
            )
            if text != wanted and not proven:
                if not reverts.has_settled(self._settle_seconds):
                    return of_cluster(
                        f"Secret {self._fleet.secret} has just changed; wait, and run `keyrotation rotate` again"
                    )
                earlier = snapshot.earlier_of(workload)
                reverts.before_writing(workload, snapshot.found[workload], wanted, snapshot.secret, earlier)
                if self._annotate(workload, wanted):
                    reverts.written(workload, wanted)
                return of_cluster(
                    f"{workload}: its new template has not been observed yet; wait, and run `keyrotation rotate` again"
                )
            newest = snapshot.newest_of(workload)
            if why := progress.failed(snapshot.found[workload], newest):
                raise BlockedError(
                    f"the rollout of {workload} failed: {why}; repair it, and run `keyrotation rotate` again"
                )
            if waits := _unfinished(snapshot, workload):
                names = f"--namespace {self._fleet.namespace} rollout status {str(workload).lower()}"
                see = f"see `kubectl {names}`, and run `keyrotation rotate` again"
                return of_cluster(f"{workload}: {waits}; {see}")
        return None

    def _annotate(self, workload: Workload, text: str) -> bool:
        """Changes a template; returns False if a controller was faster, and the next poll tries again."""
        difference = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: text}}}}}
        kind, namespace = WORKLOADS[workload.kind], self._fleet.namespace

        def patch() -> bool:
            try:
                self._cluster.patch(kind, namespace, workload.name, difference)
            except RefusalError as refusal:
                if refusal.status != HTTPStatus.CONFLICT:
                    raise
                return False
            return True

        return _called(f"patch {workload}", patch)

    def _take_snapshot(self) -> _Snapshot:
        # Reads the keys first: a template must not promise more than the Pods started from it get. Whatever changes
        # between the two reads and is undone later has a revision that is not the one read here.
        keys, namespace = self._keys.read(), self._fleet.namespace
        name = self._fleet.secret
        secret = _called(f"get Secret {name}", lambda: self._cluster.metadata(SECRET, namespace, name))
        found = {each: self._found(each) for each in self._fleet.workloads}
        replica_sets = _called("list ReplicaSets", lambda: self._cluster.every(REPLICA_SET, namespace))
        selectors = [each["spec"]["selector"] for each in found.values()]
        listed = _called("list Pods", lambda: self._cluster.every(POD, namespace))
        present = [pod for pod in listed if not progress.is_over(pod)]
        pods = tuple(
            pod
            for pod in present
            if templates.uses(pod["spec"], self._fleet.secret)
            or any(progress.selects(selector, progress.labels_of(pod)) for selector in selectors)
        )
        uids = frozenset(Pod(namespace, str(pod["metadata"]["uid"])) for pod in present)
        return _Snapshot(keys, secret, found, pods, uids, replica_sets)

    def _found(self, workload: Workload) -> Json:
        kind, namespace = WORKLOADS[workload.kind], self._fleet.namespace
        return _called(f"get {workload}", lambda: self._cluster.get(kind, namespace, workload.name))

    def _problems(self, snapshot: _Snapshot, versions: Sequence[KeyVersion]) -> list[str]:
        needed = sorted({*snapshot.keys.live, *versions})
        messages = [
            message
            for workload in self._fleet.workloads
            for message in templates.problems(
                workload, snapshot.found[workload], self._fleet.secret, needed, self._fleet.key_list
            )
        ]
        return [*messages, *self._undeclared(snapshot)]

    def _undeclared(self, snapshot: _Snapshot) -> list[str]:
        """Lists Pods that get the Secret, will restart, and belong to no declared workload. Those of a Job just end."""
        declared = {str(pod["metadata"]["uid"]) for each in snapshot.found for pod in snapshot.pods_of(each)}
        kinds = {"ReplicaSet", "ReplicationController", *WORKLOADS}
        return [
            f"Pod {pod['metadata']['name']} gets Secret {self._fleet.secret}, and {owner['kind']} {owner['name']} is "
            "of no workload in [[rollout.workloads]]; add that there, or take the Secret from it"
            for pod in snapshot.pods
            if str(pod["metadata"]["uid"]) not in declared
            for owner in pod["metadata"].get("ownerReferences") or ()
            if owner.get("controller") and owner["kind"] in kinds
        ]

    def _instances(self, snapshot: _Snapshot) -> tuple[Instance, ...]:
        now = self._clock.now()
        pods = tuple(instance_of(pod, snapshot.keys, now) for pod in snapshot.pods)
        reported = self._reported.instances()
        ended = self._ended(reported, snapshot)
        return (*pods, *(each for each in reported if each not in ended))

    def _ended(self, reported: Sequence[Instance], snapshot: _Snapshot) -> tuple[Instance, ...]:
        """Returns silent instances whose Pod was seen in this cluster, and is there no more.

        By namespace and uid: another cluster has Pods of the same names.
        """
        absent = [
            each for each in reported if each.silent and each.pod is not None and each.pod not in snapshot.present
        ]
        seen = self._reported.seen_pods() if absent else frozenset()
        return tuple(each for each in absent if each.pod in seen)


def _unfinished(snapshot: _Snapshot, workload: Workload) -> str | None:
    """Returns what prevents a workload from running only its newest template; None: nothing."""
    pods = snapshot.newest_of(workload)
    if waits := progress.pending(snapshot.found[workload]):
        late = progress.not_ready(pods)
        return f"{waits} ({late})" if late else waits
    newest = {pod["metadata"]["uid"] for pod in pods}
    old = [str(pod["metadata"]["name"]) for pod in snapshot.pods_of(workload) if pod["metadata"]["uid"] not in newest]
    return f"of an older template is {', '.join(old[:_NAMED_AT_MOST])}, which has not ended" if old else None


def _called(what: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except RefusalError as refusal:
        match refusal.status:
            case HTTPStatus.NOT_FOUND:
                why = "there is none; correct [[rollout.workloads]]"
            case HTTPStatus.FORBIDDEN | HTTPStatus.UNAUTHORIZED:
                why = f"HTTP {refusal.status}: this account may not; give it the Role in deploy/kubernetes"
            case HTTPStatus.UNPROCESSABLE_ENTITY:
                why = f"HTTP {refusal.status}; see whether an admission policy forbids it, such as changes-policy.yaml"
            case _:
                why = f"HTTP {refusal.status}; find out why"
        failure = f"the cluster refuses to {what} ({why}), and run `keyrotation rotate` again"
    except UnreachableError as error:
        failure = f"the cluster cannot {what}: {error}, and run `keyrotation rotate` again"
    raise BlockedError(failure) from None
