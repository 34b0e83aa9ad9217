"""Rollouts in a cluster where others write too: Argo CD, Flux, External Secrets, people."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from keyrotation_pipeline.adapters.rollouts import progress
from keyrotation_pipeline.adapters.rollouts.pod_keys import ANNOTATION
from keyrotation_pipeline.adapters.rollouts.templates import Workload
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline.model.fleet import Instance, Pod, RolloutTarget
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.contract.key_store import V1, V2, archive, key, set_primary
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import (
    KIND,
    WITHOUT_V1,
    WRITE_V2,
    Stage,
    add_second,
    seen,
    stage,  # noqa: F401 - a fixture
)

EXTERNAL = "externalsecrets.external-secrets.io/pazpaz"
UNOBSERVED = "its new template has not been observed yet"
LONG = pytest.mark.extended
FIRST, SECOND = "ENCRYPTION_MASTER_KEY", "ENCRYPTION_MASTER_KEY_V2"
OWN = {"metadata": {"annotations": {"tool": "own"}}}


def uids(stage: Stage, workload: Workload) -> set[str]:  # noqa: F811
    return {pod["metadata"]["uid"] for pod in stage.fleet.pods(workload)}


def generation(stage: Stage, workload: Workload) -> int:  # noqa: F811
    return int(stage.fleet.found(workload)["metadata"]["generation"])


def as_manager(stage: Stage, manager: str, workload: Workload, template: dict[str, Any]) -> None:  # noqa: F811
    body = {"spec": {"template": template}}
    path = f"/apis/apps/v1/namespaces/{stage.fleet.cluster.namespace}/{workload.kind.lower()}s/{workload.name}"
    stage.fleet.cluster.ask("PATCH", f"{path}?fieldManager={quote(manager)}", body)


def write_entries(stage: Stage, manager: str, **entries: str | None) -> None:  # noqa: F811
    stage.fleet.secrets.overwrite(entries, f"{stage.fleet.secrets.name}?fieldManager={quote(manager, safe='')}")


# --- a Pod reads what the Secret held when it started ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KIND)
def test_a_pod_that_started_while_the_key_was_gone_is_replaced(stage: Stage, kind: str) -> None:  # noqa: F811
    """External Secrets removed the entry, a Pod started, the entry came back: the template shows nothing of it."""
    workload = stage.fleet.start(kind)
    add_second(stage)
    stage.roll_out(READ_V2)
    write_entries(stage, EXTERNAL, **{SECOND: None})
    [pod] = stage.fleet.pods(workload)
    stage.fleet.cluster.ask("DELETE", f"pods/{pod['metadata']['name']}")
    stage.fleet.settle()
    started = uids(stage, workload)
    assert started != {pod["metadata"]["uid"]}
    write_entries(stage, EXTERNAL, **{SECOND: base64_of(key(2))})

    assert seen(stage.roll_out(READ_V2)) == {((V1, V2), V1)}
    assert not started & uids(stage, workload)
    assert generation(stage, workload) == 3
    stage.roll_out(READ_V2)
    assert generation(stage, workload) == 3, "now the Pods are of this content, and the next rollout changes nothing"


@dataclass
class Case:
    """What the only Pod of a workload reports of itself after the Secret's entries were gone for a moment."""

    report: dict[str, Any] | None
    again: bool
    others: str = ""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case({}, again=False), id="it proves both keys"),
        pytest.param(Case(None, again=True), id="nothing reports in it"),
        pytest.param(Case({"reads": (V1,)}, again=True), id="it proves that it lacks the key"),
        pytest.param(Case({"silent": True}, again=True), id="it fell silent"),
        pytest.param(Case({"age": 3600}, again=True), id="the report is from before the container started"),
        pytest.param(Case({"pod": Pod("other", "other")}, again=True), id="another Pod reports"),
        pytest.param(Case({}, again=True, others="containers"), id="another container gets the keys too"),
        pytest.param(Case({}, again=False, others="initContainers"), id="another one got them, and has ended"),
    ],
)
def test_proof_of_possession_decides_whether_pods_are_replaced(stage: Stage, case: Case) -> None:  # noqa: F811
    workload = stage.fleet.start()
    if case.others:
        spec = {"containers": [stage.fleet.container()]}
        spec[case.others] = [*spec.get(case.others, ()), stage.fleet.container(name="other")]
        if stage.fleet.cluster.standin is None and case.others == "initContainers":
            pytest.skip("needs an image that ends by itself")
        stage.fleet.ask("PATCH", workload, {"spec": {"template": {"spec": spec}}})
        stage.fleet.settle()
    add_second(stage)
    stage.roll_out(READ_V2)
    before = generation(stage, workload)
    for text in (None, base64_of(key(2))):
        write_entries(stage, EXTERNAL, **{SECOND: text})
    [pod] = stage.fleet.pods(workload)
    if case.report is not None:
        at = datetime.now(UTC) + timedelta(seconds=60 - case.report.get("age", 0))
        own = case.report.get("pod", Pod(pod["metadata"]["namespace"], pod["metadata"]["uid"]))
        reads, silent = case.report.get("reads", (V1, V2)), case.report.get("silent", False)
        stage.reported.rows = (Instance("api/1-aa", reads, V1, at, silent, pod=own),)
    if case.again:
        with pytest.raises(BlockedError, match="its new template has not been observed yet"):
            stage.roll_out(READ_V2, timeout_seconds=0)
    else:
        stage.roll_out(READ_V2, timeout_seconds=0)
    assert generation(stage, workload) == before + int(case.again)


