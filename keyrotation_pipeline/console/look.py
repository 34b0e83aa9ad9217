"""One look at everything: what is outside of the database is asked first, and all that is in it is of one snapshot."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.incidents.assessing import unsettled_in_words
from keyrotation_pipeline.model.approval import PinnedRoster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.status import Status
from keyrotation_pipeline.monitoring.status import Outside, overview
from keyrotation_pipeline.ports.backups import Anchors
from keyrotation_pipeline.ports.pipeline import Pipeline

MOST_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Look:
    """The status, and the instances that it rests on; a sentence where they cannot be seen."""

    status: Status
    instances: tuple[Instance, ...] | str


class AnchorsBefore:
    """Anchors as they were before a snapshot: a later one names events that the snapshot does not have yet."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors
        self._heads, self._digests = anchors.heads(), anchors.roster_digests()
        try:
            self._roster: PinnedRoster | AuditError | None = anchors.roster()
        except AuditError as error:
            self._roster = error

    def heads(self) -> tuple[AuditHead, ...]:
        """See `Anchors.heads`."""
        return self._heads

    def roster(self) -> PinnedRoster | None:
        """See `Anchors.roster`."""
        if isinstance(self._roster, AuditError):
            raise self._roster
        return self._roster

    def keep_roster(self, pinned: PinnedRoster) -> None:
        """See `Anchors.keep_roster`."""
        self._anchors.keep_roster(pinned)

    def roster_digests(self) -> frozenset[str]:
        """See `Anchors.roster_digests`."""
        return self._digests


@contextmanager
def one_look(pipeline: Pipeline) -> Iterator[Look]:
    """Yields the status; it, and whatever is read of the ledger inside, are of one snapshot.

    While the key store, the applications or a place of backups is silent, no snapshot is held, for which a retirement
    would wait. If something has happened since they were asked, they are asked again, a few times.
    """
    for again in range(MOST_LOOKS):
        seq = pipeline.ledger.head().seq
        before = replace(pipeline, anchors=AnchorsBefore(pipeline.anchors))
        outside = Outside.of(before)
        before.ledger.replayed()  # which the process keeps; of what is read in a transaction it keeps nothing
        with before.ledger.snapshot():
            if before.ledger.head().seq != seq and again + 1 < MOST_LOOKS:
                continue
            status = overview(before, duties=unsettled_in_words(before), outside=outside)
            unreachable = outside.situation.unreachable
            yield Look(status, outside.situation.instances if unreachable is None else str(unreachable))
            return
