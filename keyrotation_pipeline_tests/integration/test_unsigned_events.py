"""The owner of the database alone, without the home and its key, writes events with right hashes: none counts."""

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.errors import ApprovalError, BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.incidents.opening import open_incident, prepare_requests
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, ReportWritten, SigningBegun
from keyrotation_pipeline.model.incident_events import IncidentClosed
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline.model.request_events import StatusChanged, StepFinished
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, StepRecord
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.reporting.written import record
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation.reconcile import open_reconciliation, reconcile
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.forging import Forger, as_another_process
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office, run, signed_rotation
from keyrotation_pipeline_tests.packs import verified

__all__ = ["office"]
V1, V2, V9 = KeyVersion(1), KeyVersion(2), KeyVersion(9)
UNSIGNED = "is not signed by the pipeline"


@pytest.fixture
def typed(office: Office) -> Folder:
    return Folder(office.folder, [])


def now() -> datetime:
    return datetime.now(UTC)


def never_ran(office: Office, forger: Forger) -> None:
    """A rotation that two officers signed, and that the owner carries out on paper."""
    rotation = signed_rotation(office)
    with office.pipeline() as pipeline:
        [first] = pipeline.ledger.keys()
    forger.move(rotation, RequestStatus.REQUESTED, RequestStatus.RUNNING)
    second = KeyRecord(V2, KeyState.PRE_ACTIVATION, "2f" * 32, now())
    forger.append(KeyRegistered.of(second), rotation)
    forger.append(KeyStateChanged(V1, KeyState.ACTIVE, KeyState.DEACTIVATED, first.fingerprint), rotation)
    forger.append(KeyStateChanged(V2, KeyState.PRE_ACTIVATION, KeyState.ACTIVE, second.fingerprint), rotation)
    for step in WALK:
        forger.append(StepFinished.of(StepRecord(step, None, None, now(), {})), rotation)
    forger.append(KeyStateChanged(V1, KeyState.DEACTIVATED, KeyState.ARCHIVED, first.fingerprint), rotation)
    forger.move(rotation, RequestStatus.RUNNING, RequestStatus.FINISHED)


def states_under_another_signature(office: Office, forger: Forger) -> None:
    rotation = signed_rotation(office)
    with office.pipeline() as pipeline:
        [first] = pipeline.ledger.keys()
    forger.append(KeyStateChanged(V1, KeyState.ACTIVE, KeyState.DEACTIVATED, first.fingerprint), rotation)
    forger.append(KeyStateChanged(V1, KeyState.DEACTIVATED, KeyState.ARCHIVED, first.fingerprint), rotation)


def incident_closed(office: Office, forger: Forger) -> None:
    flag = Flag(key="cli", source="dba", type="key_exposed", description="in a log", discovered_at=now())
    with office.pipeline() as pipeline:
        incident = open_incident(pipeline, flag)
        prepare_requests(pipeline, "test")
    forger.append(IncidentClosed(incident.id, "owner", now(), None, None, None))


def backups_that_never_took_place(_office: Office, forger: Forger) -> None:
    forger.append(Note(EventKind.BACKUP_MADE, {"set": "backup-20260101-000000-0f0f0f0f.json", "places": ["a", "b"]}))
    forger.append(Note(EventKind.RECOVERY_TEST_PASSED, {"set": "backup-20260101-000000-0f0f0f0f.json", "seconds": 1}))


def key_that_nobody_asked_for(_office: Office, forger: Forger) -> None:
    forger.append(KeyRegistered.of(KeyRecord(V9, KeyState.DEACTIVATED, "9f" * 32, now())))


def signing_begun_again(office: Office, forger: Forger) -> None:
    """With a key of the owner's own, who signs everything after it."""
    own = SigningKey(office.folder / "own.pem")
    own.create()
    with office.pipeline() as pipeline:
        head = pipeline.ledger.head()
    signing = Forger(forger.connection, own)
    signing.append(SigningBegun(own.public, head))
    signing.append(BackupKeyPinned(own.public))
    key_that_nobody_asked_for(office, signing)


