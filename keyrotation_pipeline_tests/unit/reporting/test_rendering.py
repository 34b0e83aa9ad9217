"""The compliance report as a page: every value is in it, escaped; nobody who writes a name can make it claim more."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import UndefinedError

from keyrotation_pipeline.audit.verify import read_anchor
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.incidents import IncidentType, KeyReadsBy, RecordReads
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.reporting import narrative
from keyrotation_pipeline.reporting.checklist import Checklist, ChecklistLine
from keyrotation_pipeline.reporting.compliance import ComplianceReport, Parameters, Period, Stated
from keyrotation_pipeline.reporting.conclusions import Verdict, concluded
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.incidents_in_audit import (
    IncidentReported,
    NoticeDue,
    NoticeGiven,
    StageOfResponse,
)
from keyrotation_pipeline.reporting.rendering import in_one_sentence, render_html, timeline
from keyrotation_pipeline.reporting.sections import (
    AccessSummary,
    AgeDeclared,
    Approval,
    AuditVerified,
    BackupsFound,
    BackupTaken,
    CheckpointSigned,
    DataRead,
    Decided,
    EveryValueRead,
    FinishedStep,
    KeyChange,
    KeyLife,
    LaterFinding,
    OfficerOnRoster,
    Policy,
    RecoveryTested,
    Span,
    TableCounted,
    TimeStamped,
    UndeclaredSearched,
)
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.templates import render
from keyrotation_pipeline_tests.fakes import START
from keyrotation_pipeline_tests.unit.reporting.test_compliance import eventful
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

HOSTILE = "</td><script>alert(\"1\")</script> & 'x'"
DAY = timedelta(days=1)
RETIREMENT = {
    "replicas": [{"name": "a", "lsn": 1}, {"name": "c", "since": None}],
    "not_seen": ["x", "y"],
    "old_values": 1200,
    "fenced": ["v1"],
    "nothing": [],
    "counts": {"clients": 3, "whole": True, "never": None},
}
REPORT = ComplianceReport(
    generated_at=START + 10 * DAY,
    parameters=Parameters(stated=Stated("Example Clinic", 14400, 90000)),
    database="clinic@localhost",
    audit=AuditVerified(7, "ab" * 32),
    since=START,
    audit_ends_at=START + 9 * DAY,
    policy=Policy(2, (OfficerOnRoster("Ada", "AB" * 20),), ("CD" * 20,), START + 365 * DAY, "12 months after v1"),
    keys=(
        KeyLife("v1", "archived", "ef" * 32, "imported", START, (AgeDeclared(START - 90 * DAY, "ops", START),),
                (Span(START - 90 * DAY, START + 3 * DAY),),
                (KeyChange("deactivated", START + 3 * DAY), KeyChange("archived", START + 4 * DAY))),
        KeyLife("v2", "active", "cd" * 32, "generated", START + DAY, (), (Span(START + 3 * DAY, None),)),
        KeyLife("v3", "pre-activation", "aa" * 32, "generated", START + 2 * DAY, (), ()),
    ),
    data=DataRead(
        (TableCounted("clients", ("first_name",), 3000, {"v1": 0, "v2": 2999}, 1, 2, START + DAY),), ("large",),
        EveryValueRead(START + DAY, "the proof of R-1", ("clients",), 2999, 0),
        UndeclaredSearched(START + DAY, ("scratch.copy: 4 values",), ("other databases",)),
    ),
    requests=(
        Decided("R-1", "rotate", "emergency", "v1", "v2", "it leaked", "INC-1", "ops", START, START, START + DAY,
                "finished", 2, (Approval("Ada", "AB" * 20, START), Approval("Ben", "CD" * 20, START)),
                (FinishedStep("zero_old_rows_proof", START + DAY),), 4321, START + DAY, RETIREMENT,
                "not read again: clients",
                (LaterFinding(6, START + 2 * DAY, "a count found 3 values under v1", gone=True),)),
        Decided("R-2", "destroy", "routine", "v1", "v1", "no more", None, "ops", START, None, None, "requested", 2, (),
                (), None),
    ),
    backups=(
        BackupTaken(START, "backup-1.json", START, {"v1": "ef" * 32, "v2": "cd" * 32}, True, ("here", "s3"),
                    ("CD" * 20,), (), None, ("v1",), "backup-1-2.json"),
        BackupTaken(START, None, None, {}, False, (), (), ("s3 is down",), None, ("v1",)),
    ),
    recovery_tests=(
        RecoveryTested(START, "s3", None, 30.0, 1060, 90.5, None, "backup-1.json", {"clients": 2998}, "7331"),
        RecoveryTested(START, "here", "it is damaged"),
    ),
    incidents=(
        IncidentReported("INC-1", "key_exposed", "closed", "in a log", ("v1",), START, "monitor", START, "Dan",
                         START + DAY, "Eva", "R-1", (StageOfResponse("assessed", START + DAY, None),),
                         (NoticeDue("individuals", (START + 60 * DAY).date(), "164.404"),),
                         (NoticeGiven("HHS", START.date(), "Fay", START, (START + DAY).date(), "164.408(b)"),
                          NoticeGiven("media", START.date(), "Gil", START, None, None)),
                         ("no", "no risk"), ("3 of 4 differ",), "debug logging", "logging removed"),
    ),
    checklists=(
        Checklist("R-1", (
            ChecklistLine("Pre-rotation", "Back up the key", "backup-1, encrypted", START, "ops", 4),
            ChecklistLine("Post-rotation", "Update runbooks", "no command records it"),
        )),
    ),
    timestamps=(
        TimeStamped(5, "ab" * 32, START, START + DAY, "tsa.example", ("ee" * 32,), None),
        TimeStamped(6, "cd" * 32, START, START + DAY, "tsa.example", ("ee" * 32,), "not trusted"),
    ),
    backups_found=BackupsFound(START + 2 * DAY, "backup-1.json", ("here", "s3"), ("backup-2.json is not in s3",)),
    checkpoints=(CheckpointSigned("witness.example", "keyrotation/ab", 6, "ef" * 32, START, "has signed another"),),
    access=AccessSummary(
        START, START + DAY, (KeyReadsBy("role/app", "10.0.0.1", 1234, 1, START, START + DAY),),
        (RecordReads("Client", "read", "Eve", "10.0.0.2", 3456, START, START),)
    ),
)  # fmt: skip


# Left out of the page.
NOT_SHOWN = {(BackupTaken, "keys"), (RecordReads, "event_type")}


# What our own code decides on; a text behind it would change what is true.
DECIDES = {(KeyLife, "state"), (KeyLife, "origin"), (Decided, "action"), (Decided, "status"), (KeyLife, "version")}


def hostile(value: Any, text: str = HOSTILE) -> Any:  # noqa: ANN401  of the same type
    """The same with a hostile text behind every text, names of fields left out."""
    match value:
        case str():
            return f"{value}{text}"
        case tuple() | list():
            return type(value)(hostile(each, text) for each in value)
        case dict():
            return {hostile(name, text): hostile(each, text) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = [each.name for each in fields(value) if (type(value), each.name) not in DECIDES]
        return replace(value, **{name: hostile(getattr(value, name), text) for name in changed})
    return value


class Page(HTMLParser):
    """What a browser makes of a page; fails at an element that is closed out of order."""

    EMPTY = frozenset({"br", "line", "meta", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.verdicts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        shown = dict(attrs).get("class") or ""
        if shown.startswith("verdict"):
            self.verdicts.append(shown.removeprefix("verdict ").replace("-", " "))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))


def page(report: ComplianceReport) -> str:
    return render_html(report).decode() if report is not REPORT else _page_of_it()


@cache
def _page_of_it() -> str:
    return render_html(REPORT).decode()


def texts_of(value: object) -> Iterator[str]:
    """Every text of a report that its page has to show."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from texts_of(each)
    elif isinstance(value, dict):
        yield from texts_of([*value.keys(), *value.values()])
    elif is_dataclass(value):
        for each in fields(value):
            if (type(value), each.name) not in NOT_SHOWN:
                yield from texts_of(getattr(value, each.name))


