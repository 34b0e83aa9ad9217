"""Names who else writes an object, by its `managedFields`, and what to change there so that a rollout is left alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from keyrotation_pipeline.adapters.cluster import FIELD_MANAGER

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


def others(metadata: Json, *places: Sequence[str]) -> list[str]:
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
        owners = owners or [str(each["manager"]) for each in foreign if _holds(each.get("fieldsV1") or {}, place)]
    return list(dict.fromkeys(owners))


def named(managers: Sequence[str]) -> str:
    """Returns who it was, as far as is known."""
    if not managers:
        return "something that its managedFields do not name"
    # Whoever may write there names itself: nothing that could be read as a part of the sentence.
    shown = ", ".join(
        each if _PLAIN.fullmatch(each) else "(of a name that is none)" for each in managers[:_NAMED_AT_MOST]
    )
    return f"field manager {shown}" if len(managers) == 1 else f"one of the field managers {shown}"


def advice(managers: Sequence[str], kept: str) -> str:
    """Returns what to change, in words.

    Args:
        kept: what is to be left alone.
    """
    page = next(filter(None, map(_page, managers)), None)
    return f"have it leave {kept} alone{f' as `keyrotation docs {page}` says' if page else ''}"


def _page(manager: str) -> str | None:
    return next((page for part, page in _PAGES.items() if part in manager), None)


def _holds(fields: Mapping[str, Any], place: Sequence[str]) -> bool:
    for part in place:
        if part not in fields:
            return False
        fields = fields[part]
    return True
