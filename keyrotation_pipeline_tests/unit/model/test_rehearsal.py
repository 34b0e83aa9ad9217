"""What a rehearsal predicts: what grows with the rows is scaled, the rollouts are left out."""

from dataclasses import replace
from datetime import UTC, datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.records import as_json, read
from keyrotation_pipeline.model.request_events import RehearsalFinding, Rehearsed
from keyrotation_pipeline.model.requests import Step

DONE = Rehearsed(
    request=None,
    source=KeyVersion(1),
    target=KeyVersion(2),
    dump="database-20260105-030000-efa1f375.dump.gpg",
    made_at=datetime(2026, 1, 5, 3, tzinfo=UTC),
    server="PostgreSQL 18 (embedded)",
    dump_rows=100,
    rows_now=150,
    seconds={Step.KEY_VERSION: 2.0, Step.DUAL_KEY_ROLLOUT: 0.5, Step.ROWS: 10.0, Step.ARCHIVED_KEY: 0.5},
    findings=(),
)


def test_steps_over_rows_are_scaled_and_rollouts_are_not_predicted() -> None:
    assert DONE.predicted_seconds == {Step.KEY_VERSION: 2.0, Step.ROWS: 15.0}
    assert DONE.total_seconds == 17.0


def test_an_empty_backup_is_not_scaled() -> None:
    assert replace(DONE, dump_rows=0).predicted_seconds[Step.ROWS] == 10.0


def test_what_would_be_stopped_has_no_duration() -> None:
    assert replace(DONE, findings=(RehearsalFinding("rows", "a sentence"),)).total_seconds is None


def test_it_is_read_back_from_the_audit_as_it_was_recorded() -> None:
    assert read(Rehearsed, as_json(DONE)) == DONE
