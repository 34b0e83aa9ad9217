"""Whether the full backup is due that follows each rotation.

That is not stored. It follows from when the newest finished rotation or rollback ended, and from when the newest
complete set of keys and database was begun: such a set holds the new primary, and the rows under it.

Source: the seed procedure, appendix A, "Backup new key (v2)" after a rotation.
"""

from datetime import datetime, timedelta

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline

# By then Dagster, or the process that rotated, has made it.
EXPECTED_WITHIN = timedelta(hours=1)


def last_finished(pipeline: Pipeline) -> tuple[Walk, datetime] | None:
    """The rotation or rollback that finished last, and when."""
    walks = (each for each in pipeline.ledger.requests() if isinstance(each, Walk))
    finished = [(each, each.finished_at) for each in walks if each.status is RequestStatus.FINISHED]
    return max(((each, at) for each, at in finished if at is not None), key=lambda pair: pair[1], default=None)


def is_covered(finished_at: datetime, begun_at: datetime | None) -> bool:
    """Whether a backup was begun when the rotation had finished; names of sets know whole seconds only."""
    return begun_at is not None and begun_at >= finished_at.replace(microsecond=0)


def was_backed_up(pipeline: Pipeline, finished_at: datetime) -> bool:
    """Whether the audit has a complete backup that was begun since; no place is asked."""
    made = (each.facts for each in entries(pipeline.ledger, EventKind.BACKUP_MADE))
    return any(facts.get("dump") and is_covered(finished_at, _begun_at(facts.get("made_at"))) for facts in made)


def backup_lights(pipeline: Pipeline, last: datetime | None, now: datetime) -> tuple[list[str], list[str]]:
    """What is red and what is amber, where the backup after the last rotation is not complete in every place.

    It is amber while it is expected, and red once it failed or an hour has passed.

    Args:
        last: when the newest complete set was begun; None: there is none.
    """
    finished = last_finished(pipeline)
    if finished is None or is_covered(finished[1], last):
        return [], []
    walk, at = finished
    sentence = (
        f"{walk.action} {walk.id} to {walk.target} finished {at:%Y-%m-%d %H:%M} UTC, and no backup of keys and "
        "database since then is complete in every place; run `keyrotation backup`"
    )
    failed = any(each.at >= at for each in entries(pipeline.ledger, EventKind.BACKUP_INCOMPLETE))
    return ([sentence], []) if failed or now - at > EXPECTED_WITHIN else ([], [sentence])


def _begun_at(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text))
