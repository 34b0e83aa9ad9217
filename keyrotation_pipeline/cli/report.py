"""`report`: the compliance report, on stdout or in a new file."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assurance.compliance_gathering import gather
from keyrotation_pipeline.assurance.compliance_rendering import render_html, render_json
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, actor
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.incidents.presumption import lines_of, presumed_decision
from keyrotation_pipeline.model.incident import Incident


class ReportFormat(StrEnum):
    """In which form."""

    HTML = "html"
    JSON = "json"


def report(
    *,
    form: Annotated[ReportFormat, typer.Option("--format", help="In which form.")] = ReportFormat.HTML,
    target: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write it there; never over what is there.", show_default=False),
    ] = None,
    config: Config = None,
) -> None:
    """Write the compliance report: policy, keys, approvals verified anew, backups, recovery tests, incidents, audit.

    It is read from the verified audit alone. Its time is that of the newest event: the same audit, the same bytes.
    """
    _require_new(target)
    with assembly.open_pipeline(settings.load(config), actor=actor()) as pipeline:
        found = gather(pipeline, _breach_of)
    content = {ReportFormat.HTML: render_html, ReportFormat.JSON: render_json}[form](found.report)
    if target is None:
        sys.stdout.write(content.decode())
        return
    with _created(target).open("wb") as file:
        file.write(content)
    output.note(f"{target}: the report up to audit event {found.report.audit.seq}")


def _breach_of(incident: Incident) -> tuple[str, ...]:
    return lines_of(presumed_decision(incident))


def _require_new(target: Path | None) -> None:
    if target is not None and (target.exists() or target.is_symlink()):
        raise _taken(target)


def _created(target: Path) -> Path:
    try:
        target.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise _taken(target) from None
    return target


def _taken(target: Path) -> KeyRotationError:
    return KeyRotationError(f"{target} is there already; name another one with --output, or remove it first")