@pytest.mark.parametrize("report", [pytest.param(hostile(REPORT), id="hostile"), pytest.param(REPORT, id="plain")])
def test_every_text_of_the_report_is_on_the_page_as_text(report: ComplianceReport) -> None:
    html = page(report)
    shown = Page(html)
    assert shown.open == []
    assert "script" not in shown.tags
    words = plain("".join(shown.texts))
    assert [each for each in texts_of(report) if plain(each) not in words] == []
    loaded = re.findall(r"""src=|href=(?!"#)|url\((?!#)|@import""", html)
    assert loaded == [], "it loads nothing"


def plain(text: str) -> str:
    """Without what a page shows in another way: underscores, commands in backticks, capitals, spaces at breaks."""
    return re.sub(r"[_`\s]", "", text).lower()


def test_the_page_is_an_anchor_and_draws_when_each_key_encrypted() -> None:
    html = page(REPORT)
    assert read_anchor(html) == AuditHead(7, "ab" * 32)
    assert drawn(REPORT) == [["declared", "recorded", "reads only"], ["recorded"], []]
    assert "there is nothing to draw" in page(replace(REPORT, keys=REPORT.keys[2:]))


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        pytest.param(replace(REPORT, timestamps=()), "This audit has no time stamps by", id="no time stamps"),
        pytest.param(replace(REPORT, checkpoints=()), "No witness that officers have named", id="no witness"),
        pytest.param(replace(REPORT, backups=()), "No backup was ever made.", id="no backups"),
        pytest.param(replace(REPORT, access=AccessSummary(START, START, None, ())), "cloudtrail_bucket is not set",
                     id="no log of key reads"),
        pytest.param(replace(REPORT, access=AccessSummary(START, START, (), None)), "audit_events_table is not set",
                     id="no log of records"),
        pytest.param(replace(REPORT, policy=replace(REPORT.policy, next_rotation_due=None)), "no key is active",
                     id="no key"),
        pytest.param(replace(REPORT, parameters=Parameters(Period(START, None))), "up to the moment of this report.",
                     id="period"),
        pytest.param(REPORT, f"the whole audit, {START:%Y-%m-%d %H:%M} UTC to", id="the whole audit"),
        pytest.param(REPORT, "NOT satisfied", id="an objective that is not met"),
        pytest.param(REPORT, "Not shown: Review of the procedure, Rotations and other decisions", id="not shown"),
        pytest.param(REPORT, "Issued by (name, function)", id="room for a signature"),
        pytest.param(REPORT, "5 of 10 sections are not met, and 2 are not shown.", id="conclusions"),
        pytest.param(REPORT, "Example Clinic", id="organisation"),
        pytest.param(replace(REPORT, parameters=Parameters()), "not named; set [report] organisation",
                     id="no organisation"),
        pytest.param(REPORT, "an encryption key is exposed in version control", id="triggers"),
        pytest.param(REPORT, "Emergency rotation from v1 to v2, finished", id="a rotation"),
        pytest.param(REPORT, "Destruction of v1, requested, and not begun", id="a destruction"),
        pytest.param(REPORT, f"signed by Ada ({'AB' * 20}) on", id="officers by name and fingerprint"),
        pytest.param(REPORT, "2 officers must sign; nobody has.", id="nobody has signed"),
        pytest.param(REPORT, "its retirement is incomplete; appendix B has it as it stands", id="unreadable evidence"),
        pytest.param(replace(REPORT, recovery_tests=()), "no test yet; objective 4 h", id="RTO before the first test"),
        pytest.param(replace(REPORT, recovery_tests=()), "no test yet; objective 25 h", id="RPO before the first test"),
        pytest.param(replace(REPORT, recovery_tests=()), "Recovery was never tested.", id="no recovery test"),
        pytest.param(REPORT, "in time, at the latest", id="a notice that was given"),
        pytest.param(REPORT, "not asked for by the decision in force", id="a notice that nobody asked for"),
        pytest.param(REPORT, "due without unreasonable delay", id="a notice that is due"),
        pytest.param(REPORT, "☑ Back up the key", id="a line of the checklist that was done"),
        pytest.param(REPORT, "☐ Update runbooks", id="a line of the checklist that nothing records"),
        pytest.param(replace(REPORT, checklists=()), "nothing that the checklist could be about", id="no checklist"),
        pytest.param(REPORT, "as ops declared on", id="a declared age"),
        pytest.param(REPORT, "3 values under v1 (event 6); a still later reading found nothing", id="found later"),
        pytest.param(REPORT, "Not read again: clients", id="not read again"),
        pytest.param(REPORT, "0 under v1, 2,999 under v2", id="counts"),
        pytest.param(REPORT, "Never counted: large.", id="a table without a count"),
        pytest.param(replace(REPORT, data=DataRead((), (), None, None)), "No table was ever counted.", id="never read"),
        pytest.param(replace(REPORT, incidents=()), "No incident is on record.", id="no incident"),
        pytest.param(REPORT, "2 signatures of different officers", id="quorum"),
        pytest.param(REPORT, "v1; backup-1-2.json replaces its dump", id="replaced dump"),
        pytest.param(REPORT, "for incident INC-1. Reason: “it leaked”", id="reason of an emergency"),
        pytest.param(REPORT, "4,321 rows re-encrypted", id="rows re-encrypted"),
        pytest.param(REPORT, f"30 s on {START:%Y-%m-%d %H:%M} UTC; objective 17 min 40 s, and 4 h by now",
                     id="objective and measured"),
        pytest.param(REPORT, f"90 s on {START:%Y-%m-%d %H:%M} UTC; no objective, and 25 h by now", id="no objective"),
        pytest.param(REPORT, "failed: it is damaged", id="failed recovery test"),
    ],
)  # fmt: skip
def test_what_stands_on_the_page(report: ComplianceReport, sentence: str) -> None:
    shown = Page(page(report)).texts if report is not REPORT else _texts_of_it()
    assert [text for text in shown if sentence in text] != []


