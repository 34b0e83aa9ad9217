"""Shows a scan as one HTML page for people who did not run it: places by table, what to do, what was not examined.

It holds names and counts, and nothing that a browser would load or run.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape

from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.visible_text import visible
from keyrotation_pipeline.scan.comparison import Comparison, names_of
from keyrotation_pipeline.scan.report import Finding, ScanReport, name_of, share_of

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; width: 100%; margin: 0 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; }
td, li, p { overflow-wrap: anywhere; }
.certain { color: #14532d; } .likely { color: #7c4a03; } .possible { color: #555; }
@media (prefers-color-scheme: dark) {
  body { background: #161616; color: #e8e8e8; } th, td { border-color: #444; }
  .certain { color: #86efac; } .likely { color: #fcd34d; } .possible { color: #aaa; }
}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TIERS = (
    ("certain", "the value has the format's own structure"),
    ("likely", "its bytes and lengths fit encryption alone"),
    ("possible", "they fit other data as well"),
)
_KNOWN_BY = {"marker": "the value names it", "mac": "by its MAC", "decrypt": "only by decrypting"}


def page_of(report: ScanReport, at: datetime, comparison: Comparison | None = None) -> str:
    """Returns the page.

    Args:
        at: when the scan ended.
        comparison: with an earlier scan.
    """
    title = f"What is encrypted in {_text(report.database)}"
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
            *_summary(report, at),
            *(_changes(comparison) if comparison else ()),
            *_places(report.findings),
            *_what_to_do(report.findings),
            *_list("Not examined", [str(each) for each in report.not_looked_at]),
            "</body>\n</html>\n",
        )
    )


def _summary(report: ScanReport, at: datetime) -> Iterator[str]:
    yield (
        f"<p>keyrotation scan, {utc_minute(at)}: {counted(report.values, 'value')} in "
        f"{counted(report.columns, 'column')} of {counted(report.tables, 'table')}, {report.sampled:,} of them by a "
        "sample. No key was needed; no value is shown.</p>"
    )
    yield "<ul>"
    for tier, meaning in _TIERS:
        count = sum(finding.tier == tier for finding in report.findings)
        yield f'<li><b class="{tier}">{count} {tier}</b>: {_text(meaning)}</li>'
    yield "</ul>"


def _changes(comparison: Comparison) -> Iterator[str]:
    yield from _list(f"New since the scan of {comparison.database}", names_of(comparison.new))
    yield from _list("No longer there", comparison.gone)


def _places(findings: Sequence[Finding]) -> Iterator[str]:
    by_table: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_table[finding.place.table].append(finding)
    yield "<h2>Places</h2>" if findings else "<p>No encrypted values were found.</p>"
    for table, there in by_table.items():
        yield f"<h3>{_text(table)}</h3>"
        heads = ("Place", "Format", "Tier", "Values", "Keys", "How its key is known")
        yield f"<table>\n<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
        yield from map(_row, there)
        yield "</table>"


def _row(finding: Finding) -> str:
    cells = (
        name_of(finding.place).removeprefix(f"{finding.place.table}."), finding.format, finding.tier, share_of(finding),
        ", ".join(finding.key_ids) or "-", _KNOWN_BY[finding.identified_by],
    )  # fmt: skip
    return f'<tr class="{finding.tier}">{"".join(f"<td>{_text(cell)}</td>" for cell in cells)}</tr>'


def _what_to_do(findings: Sequence[Finding]) -> Iterator[str]:
    sentences: defaultdict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        sentences[finding.format, finding.next].append(finding)
    if sentences:
        yield "<h2>What to do</h2>"
    for (name, sentence), there in sentences.items():
        yield f"<h3>{_text(name)}</h3>\n<p>{_text(sentence)}</p>\n<ul>"
        for finding in there:
            yield f"<li>{_text(' '.join((f'{name_of(finding.place)}.', *finding.notes)))}</li>"
        yield "</ul>"


def _list(heading: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"<h2>{_text(heading)}</h2>\n<ul>"
    items = [f"<li>{_text(line)}</li>" for line in lines]
    yield from items or ["<li>nothing</li>"]
    yield "</ul>"


def _text(text: str) -> str:
    return escape(visible(text))
