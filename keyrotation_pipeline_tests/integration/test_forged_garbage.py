"""Events that say nothing, written by the owner of the database: they cost little time, and hide nothing."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.openpgp import keyring
from keyrotation_pipeline.adapters.openpgp.runner import Status, run
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.request_events import SignatureAdded
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.forging import as_another_process
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office, signed_rotation
from keyrotation_pipeline_tests.integration.test_forged_histories import fault_of, keys_in_backup, typed

__all__ = ["office", "typed"]
GARBAGE = 100


def test_signatures_that_are_not_good_start_gpg_only_so_often(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one process; the officers' own signatures are verified before."""
    rotation = signed_rotation(office)
    with office.pipeline() as pipeline, office.forger() as forger:
        text = pipeline.ledger.approval_text(rotation)
        for number in range(GARBAGE):
            signature = office.people["Eve"].sign(text) if number == 0 else b"garbage %d" % number
            forger.append(SignatureAdded(f"{number:040x}", datetime.now(UTC), signature.hex()), rotation)
    starts: list[Sequence[str]] = []

    def counted(home: Path, arguments: Sequence[str], stdin: bytes = b"") -> Status:
        starts.append(arguments)
        return run(home, arguments, stdin)

    monkeypatch.setattr(keyring, "run", counted)
    as_another_process()
    with office.pipeline() as pipeline:
        state = pipeline.ledger.replayed()
    assert len(state.refused) == GARBAGE
    assert len(state.signatures[rotation]) == 2
    assert len(starts) < 200  # 604 if each were verified
    assert "follows 20 events that cannot have happened, and was not verified" in state.faults[-1]


UNREADABLE = Note(EventKind.SIGNATURE_ADDED, {"officer": "nobody"})


def test_an_event_that_cannot_be_read_stops_everything_and_hides_nothing(office: Office, typed: Folder) -> None:
    """A backup is still made, with what is known: it may be the last one possible."""
    with office.forger() as forger:
        seq = forger.append(UNREADABLE).seq
    assert f"event {seq} (signature_added) does not say what a signature_added must" in fault_of(typed)
    typed.run("request", "--reason", "yearly", expect=1)
    assert "the audit does not verify" in typed.printed[-1]
    assert [each["version"] for each in json.loads(typed.run("status", "--json"))["key_versions"]] == ["v1"]
    assert keys_in_backup(typed) == {"v1"}
