"""Which Pod templates see a new key, and still start when an old one is gone."""

from typing import Any

import pytest

from keyrotation_pipeline.adapters.rollouts.templates import Workload, problems, uses
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

API = Workload("Deployment", "api", "web")
V1, V2 = KeyVersion(1), KeyVersion(2)
FIRST, SECOND, PRIMARY = "ENCRYPTION_MASTER_KEY", "ENCRYPTION_MASTER_KEY_V2", "ENCRYPTION_PRIMARY_VERSION"
MARKER = "ENCRYPTION_COMPROMISED_VERSIONS"
WHOLE = {"envFrom": [{"secretRef": {"name": "keys"}}]}
MOUNT = {"volumeMounts": [{"name": "keys", "mountPath": "/run/keys"}]}
VOLUME = {"volumes": [{"name": "keys", "secret": {"secretName": "keys"}}]}


def reference(name: str, *, key: str = "", optional: bool = True) -> dict[str, Any]:
    ref = {"name": "keys", "key": key or name, "optional": optional}
    return {"name": name, "valueFrom": {"secretKeyRef": ref}}


def items(*entries: str, optional: bool = True) -> dict[str, Any]:
    listed = [{"key": entry, "path": entry} for entry in entries]
    return {"volumes": [{"name": "keys", "secret": {"secretName": "keys", "items": listed, "optional": optional}}]}


def projected() -> dict[str, Any]:
    return {"volumes": [{"name": "keys", "projected": {"sources": [{"secret": {"name": "keys"}}]}}]}


def found(container: dict[str, Any], pod: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:  # noqa: ANN401
    containers = [{"name": "web", **container}]
    return {"spec": {"template": {"spec": {"containers": containers, **(pod or {})}}, **spec}}


EACH = {"env": [reference(FIRST), reference(SECOND), reference(PRIMARY, optional=False), reference(MARKER)]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(found(WHOLE), None, id="envFrom"),
        pytest.param(found(EACH), None, id="each key, optional"),
        pytest.param(found(MOUNT, VOLUME), None, id="a volume"),
        pytest.param(found(MOUNT, projected()), None, id="a projected volume"),
        pytest.param(found(MOUNT, items(FIRST, SECOND, PRIMARY, MARKER)), None, id="a volume of each entry"),
        pytest.param(found({}), f"web would not get {FIRST} from keys; add it", id="nothing"),
        pytest.param(
            found({"envFrom": [{"secretRef": {"name": "others"}}]}), f"would not get {FIRST}", id="another Secret"
        ),
        pytest.param(
            found({"envFrom": [{"prefix": "APP_", "secretRef": {"name": "keys"}}]}),
            f"would not get {FIRST}",
            id="under other names",
        ),
        pytest.param(
            found({"env": [reference(FIRST), reference(PRIMARY)]}), f"would not get {SECOND}", id="without the new key"
        ),
        pytest.param(
            found({"env": [reference(FIRST), reference(SECOND)]}), f"would not get {PRIMARY}", id="without the primary"
        ),
        pytest.param(
            found({"env": EACH["env"][:3]}), f"would not get {MARKER}", id="without the marker of compromised versions"
        ),
        pytest.param(
            found({"env": [*EACH["env"][:3], reference(MARKER, optional=False)]}),
            f"web does not start without {MARKER} of keys; write `optional: true`",
            id="the marker is needed to start",
        ),
        pytest.param(
            found(MOUNT, items(FIRST, SECOND, PRIMARY)),
            f"would not get {MARKER}",
            id="a volume without the marker of compromised versions",
        ),
        pytest.param(
            found({**WHOLE, "env": [{"name": MARKER, "value": "v1"}]}), f"sets {MARKER} itself", id="a fixed marker"
        ),
        pytest.param(
            found({"env": [reference(FIRST, optional=False), *EACH["env"][1:]]}),
            f"web does not start without {FIRST} of keys; write `optional: true`",
            id="the old key is needed to start",
        ),
        pytest.param(
            found(WHOLE, {"initContainers": [{"name": "migrate", "env": [reference("K", key=FIRST, optional=False)]}]}),
            f"migrate does not start without {FIRST}",
            id="another container needs the old key",
        ),
        pytest.param(
            found({**WHOLE, "env": [{"name": PRIMARY, "value": "v1"}]}), f"sets {PRIMARY} itself", id="a fixed primary"
        ),
        pytest.param(
            found({**WHOLE, "env": [reference(SECOND, key=FIRST)]}), f"sets {SECOND} itself", id="a wrong entry"
        ),
        pytest.param(found(MOUNT, items(FIRST, PRIMARY)), f"would not get {SECOND}", id="a volume without the new key"),
        pytest.param(
            found(MOUNT, items(FIRST, SECOND, PRIMARY, MARKER, optional=False)),
            f"volume keys does not mount without {FIRST}",
            id="the old key is needed to mount",
        ),
        pytest.param(
            found({"volumeMounts": [{"name": "keys", "mountPath": "/k", "subPath": FIRST}]}, VOLUME),
            f"would not get {FIRST}",
            id="one file of a volume",
        ),
        pytest.param(found({}, VOLUME), f"would not get {FIRST}", id="a volume that is not mounted"),
        pytest.param(
            {"spec": {"template": {"spec": {"containers": [{"name": "proxy", **WHOLE}]}}}},
            "it has no container web",
            id="no such container",
        ),
        pytest.param(found(WHOLE, paused=True), "its rollout is paused", id="paused"),
        pytest.param(found(WHOLE, updateStrategy={"type": "OnDelete"}), "RollingUpdate", id="by hand"),
        pytest.param(
            found(WHOLE, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}),
            "its partition keeps Pods on an older template",
            id="a partition",
        ),
    ],
)
def test_a_template_sees_every_key_or_is_refused(content: dict[str, Any], sentence: str | None) -> None:
    sentences = problems(API, content, "keys", (V1, V2))
    assert [each for each in sentences if not each.startswith("Deployment/api: ")] == []
    if sentence is None:
        assert sentences == []
    else:
        assert any(sentence in each for each in sentences), sentences


@pytest.mark.parametrize(
    ("content", "used"),
    [
        pytest.param(found(WHOLE), True, id="envFrom"),
        pytest.param(found({"env": [reference("KEY", key=FIRST)]}), True, id="one entry"),
        pytest.param(found({}, VOLUME), True, id="a volume"),
        pytest.param(found({}, projected()), True, id="a projected volume"),
        pytest.param(found({}, {"initContainers": [{"name": "init", **WHOLE}]}), True, id="an init container"),
        pytest.param(found({"envFrom": [{"prefix": "X_", "secretRef": {"name": "keys"}}]}), True, id="with a prefix"),
        pytest.param(found({"env": [{"name": "KEYS", "value": "keys"}]}), False, id="its name only"),
        pytest.param(found({"envFrom": [{"configMapRef": {"name": "keys"}}]}), False, id="a ConfigMap of that name"),
    ],
)
def test_whatever_gets_something_of_the_secret_uses_it(content: dict[str, Any], used: bool) -> None:
    assert uses(content["spec"]["template"]["spec"], "keys") is used
