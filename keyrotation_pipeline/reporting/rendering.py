"""Renders the compliance report as one self-contained HTML page, readable in black and white, on paper and a phone.

The drawing of the key versions tells recorded, declared and unknown times apart. Its places are shares of the width
in percent, so that text keeps its size.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.reporting import narrative
from keyrotation_pipeline.reporting.backup_answers import passed_test
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.conclusions import Conclusion, Verdict, assessed, concluded
from keyrotation_pipeline.reporting.sections import Decided, KeyLife
from keyrotation_pipeline.templates import render


def render_html(report: ComplianceReport) -> bytes:
    """The report for people and paper; every value is escaped, nothing is loaded from elsewhere."""
    conclusions = concluded(report)
    sentence, rest = in_one_sentence(conclusions)
    page = render(
        "compliance_report.html.j2",
        report=report,
        conclusions=conclusions,
        sentence=sentence,
        rest=rest,
        objectives=tuple(assessed(report)),
        timeline=timeline(report.keys, report.requests, report.as_of),
        tested=passed_test(report),
        when=narrative.at,
        number=_number,
        say=narrative,
    )
    return page.encode()


def in_one_sentence(conclusions: Sequence[Conclusion]) -> tuple[str, tuple[str, ...]]:
    """The verdict of the whole report in one sentence, and then the sections that it is about, by verdict."""
    number = Counter(each.verdict for each in conclusions)
    failed, silent, applying = number[Verdict.NOT_MET], number[Verdict.NOT_SHOWN], len(conclusions)
    applying -= number[Verdict.NOT_APPLICABLE]
    rest = tuple(
        f"{verdict.capitalize()}: {', '.join(each.title for each in conclusions if each.verdict is verdict)}"
        for verdict in (Verdict.NOT_MET, Verdict.NOT_SHOWN, Verdict.NOT_APPLICABLE)
        if number[verdict]
    )
    if failed:
        also = f", and {silent} {'is' if silent == 1 else 'are'} not shown" if silent else ""
        return f"{failed} of {applying} sections {'is' if failed == 1 else 'are'} not met{also}.", rest
    if silent:
        are = "is" if silent == 1 else "are"
        return f"Nothing contradicts this report, but {silent} of its {applying} sections {are} not shown.", rest
    return f"All {applying} sections that apply are met.", rest


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


RECORDED, DECLARED, UNKNOWN, READS_ONLY = "recorded", "declared", "unknown", "reads only"
UNKNOWN_PERCENT = 12.0  # at the left, where nothing is to scale
NARROWEST_PERCENT = 0.6
MOST_TICKS = 5
_ENDED = frozenset({"archived", "destroyed"})


@dataclass(frozen=True, slots=True)
class Bar:
    """A period of a version: `left` and `width` in percent."""

    kind: str
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    """One version with its bars."""

    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment below the bars."""

    left: float
    label: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The drawing; `kinds` are those that occur, for the legend."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    kinds: tuple[str, ...]


def timeline(keys: Sequence[KeyLife], requests: Sequence[Decided], as_of: datetime) -> Timeline | None:
    """The drawing of the lives of keys; None: no key has encrypted anything.

    Args:
        requests: whose steps show when a key was seen to be out of the applications.
    """
    if not any(key.cryptoperiods for key in keys):
        return None
    scale = _Scale(keys, as_of)
    rows = tuple(
        Row(f"{key.version}, {key.state}", tuple(_bars(key, tuple(_withdrawn(key, requests)), scale))) for key in keys
    )
    drawn = {bar.kind for row in rows for bar in row.bars}
    kinds = tuple(each for each in (RECORDED, DECLARED, UNKNOWN, READS_ONLY) if each in drawn)
    return Timeline(rows, tuple(scale.ticks()), kinds)


class _Scale:
    """Turns moments into percent of the width."""

    def __init__(self, keys: Sequence[KeyLife], as_of: datetime) -> None:
        spans = [span for key in keys for span in key.cryptoperiods]
        known = [span.since for span in spans if span.since] + [key.registered_at for key in keys]
        self.first, self.last = min(known), max(as_of, *known)
        if self.first == self.last:
            self.last += timedelta(seconds=1)
        self.begin = UNKNOWN_PERCENT if any(span.since is None for span in spans) else 0.0
        self._seconds = (self.last - self.first).total_seconds()

    def at(self, time: datetime | None) -> float:
        if time is None:
            return 0.0
        passed = (time - self.first).total_seconds() / self._seconds
        return round(self.begin + (100.0 - self.begin) * min(max(passed, 0.0), 1.0), 2)

    def bar(self, kind: str, since: datetime | None, until: datetime | None) -> Bar:
        left, right = self.at(since), self.at(until or self.last)
        width = max(right - left, NARROWEST_PERCENT)
        return Bar(kind, round(min(left, 100.0 - width), 2), round(width, 2))

    def ticks(self) -> Iterator[Tick]:
        span = self.last - self.first
        shown = "%Y-%m-%d" if span >= timedelta(days=MOST_TICKS) else "%d %b %H:%M"
        shown = shown if span >= timedelta(hours=1) else "%H:%M:%S"
        times = [self.first + span * number / (MOST_TICKS - 1) for number in range(MOST_TICKS)]
        labels = [f"{each.astimezone(UTC):{shown}}" for each in times]
        if len(set(labels)) < MOST_TICKS:
            times, labels = [self.first, self.last], [labels[0], labels[-1]]
        anchors = ["start", *["middle"] * (len(times) - 2), "end"]
        for time, label, anchor in zip(times, labels, anchors, strict=True):
            yield Tick(self.at(time), label, anchor)


def _bars(key: KeyLife, withdrawn: Sequence[datetime], scale: _Scale) -> Iterator[Bar]:
    for number, span in enumerate(key.cryptoperiods):
        recorded_from = span.since
        if number == 0 and span.since is None:
            yield scale.bar(UNKNOWN, None, key.registered_at)
            recorded_from = key.registered_at
        elif number == 0 and key.declared and span.since is not None and span.since < key.registered_at:
            yield scale.bar(DECLARED, span.since, key.registered_at)
            recorded_from = key.registered_at
        yield scale.bar(RECORDED, recorded_from, span.until)
    ceased = key.cryptoperiods[-1].until if key.cryptoperiods else None
    if ceased is not None:
        yield scale.bar(READS_ONLY, ceased, min((at for at in withdrawn if at >= ceased), default=None))


def _withdrawn(key: KeyLife, requests: Sequence[Decided]) -> Iterator[datetime]:
    """Each time at which it was seen to be out of the applications; a compromised one stays in that state."""
    yield from (each.at for each in key.changes if each.state in _ENDED)
    for request in requests:
        if request.source == key.version:
            yield from (each.finished_at for each in request.steps if each.step == Step.ARCHIVED_KEY)
