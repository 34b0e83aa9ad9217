"""The post-mortem of a rollback, in the seed's form: facts from the ledger, and room for what people must judge."""

from collections.abc import Iterator

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.model.audit import read
from keyrotation_pipeline.model.keys import KeyMade
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.request_events import Blocked
from keyrotation_pipeline.model.requests import WALK, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.takeover import lineage

_FOR_PEOPLE = "[to be agreed on by the officers]"


def post_mortem(pipeline: Pipeline, rotation: Walk) -> str:
    """The text, ready to be completed by hand under its last heading.

    Args:
        rotation: a rollback whose rows are proven.

    Source: the seed procedure, section 6.2, step 4.
    """
    undone = _undone(pipeline, rotation)
    actions = "\n".join(f"{number}. {line}" for number, line in enumerate(_actions(rotation, undone), 1))
    return (
        "ROLLBACK POST-MORTEM\n\n"
        f"Date: {pipeline.clock.now():%Y-%m-%d %H:%M} UTC\n"
        f"Reason for rollback: {rotation.reason}\n\n"
        f"What went wrong:\n{_what_went_wrong(pipeline, undone)}\n\n"
        f"Data loss:\n{_data_loss(rotation)}\n\n"
        f"Recovery actions:\n{actions}\n\n"
        f"Prevention measures:\n1. {_FOR_PEOPLE}\n"
    )


def _undone(pipeline: Pipeline, rotation: Walk) -> Walk:
    """The rotation that is undone; a continuation leads to it through the rollback that it took over."""
    (*_, first) = lineage(pipeline, rotation)
    return first if first.supersedes is None else pipeline.ledger.walk(first.supersedes)


def _what_went_wrong(pipeline: Pipeline, undone: Walk) -> str:
    told = [blocked.sentence for blocked in recorded(pipeline.ledger, Blocked, undone.id)]
    reached = [record for record in undone.steps if record.table is None]
    last = f"its last finished step was {reached[-1].step}" if reached else "none of its steps was finished"
    begun = f"Rotation {undone.id} ({undone.source} to {undone.target}) was given up; {last}."
    if not told and undone.blocked_by is None:
        return f"{begun} Nothing had blocked it."
    return f"{begun} What blocked it last: {undone.blocked_by or told[-1]}."


def _data_loss(rotation: Walk) -> str:
    if (record := rotation.done(Step.ZERO_OLD_ROWS_PROOF)) is None:
        return "None: rows were re-encrypted, not restored, so that what was written meanwhile is kept."
    proof = read(Proven, record.facts)
    return (
        f"None: rows were re-encrypted, not restored, so that what was written meanwhile is kept. "
        f"{proof.values_decrypted} value(s) decrypt, {proof.old_values} are left under "
        f"{', '.join(map(str, proof.retired))}, none is in quarantine."
    )


def _actions(rotation: Walk, undone: Walk) -> Iterator[str]:
    if undone.done(WALK[-1]) is None:
        yield f"Stopped rotation {undone.id}"
    key = rotation.done(Step.KEY_VERSION)
    archived = key is not None and read(KeyMade, key.facts).from_archive
    where = "Brought back from the archive" if archived else "Found in the key store"
    yield f"{where}: {rotation.target}"
    for step, sentence in (
        (Step.PRIMARY_KEY_ROLLOUT, f"Made {rotation.target} the primary again, once every instance read it"),
        (Step.ROWS, f"Re-encrypted {rotation.source} to {rotation.target}"),
        (Step.ZERO_OLD_ROWS_PROOF, f"Proved that nothing is left under {rotation.source} where it was searched"),
        (Step.ARCHIVED_KEY, f"Withdrew and archived {rotation.source}, whose number is not used again"),
    ):
        if (record := rotation.done(step)) is not None:
            rows = f", {read(Rewritten, record.facts).rows} row(s)" if step is Step.ROWS else ""
            yield f"{sentence}{rows} ({record.finished_at:%Y-%m-%d %H:%M} UTC)"
