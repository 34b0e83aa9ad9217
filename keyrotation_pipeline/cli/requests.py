"""Opens, signs, confirms, lists, paces, pauses, resumes, cancels and rolls back requests: a command each."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import (
    Config,
    Json,
    OpenRequestId,
    RequestId,
    Verbose,
    actor,
    chosen_walk,
    offered_requests,
    open_walk,
)
from keyrotation_pipeline.cli.output import minutes, show
from keyrotation_pipeline.cli.report import unambiguous_time
from keyrotation_pipeline.cli.signing import (
    Guide,
    SignatureFile,
    SigningAs,
    TextToSign,
    duties,
    given_signature,
    guide,
    guide_to_approve,
    propose,
    unusable_by_officers,
)
from keyrotation_pipeline.model.requests import PendingRequest, Request, RequestAction, Walk
from keyrotation_pipeline.model.signed_lines import quoted
from keyrotation_pipeline.monitoring.announcement import announcement_of
from keyrotation_pipeline.monitoring.status import pending_requests
from keyrotation_pipeline.requests import control
from keyrotation_pipeline.requests.approvals import add_approval, authority
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline.requests.control import pace_of, set_pace
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import rollback
from keyrotation_pipeline.rotation.rollout import unnamed_primary
from keyrotation_pipeline.rotation.rotate import open_request


def request(
    reason: Annotated[str, typer.Option("--reason", help="Why, in one plain line; the officers sign it.")],
    emergency: Annotated[
        str | None,
        typer.Option("--emergency", metavar="INCIDENT", help="The incident whose deadline it must meet."),
    ] = None,
    not_before: Annotated[
        str | None,
        typer.Option(
            "--not-before",
            metavar="WHEN",
            help="A date or time before which nothing starts; without offset in time_zone.",
        ),
    ] = None,
    *,
    manual: Annotated[
        bool,
        typer.Option(
            "--manual",
            help="People materialize each asset in Dagster; the conductor starts nothing.",
            show_default=False,
        ),
    ] = False,
    verbose: Verbose = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Open a rotation for officers to sign; prints its id."""
    declared = settings.load(config)
    earliest = _earliest(not_before, declared.time_zone)
    with open_pipeline(declared, actor=actor()) as pipeline:
        opened = open_request(
            pipeline,
            reason=reason,
            requested_by=actor(),
            incident=emergency,
            not_before=earliest,
            manual=manual,
        )
        database = pipeline.environment.identity().name
        warnings = [each.message for each in pipeline.environment.preflight(pipeline.tables, opened.target)]
        pending = unnamed_primary(Situation(pipeline), opened)
        warnings += [] if pending is None else [str(pending)]
        rule, *how = duties(pipeline.rollout, opened)
        lines = [f"{database}: {opened.source} to {opened.target} requested, {_dates(opened)}"]
        lines += [f"note: {warning}" for warning in warnings]
        if manual:
            lines.append(
                f"left to people: once approved, materialize its assets in Dagster, partition {opened.target}, "
                f"beginning with key_version, or run `keyrotation rotate {opened.id}`"
            )
        lines += [f"rollout: {rule}", *(f"  {line}" for line in how)] if verbose else []
        value = {"database": database, "id": opened.id, "from": str(opened.source), "to": str(opened.target)}
        propose(pipeline, opened, {**value, "rollout": rule, "warnings": warnings}, lines, as_json=as_json)


