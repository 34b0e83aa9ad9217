"""The owner of the database changes the audit and what it tells of; `audit verify` names it."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta
from types import SimpleNamespace

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, require_same_time
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.audit import history
from keyrotation_pipeline.audit.verify import require_verified, verify_everything
from keyrotation_pipeline.backups.destruction import open_destruction
from keyrotation_pipeline.errors import ApprovalError, AuditError, BlockedError, PreflightError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.request_events import SignatureAdded
from keyrotation_pipeline.model.requests import Request, RequestAction, Step, Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.forging import Forger, as_another_process, signature_of
from keyrotation_pipeline_tests.integration.test_database_owner import V1, Office, office
from keyrotation_pipeline_tests.officers import revoke

__all__ = ["office"]


class Behind(SystemClock):
    """The clock of a host that is late."""

    def __init__(self, seconds: int) -> None:
        self.by = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() - self.by


@pytest.fixture
def signed(office: Office) -> Office:
    """A rotation that two officers signed, whose first step is done."""
    with office.pipeline() as pipeline:
        opened = open_request(pipeline, reason="yearly", requested_by="test")
        for name in ("Ada", "Ben"):
            add_approval(pipeline, opened, office.people[name].sign(pipeline.ledger.approval_text(opened.id)))
        runner.run_step(pipeline, opened.id, Task(Step.KEY_VERSION), lambda _progress: None)
        verify_everything(pipeline)
    return office


def tail_cut(owner: psycopg.Connection) -> None:
    Forger(owner).truncate(2)


def chain_hashed_again(owner: psycopg.Connection) -> None:
    Forger(owner).rewrite(lambda body, _seq: body.replace("yearly", "for me"))


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        pytest.param(tail_cut, "cut off", id="tail cut with the head moved"),
        pytest.param(chain_hashed_again, "is not the one that an anchor names", id="whole chain hashed again"),
        pytest.param("UPDATE keyrotation.key_rotation_audit SET notes = 'x'", "was changed", id="audit row changed"),
        pytest.param("DELETE FROM keyrotation.key_rotation_audit", "was removed", id="audit row deleted"),
        pytest.param(
            "INSERT INTO keyrotation.key_rotation_audit (old_key_version, new_key_version, rotation_type, initiated_by,"
            " records_reencrypted, notes) VALUES ('v8', 'v9', 'routine', 'me', 1, '')",
            "was added from outside",
            id="audit row forged",
        ),
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
    with signed.pipeline() as pipeline:
        with pytest.raises(AuditError, match=sentence):
            verify_everything(pipeline)
        with pytest.raises(AuditError):
            require_verified(pipeline)


def forged_row(office: Office) -> None:
    with office.owner() as owner:
        owner.execute("UPDATE keyrotation.key_rotation_audit SET notes = 'x'")


def next_step(pipeline: Pipeline) -> None:
    [rotation] = [each for each in pipeline.ledger.requests() if isinstance(each, Walk)]
    runner.run_step(pipeline, rotation.id, Task(Step.DUAL_KEY_ROLLOUT), lambda _progress: None)


def back(pipeline: Pipeline) -> None:
    [rotation] = [each for each in pipeline.ledger.requests() if isinstance(each, Walk)]
    open_rollback(pipeline, rotation, reason="back", requested_by="test")


def other_rules(pipeline: Pipeline) -> None:
    [policy] = [each for each in pipeline.ledger.requests() if each.action is RequestAction.POLICY]
    change_policy(pipeline, policy)


def gone_for_good(pipeline: Pipeline) -> None:
    open_destruction(SimpleNamespace(pipeline=pipeline), V1, reason="old", requested_by="test")  # type: ignore[arg-type]


def test_status_and_whatever_destroys_verify_the_whole_audit_first(signed: Office) -> None:
    """What nothing else looks at is a row of the source procedure's table, and signatures on a change of the rules."""
    signed.configure("Ada", "Cem")
    with signed.pipeline() as pipeline:
        open_policy(pipeline, reason="Ben leaves", requested_by="test")
        require_verified(pipeline)
    forged_row(signed)
    with signed.pipeline() as pipeline:
        head = pipeline.ledger.head()
        assert any("the row of request" in sentence for sentence in overview(pipeline).attention)
        with pytest.raises(AuditError, match=r"the row of request .* was changed"):
            other_rules(pipeline)
        assert pipeline.ledger.head() == head, "a database that was written to from outside is kept as it is"
    signed.configure("Ada", "Ben")
    with signed.pipeline() as pipeline:
        for action in (next_step, back, gone_for_good):
            with pytest.raises(AuditError, match=r"the row of request .* was changed"):
                action(pipeline)
        assert pipeline.ledger.head() == head


def somebody_else(owner: psycopg.Connection) -> None:
    owner.execute(
        "UPDATE keyrotation.audit_events SET body = replace(body, 'test', 'else')"
        " WHERE seq = (SELECT min(seq) FROM keyrotation.audit_events WHERE event = 'key_creation_intended')"
    )


def test_an_old_event_that_changes_under_a_running_daemon_is_noticed_by_its_next_step(signed: Office) -> None:
    with signed.pipeline() as pipeline:
        require_verified(pipeline)
        with signed.owner() as owner:
            somebody_else(owner)
        require_verified(pipeline)  # of what this process has verified before
        head = pipeline.ledger.head()
        with pytest.raises(AuditError, match=r"does not follow event|was changed"):
            next_step(pipeline)
        assert pipeline.ledger.head() == head


