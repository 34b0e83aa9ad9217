"""What an event of a request says, in a few words for people."""

from collections.abc import Mapping

from keyrotation_pipeline.audit.events import AuditEntry
from keyrotation_pipeline.model.key_events import KeyStateChanged
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline.model.request_events import (
    Blocked,
    RequestOpened,
    SignatureAdded,
    StatusChanged,
    StepFinished,
)
from keyrotation_pipeline.model.requests import RequestAction


def is_of_shard(entry: AuditEntry) -> bool:
    """Whether it records one shard, of which there are many."""
    fact = entry.fact()
    return isinstance(fact, StepFinished) and fact.table is not None


def said_by(entry: AuditEntry, names: Mapping[str, str]) -> str:
    """What an event says; of a kind without words of its own the name, and what it is about.

    Args:
        names: of officers, by fingerprint.
    """
    said = " ".join((entry.kind.replace("_", " "), entry.about)).rstrip()
    match entry.fact():
        case RequestOpened(type=type_, action=action, source=source, target=target):
            noun = "rotation" if action is RequestAction.ROTATE else action
            said = f"{type_} {noun} {source} to {target} requested"
        case SignatureAdded(officer=officer):
            said = f"signed by {names.get(officer, officer)}"
        case StatusChanged(after=after):
            said = str(after)
        case KeyStateChanged(version=version, after=after):
            said = f"{version} became {after}"
        case StepFinished(step=step, table=None):
            said = f"{step} finished"
        case Blocked(sentence=reason):
            said = f"blocked: {reason}"
        case PaceSet() as pace:
            said = f"pace set: {pace}"
    return said
