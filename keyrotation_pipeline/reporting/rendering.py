"""Renders the compliance report as JSON and as one self-contained HTML page."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from keyrotation_pipeline.reporting.compliance import (
    AccessSummary,
    BackupTaken,
    ComplianceReport,
    Decided,
    KeyLife,
    RecoveryTested,
    TimeStamped,
)

NARROW_COLUMNS = 2
# A moment of time is never broken in the middle, and neither is a word beside long texts.
SHORT_CHARS = 20


class Html(str):
    """What is HTML already, and not escaped again."""

    __slots__ = ()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table with a heading; without rows a sentence that says so. A cell is a text, or `Html`.

    Each cell also bears its column's name: on a narrow screen each row of a wide table is shown as a card.
    """
    listed = ["".join(map(_cell, columns, row)) for row in rows]
    if not listed:
        return Html(f"<p>None: {escape(columns[0].lower())}.</p>")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{row}</tr>\n" for row in listed)
    wide = ' class="wide"' if len(columns) > NARROW_COLUMNS else ""
    return Html(f"<table{wide}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>")


def shown(value: object) -> Html:
    """Any plain JSON for people: a list as a list, objects as tables."""
    if isinstance(value, Mapping):
        return table(("What", "Value"), [(_words(name), shown(each)) for name, each in sorted(value.items())])
    if isinstance(value, list | tuple):
        return _listed(value)
    if value is None:
        return Html("–")
    if isinstance(value, bool):
        return Html("yes" if value else "no")
    return Html(escape(f"{value:,}" if isinstance(value, int | float) else str(value)))


def _listed(values: Sequence[object]) -> Html:
    if not values:
        return Html("none")
    if all(isinstance(each, Mapping) for each in values):
        objects = [each for each in values if isinstance(each, Mapping)]
        names = list(dict.fromkeys(name for each in objects for name in each))
        return table([_words(name) for name in names], [[shown(each.get(name)) for name in names] for each in objects])
    if len(values) == 1:
        return shown(values[0])
    return Html(f"<ul>{''.join(f'<li>{shown(each)}</li>' for each in values)}</ul>")


def _cell(column: str, value: str) -> str:
    if isinstance(value, Html):
        return f'<td data-of="{escape(column)}">{value}</td>'
    unbroken = ' class="short"' if len(value) <= SHORT_CHARS else ""
    return f'<td data-of="{escape(column)}"{unbroken}>{escape(value)}</td>'


