"""Detects that somebody else undoes a rollout (a template's annotation, a Secret's entries), and names who it was.

The first time it is done again, since a person or a deployment may have been faster; the second time it stops, so
that a controller that corrects every change costs no endless row of Pods. Who writes an object is read from its
`managedFields`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline.adapters.cluster import FIELD_MANAGER
from keyrotation_pipeline.adapters.rollouts.pod_keys import ANNOTATION
from keyrotation_pipeline.adapters.rollouts.templates import Fleet, Workload
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE, variable_of
from keyrotation_pipeline.model.fleet import RolloutTarget, TargetKind
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.pending import PendingReason, of_cluster

Json = dict[str, Any]
# A part of the names under which each of them writes, and the page that says what to change.
_PAGES = {
    "argocd": "argo-cd",
    "external-secrets": "external-secrets",
    "kustomize-controller": "flux",
    "helm-controller": "flux",
}
_NAMED_AT_MOST = 3
_PLAIN = re.compile(r"[-\w.:/@+]{1,128}", re.ASCII)


def _other_managers(metadata: Json, *places: Sequence[str]) -> list[str]:
    """Returns the managers other than this pipeline that own something at the first place where any does.

    A manager that removes a field owns nothing of it afterwards; so each place is followed by a wider one.

    Args:
        places: paths in ``fieldsV1``, the narrowest first: ``("f:data", "f:ENCRYPTION_MASTER_KEY")``.

    Returns:
        Their names: those that a page of ours is about first, then who wrote last.
    """
    written = [each for each in metadata.get("managedFields") or () if not each.get("subresource")]
    foreign = [each for each in written if str(each.get("manager")) not in {FIELD_MANAGER, "None"}]
    foreign.sort(key=lambda each: str(each.get("time")), reverse=True)
    foreign.sort(key=lambda each: _page(str(each["manager"])) is None)
    owners: list[str] = []
    for place in places:
        owners = owners or [str(each["manager"]) for each in foreign if _owns(each.get("fieldsV1") or {}, place)]
    return list(dict.fromkeys(owners))


def _named(managers: Sequence[str]) -> str:
    """Returns who it was, as far as is known."""
    if not managers:
        return "something that its managedFields do not name"
    # Whoever may write there names itself: nothing that could be read as a part of the sentence.
    shown = ", ".join(
        each if _PLAIN.fullmatch(each) else "(of a name that is none)" for each in managers[:_NAMED_AT_MOST]
    )
    return f"field manager {shown}" if len(managers) == 1 else f"one of the field managers {shown}"


def _advice_to(managers: Sequence[str], kept: str) -> str:
    """Returns what to change, in words.

    Args:
        kept: what is to be left alone.
    """
    page = next(filter(None, map(_page, managers)), None)
    return f"have it leave {kept} alone{f' as `keyrotation docs {page}` says' if page else ''}"


def _page(manager: str) -> str | None:
    return next((page for part, page in _PAGES.items() if part in manager), None)


def _owns(fields: Mapping[str, Any], place: Sequence[str]) -> bool:
    for part in place:
        if part not in fields:
            return False
        fields = fields[part]
    return True


PATIENCE_SECONDS = 30.0  # with entries that contradict the target, which nothing of ours corrects
_AT_MOST = 2
_TEMPLATE = ("f:spec", "f:template")
_ANNOTATIONS = (*_TEMPLATE, "f:metadata", "f:annotations")


@dataclass
class Reverts:
    """What was undone so far."""

    target: RolloutTarget
    fleet: Fleet
    _written: dict[Workload, str] = field(default_factory=dict)
    _lost: Counter[Workload] = field(default_factory=Counter)
    _revisions: set[str] = field(default_factory=set)
    _seen: str = ""
    _settled_seconds: float = 0.0
    _changed_at: float = 0.0
    _contradictions: int = 0
    _contradicted_at: float | None = None

    def see(self, secret: Json, now: float) -> None:
        """Takes note of the Secret's revision.

        Args:
            secret: its metadata.
            now: monotonic seconds.
        """
        if secret["resourceVersion"] != self._seen:
            self._seen, self._changed_at = secret["resourceVersion"], now
        self._settled_seconds = now - self._changed_at

    def has_settled(self, seconds: float) -> bool:
        """Returns whether the Secret has been seen unchanged for so long."""
        return self._settled_seconds >= seconds

    def contradiction(self, keys: StoredKeys, secret: Json, now: float) -> PendingReason | None:
        """Returns why no Pod could reach the target with what the Secret holds now; None: each can.

        Args:
            secret: its metadata.
            now: monotonic seconds.

        Raises:
            BlockedError: it was right again meanwhile, or it stays so.
        """
        if (wrong := self._wrong_entry(keys)) is None:
            self._contradicted_at = None
            return None
        if self._contradicted_at is None:
            self._contradicted_at = now
            self._contradictions += 1
        message = self._about_entry(*wrong, secret)
        if self._contradictions == _AT_MOST or now - self._contradicted_at >= PATIENCE_SECONDS:
            raise BlockedError(message)
        return of_cluster(message)

    def before_writing(self, workload: Workload, found: Json, text: str, secret: Json, earlier: Iterable[str]) -> None:
        """Refuses to write an annotation once more that others have undone twice, or whose Secret does not rest.

        Args:
            earlier: the annotations of the workload's earlier templates, as far as the cluster keeps them: an earlier
                run wrote what is among them.

        Raises:
            BlockedError: see above.
        """
        written = self._written.get(workload)
        if written == text or (written is None and text in earlier):
            self._lost[workload] += 1
        if self._lost[workload] == _AT_MOST:
            raise BlockedError(_about_template(workload, found))
        self._revisions.add(str(secret["resourceVersion"]))
        if len(self._revisions) > _AT_MOST:
            who = _other_managers(secret, ("f:data",), ("f:metadata",))
            raise BlockedError(
                f"Secret {self.fleet.secret} was changed twice since this rollout began, last by {_named(who)}, "
                f"so nobody knows what its Pods were started with; {_advice_to(who, 'it')}, and run `keyrotation "
                "rotate` again"
            )

    def written(self, workload: Workload, text: str) -> None:
        """Records that a template got its annotation."""
        self._written[workload] = text

    def _wrong_entry(self, keys: StoredKeys) -> tuple[str, str, str] | None:
        """Returns an entry that contradicts the target, what is wrong with it, and what repairs it; None: none does."""
        without = self.target.kind is TargetKind.WITHOUT
        for version in self.target.versions:
            entry, is_live = variable_of(version), version in keys.live
            if without and is_live:
                removal = {"op": "remove", "path": f"/data/{entry}"}
                return entry, "is back", self._patch("--type json --patch", [removal])
            if not without and not is_live:
                return entry, "is gone", f"keyrotation restore-key {version}"
            if self.target.kind is TargetKind.WRITES and keys.primary != version:
                repair = self._patch("--patch", {"stringData": {PRIMARY_VARIABLE: str(version)}})
                return PRIMARY_VARIABLE, f"names {keys.primary}, not {version}", repair
        if self.fleet.key_list is not None and keys.undelivered is not None:
            return self.fleet.key_list, "is not the list of the live keys in their order", "keyrotation init"
        return None

    def _patch(self, option: str, difference: object) -> str:
        content = json.dumps(difference, separators=(",", ":"))
        return f"kubectl --namespace {self.fleet.namespace} patch secret {self.fleet.secret} {option} '{content}'"

    def _about_entry(self, entry: str, what: str, repair: str, secret: Json) -> str:
        who = _other_managers(secret, ("f:data", f"f:{entry}"), ("f:data",), ("f:metadata",))
        listed = f"{self.fleet.key_list} and " if self.fleet.key_list is not None else ""
        advice = _advice_to(who, f"{listed}the entries ENCRYPTION_… of this Secret")
        return (
            f"entry {entry} of Secret {self.fleet.secret} {what} ({_named(who)}); {advice}, run `{repair}`, and run "
            "`keyrotation rotate` again"
        )


def _about_template(workload: Workload, found: Json) -> str:
    who = _other_managers(found["metadata"], (*_ANNOTATIONS, f"f:{ANNOTATION}"), _ANNOTATIONS, _TEMPLATE)
    kept = f"the annotation {ANNOTATION} of its Pod template"
    return (
        f"{workload}: {ANNOTATION} of its Pod template was undone twice by {_named(who)}, and each time makes "
        f"new Pods; {_advice_to(who, kept)}, and run `keyrotation rotate` again"
    )
