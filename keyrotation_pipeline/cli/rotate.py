"""`rotate`: runs the next phases, one after another, without a daemon."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.backups.backup import BackupMade, back_up_after_rotation
from keyrotation_pipeline.backups.catalog import BackupContext
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, Verbose, actor
from keyrotation_pipeline.cli.progress import Overall, reporting
from keyrotation_pipeline.cli.signing import duties
from keyrotation_pipeline.errors import AtWorkError, BackupError, BlockedError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.compiled import codec_in_use, is_native
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.monitoring.progress import seconds_left
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner


def rotate(
    request_id: RequestId,
    *,
    through: Annotated[
        Step | None, typer.Option("--through", metavar="PHASE", help=f"Stop after one of {', '.join(WALK)}.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done next, and do nothing.", show_default=False)
    ] = False,
    verbose: Verbose = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run the next phases of an approved rotation.

    Runs to the end, or as far as possible; whatever stopped it, run it again to continue. A finished rotation is
    followed by a backup of all keys and the database.
    """
    with open_backups(settings.load(config), actor=actor()) as site:
        pipeline = site.pipeline
        rotation = pipeline.ledger.walk(request_id)
        if not as_json:
            output.heading(pipeline.environment.identity().name)
            output.line(f"{rotation.action} {rotation.id}: {rotation.source} to {rotation.target}")
            if not is_native():
                output.line(codec_in_use())
        if dry_run:
            _show_next(pipeline, rotation, through, verbose=verbose, as_json=as_json)
            return
        seconds = _run(pipeline, rotation, through, quiet=as_json)
        rotation = pipeline.ledger.walk(rotation.id)
        made = _back_up(site, rotation, quiet=as_json)
        value = {
            "database": pipeline.environment.identity().name,
            "id": rotation.id,
            "phase": phase_of(rotation),
            "from": str(rotation.source),
            "to": str(rotation.target),
            "phases": [{"phase": name, "seconds": round(taken, 3)} for name, taken in seconds.items()],
            "backup": made.made.name if isinstance(made, BackupMade) else None,
        }
        output.show(None, value, _end(rotation, verbose=verbose), as_json=as_json)
    if isinstance(made, BackupError):
        raise made
    if made is not None:
        made.require_sound_audit()


def _back_up(site: BackupContext, rotation: Walk, *, quiet: bool) -> BackupMade | BackupError | None:
    """Make the backup that follows a finished rotation; returns it, or its error, or None where none is due."""
    if rotation.status is not RequestStatus.FINISHED:
        return None
    try:
        made = back_up_after_rotation(site)
    except AtWorkError as error:
        output.note(f"the backup after the rotation: {error}")
        return None
    except KeyRotationError as error:
        return BackupError(
            f"{rotation.action} {rotation.id} is finished, but the backup after it is not complete: {error}; "
            "correct that, then run `keyrotation backup`"
        )
    if made is not None and not quiet:
        held = ", ".join(str(each.version) for each in made.made.keys)
        databases = "".join(f", {each.member}" for each in made.made.members)
        output.line(f"backup {made.made.name}: {held} and the database{databases}, in {'; '.join(made.places)}")
    return made


def _run(pipeline: Pipeline, rotation: Walk, through: Step | None, *, quiet: bool) -> dict[str, float]:
    """Seconds by phase. A phase's time includes the decisions between its actions."""
    seconds: dict[str, float] = {}
    with reporting(_overall(pipeline, rotation), quiet=quiet) as report:
        began = time.monotonic()
        for record in runner.run(pipeline, rotation.id, report, through):
            now = time.monotonic()
            seconds[record.step] = seconds.get(record.step, 0.0) + now - began
            began = now
            if record.shard is None and not quiet:
                output.line(phase_line(record, seconds[record.step]))
    return seconds


def _overall(pipeline: Pipeline, rotation: Walk) -> Overall:
    rows = {str(count.table.name): count.rows for count in pipeline.ledger.counts(pipeline.tables)}
    done = {f"{each.table} shard {each.shard:02d}" for each in rotation.steps if each.shard is not None}
    return Overall(rows, pipeline.shards, done, partial(seconds_left, pipeline, rotation.id))


