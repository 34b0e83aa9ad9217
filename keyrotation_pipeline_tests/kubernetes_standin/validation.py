"""What a real API server's validation refuses, as far as a schema does not say it."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

Json = dict[str, Any]

_ANNOTATION = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|Ki|Mi|Gi|Ti)?")
_UNITS = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10) ** 3, "M": Decimal(10) ** 6, "G": Decimal(10) ** 9}
_UNITS |= {"Ki": Decimal(2) ** 10, "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30, "Ti": Decimal(2) ** 40}
_MOST_ANNOTATION_BYTES = 256 * 1024
_MOST_JOB_NAME = 63


def unreadable(wanted: Json) -> str | None:
    """Why an object cannot even be decoded (400); None: it can."""
    for each in ("annotations", "labels"):
        values = (wanted.get("metadata") or {}).get(each) or {}
        if not all(isinstance(value, str) for value in values.values()):
            return f"cannot unmarshal into Go struct field ObjectMeta.metadata.{each} of type string"
    for container in _pod(wanted).get("containers") or ():
        resources = container.get("resources") or {}
        for amounts in (resources.get("limits") or {}, resources.get("requests") or {}):
            if any(quantity(str(amount)) is None for amount in amounts.values()):
                return "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    return None


def invalid(plural: str, wanted: Json) -> str | None:
    """Why an object is refused (422); None: it is not."""
    return next(_reasons(plural, wanted), None)


def quantity(text: str) -> Decimal | None:
    """An amount of a resource; None where it is none."""
    found = _QUANTITY.fullmatch(text)
    return None if found is None else Decimal(found[1]) * _UNITS[found[2] or ""]


def _reasons(plural: str, wanted: Json) -> Iterator[str]:
    template = (wanted.get("spec") or {}).get("template") or {}
    for metadata in (wanted["metadata"], template.get("metadata") or {}):
        yield from _metadata(metadata)
    spec = wanted.get("spec") or {}
    for field in ("replicas", "backoffLimit", "ttlSecondsAfterFinished", "parallelism", "completions"):
        if int(spec.get(field) or 0) < 0:
            yield f"spec.{field}: must be greater than or equal to 0"
    for subject in wanted.get("subjects") or () if plural == "rolebindings" else ():
        if subject["kind"] == "ServiceAccount" and not subject.get("namespace"):
            yield "subjects[0].namespace: Required value"
    if plural == "jobs" and len(wanted["metadata"]["name"]) > _MOST_JOB_NAME:
        yield "spec.template.labels: must be no more than 63 bytes"
    if "spec" in template:
        allowed = {"Never", "OnFailure"} if plural == "jobs" else {"Always", None}
        if template["spec"].get("restartPolicy") not in allowed:
            yield "spec.template.spec.restartPolicy: Unsupported value"
        yield from _containers(template["spec"])


def _metadata(metadata: Json) -> Iterator[str]:
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    if wrong := [name for name in (*annotations, *labels) if not _ANNOTATION.fullmatch(name)]:
        yield f"metadata: Invalid value: {wrong[0]}"
    if sum(len(name) + len(value) for name, value in annotations.items()) > _MOST_ANNOTATION_BYTES:
        yield "metadata.annotations: Too long: may not be more than 262144 bytes"
    if wrong := [name for name, value in labels.items() if not _LABEL.fullmatch(value)]:
        yield f"metadata.labels: Invalid value of {wrong[0]}"


def _containers(pod: Json) -> Iterator[str]:
    containers = pod.get("containers") or []
    names = [str(each.get("name")) for each in (*(pod.get("initContainers") or ()), *containers)]
    if not containers or not all(_CONTAINER.fullmatch(name) for name in names) or len({*names}) < len(names):
        yield "spec.template.spec.containers: Required value, or a name that is none or stands twice"
    volumes = {each["name"] for each in pod.get("volumes") or ()}
    for container in containers:
        if any("=" in each["name"] or not each["name"] for each in container.get("env") or ()):
            yield "env.name: Invalid value"
        if not {each["name"] for each in container.get("volumeMounts") or ()} <= volumes:
            yield "volumeMounts.name: Not found"
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        for name, amount in (resources.get("requests") or {}).items():
            if name in limits and (quantity(str(amount)) or 0) > (quantity(str(limits[name])) or 0):
                yield f"resources.requests: must be less than or equal to {name} limit"


def _pod(wanted: Json) -> Json:
    spec: Json = ((wanted.get("spec") or {}).get("template") or {}).get("spec") or {}
    return spec
