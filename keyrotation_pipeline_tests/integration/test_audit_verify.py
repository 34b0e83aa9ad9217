"""The owner of the database changes the audit and what it tells of; `audit verify` names it."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.audit import hash_of
from keyrotation_pipeline.model.events import EventKind, Note
from keyrotation_pipeline.model.request import Step
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.rotation import performing
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office

__all__ = ["office"]


@pytest.fixture
def signed(office: Office) -> Office:
    """A rotation that two officers signed, whose first step is done."""
    with office.pipeline() as pipeline:
        opened = open_request(pipeline, reason="yearly", requested_by="test")
        for name in ("Ada", "Ben"):
            add_approval(pipeline, opened, office.people[name].sign(pipeline.ledger.approval_text(opened.id)))
        performing.perform(pipeline, opened.id, Task(Step.KEY_VERSION), lambda _progress: None)
        verify_everything(pipeline)
    return office


def rehashed(owner: psycopg.Connection, changed: Callable[[str, int], str]) -> None:
    """Change bodies, and hash the whole chain anew."""
    previous = "0" * 64
    for seq, body in owner.execute("SELECT seq, body FROM keyrotation.audit_events ORDER BY seq").fetchall():
        new = changed(body, seq)
        digest = hash_of(previous, new)
        owner.execute(
            "UPDATE keyrotation.audit_events SET body = %s, previous_hash = %s, hash = %s WHERE seq = %s",
            (new, previous, digest, seq),
        )
        previous = digest
    owner.execute("UPDATE keyrotation.audit_head SET hash = %s", (previous,))


def tail_cut(owner: psycopg.Connection) -> None:
    owner.execute(
        "DELETE FROM keyrotation.audit_events WHERE seq > (SELECT max(seq) - 2 FROM keyrotation.audit_events)"
    )
    owner.execute(
        "UPDATE keyrotation.audit_head SET (seq, hash) ="
        " (SELECT seq, hash FROM keyrotation.audit_events ORDER BY seq DESC LIMIT 1)"
    )


def chain_hashed_anew(owner: psycopg.Connection) -> None:
    rehashed(owner, lambda body, _seq: body.replace("yearly", "for me"))


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        pytest.param(tail_cut, "cut off", id="tail cut with the head moved"),
        pytest.param(chain_hashed_anew, "is not the one that an anchor names", id="whole chain hashed anew"),
        pytest.param("UPDATE keyrotation.key_rotation_audit SET notes = 'x'", "was changed", id="audit row changed"),
        pytest.param("DELETE FROM keyrotation.key_rotation_audit", "was removed", id="audit row deleted"),
        pytest.param(
            "INSERT INTO keyrotation.key_rotation_audit (old_key_version, new_key_version, rotation_type, initiated_by,"
            " records_reencrypted, notes) VALUES ('v8', 'v9', 'routine', 'me', 1, '')",
            "was added from outside",
            id="audit row forged",
        ),
        pytest.param("UPDATE keyrotation.signatures SET signature = '\\x00'", "keyrotation.signatures", id="signature"),
        pytest.param("UPDATE keyrotation.rotations SET approval_text = 'x'", "the text of request", id="text changed"),
        pytest.param("UPDATE keyrotation.rotation_steps SET facts = '{}'", "rotation_steps", id="facts emptied"),
        pytest.param("UPDATE keyrotation.rotations SET status = 'paused'", "keyrotation.rotations", id="status"),
    ],
)
def test_what_the_owner_changed_is_named(
    signed: Office, attack: str | Callable[[psycopg.Connection], None], sentence: str
) -> None:
    with signed.owner() as owner:
        if callable(attack):
            attack(owner)
        else:
            owner.execute(attack)
    with signed.pipeline() as pipeline, pytest.raises(AuditError, match=sentence):
        verify_everything(pipeline)


def test_times_that_go_backwards_are_named(signed: Office) -> None:
    with signed.pipeline() as pipeline:
        pipeline.ledger.append(Note(EventKind.BACKUP_MADE, {}))
        newest, yesterday = pipeline.ledger.head().seq, pipeline.clock.now() - timedelta(days=1)
    with signed.owner() as owner:
        at = f'"at":"{yesterday.isoformat()}"'
        rehashed(owner, lambda body, seq: re.sub(r'"at":"[^"]*"', at, body, count=1) if seq == newest else body)
    with signed.pipeline() as pipeline, pytest.raises(AuditError, match=rf"event {newest} is dated .*, before events"):
        verify_everything(pipeline)


def test_a_signature_that_no_officer_made_is_named(office: Office) -> None:
    with office.pipeline() as pipeline:
        opened = open_request(pipeline, reason="for me", requested_by="owner")
        ada, *_ = require_roster(pipeline).officers
        forged = office.people["Eve"].sign(pipeline.ledger.approval_text(opened.id))
        pipeline.ledger.add_signature(opened.id, Signature(ada.fingerprint, forged, datetime.now(UTC)))
        with pytest.raises(AuditError, match=rf"signature of {ada.fingerprint[-16:]} .* does not verify"):
            verify_everything(pipeline)