def approve(
    request_id: RequestId,
    *,
    text: TextToSign = False,
    signature: SignatureFile = None,
    officer: SigningAs = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what to sign and how, or add a signature.

    keyrotation approve ID --text | gpg -ab | keyrotation approve ID --signature -
    """
    content = given_signature(text=text, signature=signature, or_neither=True, officer=officer)
    declared = settings.load(config)
    with ExitStack() as opened:
        pipeline = opened.enter_context(open_pipeline(declared, actor=actor()))
        request = pipeline.ledger.request(request_id)
        if text:
            output.to_sign(pipeline.ledger.approval_text(request.id))
            return
        if declared.databases and request.action is RequestAction.POLICY:
            # Of its members, where they are now, and not where they were signed to be before.
            opened.close()
            pipeline = opened.enter_context(open_pipeline(declared, actor=actor(), asks_members=True))
        if signature is None:
            guide_to_approve(pipeline, request, officer, as_json=as_json)
            return
        by, count = add_approval(pipeline, request, content)
        action, database = pipeline.actions[request.action], pipeline.environment.identity().name
        required = authority(pipeline, request).required
    value = {"id": request.id, "officer": by, "approvals": count, "approvals_required": required}
    lines = [f"approved by {by}: {count} of {required}"]
    if count >= required:
        lines.append(f"next: {action.command(request)}")
    output.show(database, value, lines, as_json=as_json)


def confirm(
    request_id: RequestId,
    *,
    text: TextToSign = False,
    signature: SignatureFile = None,
    officer: SigningAs = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show which rollout to sign and how, or add a signature.

    The text says which rollout is done:

    keyrotation confirm ID --text | gpg -ab | keyrotation confirm ID --signature -
    """
    content = given_signature(text=text, signature=signature, or_neither=True, officer=officer)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        walk = pipeline.ledger.walk(request_id)
        if signature is None:
            to_sign = confirmation_text(pipeline, walk)
            if text:
                output.to_sign(to_sign)
            else:
                then, roster = f"keyrotation rotate {walk.id}", require_roster(pipeline)
                ended = unusable_by_officers(pipeline.signatures)
                shown = Guide("confirm", walk.id, to_sign, roster, (), 1, then, officer, ended)
                guide(pipeline.environment, shown, as_json=as_json)
            return
        by, target = add_confirmation(pipeline, walk, content)
        database = pipeline.environment.identity().name
    value = {"id": walk.id, "officer": by, "rollout": str(target.kind)}
    confirmed = f"confirmed by {by}: every application instance {target.statement()}"
    output.show(database, value, [confirmed, f"next: `keyrotation rotate {walk.id}`"], as_json=as_json)


def requests(
    *,
    announcement: Annotated[
        str | None,
        typer.Option(
            "--announcement",
            metavar="ID",
            help="Print the announcement of this one.",
            autocompletion=offered_requests,
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List pending requests: who has signed, who has not."""
    declared = settings.load(config)
    if announcement is not None:
        _show_announcement(declared, announcement, as_json=as_json)
        return
    with open_pipeline(declared, actor=actor()) as pipeline:
        listed, database = pending_requests(pipeline), pipeline.environment.identity().name
    output.show(database, [each.as_json() for each in listed], _pending(listed), as_json=as_json)


def _pending(listed: Sequence[PendingRequest]) -> Iterator[str]:
    for pending in listed:
        each = pending.request
        reason = each.reason if each.incident is None else f"{each.incident}: {each.reason}"
        yield f"{each.id}  {each.type} {each.action}, {each.source} to {each.target}, {each.status}"
        yield f"  reason   {quoted(reason)}"
        yield f"  signed   {', '.join(pending.signed_by) or 'nobody'} ({pending.required} must)"
        yield f"  missing  {', '.join(pending.missing) or 'nobody'}"
        if each.manual:
            yield "  left to people; the conductor starts no step of it"
        yield f"  {_dates(each)}, finish by {output.minutes(each.finish_by)} UTC"
    if not listed:
        yield "no request is pending"


def _earliest(not_before: str | None, time_zone: str) -> datetime | None:
    return None if not_before is None else unambiguous_time("--not-before", not_before, ZoneInfo(time_zone))


def _dates(request: Request) -> str:
    """The earliest and the latest start."""
    earliest = f"not before {output.minutes(request.not_before)} UTC, " if request.not_before else ""
    return f"{earliest}start by {output.minutes(request.start_by)} UTC"


def _show_announcement(declared: settings.Settings, request_id: str, *, as_json: bool) -> None:
    contacts = [each.contact for each in declared.contacts]
    with open_pipeline(declared, actor=actor()) as pipeline:
        shown = announcement_of(pipeline, pipeline.ledger.walk(request_id), contacts, declared.time_zone)
    if as_json:
        output.document({"id": shown.request, "subject": shown.subject, "text": shown.text})
    else:
        output.content(f"Subject: {shown.subject}\n\n{shown.text}")


def pace_command(
    request_id: OpenRequestId = None,
    *,
    rows_per_second: Annotated[
        int | None,
        typer.Option("--rows-per-second", metavar="N", help="Rows of one shard per second; 0: no cap."),
    ] = None,
    duty_cycle: Annotated[
        float | None,
        typer.Option("--duty-cycle", metavar="X", help="Share of its time that a worker works, 0.01 to 1."),
    ] = None,
    hours: Annotated[
        str | None, typer.Option("--hours", metavar="H", help="As 22:00-06:00 in time_zone; or always.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Return to the configured pace.", show_default=False)] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the audit.", show_default=False)] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show or set how fast a running rotation goes.

    A change takes effect within seconds, for emergencies too. What is not given stays as set before, or as configured.
    """
    given = {"rows_per_second": rows_per_second, "duty_cycle": duty_cycle, "hours": hours}
    changes = {name: value for name, value in given.items() if value is not None}
    if reset and changes:
        raise typer.BadParameter("give either --reset or a pace", param_hint="--reset")
    declared = settings.load(config)
    if hours is not None:
        changes["time_zone"] = declared.time_zone
    with open_pipeline(declared, actor=actor()) as pipeline:
        rotation, database = open_walk(pipeline.ledger, request_id), pipeline.environment.identity().name
        changed = reset or changes
        pace = set_pace(pipeline.ledger, rotation, changes, reason) if changed else pace_of(pipeline.ledger, rotation)
    value = {"database": database, "id": rotation.id, "pace": None if pace is None else pace.as_json()}
    output.show(database, value, [f"rotation {rotation.id} runs {pace or 'as configured'}"], as_json=as_json)


def rollback_command(
    request_id: RequestId,
    *,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, in one plain line; the officers sign it.")
    ] = "the rotation is to be undone",
    decrypt: Annotated[
        bool,
        typer.Option("--decrypt", help="Give columns with `from` that form back.", show_default=False),
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Open a request to undo a rotation; prints its id.

    The rotation is paused from now on. Once two officers have signed, `keyrotation rotate` undoes it.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        undone, database = pipeline.ledger.walk(request_id), pipeline.environment.identity().name
        opened = rollback.open_rollback(pipeline, undone, reason=reason, requested_by=actor(), decrypt=decrypt)
        source, target = str(opened.source), str(opened.target)
        value = {"database": database, "id": opened.id, "undoes": undone.id, "from": source, "to": target}
        what = (
            f"{database}: {opened.action} of {undone.id}, {source} to {target}, start by {minutes(opened.start_by)} UTC"
        )
        propose(pipeline, opened, value, [what], as_json=as_json)


def pause(request_id: OpenRequestId = None, *, config: Config = None, as_json: Json = False) -> None:
    """Pause a rotation."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        rotation, database = chosen_walk(pipeline.ledger, request_id), pipeline.environment.identity().name
        control.pause(pipeline.ledger, rotation)
    value = {"database": database, "id": rotation.id, "status": "paused"}
    line = f"rotation {rotation.id} is paused; continue with `keyrotation resume {rotation.id}`"
    show(database, value, [line], as_json=as_json)


def resume(request_id: OpenRequestId = None, *, config: Config = None, as_json: Json = False) -> None:
    """Resume a paused rotation."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        rotation, database = chosen_walk(pipeline.ledger, request_id), pipeline.environment.identity().name
        resumed = control.resume(pipeline.ledger, rotation)
        rotation = pipeline.ledger.walk(rotation.id)
    value = {"database": database, "id": rotation.id, "status": str(rotation.status)}
    line = (
        f"rotation {rotation.id} is no longer paused; continue with `keyrotation rotate {rotation.id}`"
        if resumed
        else f"rotation {rotation.id} was not paused, and stays {rotation.status}; see `keyrotation status`"
    )
    show(database, value, [line], as_json=as_json)


def cancel(request_id: RequestId, *, config: Config = None, as_json: Json = False) -> None:
    """Cancel a request that has written nothing yet.

    Says what it was: its action, versions, phase and signatures. A key that was made for it is withdrawn.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        request, database = pipeline.ledger.request(request_id), pipeline.environment.identity().name
        pending = next((each for each in pending_requests(pipeline) if each.request.id == request.id), None)
        control.cancel(pipeline, request)
    source, target = str(request.source), str(request.target)
    value: dict[str, Any] = {
        "database": database, "id": request.id, "phase": "cancelled", "action": str(request.action),
        "type": str(request.type), "from": source, "to": target, "before": None,
    }  # fmt: skip
    what = f"{request.type} {request.action} {request.id}, {source} to {target}, {quoted(request.reason)}"
    if pending is None:
        show(database, value, [what, "was cancelled before"], as_json=as_json)
        return
    phase = phase_of(request) if isinstance(request, Walk) else str(request.status)
    signed = list(pending.signed_by)
    value["before"] = {"phase": phase, "signed_by": signed, "approvals_required": pending.required}
    by = f" ({', '.join(signed)})" if signed else ""
    lines = [what, f"was {phase}, with {len(signed)} of {pending.required} signatures{by}", "is cancelled"]
    show(database, value, lines, as_json=as_json)