def phase_line(record: StepRecord, seconds: float) -> str:
    """One finished phase: its name, its time, and what a DBA wants to know about it."""
    return f"  {record.step:<22}{seconds:>8.1f} s  {_remark(record)}".rstrip()


def _remark(record: StepRecord) -> str:
    facts = record.facts
    match record.step:
        case Step.KEY_VERSION:
            return f"{facts.get('version')} {str(facts.get('fingerprint'))[:16]}, backed up in {facts.get('backup')}"
        case Step.DUAL_KEY_ROLLOUT | Step.PRIMARY_KEY_ROLLOUT | Step.ARCHIVED_KEY:
            cleared = facts.get("search_indexes_cleared")
            indexes = "" if cleared is None else f", search indexes of {counted(sum(cleared.values()), 'row')} cleared"
            number = facts.get("instances", 0)
            return f"{counted(number, 'instance') if number else 'no instance was seen'}{indexes}"
        case Step.ROWS:
            return f"{facts.get('rows', 0):,} rows, {facts.get('values', 0):,} values"
        case Step.ZERO_OLD_ROWS_PROOF:
            remark = IdentifiedBy(facts.get("identified_by", IdentifiedBy.MARKER)).remark
            old = ", ".join(facts.get("retired", []))
            return f"{facts.get('values_decrypted', 0):,} values decrypt, 0 under {old}{remark}"
        case _:
            return ""


def _limits_of_proof(rotation: Walk, *, verbose: bool) -> Iterator[str]:
    """What the retirement of a finished rotation did not search or see, and what it did not read again."""
    if (record := rotation.done(Step.RETIRED_KEY)) is None:
        return
    retired = read(KeyRetired, record.facts)
    if verbose:
        yield f"not searched: {'; '.join(retired.not_searched)}"
        yield f"not seen: {'; '.join(retired.not_seen)}"
    else:
        places, copies = len(retired.not_searched), len(retired.not_seen)
        yield f"{places} places were not searched, {copies} kinds of copies not seen: `keyrotation report` names them"
    if retired.unread:
        yield retired.unread


def _show_next(pipeline: Pipeline, rotation: Walk, through: Step | None, *, verbose: bool, as_json: bool) -> None:
    due, later = _ahead(pipeline, rotation, through)
    reason = runner.pending(Situation(pipeline), rotation)
    waits = None if reason is None else str(reason)
    rule, *how = duties(pipeline.rollout, rotation)
    lines = [f"  due now    nothing, since {through} is done"]
    if due:
        lines = [*(f"  due now    {task}" for task in due), *(f"  later      {step}" for step in later)]
        lines += [f"  rollout    {rule}", *(f"             {line}" for line in how)] if verbose else []
        lines += [f"  waits      {waits}"] if waits else []
    value = {"id": rotation.id, "due": due, "later": later, "rollout": rule, "waiting_for": waits}
    output.show(None, value, lines, as_json=as_json)


def _ahead(pipeline: Pipeline, rotation: Walk, through: Step | None) -> tuple[list[str], list[str]]:
    """The due tasks and the steps after them, as far as a run would go; none where `through` is done."""
    if through is not None and rotation.done(through) is not None:
        return [], []
    decision = runner.next_decision(Situation(pipeline), rotation)
    if not decision.tasks:
        raise BlockedError(str(decision.pending))
    steps = WALK if through is None else WALK[: WALK.index(through) + 1]
    later = [str(step) for step in steps if rotation.done(step) is None and step is not decision.tasks[0].step]
    return [str(task) for task in decision.tasks], later


def _end(rotation: Walk, *, verbose: bool) -> Iterator[str]:
    if (phase := phase_of(rotation)) != "finished":
        yield f"next is {phase}: `keyrotation rotate {rotation.id}`"
        return
    yield f"finished: nothing is left under {rotation.source} where it was searched, and its key is archived"
    yield from _limits_of_proof(rotation, verbose=verbose)
    if (record := rotation.done(Step.COMPLIANCE_REPORT)) and (text := record.facts.get("post_mortem")):
        yield from ("", *text.split("\n"))
    yield "next: `keyrotation status`, `keyrotation verify`"
