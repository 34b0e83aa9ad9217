"""Events as they are read back: typed where they are right, refused by a sentence where they are not."""

from datetime import UTC, datetime
from typing import get_type_hints

import pytest

from keyrotation_pipeline.audit.events import RECORDS, entries, entry_of, recorded
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, EventKind, Fact, Note, body_of
from keyrotation_pipeline.model.key_events import HeldFile, KeyDestroyed, KeyStateChanged, ProvenAgain
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.proof import Proven, SnapshotPosition
from keyrotation_pipeline.model.request_events import DatabaseReconciled
from keyrotation_pipeline_tests.fakes import START, FakeLedger

V1, V2 = KeyVersion(1), KeyVersion(2)


def test_every_record_is_of_a_kind_of_its_own() -> None:
    records = {record for record in Fact.__subclasses__() if get_type_hints(record)}
    assert {record.kind for record in records} == {EventKind(kind) for kind in RECORDS}
    assert len({record.__name__ for record in records}) == len(RECORDS)


@pytest.mark.parametrize(
    "fact",
    [
        pytest.param(KeyStateChanged(V1, KeyState.ACTIVE, KeyState.DEACTIVATED, "ab" * 32), id="names of Python"),
        pytest.param(
            ProvenAgain(Proven(SnapshotPosition(2**40, "0/7"), (V1, V2), {"clients": 3}, 8), "a fence"), id="nested"
        ),
        pytest.param(
            KeyDestroyed(V1, "ab" * 32, ("a",), (HeldFile("b", "s3", datetime(2026, 2, 9, tzinfo=UTC)),)), id="times"
        ),
        pytest.param(
            DatabaseReconciled("found", V2, (V1,), {"v1": "archived"}, (), (AuditHead(7, "ab" * 32),)), id="heads"
        ),
        pytest.param(Note(EventKind.BACKUP_MADE, {"free": [1, None, "x"]}), id="free"),
    ],
)
def test_what_was_appended_comes_back_as_it_was(fact: Fact | Note) -> None:
    ledger = FakeLedger(refuses=False)
    ledger.append(fact, "ab" * 16)
    (entry,) = entries(ledger)
    assert (entry.fact(), entry.kind, entry.request, entry.at) == (fact, fact.kind, "ab" * 16, START)


def body(**changes: object) -> str:
    content = {"seq": 1, "at": START, "actor": "a", "database": "d", "request": None, "event": "new", "facts": {}}
    return body_of(**{**content, **changes})  # type: ignore[arg-type]


def test_a_kind_that_a_newer_version_wrote_says_nothing_here() -> None:
    assert entry_of(AuditEvent(1, body(), GENESIS, "", "new", None)).fact() is None


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(body().replace(",", ", "), id="with spaces"),
        pytest.param(body().replace('"seq":1', '"seq":1,"seq":1'), id="a name twice"),
        pytest.param(body().replace('"facts":{}', '"facts":{"x":NaN}'), id="no number"),
        pytest.param(body().replace('"facts":{}', '"facts":{"x":1e999}'), id="a number without an end"),
        pytest.param(body().replace('"facts":{}', f'"facts":{"[" * 6000}'), id="deeply nested"),
        pytest.param(body().replace('"facts":{}', f'"facts":{"[" * 6000}{"]" * 6000}'), id="deeply nested and closed"),
    ],
)
def test_a_body_that_is_not_written_as_we_write_it_is_refused(written: str) -> None:
    """Of a name that stands twice, one reader could take the first and another the second."""
    with pytest.raises(AuditError, match="audit event 7 cannot be read"):
        entry_of(AuditEvent(7, written, GENESIS, "", "new", None))


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"seq": 1, "at": "yesterday"}'])
def test_an_event_that_is_no_event_is_refused_by_its_seq(body: str) -> None:
    with pytest.raises(AuditError, match="audit event 7 cannot be read; run `keyrotation audit verify`"):
        entry_of(AuditEvent(7, body, GENESIS, "", "x", None))


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({}, id="emptied"),
        pytest.param({"version": "v01", "from": "active", "to": "deactivated", "fingerprint": "x"}, id="no version"),
        pytest.param({"version": "v1", "from": "active", "to": "gone", "fingerprint": "x"}, id="no state"),
    ],
)
def test_an_event_that_does_not_say_what_its_kind_must_is_refused_by_its_seq(facts: dict[str, str]) -> None:
    ledger = FakeLedger()
    ledger.append(Note(EventKind.KEY_STATE_CHANGED, facts))
    with pytest.raises(AuditError, match="audit event 1 does not say what a key_state_changed must"):
        list(recorded(ledger, KeyStateChanged))