def test_a_controller_that_answers_each_change_of_the_secret_costs_no_second_row_of_pods(
    stage: Stage,  # noqa: F811
) -> None:
    """External Secrets writes a hash of the content whenever somebody has changed it."""
    workload = stage.fleet.start()
    add_second(stage)
    stage.pause_seconds, stage.settle_seconds = 1, 2
    answers = iter(["1"])

    def answer() -> None:
        for text in answers:
            body = {"metadata": {"annotations": {"reconcile.external-secrets.io/data-hash": text}}}
            stage.fleet.cluster.ask(
                "PATCH", f"secrets/{stage.fleet.secrets.name}?fieldManager={quote(EXTERNAL, safe='')}", body
            )
            return

    stage.meddle = answer
    assert seen(stage.roll_out(READ_V2)) == {((V1, V2), V1)}
    assert generation(stage, workload) == 2
    assert "has just changed" in stage.stated[0]


# --- somebody undoes the rollout ------------------------------------------------------------------------------------


@dataclass
class Undoing:
    """A controller that undoes our annotation at each look, and counts the Pods that this makes."""

    stage: Stage
    workload: Workload
    manager: str
    text: str | None
    times: int
    pods: set[str] = field(default_factory=set)

    def look(self) -> None:
        self.pods |= uids(self.stage, self.workload)
        found = self.stage.fleet.found(self.workload)
        template, is_observed = found["spec"]["template"]["metadata"], progress.pending(found) != UNOBSERVED
        if self.times and is_observed and (template.get("annotations") or {}).get(ANNOTATION, self.text) != self.text:
            self.times -= 1
            as_manager(self.stage, self.manager, self.workload, {"metadata": {"annotations": {ANNOTATION: self.text}}})


@pytest.mark.parametrize(
    ("manager", "text", "advice"),
    [
        pytest.param("argocd-controller", None, " as `keyrotation docs argo-cd` says", id="Argo CD takes it off"),
        pytest.param(
            "argocd-controller",
            "primary=v1",
            " as `keyrotation docs argo-cd` says",
            id="Argo CD writes an older one",
            marks=LONG,
        ),
        pytest.param("kustomize-controller", None, " as `keyrotation docs flux` says", id="Flux", marks=LONG),
        pytest.param(
            "helm-controller", "primary=v1", " as `keyrotation docs flux` says", id="Flux, by Helm", marks=LONG
        ),
        pytest.param("somebody", "primary=v1", "", id="unknown", marks=LONG),
        pytest.param("x; run `rm -rf /`", "primary=v1", "", id="of a name that reads as a command"),
    ],
)
def test_a_controller_that_undoes_the_annotation_is_named_at_the_second_time(
    stage: Stage,  # noqa: F811
    manager: str,
    text: str | None,
    advice: str,
) -> None:
    """Without that: 31 Pods for 3 replicas in 40 s, and `its new template has not been observed yet`."""
    workload = stage.fleet.start(replicas=3)
    as_manager(stage, manager, workload, OWN)  # it deployed the workload
    stage.fleet.settle()
    add_second(stage)
    undoing = Undoing(stage, workload, manager, text, times=1000)
    stage.meddle = undoing.look
    before = generation(stage, workload)
    with pytest.raises(BlockedError) as caught:
        stage.roll_out(READ_V2)
    shown = "(of a name that is none)" if "`" in manager else manager
    assert str(caught.value) == (
        f"{workload}: {ANNOTATION} of its Pod template was undone twice by field manager {shown}, and each time "
        f"makes new Pods; have it leave the annotation {ANNOTATION} of its Pod template alone{advice}, and run "
        "`keyrotation rotate` again"
    )
    assert generation(stage, workload) == before + 4, "written twice, undone twice"
    assert len(undoing.pods) <= 3 + 2 * 3

    with pytest.raises(BlockedError, match="undone twice"):
        stage.roll_out(READ_V2)
    assert generation(stage, workload) == before + 6, "the next run knows by the ReplicaSet"
    undoing.times = 0
    assert seen(stage.roll_out(READ_V2)) == {((V1, V2), V1)}


def test_what_is_undone_once_is_done_again(stage: Stage) -> None:  # noqa: F811
    workload = stage.fleet.start(replicas=2)
    add_second(stage)
    stage.meddle = Undoing(stage, workload, "kubectl-rollout", None, times=1).look
    assert seen(stage.roll_out(READ_V2)) == {((V1, V2), V1)}
    assert generation(stage, workload) == 4