def _words(name: object) -> str:
    return str(name).replace("_", " ")


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #000; background: #fff; max-width: 62rem; margin: 1rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; border-bottom: 2px solid #000; margin-top: 2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; } td table { margin: 0; }
ul { margin: 0; padding-left: 1.1rem; }
th, td { border: 1px solid #777; padding: .25rem .5rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { background: #eee; overflow-wrap: normal; } td.short { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; } svg { max-width: 100%; height: auto; }
@media screen and (max-width: 40rem) { .wide > thead { display: none; }
  .wide, .wide > tbody, .wide > tbody > tr, .wide > tbody > tr > td { display: block; }
  .wide > tbody > tr { border: 1px solid #000; margin-bottom: .5rem; }
  .wide > tbody > tr > td { border: 0; border-bottom: 1px solid #ccc; }
  td.short { white-space: normal; overflow-wrap: normal; }
  .wide > tbody > tr > td::before { content: attr(data-of); display: block; font-size: .8rem; font-weight: bold; }
  svg text { font-size: 22px; } }
@media print { body { font-size: 9pt; margin: 0; padding: 0; max-width: none; } h2, h3 { break-after: avoid; }
  tr, svg { break-inside: avoid; } thead { display: table-header-group; } @page { margin: 15mm; } }
"""
_WIDTH, _ROW, _LEFT, _RIGHT = 800, 34, 150, 20


def render_json(report: ComplianceReport) -> bytes:
    """The report for programs."""
    return f"{json.dumps(report.as_json(), indent=2, ensure_ascii=False)}\n".encode()


def render_html(report: ComplianceReport) -> bytes:
    """The report for people and paper; every value is escaped, nothing is loaded from elsewhere."""
    title = f"Compliance report: {report.database}"
    body = "\n".join(_body(report, title))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def _body(report: ComplianceReport, title: str) -> Iterator[str]:
    policy, algorithm = report.policy, report.algorithm
    yield f"<h1>{escape(title)}</h1>"
    yield f"<p>{escape(_of(report))}</p>"
    yield "<h2>Audit</h2><p>Every event, table, anchor and signature was verified for this report.</p>"
    yield f"<pre>\nAudit head: {report.audit.seq} {escape(report.audit.head)}\n</pre>"
    yield "<h3>Time stamps by an authority outside</h3>"
    seen = ("Event", "Recorded", "Seen by the authority", "Authority", "Verified anew")
    yield table(seen, map(_time_stamp, report.timestamps)) if report.timestamps else "<p>None has seen this audit.</p>"
    yield "<h2>Policy</h2>"
    due = f"{_when(policy.next_rotation_due)}: {policy.rule}" if policy.next_rotation_due else "no key is active"
    rules = (("Schedule", policy.schedule), ("Emergency", policy.emergency), ("Next rotation due", due))
    yield table(("Rule", "Value"), [*rules, ("Approval", f"{policy.required} {policy.approval}")])
    yield table(("Officer", "Certificate"), [(each.name, each.fingerprint) for each in policy.officers])
    yield table(("Certificates that can read backups",), [(each,) for each in policy.recipients])
    yield "<h2>Encryption</h2>"
    sizes = (("Key length", f"{algorithm.key_bits} bits"), ("Nonce", f"{algorithm.nonce_bits} bits, random"))
    made = (("Key generation", algorithm.key_generation), ("Key states", algorithm.key_states))
    yield table(("What", "How"), [("Algorithm", algorithm.cipher), *sizes, *made])
    yield f"<h2>Keys</h2>{_timeline(report)}"
    yield table(("Version", "State", "Fingerprint", "Created", "Encrypted"), map(_key, report.keys))
    yield "<h2>Requests</h2>"
    for request in report.requests:
        yield from _request(request)
    yield "<h2>Backups</h2>"
    backups = (
        (_when(each.at), each.manifest or "none", ", ".join(each.keys), "yes" if each.has_dump else "no",
         ", ".join(each.places), "; ".join(each.failures) or "complete", _compromised(each))
        for each in report.backups
    )  # fmt: skip
    columns = ("Made", "Manifest", "Keys", "Database", "Places", "Outcome", "Compromised keys open it")
    yield table(columns, backups)
    yield "<h2>Recovery tests</h2>"
    tests = ("Tested", "Place", "Outcome", "RTO (allowed), s", "RPO (allowed), s")
    yield table(tests, map(_recovery_test, report.recovery_tests))
    yield "<h2>Incidents</h2>"
    incidents = (
        (each.id, each.type, each.status, _when(each.discovered_at), _when(each.closed_at), each.description,
         "; ".join(each.breach))
        for each in report.incidents
    )  # fmt: skip
    yield table(("Id", "Type", "Status", "Discovered", "Closed", "Description", "Breach decision"), incidents)
    if report.access is not None:
        yield from _accesses(report.access)
    yield "<h2>Not included</h2>"
    yield table(("What is not in this report",), [(each,) for each in report.not_included])


def _of(report: ComplianceReport) -> str:
    """Of what time the report is."""
    newest = f"As of {_when(report.generated_at)}, the time of the newest audit event"
    if report.period is None:
        return f"{newest}; it begins with the first, of {_when(report.since)}."
    since, until = _when(report.period.since, "the first event"), _when(report.period.until, "the newest event")
    return (
        f"From {since} up to {until}. {newest} in that period: states are those of then, and what is listed happened "
        "in the period or was not over when it began. Keys are listed with their whole life."
    )


def _time_stamp(stamped: TimeStamped) -> Sequence[str]:
    seen = f"{stamped.stamped_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return str(stamped.seq), _when(stamped.recorded_at), seen, stamped.authority, stamped.refusal or "verified"


def _accesses(access: AccessSummary) -> Iterator[str]:
    yield f"<h2>Access logs</h2><p>From {_when(access.since)} to {_when(access.until)}, the seldom first.</p>"
    if access.key_reads is None:
        yield "<p>Reads of the key are not looked at: [incidents] cloudtrail_bucket is not set.</p>"
    else:
        reads = (
            (each.who, each.address, f"{each.reads:,}", f"{each.refused:,}", _when(each.first_at), _when(each.last_at))
            for each in access.key_reads
        )
        yield table(("Key read by", "From", "Reads", "Of them refused", "First", "Last"), reads)
    if access.record_reads is None:
        yield "<p>Reads of records are not looked at: [incidents] audit_events_table is not set.</p>"
    else:
        records = (
            (each.who, each.address, each.resource_type, f"{each.reads:,}", _when(each.first_at), _when(each.last_at))
            for each in access.record_reads
        )
        yield table(("Records read by", "From", "Of", "Reads", "First", "Last"), records)


def _key(key: KeyLife) -> Sequence[str]:
    spans = (f"{_when(each.since)} to {_when(each.until, 'now')}" for each in key.cryptoperiods)
    declared = (f"(in use since {_when(key.declared_since)}, as declared)",) if key.declared_since else ()
    return key.version, key.state, key.fingerprint[:16], _when(key.created_at), "; ".join((*spans, *declared))


def _request(request: Decided) -> Iterator[str]:
    yield f"<h3>{escape(request.action)} {escape(request.id)}: {escape(request.status)}</h3>"
    facts = [
        ("Type", request.type),
        ("From, to", f"{request.source}, {request.target}"),
        ("Reason", request.reason if request.incident is None else f"{request.incident}: {request.reason}"),
        ("Requested", f"{_when(request.requested_at)} by {request.requested_by}"),
        ("Started, finished", f"{_when(request.started_at)}, {_when(request.finished_at)}"),
    ]
    if request.records_reencrypted is not None:
        facts.append(("Rows re-encrypted", f"{request.records_reencrypted:,}"))
    facts += [(f"Evidence: {name.replace('_', ' ')}", shown(value)) for name, value in request.retirement.items()]
    yield table(("What", "Value"), facts)
    signed = ((each.officer, _when(each.signed_at), each.refusal or "verified") for each in request.approvals)
    yield table(("Signed by", "At", "Verified anew"), signed)
    if request.steps:
        yield table(("Step", "Finished"), ((each.step, _when(each.finished_at)) for each in request.steps))


def _compromised(taken: BackupTaken) -> str:
    """Which of its keys are compromised; whether its files are still kept is not in the audit."""
    if not taken.compromised:
        return "none"
    return ", ".join(taken.compromised) + (f"; {taken.replaced_by} replaces its dump" if taken.replaced_by else "")


def _recovery_test(test: RecoveryTested) -> Sequence[str]:
    rto = f"{_number(test.rto_seconds)} ({_number(test.rto_allowed_seconds)})"
    rpo = f"{_number(test.rpo_seconds)} ({_number(test.rpo_allowed_seconds)})"
    return _when(test.at), test.place, f"failed: {test.failure}" if test.failure else "passed", rto, rpo


def _timeline(report: ComplianceReport) -> str:
    """When each version encrypted: a bar per version, with its name and state in words beside it."""
    spans = [span for key in report.keys for span in key.cryptoperiods]
    if not spans:
        return ""
    first, last = min(span.since for span in spans), report.generated_at
    seconds = max((last - first).total_seconds(), 1.0)

    def x(at: datetime) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (at - first).total_seconds() / seconds, 1)

    height = _ROW * len(report.keys) + 30
    drawn = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" font-size="13">']
    drawn.append("<title>When each key version encrypted</title>")
    for row, key in enumerate(report.keys):
        top = row * _ROW + 6
        drawn.append(f'<text x="4" y="{top + 15}">{escape(key.version)} {escape(key.state)}</text>')
        for span in key.cryptoperiods:
            left, fill = x(span.since), "#ddd" if span.until else "#fff"
            width = max(round(x(span.until or last) - left, 1), 3)
            drawn.append(f'<rect x="{left}" y="{top}" width="{width}" height="20" fill="{fill}" stroke="#000"/>')
    drawn.append(f'<text x="{_LEFT}" y="{height - 6}">{_when(first)}</text>')
    drawn.append(f'<text x="{_WIDTH - _RIGHT}" y="{height - 6}" text-anchor="end">{_when(last)}</text></svg>')
    return "".join(drawn)


def _when(at: datetime | None, otherwise: str = "–") -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else otherwise


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