@pytest.mark.parametrize(
    ("failed", "silent", "said"),
    [
        pytest.param(0, 0, "All 3 sections that apply are met.", id="all met"),
        pytest.param(0, 1, "Nothing contradicts this report, but 1 of its 3 sections is not shown.", id="one silent"),
        pytest.param(0, 2, "Nothing contradicts this report, but 2 of its 3 sections are not shown.", id="two silent"),
        pytest.param(1, 1, "1 of 3 sections is not met, and 1 is not shown.", id="one of each"),
        pytest.param(2, 0, "2 of 3 sections are not met.", id="two not met"),
    ],
)
def test_the_verdict_is_one_sentence(failed: int, silent: int, said: str) -> None:
    verdicts = [Verdict.NOT_MET] * failed + [Verdict.NOT_SHOWN] * silent
    verdicts += [Verdict.MET] * (3 - len(verdicts)) + [Verdict.NOT_APPLICABLE]
    one = concluded(REPORT)[0]
    assert in_one_sentence([replace(one, verdict=each) for each in verdicts])[0] == said


@cache
def _texts_of_it() -> list[str]:
    return Page(_page_of_it()).texts


def test_lists_and_objects_of_the_evidence_are_tables_and_no_json() -> None:
    html = page(REPORT)
    assert '<td data-of="name">a</td><td data-of="lsn">1</td>' in html
    assert "<ul><li>x</li><li>y</li></ul>" in html
    assert '<td data-of="What" class="short">never</td>' in html
    assert [word for word in (">1,200<", ">v1<", ">none<", ">–<", ">yes<") if word not in html] == []


