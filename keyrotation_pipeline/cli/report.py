"""`report`: the compliance report for a period, on stdout or in a new file."""

import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.alerts import accesses
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.pdf import pdf_program, to_pdf
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, actor, offered_requests
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.standards import findings, modules_in_use
from keyrotation_pipeline.incidents.access import reads_by
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.reporting.compliance import NOT_INCLUDED, ComplianceReport, Cryptography, Period, Stated
from keyrotation_pipeline.reporting.document import render_json
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.oscal import render_oscal
from keyrotation_pipeline.reporting.pack import is_free, pack, write_directory
from keyrotation_pipeline.reporting.pack_files import MANIFEST, PAGE, REPORT
from keyrotation_pipeline.reporting.rendering import render_html
from keyrotation_pipeline.reporting.retirement_certificate import (
    RefusedCertificate,
    RetirementCertificate,
    certificates,
    certify,
    count_before_certificates,
    last_rotation,
    skip_count,
    verdict,
)
from keyrotation_pipeline.reporting.sections import AccessSummary
from keyrotation_pipeline.reporting.verify_pack import Judged
from keyrotation_pipeline.reporting.written import record
from keyrotation_pipeline.requests.time_stamping import stamp
from keyrotation_pipeline.requests.witnessing import witness
from keyrotation_pipeline.settings import Settings

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def period_of(since: str | None, until: str | None, time_zone: str) -> Period | None:
    """The period that was requested; None: none was, so the whole audit.

    Args:
        since, until: days, both included, or moments; without offset in `time_zone`.

    Raises:
        KeyRotationError: one is not a date or time, or the end is not after the beginning.
    """
    if since is None and until is None:
        return None
    zone = ZoneInfo(time_zone)
    begin = None if since is None else parse_time("--from", since, zone)
    end = None if until is None else parse_time("--to", until, zone, days=1)
    if begin is not None and end is not None and begin >= end:
        raise KeyRotationError(f"--to {until} is not after --from {since}; give a later one")
    return Period(begin, end)


def parse_time(option: str, text: str, zone: ZoneInfo, days: int = 0) -> datetime:
    """The time that an option names, with its time zone.

    Args:
        text: a date, which begins at midnight, or a date and time; without offset in `zone`.
        days: added to a day.

    Raises:
        KeyRotationError: it is not a date or time.
    """
    try:
        at = datetime.fromisoformat(text.strip())
        if _DAY.fullmatch(text.strip()):
            # By the calendar: a day can have 23 hours.
            at = datetime.combine(at.date() + timedelta(days=days), time(), tzinfo=zone)
        elif at.tzinfo is None:
            at = at.replace(tzinfo=zone)
        at.astimezone(UTC)  # overflows near the first and the last day that Python knows
    except (ValueError, OverflowError):
        raise KeyRotationError(f"{option} is not a date or time; write it as 2026-01-31 or 2026-01-31T09:30") from None
    return at


def unambiguous_time(option: str, text: str, zone: ZoneInfo) -> datetime:
    """Like `parse_time`, but refuse a time that the local clock shows twice or never, unless it has an offset."""
    at = parse_time(option, text, zone)
    if at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset():
        raise KeyRotationError(
            f"{option} {at:%Y-%m-%dT%H:%M} is shown twice or never by the clocks of {zone.key}, which change "
            f"then; write it with an offset, such as {at.isoformat(timespec='minutes')}"
        )
    return at


class ReportFormat(StrEnum):
    """Output formats of a report."""

    HTML = "html"
    PDF = "pdf"
    JSON = "json"
    OSCAL = "oscal"
    CERTIFICATE = "certificate"
    PACK = "pack"


_ENDINGS = {
    ReportFormat.HTML: "html",
    ReportFormat.PDF: "pdf",
    ReportFormat.JSON: "json",
    ReportFormat.OSCAL: "oscal.json",
}


