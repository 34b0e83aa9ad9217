"""The newest rehearsal, as far as it still tells of the next rotation."""

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.request_events import Rehearsed
from keyrotation_pipeline.model.status import LastRehearsal
from keyrotation_pipeline.ports.pipeline import Pipeline


def last_rehearsal(pipeline: Pipeline, primary: KeyVersion | None) -> LastRehearsal | None:
    """The newest rehearsal, unless the primary has changed since."""
    last = None
    for entry in entries(pipeline.ledger, EventKind.REHEARSED):
        if isinstance(fact := entry.fact(), Rehearsed) and fact.source == primary:
            last = LastRehearsal(entry.at, fact)
    return last