def test_moments_and_short_words_are_not_broken_in_a_cell() -> None:
    html = page(REPORT)
    assert f'<td data-of="Made" class="short">{START:%Y-%m-%d %H:%M} UTC</td>' in html
    assert '<td data-of="Officer" class="short">Ada</td>' in html


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("incident_section.html.j2", section={"heading": "Summary"})


def drawn(report: ComplianceReport) -> list[list[str]]:
    """What the time line has for each key."""
    shown = timeline(report.keys, report.requests, report.as_of)
    assert shown is not None
    return [[bar.kind for bar in row.bars] for row in shown.rows]


def test_the_time_line_shows_what_is_unknown_what_was_declared_and_what_is_recorded() -> None:
    unknown = replace(REPORT.keys[0], declared=(), cryptoperiods=(Span(None, START + 3 * DAY),))
    report = replace(REPORT, keys=(unknown, *REPORT.keys[1:]))
    assert drawn(report) == [["unknown", "recorded", "reads only"], ["recorded"], []]
    html = page(report)
    assert "unknown since when" in html
    assert f"unknown to {START + 3 * DAY:%Y-%m-%d %H:%M} UTC" in html
    assert "unknown since when" not in page(REPORT)


@pytest.mark.parametrize("days", [0, 1 / 86400, 0.01, 1, 10, 4000])
def test_every_bar_is_within_the_time_line_and_ends_where_the_report_does(days: float) -> None:
    began = START - timedelta(days=days)
    key = replace(REPORT.keys[1], registered_at=began, cryptoperiods=(Span(None, None),))
    shown = timeline((key,), (), START)
    assert shown is not None
    bars = shown.rows[0].bars
    assert all(bar.left >= 0 and bar.width > 0 for bar in bars)
    assert bars[-1].left + bars[-1].width == pytest.approx(100)
    assert len({each.label for each in shown.ticks}) == len(shown.ticks) >= 2