def test_another_process_continues_from_the_checkpoint_of_the_home_and_notices_what_counts(
    signed: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "FEWEST_EVENTS", 1)

    def requests() -> tuple[Request, ...]:
        as_another_process()
        with signed.pipeline() as pipeline:
            return pipeline.ledger.requests()

    known = requests()
    kept = (signed.folder / ".keyrotation" / "audit-checkpoint").read_bytes()
    with signed.owner() as owner:
        somebody_else(owner)  # a note, which nothing here reads
    assert requests() == known
    as_another_process()
    with signed.pipeline() as pipeline:
        assert pipeline.ledger.requests() == known
        with pytest.raises(AuditError, match="does not follow event"):
            list(pipeline.ledger.events(EventKind.KEY_CREATION_INTENDED))
    with signed.owner() as owner:
        owner.execute("UPDATE keyrotation.audit_events SET body = replace(body, 'yearly', 'for me')")
    with pytest.raises(AuditError, match="does not follow event"):
        requests()
    assert (signed.folder / ".keyrotation" / "audit-checkpoint").read_bytes() == kept


def test_an_officer_who_is_revoked_later_leaves_the_audit_good_and_signs_nothing_more(signed: Office) -> None:
    with signed.pipeline() as pipeline:
        revoke(signed.people["Ben"])
        verify_everything(pipeline)
        require_verified(pipeline)
        assert any("is revoked" in sentence for sentence in overview(pipeline).attention)
        with pytest.raises(ApprovalError, match="is revoked"):
            next_step(pipeline)


def test_a_change_while_the_audit_is_verified_is_no_difference(signed: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    with signed.pipeline() as pipeline, signed.pipeline() as other:
        [rotation] = [each for each in pipeline.ledger.requests() if isinstance(each, Walk)]
        read = pipeline.ledger.rotation_audit

        def read_late() -> object:
            other.ledger.write_rotation_audit(rotation, "Ada", 7, None)
            return read()

        monkeypatch.setattr(pipeline.ledger, "rotation_audit", read_late)
        verify_everything(pipeline)
        require_verified(pipeline)


@pytest.mark.parametrize("seconds", [24 * 3600, 30])
def test_times_that_go_backwards_are_named(signed: Office, seconds: int) -> None:
    with signed.pipeline() as pipeline:
        pipeline.ledger.append(Note(EventKind.BACKUP_MADE, {}))
        newest, before = pipeline.ledger.head().seq, pipeline.clock.now() - timedelta(seconds=seconds)
    with signed.owner() as owner:
        at = f'"at":"{before.isoformat()}"'
        forger = Forger(owner, signing_key(settings.load(signed.file)))
        forger.rewrite(lambda body, seq: re.sub(r'"at":"[^"]*"', at, body, count=1) if seq == newest else body)
    with (
        signed.pipeline() as pipeline,
        pytest.raises(AuditError, match=rf"event {newest} is dated .*, before the event"),
    ):
        verify_everything(pipeline)


def test_an_event_of_the_future_is_named(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep every host with the right time from recording anything."""
    with office.pipeline() as pipeline:
        with monkeypatch.context() as patched:
            patched.setattr(pipeline.ledger, "clock", Behind(-3600))
            pipeline.ledger.append(Note(EventKind.BACKUP_MADE, {}))
        with pytest.raises(AuditError, match=r"an event is dated .*, which is in the future"):
            verify_everything(pipeline)


def test_a_host_whose_clock_is_behind_records_nothing_and_says_so(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Note(EventKind.BACKUP_MADE, {})
    with office.pipeline() as pipeline:
        head = pipeline.ledger.append(made)
        monkeypatch.setattr(pipeline.ledger, "clock", Behind(30))
        with pytest.raises(BlockedError, match=r"the clock of this host is (29|30) seconds behind .*; set it"):
            pipeline.ledger.append(made)
        assert pipeline.ledger.head() == head
        monkeypatch.setattr(pipeline.ledger, "clock", Behind(24 * 3600))
        with pytest.raises(BlockedError, match=r"newest event \(\d{4}-.*restore-database"):
            pipeline.ledger.append(made)
        monkeypatch.setattr(pipeline.ledger, "clock", Behind(15))
        pipeline.ledger.append(made)
        verify_everything(pipeline)


@pytest.mark.parametrize(("seconds", "refused"), [(11, True), (-11, True), (5, False), (-5, False)])
def test_a_host_whose_clock_is_not_the_servers_is_refused(connection: Connection, seconds: int, refused: bool) -> None:
    with pytest.raises(PreflightError, match=r"differ by 1\d seconds; set .* right") if refused else nullcontext():
        require_same_time(connection, Behind(seconds))


def test_a_signature_that_no_officer_made_is_named(office: Office) -> None:
    with office.pipeline() as pipeline:
        opened = open_request(pipeline, reason="for me", requested_by="owner")
        ada, *_ = require_roster(pipeline).officers
        text = pipeline.ledger.approval_text(opened.id)
        with office.owner() as owner:
            forged = signature_of(office.people["Eve"], text, ada.fingerprint)
            Forger(owner, signing_key(settings.load(office.file))).append(SignatureAdded.of(forged), opened.id)
        with pytest.raises(
            AuditError, match=r"\(signature_added\) has no good signature: .* no officer of the roster has"
        ):
            verify_everything(pipeline)
