"""Renders the compliance report as one self-contained HTML page, readable in black and white on paper."""

from datetime import UTC, datetime

from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.objectives import assessed
from keyrotation_pipeline.reporting.sections import KeyLife
from keyrotation_pipeline.templates import render


def render_html(report: ComplianceReport) -> bytes:
    """The report for people and paper; every value is escaped, nothing is loaded from elsewhere."""
    page = render(
        "compliance_report.html.j2",
        report=report,
        objectives=tuple(assessed(report)),
        when=_when,
        number=_number,
        encrypted=_encrypted,
    )
    return page.encode()


def _when(at: datetime | None, otherwise: str = "–", *, seconds: bool = False) -> str:
    shown = "%Y-%m-%d %H:%M:%S UTC" if seconds else "%Y-%m-%d %H:%M UTC"
    return at.astimezone(UTC).strftime(shown) if at else otherwise


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _encrypted(key: KeyLife) -> str:
    """The spans in which a version encrypted."""
    spans = [f"{_when(each.since, 'unknown')} to {_when(each.until, 'now')}" for each in key.cryptoperiods]
    declared = [f"(in use since {_when(age.since)}, as {age.by} declared on {_when(age.at)})" for age in key.declared]
    return "; ".join(spans + declared)