def body_of(html: str) -> list[str]:
    """The texts of the page before its appendices, without its style."""
    texts = Page(html).texts
    return texts[texts.index("Encryption key management") : texts.index("Appendix A: what was examined")]


def test_the_body_has_no_raw_value_and_no_placeholder() -> None:
    world = eventful()
    for _ in runner.run(world.pipeline, world.ledger.requests()[0].id, world.report):
        pass
    for report in (gather(world.pipeline).report, gather(before_any_rotation().pipeline).report, REPORT):
        body = body_of(page(report))
        raw = {*map(str, Step), *map(str, IncidentType)} - {"other", "rows", "insider", "key_version"}
        found = [text for text in body if any(re.search(rf"\b{each}\b", text) for each in raw)]
        assert found == []
        assert [text for text in body if re.search(r"None\b:?|[{}]|datetime|^None", text)] == []


CLAIMS = (
    "</td></tr><tr><td>",
    "✓ Met",
    "</span><span class='verdict met'>✓ Met</span>",
    "\u202eteM\u202c",
    "a\u200bb\n2. Met",
)


@pytest.mark.parametrize("claim", CLAIMS)
def test_nobody_who_writes_a_name_or_a_reason_can_make_a_section_claim_more(claim: str) -> None:
    honest, changed = Page(page(REPORT)), page(hostile(REPORT, claim))
    shown = Page(changed)
    assert shown.verdicts == honest.verdicts
    assert shown.open == []
    assert "✓ Met" not in [text.strip() for text in shown.texts if "✗" in text]
    assert not any(hidden in changed for hidden in "\u202e\u202c\u200b"), "each hidden character is shown as an escape"


@pytest.mark.parametrize("reason", ["x”. 3 officers signed. “", "“", "annual”"])
def test_nobody_can_write_a_sentence_out_of_the_quotation_marks(reason: str) -> None:
    changed = replace(REPORT.requests[0], reason=reason, requested_by="ops. Signed by all")
    (said, *_) = narrative.account(changed)
    assert said.count("“") == said.count("”") == 2
    assert said.endswith("”.")
    assert "by “ops. Signed by all” for incident" in said


@pytest.mark.parametrize("text", ["run `keyrotation status` now", "a ` alone", "`<b>`", "`a` and `b`", "``"])
def test_commands_in_a_sentence_are_marked_and_stay_text(text: str) -> None:
    report = replace(REPORT, requests=(replace(REPORT.requests[0], not_read_again=text),))
    html = page(report)
    assert "<b>" not in html
    assert plain(text) in plain("".join(Page(html).texts))
