"""The console's sentence: short, about the most urgent thing, and with the command that helps."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyrotation_pipeline.console.headline import Headline, Tone, headline
from keyrotation_pipeline.console.walk_view import Mark, finished_steps, steps_of
from keyrotation_pipeline.model.incidents import Incident, IncidentType
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.requests import WALK, PendingRequest, RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.model.status import Fault, OpenIncident, RotationStatus, Status
from keyrotation_pipeline_tests.fakes import V1, fake_pipeline, rotation_of
from keyrotation_pipeline_tests.unit.cli.test_status_text import status, table

MOST_WORDS = 25
NOBODY_REPORTS = PendingReason(
    PendingCode.NO_INSTANCES,
    "instances",
    "no application instance reports itself",
    "have each call attest(engine, key_ring), or an officer `keyrotation confirm 5060db`",
    datetime(2026, 12, 1, 14, 2, tzinfo=UTC),
)

SLOWED = PendingReason(
    PendingCode.SLOWED, "the database", "clients shard 00: going slower: a commit takes 20 ms; resting 4 times as long"
)


def calm() -> Status:
    return replace(status(table("clients", 7)), attention=(), database="clinic@db")


def walking(**changes: Any) -> Status:  # noqa: ANN401
    walk = rotation_of(fake_pipeline())
    rotation = RotationStatus(walk, "rows", 2, 0.25, 90, None, at_work=True)
    return replace(calm(), rotation=replace(rotation, **changes))


def walk_with(**changes: Any) -> Walk:  # noqa: ANN401
    walk = replace(rotation_of(fake_pipeline()), **{**changes, "steps": ()})
    for each in changes.get("steps", ()):
        walk = walk.with_step(each)
    return walk


@pytest.mark.parametrize(
    ("shown", "tone", "sentence", "command"),
    [
        pytest.param(calm(), Tone.CALM, "Nothing to do. v2 is the primary key.", None, id="nothing"),
        pytest.param(walking(), Tone.WORKING, "v1 → v2 re-encrypts rows: 25% of the walk, about 2 min left.",
                     "pause", id="rows"),
        pytest.param(walking(pending=SLOWED), Tone.WORKING,
                     "v1 → v2 re-encrypts rows: 25% of the walk, about 2 min left, slower than it could.", "pause",
                     id="slower"),
        pytest.param(walking(pending=SLOWED, at_work=False), Tone.WAITING, "v1 → v2 waits: clients", "rotate",
                     id="slower and gone"),
        pytest.param(walking(at_work=False), Tone.WAITING, "v1 → v2: “Rows” is next; no process works at it now.",
                     "rotate", id="nobody works"),
        pytest.param(walking(phase="requested", at_work=False), Tone.WAITING,
                     "v1 → v2: “Key v2” is next; no process works at it now.", "rotate", id="signed"),
        pytest.param(walking(walk=walk_with(blocked_by="a value is damaged; run `keyrotation inventory`")),
                     Tone.FAILED, "v1 → v2 stopped at “Rows”: a value is damaged", "inventory", id="failed"),
        pytest.param(walking(pending=NOBODY_REPORTS), Tone.WAITING,
                     "v1 → v2 waits: no application instance reports itself, since 2026-12-01 14:02 UTC.", "confirm",
                     id="instances"),
        pytest.param(walking(walk=walk_with(status=RequestStatus.PAUSED)), Tone.WAITING, "v1 → v2 is paused.",
                     "resume", id="paused"),
        pytest.param(replace(calm(), attention=("the backup is old; run `keyrotation backup`", "more")), Tone.FAILED,
                     "The backup is old.", "backup", id="attention"),
    ],
)  # fmt: skip
def test_each_state_has_one_short_sentence_and_the_command(
    shown: Status, tone: Tone, sentence: str, command: str | None
) -> None:
    said = headline(shown, None)
    assert said.tone is tone
    assert said.sentence.startswith(sentence)
    assert len(said.sentence.split()) <= MOST_WORDS
    assert said.command is None if command is None else (said.command or "").startswith(f"keyrotation {command}")


def incident(**changes: Any) -> OpenIncident:  # noqa: ANN401
    known = Incident(
        "INC-2026-001", IncidentType.KEY_EXPOSED, "in a log", calm().generated_at, calm().generated_at, "sre", (V1,)
    )
    return replace(OpenIncident(known, None, (), None, calm().generated_at), **changes)


def test_what_somebody_must_know_first_at_night_leads() -> None:
    """All of it at once, then without the first, until nothing is left."""
    audit = "the audit does not verify: event 7 is not signed; keep this database as it is"
    restored = "the database was restored; run `keyrotation reconcile`"
    cannot = "web-1 cannot decrypt under v1; restore it"
    finished = walk_with(id="f" * 32, status=RequestStatus.FINISHED)
    shown = replace(
        walking(),
        faults={Fault.APPLICATIONS: cannot, Fault.KEYS: restored, Fault.AUDIT: audit},
        incidents=(incident(carrier=finished), incident()),
        requests=(PendingRequest(replace(walk_with(), id="a" * 32), (), ("Ada", "Ben"), 2),),
        attention=("the backup is old; run `keyrotation backup`",),
    )
    is_open = "Incident INC-2026-001 is open: every stage is reached."
    removed: list[tuple[str, dict[str, Any]]] = [
        ("The audit does not verify: event 7 is not signed.",
         {"faults": {Fault.KEYS: restored, Fault.APPLICATIONS: cannot}}),
        ("The database was restored.", {"faults": {Fault.APPLICATIONS: cannot}}),
        ("Web-1 cannot decrypt under v1.", {"faults": {}}),
        (is_open, {"incidents": shown.incidents[:1]}),
        ("v1 → v2 re-encrypts rows: 25% of the walk, about 2 min left.", {"rotation": None}),
        (is_open, {"incidents": ()}),
        ("The rotation of v1 waits for Ada and Ben, requested 2026-01-05 09:00 UTC.", {"requests": ()}),
        ("The backup is old.", {"attention": ()}),
        ("Nothing to do. v2 is the primary key. The next rotation is due by 21 September 2027.", {}),
    ]  # fmt: skip
    for sentence, without in removed:
        assert headline(shown, None).sentence == sentence
        shown = replace(shown, **without)


def test_the_rotation_under_way_is_the_answer_to_its_incident() -> None:
    shown = walking()
    assert shown.rotation is not None
    said = headline(replace(shown, incidents=(incident(carrier=shown.rotation.walk),)), None)
    assert said.sentence.startswith("v1 → v2 re-encrypts rows")


def test_nobody_is_asked_to_sign_or_run_anything_while_the_audit_does_not_verify() -> None:
    fault = (
        "the audit does not verify: event 7 is not signed; keep this database as it is, and compare it with a backup"
    )
    for shown in (calm(), walking(), walking(walk=walk_with(status=RequestStatus.PAUSED))):
        said = headline(replace(shown, faults={Fault.AUDIT: fault}, attention=(fault,)), None)
        assert (said.tone, said.sentence) == (Tone.FAILED, "The audit does not verify: event 7 is not signed.")
        assert (said.of, said.command) == (fault, None)


def test_titles_of_officers_have_an_article_and_names_have_none() -> None:
    pending = PendingRequest(replace(walk_with(), started_at=None), (), ("Security Officer", "Ada Byron"), 2)
    said = headline(replace(walking(walk=replace(walk_with(), started_at=None)), requests=(pending,)), None)
    assert said.sentence.startswith("v1 → v2 waits for the Security Officer and Ada Byron, requested ")


@pytest.mark.parametrize(
    ("blocked_by", "further"),
    [
        ("a value is damaged; run `keyrotation inventory`", False),
        ("a value is damaged; restore it, then run `keyrotation inventory`", True),
    ],
)
def test_the_whole_sentence_is_shown_only_where_it_says_more(blocked_by: str, *, further: bool) -> None:
    said = headline(walking(walk=walk_with(blocked_by=blocked_by)), None)
    assert said.detail == (blocked_by if further else None)


def test_what_to_do_is_said_in_words_and_the_command_is_the_one_about_the_request() -> None:
    walk = walk_with(id="3cd33be26c2712641a756edf4621da0f")
    do = f"add `attest()` (`keyrotation docs applications`), or `keyrotation confirm {walk.id}`"
    said = headline(walking(walk=walk, pending=replace(NOBODY_REPORTS, do=do)), None)
    assert said.command == "keyrotation confirm 3cd33be2"
    assert said.next == "add `attest()` (`keyrotation docs applications`), or `keyrotation confirm 3cd33be2`"
    assert headline(walking(walk=walk), None).next == "`keyrotation pause 3cd33be2`"


def test_a_rollout_that_was_waited_for_in_vain_has_not_failed() -> None:
    walk = walk_with(blocked_by="web-1 lags; restart it", rollout_pending=True)
    said = headline(walking(walk=walk, at_work=False), None)
    assert (said.tone, said.sentence) == (Tone.WAITING, "v1 → v2: “Rows” is next; no process works at it now.")


def test_ids_are_as_short_as_commands_take_them() -> None:
    shown = walking(walk=walk_with(id="3cd33be26c2712641a756edf4621da0f", status=RequestStatus.PAUSED))
    assert headline(shown, None).command == "keyrotation resume 3cd33be2"


def test_a_finished_walk_is_news_for_a_day_and_what_needs_attention_comes_first() -> None:
    shown = calm()
    ended = shown.generated_at - timedelta(hours=23)
    last = walk_with(status=RequestStatus.FINISHED, finished_at=ended)
    assert "v1 → v2 finished at" in headline(shown, last).sentence
    assert headline(replace(shown, attention=("a fence is missing",)), last).sentence == "A fence is missing."
    assert "Nothing to do" in headline(replace(shown, generated_at=ended + timedelta(hours=25)), last).sentence


def test_a_cancelled_walk_is_never_called_finished() -> None:
    cancelled = walk_with(status=RequestStatus.CANCELLED, finished_at=calm().generated_at)
    assert headline(calm(), cancelled) == Headline(Tone.CALM, headline(calm(), None).sentence)


def test_steps_are_done_then_one_is_marked_and_the_rest_is_to_come() -> None:
    began = calm().generated_at
    done = tuple(StepRecord(step, None, None, began, {}) for step in WALK[:3])
    marks = {each.step: each.mark for each in steps_of(rotation(steps=done))}
    assert [marks[step] for step in WALK] == [*[Mark.DONE] * 3, Mark.RUNNING, *[Mark.TO_COME] * 5]
    failed = {each.step: each.mark for each in steps_of(rotation(steps=done, blocked_by="no"))}
    assert failed[Step.ROWS] is Mark.FAILED
    slower = {each.step: each.mark for each in steps_of(replace(rotation(steps=done), pending=SLOWED))}
    assert slower[Step.ROWS] is Mark.RUNNING


def test_the_rate_is_that_of_the_tables_that_are_rewritten_now() -> None:
    """A table between two of its shards still has the rate of those that are done."""
    tables = (
        TableProgress("clients", 1, 2, 0.5, 6000, 200.0, running=False),
        TableProgress("appointments", 0, 2, 0.03, 300, 200.0),
    )
    done = tuple(StepRecord(step, None, None, calm().generated_at, {}) for step in WALK[:3])
    rows = next(each for each in steps_of(replace(rotation(steps=done), tables=tables)) if each.step is Step.ROWS)
    assert rows.note == "26%, 200 rows/s, 2 min left"


def test_officers_act_in_a_step_that_waits_for_them() -> None:
    awaited = PendingReason(PendingCode.CONFIRMATION, "officers", "no officer has confirmed")
    actors = [each.actor for each in steps_of(replace(rotation(), pending=awaited))]
    assert actors[:3] == ["officers", "applications", "applications"]
    assert steps_of(replace(rotation(), pending=NOBODY_REPORTS))[0].actor == "applications"
    assert steps_of(replace(rotation(), pending=awaited, at_work=False))[0].note == "awaited"
    assert steps_of(rotation())[0].actor == "pipeline"


def test_a_cancelled_walk_has_skipped_what_it_did_not_reach() -> None:
    done = (StepRecord(Step.KEY_VERSION, None, None, calm().generated_at, {}),)
    views = finished_steps(walk_with(status=RequestStatus.CANCELLED, steps=done))
    assert [each.mark for each in views] == [Mark.DONE, *[Mark.SKIPPED] * 8]


@pytest.mark.parametrize(("days", "notes"), [(0, ["03:00", "03:00"]), (1, ["2026-11-25 03:00", "2026-11-26 03:00"])])
def test_a_finished_walk_shows_dates_where_it_took_more_than_a_day(days: int, notes: list[str]) -> None:
    began = calm().generated_at
    ended = began + timedelta(days=days)
    done = tuple(StepRecord(step, None, None, at, {}) for step, at in zip(WALK[:2], (began, ended), strict=True))
    views = finished_steps(walk_with(status=RequestStatus.FINISHED, steps=done, finished_at=ended))
    assert [each.note for each in views[:2]] == notes


def rotation(**changes: Any) -> RotationStatus:  # noqa: ANN401
    return RotationStatus(walk_with(**changes), "rows", 2, 0.25, 90, None, at_work=True)
