"""Renders the compliance report as one self-contained HTML page, readable in black and white, on paper and a phone."""

from collections import Counter

from keyrotation_pipeline.reporting import narrative
from keyrotation_pipeline.reporting.backup_answers import passed_test
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.conclusions import concluded
from keyrotation_pipeline.reporting.objectives import assessed
from keyrotation_pipeline.reporting.timeline import timeline
from keyrotation_pipeline.templates import render


def render_html(report: ComplianceReport) -> bytes:
    """The report for people and paper; every value is escaped, nothing is loaded from elsewhere."""
    conclusions = concluded(report)
    page = render(
        "compliance_report.html.j2",
        report=report,
        conclusions=conclusions,
        verdicts=Counter(each.verdict for each in conclusions),
        objectives=tuple(assessed(report)),
        timeline=timeline(report),
        tested=passed_test(report),
        when=narrative.at,
        number=_number,
        say=narrative,
    )
    return page.encode()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
