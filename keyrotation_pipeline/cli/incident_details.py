"""Prints an incident; holds what people add to one: `incident amend`, `incident notice` and `incident assess`."""

import re
import tomllib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.audit.assessments import Assessment
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, IncidentId, Json, actor
from keyrotation_pipeline.cli.signing import SignatureFile, TextToSign, given_signature
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import answers_in, assess, assessment_of, sign_assessment, text_to_sign
from keyrotation_pipeline.incidents.handling import NOTIFIED, amend, record_notice
from keyrotation_pipeline.model.audit import instant, names
from keyrotation_pipeline.model.breach import EXCLUSIONS, Role, carried_by
from keyrotation_pipeline.model.breach_decision import BreachNotice
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.records import as_json as as_json_object
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.regular_files import read_typed
from keyrotation_pipeline.requests.conductor import phase_of

Actions = Annotated[
    list[str] | None,
    typer.Option("--action", metavar="TEXT", help="An action taken; may be repeated.", show_default=False),
]
Scope = Annotated[str | None, typer.Option("--scope", help="What was affected.", show_default=False)]
Impact = Annotated[str | None, typer.Option("--impact", help="Low, medium or high, and why.", show_default=False)]
RootCause = Annotated[str | None, typer.Option("--root-cause", help="For the report.", show_default=False)]
Remediation = Annotated[str | None, typer.Option("--remediation", help="For the report.", show_default=False)]
Lessons = Annotated[str | None, typer.Option("--lessons", help="For the report.", show_default=False)]


def show_changed(pipeline: Pipeline, changed: Incident, more: Sequence[str] = (), *, as_json: bool) -> None:
    """Print an incident's status after a change, then the `more` lines."""
    value = details(changed, carried_by(changed, pipeline.ledger.requests()))
    lines = [f"{changed.id} is {changed.status}", *more]
    output.show(pipeline.environment.identity().name, value, lines, as_json=as_json)


def summary(found: Incident, carrier: Request | None) -> dict[str, Any]:
    """The object of `incident list --json`."""
    return {
        "id": found.id,
        "type": str(found.type),
        "status": str(found.status),
        "discovered_at": instant(found.discovered_at),
        "request": carrier.id if carrier is not None else None,
        "versions": names(found.versions),
    }


def details(found: Incident, carrier: Request | None) -> dict[str, Any]:
    """The object of `incident show --json`, without the clock and the assessment."""
    return {
        **summary(found, carrier),
        "phase": phase_of(carrier) if isinstance(carrier, Walk) else None,
        "description": found.description,
        "scope": found.scope,
        "impact": found.impact,
        "reported_by": found.reported_by,
        "opened_at": instant(found.opened_at),
        "acknowledged_at": instant(found.acknowledged_at),
        "acknowledged_by": found.acknowledged_by,
        "closed_at": instant(found.closed_at),
        "closed_by": found.closed_by,
        "actions": list(found.actions),
        "root_cause": found.root_cause,
        "remediation": found.remediation,
        "prevention": list(found.prevention),
        "lessons": found.lessons,
        "notices_sent": [f"{each.to} on {each.sent_on}" for each in found.notices],
        "values_compared": [str(each.fact) for each in found.comparisons],
    }


