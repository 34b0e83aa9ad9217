"""Jobs that are almost those of a run: each differs in one thing, and is not admitted from the daemon's account."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Content = dict[str, Any]
Change = Callable[[Content, Content, Content], None]  # the specification of a Job, that of its Pod, its container


def put(part: str, value: Any, *, at: str = "run") -> Change:  # noqa: ANN401 - JSON
    """Change one part of the container, of the Pod, or of the Job."""

    def change(job: Content, pod: Content, run: Content) -> None:
        {"run": run, "pod": pod, "job": job}[at][part] = value

    return change


def add(part: str, value: Any, *, at: str = "run") -> Change:  # noqa: ANN401 - JSON
    """Add to a list of the container, or of the Pod."""

    def change(_job: Content, pod: Content, run: Content) -> None:
        target = run if at == "run" else pod
        target[part] = [*target.get(part, []), value]

    return change


def secure(at: str = "run", **different: Any) -> Change:  # noqa: ANN401 - JSON
    """Change parts of the security context of the container, or of the Pod; None removes one."""

    def change(_job: Content, pod: Content, run: Content) -> None:
        target = run if at == "run" else pod
        changed = {**target["securityContext"], **different}
        target["securityContext"] = {part: value for part, value in changed.items() if value is not None}

    return change


def label(name: str, value: str | None) -> Change:
    """Give the Pod a label; None takes it away."""

    def change(job: Content, _pod: Content, _run: Content) -> None:
        labels = job["template"]["metadata"]["labels"]
        labels.pop(name, None)
        if value is not None:
            labels[name] = value

    return change


def volume(name: str, **different: Any) -> Change:  # noqa: ANN401 - JSON
    """Put another source in place of that of a volume."""

    def change(_job: Content, pod: Content, _run: Content) -> None:
        pod["volumes"] = [{"name": name, **different} if each["name"] == name else each for each in pod["volumes"]]

    return change


def mount(path: str, **different: Any) -> Change:  # noqa: ANN401 - JSON
    """Change what is mounted at a path."""

    def change(_job: Content, _pod: Content, run: Content) -> None:
        run["volumeMounts"] = [
            {**each, **different} if each["mountPath"] == path else each for each in run["volumeMounts"]
        ]

    return change


def in_template(**parts: Any) -> Change:  # noqa: ANN401 - JSON
    """Change the metadata of the Pod."""

    def change(job: Content, _pod: Content, _run: Content) -> None:
        job["template"]["metadata"].update(parts)

    return change


OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-4000-8000-000000000000"}
OF_DAGSTER = ("app.kubernetes.io/", "dagster/")  # others are of the cluster, for each Job
SHELL = {"exec": {"command": ["sh", "-c", "true"]}}
KEYS = "pazpaz-secrets"
ANOTHER = {"name": "another", "image": "registry.example/keyrotation:0.2.0.dev0"}
WORKER = ["python", "-I", "-m", "keyrotation_pipeline.defs.run_worker", "0b1e7f6e-8a55-4d0b-9a1e-3d8f0a9f7c11"]
FORGERIES = [
    pytest.param(put("image", "registry.example/another:0.2.0.dev0"), id="another image"),
    pytest.param(put("image", "registry.example/keyrotation:0.2.0.dev0-evil"), id="another tag"),
    pytest.param(put("command", ["sh", "-c", "env"]), id="a command"),
    pytest.param(put("args", ["dagster", "api", "execute_run", "{}"]), id="code of its own"),
    pytest.param(put("args", ["keyrotation", "restore-key", "v1"]), id="our own program"),
    pytest.param(put("args", [*WORKER[:4], "--help"]), id="an option for the id of a run"),
    pytest.param(put("args", [*WORKER, "more"]), id="one more argument"),
    pytest.param(lambda _job, _pod, run: run.pop("args"), id="the program of the image"),
    pytest.param(put("args", ["bash", *WORKER[1:]]), id="another program"),
    pytest.param(put("args", ["python", "-E", *WORKER[2:]]), id="modules of the working directory"),
    pytest.param(put("args", [*WORKER[:2], "-c", *WORKER[3:]]), id="code in place of a module"),
    pytest.param(put("args", [*WORKER[:3], "keyrotation_pipeline.cli", WORKER[4]]), id="another module of ours"),
    pytest.param(put("workingDir", "/home/keyrotation"), id="another directory"),
    pytest.param(put("lifecycle", {"postStart": SHELL}), id="a command after the start"),
    pytest.param(put("livenessProbe", SHELL), id="a command as a probe"),
    pytest.param(put("startupProbe", SHELL), id="a command as a probe of the start"),
    pytest.param(put("readinessProbe", SHELL), id="a command as a probe of readiness"),
    pytest.param(add("env", {"name": "LD_PRELOAD", "value": "/home/keyrotation/evil.so"}), id="a library to preload"),
    pytest.param(add("env", {"name": "PYTHONPATH", "value": "/home/keyrotation"}), id="a path for modules"),
    pytest.param(add("env", {"name": "DAGSTER_HOME", "value": "/home/keyrotation"}), id="another instance of Dagster"),
    pytest.param(
        add("env", {"name": "DAGSTER_RUN_JOB_NAME", "valueFrom": {"secretKeyRef": {"name": KEYS, "key": "k"}}}),
        id="a key in a variable",
    ),
    pytest.param(
        add("env", {"name": "DAGSTER_PG_PASSWORD", "valueFrom": {"secretKeyRef": {"name": KEYS, "key": "k"}}}),
        id="a key as the password",
    ),
    pytest.param(add("envFrom", {"secretRef": {"name": KEYS}}), id="every key in variables"),
    pytest.param(add("envFrom", {"prefix": "LD_", "configMapRef": {"name": "keyrotation-environment"}}), id="a prefix"),
    pytest.param(add("envFrom", {"configMapRef": {"name": "another"}}), id="another ConfigMap"),
    pytest.param(add("volumes", {"name": "keys", "secret": {"secretName": KEYS}}, at="pod"), id="the keys as files"),
    pytest.param(
        add("volumes", {"name": "node", "hostPath": {"path": "/"}}, at="pod"), id="the file system of the node"
    ),
    pytest.param(
        add("volumes", {"name": "all", "projected": {"sources": [{"secret": {"name": KEYS}}]}}, at="pod"),
        id="the keys as projected files",
    ),
    pytest.param(
        add("volumes", {"name": "home-of-others", "persistentVolumeClaim": {"claimName": "pazpaz-data"}}, at="pod"),
        id="the volume of an application",
    ),
    pytest.param(
        add("volumes", {"name": "other", "configMap": {"name": "another"}}, at="pod"), id="another configuration"
    ),
    pytest.param(
        add("volumeMounts", {"name": "home", "mountPath": "/opt/keyrotation/lib"}), id="files in place of the program"
    ),
    pytest.param(add("containers", ANOTHER, at="pod"), id="a second container"),
    pytest.param(add("initContainers", ANOTHER, at="pod"), id="a container before it"),
    pytest.param(put("serviceAccountName", "default", at="pod"), id="another account"),
    pytest.param(put("hostNetwork", True, at="pod"), id="the network of the node"),
    pytest.param(put("hostPID", True, at="pod"), id="the processes of the node"),
    pytest.param(put("hostIPC", True, at="pod"), id="the shared memory of the node"),
    pytest.param(
        put("hostAliases", [{"ip": "192.0.2.1", "hostnames": ["postgres.example"]}], at="pod"), id="another database"
    ),
    pytest.param(put("dnsConfig", {"nameservers": ["192.0.2.1"]}, at="pod"), id="another server of names"),
    pytest.param(put("dnsPolicy", "Default", at="pod"), id="the names of the node"),
    pytest.param(put("hostname", "postgres", at="pod"), id="the name of another"),
    pytest.param(put("subdomain", "databases", at="pod"), id="an address of its own"),
    pytest.param(secure("pod", runAsNonRoot=None), id="as root"),
    pytest.param(secure("pod", runAsNonRoot=False), id="as root, expressly"),
    pytest.param(secure("pod", runAsUser=1), id="another user"),
    pytest.param(secure("pod", runAsGroup=0), id="the group of root"),
    pytest.param(secure("pod", fsGroup=0), id="the group of root for files"),
    pytest.param(secure("pod", supplementalGroups=[0]), id="one more group"),
    pytest.param(secure("pod", sysctls=[{"name": "kernel.shm_rmid_forced", "value": "0"}]), id="settings of a kernel"),
    pytest.param(secure("pod", seLinuxOptions={"type": "spc_t"}), id="another context of SELinux"),
    pytest.param(secure("pod", appArmorProfile={"type": "Unconfined"}), id="no AppArmor"),
    pytest.param(secure("pod", seccompProfile={"type": "Unconfined"}), id="every system call"),
    pytest.param(secure(allowPrivilegeEscalation=True), id="more privileges"),
    pytest.param(secure(runAsNonRoot=False), id="as root in its container"),
    pytest.param(secure(privileged=True), id="privileged"),
    pytest.param(secure(readOnlyRootFilesystem=False), id="a program that can be replaced"),
    pytest.param(secure(capabilities={"drop": ["NET_RAW"]}), id="most capabilities"),
    pytest.param(secure(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), id="a capability"),
    pytest.param(secure(runAsUser=1), id="another user in its container"),
    pytest.param(secure(runAsGroup=0), id="the group of root in its container"),
    pytest.param(secure(seccompProfile={"type": "Unconfined"}), id="every system call in its container"),
    pytest.param(secure(procMount="Unmasked"), id="all of /proc"),
    pytest.param(secure(seLinuxOptions={"type": "spc_t"}), id="another context of SELinux in its container"),
    pytest.param(secure(appArmorProfile={"type": "Unconfined"}), id="no AppArmor in its container"),
    pytest.param(put("terminationMessagePath", "/opt/dagster/dagster.yaml"), id="an empty file over another"),
    pytest.param(put("envFrom", []), id="the configuration of the working directory"),
    pytest.param(mount("/home/keyrotation", mountPath="/opt/dagster-home"), id="a volume at another path"),
    pytest.param(mount("/opt/dagster", name="home"), id="the home as the instance"),
    pytest.param(mount("/opt/dagster", name="configuration"), id="another file as the instance"),
    pytest.param(mount("/etc/keyrotation", name="home"), id="the home as the configuration"),
    pytest.param(mount("/etc/keyrotation", subPath="other"), id="a part of a volume"),
    pytest.param(mount("/etc/keyrotation", subPathExpr="$(DAGSTER_RUN_JOB_NAME)"), id="a part by a variable"),
    pytest.param(put("volumeDevices", [{"name": "home", "devicePath": "/dev/home"}]), id="a device"),
    pytest.param(volume("configuration", configMap={"name": "keyrotation-dagster"}), id="a volume under another name"),
    pytest.param(volume("instance", persistentVolumeClaim={"claimName": "keyrotation-home"}), id="the home by a name"),
    pytest.param(
        volume("instance", configMap={"name": "keyrotation-dagster", "items": [{"key": "k", "path": "dagster.yaml"}]}),
        id="another entry as the instance",
    ),
    pytest.param(
        volume("configuration", configMap={"name": "keyrotation-configuration", "items": [{"key": "k", "path": "k"}]}),
        id="another entry as the configuration",
    ),
    pytest.param(
        volume("recovery", secret={"secretName": "keyrotation-recovery", "items": [{"key": "k", "path": "k"}]}),
        id="another entry as the recovery key",
    ),
    pytest.param(put("nodeName", "mine", at="pod"), id="a node"),
    pytest.param(put("nodeSelector", {"kubernetes.io/hostname": "mine"}, at="pod"), id="a node by its label"),
    pytest.param(put("affinity", {"nodeAffinity": {}}, at="pod"), id="a node by preference"),
    pytest.param(put("tolerations", [{"operator": "Exists"}], at="pod"), id="every node"),
    pytest.param(put("priorityClassName", "system-cluster-critical", at="pod"), id="before every Pod"),
    pytest.param(put("priority", 1000000, at="pod"), id="before every Pod by a number"),
    pytest.param(put("runtimeClassName", "other", at="pod"), id="another runtime"),
    pytest.param(put("schedulerName", "mine", at="pod"), id="another scheduler"),
    pytest.param(put("resourceClaims", [{"name": "d", "resourceClaimName": "d"}], at="pod"), id="a device of a node"),
    pytest.param(put("restartPolicy", "OnFailure", at="pod"), id="a container again"),
    pytest.param(put("parallelism", 500, at="job"), id="many Pods at a time"),
    pytest.param(put("completions", 500, at="job"), id="many Pods one after another"),
    pytest.param(put("completionMode", "Indexed", at="job"), id="numbered Pods"),
    pytest.param(put("backoffLimit", 1000, at="job"), id="a second Pod"),
    pytest.param(lambda job, _pod, _run: job.pop("backoffLimit"), id="as many Pods as Kubernetes tries"),
    pytest.param(
        put("podFailurePolicy", {"rules": [{"action": "Ignore", "onPodConditions": []}]}, at="job"),
        id="a second Pod by a rule",
    ),
    pytest.param(put("manualSelector", True, at="job"), id="the Pods of others"),
    pytest.param(label("app", "pazpaz-api"), id="a Pod of an application"),
    pytest.param(label("app.kubernetes.io/name", "keyrotation-dagster"), id="a Pod of the code server"),
    pytest.param(label("app.kubernetes.io/instance", "pazpaz"), id="a Pod of an application by its instance"),
    pytest.param(label("app.kubernetes.io/part-of", "pazpaz"), id="a Pod of a part of an application"),
    pytest.param(label("app.kubernetes.io/component", "api"), id="a Pod of an application by its component"),
    pytest.param(label("dagster/run-id", None), id="a Pod of no run"),
    pytest.param(lambda job, _pod, _run: job["template"]["metadata"].pop("labels"), id="a Pod of nothing"),
    pytest.param(
        in_template(annotations={"sidecar.istio.io/inject": "true"}), id="an annotation that adds a container"
    ),
    pytest.param(add("ports", {"containerPort": 8080}), id="a port"),
    pytest.param(add("ports", {"containerPort": 8080, "hostPort": 8080}), id="a port of the node"),
    pytest.param(
        put(
            "topologySpreadConstraints",
            [
                {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"},
            ],
            at="pod",
        ),
        id="a node by the Pods there",
    ),
    pytest.param(put("schedulingGates", [{"name": "example.com/mine"}], at="pod"), id="a Pod that waits for another"),
    pytest.param(put("readinessGates", [{"conditionType": "example.com/mine"}], at="pod"), id="a condition of its own"),
    pytest.param(put("shareProcessNamespace", True, at="pod"), id="the processes of its Pod"),
    pytest.param(put("setHostnameAsFQDN", True, at="pod"), id="a full name"),
    pytest.param(put("os", {"name": "linux"}, at="pod"), id="an operating system"),
    pytest.param(put("preemptionPolicy", "Never", at="pod"), id="a rank"),
    pytest.param(put("enableServiceLinks", False, at="pod"), id="fewer variables"),
    pytest.param(put("imagePullSecrets", [{"name": KEYS}], at="pod"), id="the keys as a login"),
    pytest.param(put("activeDeadlineSeconds", 1, at="pod"), id="a Pod that is ended at once"),
    pytest.param(put("terminationGracePeriodSeconds", 86400, at="pod"), id="a Pod that does not end"),
    pytest.param(put("automountServiceAccountToken", False, at="pod"), id="no token"),
    pytest.param(secure("pod", fsGroupChangePolicy="Always"), id="every file of the home changed"),
    pytest.param(secure("pod", runAsUser=None), id="the user of the image"),
    pytest.param(lambda _job, pod, _run: pod.pop("securityContext"), id="no hardening"),
    pytest.param(lambda _job, _pod, run: run.pop("securityContext"), id="no hardening of its container"),
    pytest.param(lambda _job, _pod, run: run.pop("resources"), id="as much as there is"),
    pytest.param(put("resources", {"limits": {"ephemeral-storage": "1Gi"}}), id="the disk of the node"),
    pytest.param(put("resources", {"limits": {"example.com/device": 1}}), id="a device"),
    pytest.param(put("stdin", True), id="an input"),
    pytest.param(put("tty", True), id="a terminal"),
    pytest.param(put("imagePullPolicy", "Never"), id="an image that somebody loaded"),
    pytest.param(put("terminationMessagePolicy", "FallbackToLogsOnError"), id="its output as its message"),
    pytest.param(put("name", "another"), id="a container of another name"),
    pytest.param(lambda _job, _pod, run: run.pop("env"), id="no variable"),
    pytest.param(lambda _job, _pod, run: run.pop("volumeMounts"), id="no volume"),
    *(
        pytest.param(
            lambda _job, _pod, run, path=path: run.update(
                volumeMounts=[each for each in run["volumeMounts"] if each["mountPath"] != path]
            ),
            id=f"nothing at {path}",
        )
        for path in ("/opt/dagster", "/home/keyrotation", "/etc/keyrotation", "/tmp")
    ),
    pytest.param(mount("/opt/dagster", readOnly=False), id="an instance that it writes"),
    pytest.param(mount("/home/keyrotation", readOnly=True), id="a home that it only reads"),
    pytest.param(mount("/home/keyrotation", mountPropagation="HostToContainer"), id="mounts of the node"),
    pytest.param(mount("/opt/dagster", recursiveReadOnly="IfPossible"), id="another way to mount"),
    pytest.param(
        put("envFrom", [{"configMapRef": {"name": "keyrotation-environment", "optional": True}}]), id="no environment"
    ),
    pytest.param(
        add("envFrom", {"secretRef": {"name": "keyrotation-database", "optional": True}}), id="a database that may lack"
    ),
    pytest.param(volume("instance", configMap={"name": "keyrotation-dagster", "optional": True}), id="no instance"),
    pytest.param(
        volume("configuration", configMap={"name": "keyrotation-configuration", "optional": True}),
        id="no configuration",
    ),
    pytest.param(
        volume("configuration", configMap={"name": "keyrotation-configuration", "defaultMode": 0o777}),
        id="files that everybody writes",
    ),
    pytest.param(
        volume("recovery", secret={"secretName": "keyrotation-recovery", "optional": True, "defaultMode": 288}),
        id="no recovery key",
    ),
    pytest.param(
        volume("recovery", secret={"secretName": KEYS, "defaultMode": 288}), id="the keys as the recovery key"
    ),
    pytest.param(volume("home", emptyDir={}), id="an empty home"),
    pytest.param(
        volume("home", persistentVolumeClaim={"claimName": "keyrotation-home", "readOnly": True}), id="a home to read"
    ),
    pytest.param(volume("tmp", emptyDir={"medium": "Memory", "sizeLimit": "2Gi"}), id="the memory of the node"),
    pytest.param(volume("tmp", emptyDir={}), id="as much of the disk as there is"),
    pytest.param(volume("tmp", hostPath={"path": "/tmp"}), id="files of the node as its own"),
    pytest.param(put("suspend", True, at="job"), id="a Job that waits"),
    pytest.param(put("managedBy", "example.com/mine", at="job"), id="another controller"),
    pytest.param(put("podReplacementPolicy", "Failed", at="job"), id="a later Pod"),
    pytest.param(put("activeDeadlineSeconds", 1, at="job"), id="a Job that is ended at once"),
    pytest.param(put("ttlSecondsAfterFinished", 0, at="job"), id="a Job that leaves no trace"),
    pytest.param(lambda job, _pod, _run: job.pop("ttlSecondsAfterFinished"), id="a Job that stays"),
    pytest.param(put("backoffLimitPerIndex", 1, at="job"), id="a second Pod for each number"),
    pytest.param(put("successPolicy", {"rules": [{"succeededCount": 1}]}, at="job"), id="its own idea of success"),
    pytest.param(label("dagster/run-id", "another"), id="a Pod of another run"),
    pytest.param(label("controller-uid", "mine"), id="a Pod of another Job"),
    pytest.param(label("job-name", "mine"), id="a Pod of a Job of another name"),
    pytest.param(in_template(finalizers=["example.com/mine"]), id="a Pod that stays"),
    pytest.param(in_template(name="mine"), id="a Pod of another name"),
    pytest.param(in_template(namespace="kube-system"), id="a Pod elsewhere"),
    pytest.param(in_template(ownerReferences=[OWNER]), id="a Pod of another owner"),
]
OF_JOB = [
    pytest.param({"finalizers": ["example.com/mine"]}, id="a Job that stays"),
    pytest.param({"ownerReferences": [OWNER]}, id="a Job of another owner"),
    pytest.param({"annotations": {"example.com/acts": "true"}}, id="an annotation of the Job"),
    pytest.param({"annotations": {"kueue.x-k8s.io/queue-name": "mine"}}, id="a queue"),
    pytest.param({"name": "dagster-run-0b1e7f6e-8a55-4d0b-9a1e-3d8f0a9f7c12"}, id="the name of another run"),
    pytest.param({"name": "mine"}, id="a name of its own"),
    pytest.param({"name": None, "generateName": "dagster-run-"}, id="a name that is made up"),
    pytest.param({"labels": {"app": "pazpaz-api"}}, id="a Job of an application"),
]


def forgeries(genuine: Content) -> Iterator[tuple[str, Content]]:
    """Each forged Job with what it tries; of the daemon, which sends it like a genuine one.

    Args:
        genuine: a Job of `recovery_drill`, which has every volume, as an API server answers it.
    """
    honest = sent(genuine)
    for case in FORGERIES:
        forged, change = copy.deepcopy(honest), case.values[0]
        pod = forged["spec"]["template"]["spec"]
        change(forged["spec"], pod, pod["containers"][0])  # type: ignore[operator]
        yield str(case.id), forged
    for case in OF_JOB:
        about: Any = case.values[0]
        metadata = {**copy.deepcopy(honest["metadata"]), **about}
        if about.get("labels"):
            metadata["labels"] = {**honest["metadata"]["labels"], **about["labels"]}
        yield str(case.id), {**honest, "metadata": {part: value for part, value in metadata.items() if value}}


def sent(genuine: Content) -> Content:
    """A Job as the daemon sends it, for the run of `WORKER`."""
    run = genuine["metadata"]["labels"]["dagster/run-id"]
    made: Content = json.loads(json.dumps(genuine).replace(run, WORKER[4]))
    made["spec"].pop("selector", None)
    about, template = made["metadata"], made["spec"]["template"]["metadata"]
    for each in (about, template):
        each["labels"] = {name: value for name, value in each["labels"].items() if name.startswith(OF_DAGSTER)}
    template.pop("creationTimestamp", None)
    return {"metadata": {part: about[part] for part in ("name", "labels")}, "spec": made["spec"]}