Attack = Callable[[Office, Forger], None]
ATTACKS = (
    never_ran,
    pytest.param(states_under_another_signature, marks=pytest.mark.extended),
    pytest.param(incident_closed, marks=pytest.mark.extended),
    backups_that_never_took_place,
    pytest.param(key_that_nobody_asked_for, marks=pytest.mark.extended),
    signing_begun_again,
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_the_owner_writes_counts_for_nothing_is_named_and_is_voided(
    office: Office, typed: Folder, attack: Attack
) -> None:
    before = json.loads(typed.run("status", "--json"))
    with office.owner() as owner:
        attack(office, Forger(owner))
    as_another_process()
    said = json.loads(typed.run("status", "--json"))
    for part in ("key_versions", "primary", "last_backup", "last_recovery_test"):
        assert said[part] == before[part]
    assert said["incidents_open"] == (1 if attack is incident_closed else 0)
    assert any("somebody else wrote into the audit" in each for each in said["attention"])
    typed.run("audit", "verify", expect=1)
    assert UNSIGNED in typed.printed[-1] or "which no officers have named" in typed.printed[-1]
    typed.run("report", "--output", "report.html", expect=1)
    typed.run("report", "--format", "certificate", expect=1)
    assert not (office.folder / "report.html").exists()
    made = json.loads(typed.run("backup", "--json", expect=1))
    assert "the audit does not verify" in made["audit_fault"]

    voided(office, ends_nothing=True)
    typed.run("audit", "verify")
    assert json.loads(typed.run("backup", "--json"))["audit_fault"] is None
    typed.run("report", "--format", "pack", "--output", "pack")
    code, pack_says = verified(office.folder / "pack")
    assert code == 0, pack_says
    after = json.loads(typed.run("status", "--json"))
    assert after["key_versions"] == before["key_versions"]
    assert not any("wrote into the audit" in each for each in after["attention"])
    if attack is not incident_closed:
        run(office, _pending(typed) or signed_rotation(office))
        assert json.loads(typed.run("status", "--json"))["primary"] == "v2"


def _pending(typed: Folder) -> str | None:
    """The rotation that an attack was about, which is as officers signed it."""
    return next((str(each["id"]) for each in json.loads(typed.run("requests", "--json"))), None)


def voided(office: Office, *, ends_nothing: bool) -> None:
    """Two officers sign that the events are nobody's."""
    with office.pipeline() as pipeline:
        asked, plan = open_reconciliation(pipeline, requested_by="dba")
        assert plan.found.changes_nothing is ends_nothing
        text = pipeline.ledger.approval_text(asked.id)
        assert b"for nothing, since the pipeline did not sign that" in text
        for name in ("Ada", "Ben"):
            add_approval(pipeline, asked, office.people[name].sign(text))
        reconcile(pipeline, asked)
        verify_everything(pipeline)


@pytest.mark.parametrize("corrects_head", [True, False], ids=["with its head", "without"])
def test_one_event_in_the_middle_of_a_walk_ends_nothing(office: Office, typed: Folder, corrects_head: bool) -> None:
    rotation = signed_rotation(office)
    run(office, rotation, Step.PRIMARY_KEY_ROLLOUT)
    with office.owner() as owner:
        before = owner.execute("SELECT seq, hash FROM keyrotation.audit_head").fetchone()
        assert before is not None
        key_that_nobody_asked_for(office, Forger(owner))
        if not corrects_head:
            owner.execute("UPDATE keyrotation.audit_head SET (seq, hash) = (%s, %s)", before)
    as_another_process()
    logged = json.loads(typed.run("audit", "log", "--json"))
    assert [(each["event"], each["actor"]) for each in logged if not each["counts"]] == [("key_registered", "owner")]
    assert "key_registered  owner  not signed by the pipeline" in typed.run("audit", "log", "--last", "3")
    typed.run("rotate", rotation, expect=1)
    assert "somebody else wrote into the audit" in typed.printed[-1] + "".join(typed.printed[-3:])
    voided(office, ends_nothing=True)
    typed.run("rotate", rotation)
    said = json.loads(typed.run("status", "--json"))
    assert (said["primary"], [each["state"] for each in said["key_versions"]]) == ("v2", ["archived", "active"])
    typed.run("audit", "verify")


def test_what_was_signed_for_events_until_then_voids_none_that_come_later(office: Office) -> None:
    with office.owner() as owner, office.pipeline() as pipeline:
        key_that_nobody_asked_for(office, Forger(owner))
        asked, _ = open_reconciliation(pipeline, requested_by="dba")
        text = pipeline.ledger.approval_text(asked.id)
        Forger(owner).append(Note(EventKind.BACKUP_MADE, {}))
        with pytest.raises(ApprovalError, match=r"is no longer what its text for signing says \(Authorises\)"):
            add_approval(pipeline, asked, office.people["Ada"].sign(text))


def test_an_event_that_is_cut_out_or_dated_otherwise_is_noticed(office: Office, typed: Folder) -> None:
    """Hashes are right again, and the signatures are those that were there."""
    run(office, signed_rotation(office))
    with office.owner() as owner:
        counted = owner.execute("SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'counted'").fetchone()
        assert counted is not None
        Forger(owner).rewrite(
            lambda body, seq: re.sub(r'"values":\d+', '"values":7', body) if seq == counted[0] else body
        )
    (office.anchors / "audit-head.json").unlink()
    as_another_process()
    typed.run("audit", "verify", expect=1)
    assert UNSIGNED in typed.printed[-1]


def test_a_doctored_report_that_the_owner_has_recorded_is_not_confirmed(office: Office, typed: Folder) -> None:
    typed.run("report", "--output", "report.html")
    doctored = office.folder / "doctored.html"
    doctored.write_text((office.folder / "report.html").read_text().replace("not shown", "met"))
    with office.owner() as owner:
        Forger(owner).append(ReportWritten("html", {doctored.name: sha256(doctored.read_bytes()).hexdigest()}))
    as_another_process()
    for voids in (False, True):
        if voids:
            voided(office, ends_nothing=True)
        typed.run("audit", "verify", "--anchor", str(doctored), expect=1)
        assert "is not a report as this audit has recorded one" in typed.printed[-1]
    typed.run("audit", "verify", "--anchor", str(office.folder / "report.html"))


def test_a_report_that_whoever_has_the_home_records_must_name_heads_of_this_audit(
    office: Office, typed: Folder
) -> None:
    """Of another audit, or of another event."""
    for form in ("html", "json", "oscal"):
        typed.run("report", "--format", form, "--output", name := f"report.{form}")
        content = (office.folder / name).read_text()
        doctored = office.folder / f"doctored.{form}"
        with office.pipeline() as pipeline:
            seq, digest = next((e.seq, e.hash) for e in pipeline.ledger.events() if e.hash in content)
            line = f"Audit head: {seq} {digest}\n"
            assert (line in content) is (form == "html")
            other = content.replace(line, line.replace(str(seq), str(seq - 1)))
            doctored.write_text(other if form == "html" else content.replace(digest, "ab" * 32))
            record(pipeline.ledger, form, {doctored.name: doctored.read_bytes()})
        typed.run("audit", "verify", "--anchor", doctored.name, expect=1)
        assert "is not the one that an anchor names" in typed.printed[-1]


@pytest.mark.parametrize("left", ["home", pytest.param("backup", marks=pytest.mark.extended)])
def test_no_home_begins_to_sign_an_audit_anew_that_somebody_has_stripped(
    office: Office, typed: Folder, left: str
) -> None:
    """Every hash is right, and everything is what a version that did not sign would have written."""
    typed.run("backup", "--json")
    with office.owner() as owner:
        Forger(owner).strip()
    if left == "backup":
        (office.anchors / "audit-head.json").unlink()
    as_another_process()
    backup = json.loads(typed.run("backup", "--json", expect=1))
    assert "is not the one that an anchor names" in backup["audit_fault"]
    events = [each["event"] for each in json.loads(typed.run("audit", "log", "--json"))]
    assert "audit_signing_begun" not in events
    [sentence] = [each for each in json.loads(typed.run("status", "--json"))["attention"] if "signs no event" in each]
    assert sentence.endswith("run `keyrotation reconcile`")

    with office.pipeline() as pipeline:
        asked, _ = open_reconciliation(pipeline, requested_by="dba")
        text = pipeline.ledger.approval_text(asked.id)
        for name in ("Ada", "Ben"):
            add_approval(pipeline, asked, office.people[name].sign(text))
        reconcile(pipeline, asked)
        verify_everything(pipeline)
        assert pipeline.ledger.replayed().signed_from is not None, "what officers gave up names nothing any more"
    assert not any("signs no event" in each for each in json.loads(typed.run("status", "--json"))["attention"])


def test_a_home_that_was_made_again_says_that_what_it_records_counts_for_nothing_yet(
    office: Office, typed: Folder
) -> None:
    assert json.loads(typed.run("init", "--json"))["signer_named"] is True
    (office.anchors.parent / "backup-signing-key.pem").unlink()
    assert json.loads(typed.run("init", "--json"))["signer_named"] is False
    for command in ("inventory", "verify"):
        typed.run(command)
        [said] = [each for each in typed.printed[-2:] if "counts for nothing" in each]
        assert said.strip().endswith("; run `keyrotation reconcile`")


def test_the_engine_pauses_and_paces_by_no_event_that_the_owner_alone_has_written(office: Office) -> None:
    rotation = signed_rotation(office)
    run(office, rotation, Step.PRIMARY_KEY_ROLLOUT)
    paused = StatusChanged(RequestStatus.RUNNING, RequestStatus.PAUSED, now())
    with office.pipeline() as pipeline, office.owner() as owner:
        [table], engine = pipeline.tables, pipeline.rewriting
        assert isinstance(engine, PostgresRewriting)
        assert engine.vouched is not None
        shard, ring = Shard(table, 0, 1), pipeline.keys.read().ring()
        later = f"{now() + timedelta(hours=2):%H}:00-{now() + timedelta(hours=3):%H}:00"
        Forger(owner).append(PaceSet(hours=later), rotation)
        Forger(owner).append(paused, rotation)
        everything = replace(engine, vouched=None)
        with pytest.raises(BlockedError, match="was paused"):
            everything.reencrypt_shard(rotation, shard, ring, V2, print)
        assert engine.reencrypt_shard(rotation, shard, ring, V2, print).rows > 0
        pickle.dumps(engine.vouched())
        with office.forger() as forger:
            forger.append(paused, rotation)
        with pytest.raises(BlockedError, match="was paused"):
            engine.reencrypt_shard(rotation, shard, ring, V2, print)