def amend_command(
    name: IncidentId,
    scope: Scope = None,
    impact: Impact = None,
    action: Actions = None,
    root_cause: RootCause = None,
    remediation: Remediation = None,
    prevention: Annotated[
        list[str] | None,
        typer.Option("--prevention", metavar="TEXT", help="A measure against the next one; may be repeated."),
    ] = None,
    lessons: Lessons = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Add facts and actions for the report.

    Works for a closed incident, too. Actions and prevention measures are added to the existing ones; any other text
    replaces the previous one.
    """
    given = {"scope": scope, "impact": impact, "root_cause": root_cause, "remediation": remediation, "lessons": lessons}
    texts = {key: value for key, value in given.items() if value is not None}
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        changed = amend(pipeline, name, actor(), texts, action or (), prevention or ())
        show_changed(pipeline, changed, as_json=as_json)


def notice_command(
    name: IncidentId,
    to: Annotated[str, typer.Option("--to", metavar="WHOM", help=f"{', '.join(NOTIFIED)}.")],
    sent_on: Annotated[str, typer.Option("--sent-on", metavar="DATE", help="The day on which it was sent.")],
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Record that a notice of a breach was sent.

    This meets its deadline (45 CFR 164.404 to 164.410).
    """
    day = _day(sent_on)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        changed = record_notice(pipeline, name, actor(), to, day)
        notices = [each for each in assessment_of(pipeline, changed).lines() if each.startswith("Notice to ")]
        show_changed(pipeline, changed, notices, as_json=as_json)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise IncidentError("--sent-on is not a date; write it as 2026-11-24") from None


_KNOWN = "yes, no or unknown"
_COUNT = re.compile(r"[0-9]{1,11}")


def assess_command(
    name: IncidentId,
    *,
    answers: Annotated[
        Path | None, typer.Option("--answers", metavar="FILE", help="Answers in TOML; options override it.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help=f"{' or '.join(Role)}.")] = None,
    key_breached: Annotated[str | None, typer.Option("--key-breached", help=_KNOWN)] = None,
    key_kept_apart: Annotated[str | None, typer.Option("--key-kept-apart", help=_KNOWN)] = None,
    ciphertext_reached: Annotated[str | None, typer.Option("--ciphertext-reached", help=_KNOWN)] = None,
    plaintext_reached: Annotated[str | None, typer.Option("--plaintext-reached", help=_KNOWN)] = None,
    known_on: Annotated[str | None, typer.Option("--known-on", help="First day on which anybody knew.")] = None,
    diligently_known_on: Annotated[
        str | None, typer.Option("--diligently-known-on", help="Day on which diligence would have shown it.")
    ] = None,
    exclusion: Annotated[str | None, typer.Option("--exclusion", help=f"164.402(1): {', '.join(EXCLUSIONS)}.")] = None,
    nature_of_phi: Annotated[str | None, typer.Option("--nature-of-phi", help="164.402(2)(i), in writing.")] = None,
    unauthorised_person: Annotated[
        str | None, typer.Option("--unauthorised-person", help="164.402(2)(ii), in writing.")
    ] = None,
    acquired_or_viewed: Annotated[
        str | None, typer.Option("--acquired-or-viewed", help="164.402(2)(iii), in writing.")
    ] = None,
    mitigation: Annotated[str | None, typer.Option("--mitigation", help="164.402(2)(iv), in writing.")] = None,
    low_probability: Annotated[
        bool | None, typer.Option("--low-probability/--no-low-probability", help="The judgement over all four.")
    ] = None,
    affected: Annotated[
        list[str] | None, typer.Option("--affected", metavar="STATE=N", help="People; may be repeated.")
    ] = None,
    elsewhere_unknown: Annotated[
        int | None, typer.Option("--elsewhere-unknown", metavar="N", help="People whose State is not known.")
    ] = None,
    count_complete: Annotated[
        bool | None, typer.Option("--count-complete/--still-counting", help="Whether everybody is counted.")
    ] = None,
    delay: Annotated[
        list[str] | None,
        typer.Option("--delay", metavar="DATE[..DATE]", help="Law enforcement's statement, and to when if written."),
    ] = None,
    text: TextToSign = False,
    signature: SignatureFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the breach decision, answer its questions, or sign.

    Answers that add duties take effect at once. Answers that reduce them take effect when enough officers have signed:
    keyrotation incident assess ID --text | gpg -ab | keyrotation incident assess ID --signature -
    """
    given: dict[str, Any] = {
        "role": role, "known_on": known_on, "diligently_known_on": diligently_known_on, "key_breached": key_breached,
        "key_kept_apart": key_kept_apart, "ciphertext_reached": ciphertext_reached,
        "plaintext_reached": plaintext_reached, "exclusion": exclusion, "nature_of_phi": nature_of_phi,
        "unauthorised_person": unauthorised_person, "acquired_or_viewed": acquired_or_viewed, "mitigation": mitigation,
        "low_probability": low_probability, "affected": _affected(affected), "elsewhere_unknown": elsewhere_unknown,
        "count_complete": count_complete, "delays": _delays(delay),
    }  # fmt: skip
    content = {**_in_file(answers), **{key: value for key, value in given.items() if value is not None}}
    signing = text or signature is not None
    if signing and content:
        raise typer.BadParameter("answer first, then sign what is printed", param_hint="--text / --signature")
    signed = given_signature(text=text, signature=signature) if signing else b""
    checked = answers_in(content) if content else None
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        if text:
            found = assessment_of(pipeline, incidents(pipeline.ledger).incident(name))
            output.to_sign(text_to_sign(pipeline, found))
            return
        officer: str | None = None
        if signature is not None:
            officer, found = sign_assessment(pipeline, name, signed)
        elif checked is not None:
            found = assess(pipeline, name, checked, actor())
        else:
            found = assessment_of(pipeline, incidents(pipeline.ledger).incident(name))
        database = pipeline.environment.identity().name
    value = {"database": database, "id": found.incident.id, "signed": officer, **assessed(found)}
    signed_by = [] if officer is None else [f"signed by {officer}: {len(found.signed_by)} of {found.required}"]
    output.show(database, value, [*signed_by, *found.lines()], as_json=as_json)


def assessed(found: Assessment) -> dict[str, Any]:
    """The fields of an assessment in `--json`."""
    return {
        "breach": {
            "outcome": str(found.in_force.outcome),
            "notices": [{**as_json_object(each), "sent_on": _sent_on(found, each)} for each in found.in_force.notices],
            "missing": list(found.in_force.missing),
            "waits_for_signatures": None if found.answered is None else str(found.answered.outcome),
            "answers": as_json_object(found.answers),
            "signed_by": list(found.signed_by),
        }
    }


def _sent_on(found: Assessment, notice: BreachNotice) -> str | None:
    given = found.incident.notice(notice.to)
    return None if given is None else given.sent_on.isoformat()


def _in_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(read_typed(path).decode())
    except OSError as error:
        raise IncidentError(f"{path} cannot be read ({error.strerror}); name a file with answers") from None
    except ValueError:
        raise IncidentError(f'{path} cannot be read as TOML; write lines such as: key_breached = "yes"') from None


def _affected(given: Sequence[str] | None) -> dict[str, int] | None:
    if not given:
        return None
    pairs = [each.rpartition("=") for each in given]
    if any(not state or not _COUNT.fullmatch(number) for state, _, number in pairs):
        raise IncidentError("--affected takes a State or jurisdiction and a number; write --affected Ohio=40")
    return {state.strip(): int(number) for state, _, number in pairs}


def _delays(given: Sequence[str] | None) -> list[dict[str, str | None]] | None:
    if not given:
        return None
    parts = [each.partition("..") for each in given]
    try:
        for stated_on, dots, until in parts:
            date.fromisoformat(stated_on)
            if dots:
                date.fromisoformat(until)
    except ValueError:
        raise IncidentError(
            "--delay takes the day of the statement, and the last day if it is written; write 2026-03-02..2026-05-01"
        ) from None
    return [{"stated_on": stated_on, "until": until or None} for stated_on, _, until in parts]