def promoted(stage: Stage) -> None:  # noqa: F811
    add_second(stage)
    set_primary(stage.fleet.secrets.open(), V2)


def withdrawn(stage: Stage) -> None:  # noqa: F811
    promoted(stage)
    archive(stage.fleet.secrets.open(), V1)


@dataclass(frozen=True)
class Entry:
    """An entry that somebody else writes back, and what is said about it."""

    prepare: Callable[[Stage], None]
    target: RolloutTarget
    name: str
    right: str | None
    wrong: str | None
    manager: str
    message: str


ENTRIES = [
    pytest.param(
        Entry(
            add_second, READ_V2, SECOND, base64_of(key(2)), None, EXTERNAL,
            rf"entry {SECOND} of Secret .* is gone \(field manager {EXTERNAL}\); have it leave the entries "
            r"ENCRYPTION_… of this Secret alone as `keyrotation docs external-secrets` says, run "
            "`keyrotation restore-key v2`, and run `keyrotation rotate` again",
        ),
        id="the new key is taken out by External Secrets",
    ),
    pytest.param(
        Entry(
            promoted, WRITE_V2, PRIMARY_VARIABLE, "v2", "v1", "kustomize-controller",
            rf"entry {PRIMARY_VARIABLE} of Secret .* names v1, not v2 \(field manager kustomize-controller\); "
            r"have it leave .* alone as `keyrotation docs flux` says, run `kubectl --namespace .* patch secret .* "
            r"--patch "
            r"'\{\"stringData\":\{\"ENCRYPTION_PRIMARY_VERSION\":\"v2\"\}\}'`, and run `keyrotation rotate` again",
        ),
        id="the old primary is named again by Flux",
    ),
    pytest.param(
        Entry(
            withdrawn, WITHOUT_V1, FIRST, None, base64_of(key(1)), "argocd-controller",
            rf"entry {FIRST} of Secret .* is back \(field manager argocd-controller\); have it leave .* alone as "
            r"`keyrotation docs argo-cd` says, run `kubectl --namespace .* patch secret .* --type json --patch "
            r"'\[\{\"op\":\"remove\",\"path\":\"/data/ENCRYPTION_MASTER_KEY\"\}\]'`, and run `keyrotation rotate` "
            "again",
        ),
        id="the old key is brought back by Argo CD",
    ),
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_controller_that_keeps_its_own_entries_is_named_before_any_pod_is_made(
    stage: Stage,  # noqa: F811
    entry: Entry,
) -> None:
    workload = stage.fleet.start()
    write_entries(stage, entry.manager, OTHER="x")  # it has other entries there
    entry.prepare(stage)
    write_entries(stage, entry.manager, **{entry.name: entry.wrong})
    stage.pause_seconds = 5
    before = generation(stage, workload)
    with pytest.raises(BlockedError, match=f"^{entry.message}$"):
        stage.roll_out(entry.target)
    assert generation(stage, workload) == before
    assert 5 < len(stage.stated) < 9, "it is waited for half a minute, not for as long as a rollout may take"

    write_entries(stage, entry.manager, **{entry.name: entry.right})
    stage.roll_out(entry.target)
    assert generation(stage, workload) == before + 1


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_goes_and_comes_again_stops_the_rollout_at_the_second_time(
    stage: Stage,  # noqa: F811
    entry: Entry,
) -> None:
    workload = stage.fleet.start()
    write_entries(stage, entry.manager, OTHER="x")
    entry.prepare(stage)

    def flips() -> Iterator[None]:
        while True:
            for text in (entry.wrong, entry.right):
                write_entries(stage, entry.manager, **{entry.name: text})
                yield

    flipping = flips()
    stage.meddle = lambda: next(flipping)
    before = generation(stage, workload)
    with pytest.raises(BlockedError, match=f"^{entry.message}$"):
        stage.roll_out(entry.target)
    assert generation(stage, workload) <= before + 2


def test_a_secret_that_does_not_rest_stops_the_rollout(stage: Stage) -> None:  # noqa: F811
    workload = stage.fleet.start()
    add_second(stage)
    numbers = iter(range(1000))
    stage.meddle = lambda: write_entries(stage, "replicator", OTHER=str(next(numbers)))
    with pytest.raises(BlockedError, match=r"changed twice since this rollout began, last by field manager replicator"):
        stage.roll_out(READ_V2)
    assert generation(stage, workload) == 3


def test_our_own_changes_are_ours(new_key_secrets: Callable[[], TestKeySecrets]) -> None:
    """A manager of our name: Flux undoes what was written by kubectl's, and people see who it was."""
    secrets = new_key_secrets()
    store = secrets.open()
    store.add(V1, key(1), store.read().revision)
    owners = {
        each["manager"]: each["fieldsV1"].get("f:data", {}) for each in secrets.secret()["metadata"]["managedFields"]
    }
    assert f"f:{FIRST}" in owners["keyrotation"]