def report(
    *,
    form: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = ReportFormat.HTML,
    target: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write it there; never overwrites. A pack is a directory."),
    ] = None,
    rotation: Annotated[
        str | None,
        typer.Option(
            "--rotation",
            metavar="ID",
            help="The rotation, for a certificate; default: the last that finished.",
            show_default=False,
            autocompletion=offered_requests,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", help="Only what happened since, or was not over then.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="DAY", help="Everything as it was at the end of this day.", show_default=False),
    ] = None,
    count: Annotated[
        bool,
        typer.Option(
            "--count/--no-count", help="Count all tables again before a pack's certificates, which say so if not."
        ),
    ] = True,
    config: Config = None,
) -> None:
    """Write the compliance report, or the pack for an auditor.

    Objectives, policy, keys, approvals, backups, recovery tests, incidents and audit, of a period or of all time.
    It is read from the verified audit alone. What nobody recorded is reported as not shown. A
    pack is a directory with all the evidence for the report, and verify.py, which checks it offline. A certificate is
    one signed statement (in-toto, DSSE) of where the key that a rotation retired no longer is, after a new count; it is
    refused if the key is live, or if a table no longer refuses it; one line on stderr says what it says. oscal is the
    report as NIST OSCAL assessment results. With --from, and the logs of [incidents], it also sums up who read keys and
    records.
    """
    if rotation is not None and form is not ReportFormat.CERTIFICATE:
        raise typer.BadParameter("it is for a certificate alone", param_hint="--rotation")
    if (since or until) and form in {ReportFormat.PACK, ReportFormat.CERTIFICATE}:
        raise typer.BadParameter(f"a {form} is of the whole audit", param_hint="--from and --to")
    if not count and form is not ReportFormat.PACK:
        raise typer.BadParameter("it is for a pack alone", param_hint="--no-count")
    if form is ReportFormat.PACK:
        _write_pack(target, config, count=count)
        return
    printer = _printer(target) if form is ReportFormat.PDF else None
    output.require_new(target)
    if form is ReportFormat.CERTIFICATE:
        made = _certificate(rotation, config)
        _write(made.envelope, target, "the certificate")
        output.note(verdict(made.statement))
        return
    declared = settings.load(config)
    period = period_of(since, until, declared.time_zone)
    with open_pipeline(declared, actor=actor()) as pipeline:
        _stamp(pipeline)
        found = gather(pipeline, period, _stated(declared)).report
        if period is not None and period.since is not None:
            found = _with_accesses(found, declared, period.since)
        content = _rendered(found, form, printer)
        record(pipeline.ledger, form, {f"report.{_ENDINGS[form]}": content})
    _write(content, target, f"the report up to audit event {found.audit.seq}")


def _stated(declared: Settings) -> Stated:
    """What a report has from the configuration."""
    recovery, values = declared.recovery, declared.format.value_format
    of_others = None if declared.format.name == NATIVE.name else declared.format.name
    forms = (place.form for table in declared.declared_tables for place in table.places)
    found = findings(values, (each.spec for each in forms if each is not None))
    known = Cryptography(of_others, modules_in_use(), tuple(found))
    return Stated(declared.report.organisation, recovery.rto_seconds, recovery.rpo_seconds, known)


def _printer(target: Path | None) -> str:
    """What prints a PDF, before any work is done."""
    if target is None:
        raise typer.BadParameter("name the file of the PDF with --output", param_hint="--output")
    return pdf_program()


def _rendered(report: ComplianceReport, form: ReportFormat, printer: str | None) -> bytes:
    if form is ReportFormat.OSCAL:
        return render_oscal(report)
    if form is ReportFormat.JSON:
        return render_json(report)
    page = render_html(report)
    return page if printer is None else to_pdf(page, printer)


def _with_accesses(report: ComplianceReport, declared: Settings, since: datetime) -> ComplianceReport:
    """Add what the logs of `[incidents]` say of the period, up to the newest event; unchanged where none is named."""
    if declared.incidents.cloudtrail_bucket is None and declared.incidents.audit_events_table is None:
        return report
    found = accesses(declared, since, report.as_of)
    reads = None if found.key_reads is None else reads_by(found.key_reads)
    summary = AccessSummary(found.since, found.until, reads, found.record_reads)
    return replace(report, access=summary, not_included=NOT_INCLUDED)


def _certificate(rotation: str | None, config: Path | None) -> RetirementCertificate:
    """Of this rotation; else of the one that finished last."""
    with open_backups(settings.load(config), actor=actor()) as site:
        ledger = site.pipeline.ledger
        if rotation is not None:
            return certify(site, ledger.request(rotation).id)
        return certify(site, last_rotation(ledger.requests()).id)


def _write(content: bytes, target: Path | None, what: str) -> None:
    if target is None:
        output.content(content.decode())
        return
    output.write_new(target, content)
    output.note(f"{target}: {what}")


def _write_pack(target: Path | None, config: Path | None, *, count: bool) -> None:
    if target is None:
        raise typer.BadParameter("name the directory of the pack with --output", param_hint="--output")
    if not is_free(target):
        raise output.taken(target)
    declared = settings.load(config)
    with open_backups(declared, actor=actor()) as site:
        uncounted = None
        if count:
            uncounted = count_before_certificates(site.pipeline)
        else:
            skip_count(site.pipeline.ledger)
        _stamp(site.pipeline)
        found = gather(site.pipeline, stated=_stated(declared))
        dead = tuple(certificates(site, found.entries, found.state, uncounted))
        signatures = site.pipeline.signatures
        judged = Judged.of(found.entries, found.state)
        content = pack(found, site.places, signatures.certificates(), site.trust.signed, judged, dead)
        record(site.pipeline.ledger, ReportFormat.PACK, {name: content[name] for name in (MANIFEST, REPORT, PAGE)})
    if not write_directory(target, content):
        raise output.taken(target)
    for each in dead:
        if isinstance(each, RefusedCertificate):
            output.note(f"rotation {each.rotation} has no certificate in it: {each.reason}")
    output.note(f"{target}: the report up to audit event {found.report.audit.seq}; check it with python3 -I verify.py")


def _stamp(pipeline: Pipeline) -> None:
    """Have the audit time-stamped and witnessed before it is read; a failure does not stop the report."""
    if failed := stamp(pipeline):
        output.note(f"the audit could not be time-stamped: {failed}")
    for each in witness(pipeline):
        output.note(f"the audit could not be witnessed: {each}")
