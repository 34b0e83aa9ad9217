"""Whoever owns the database can write all of it, and gains neither an office nor an action that nobody signed."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.audit.events import entry_of, recorded
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.destruction import DESTROY
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError, AuditError, BlockedError, KeyRotationError, NotOurKeyStoreError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.key_events import KeyStateChanged
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import (
    PromotionRecorded,
    RequestOpened,
    RosterPinned,
    SignatureAdded,
    StatusChanged,
    StepFinished,
)
from keyrotation_pipeline.model.requests import Request, RequestStatus, Step
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.roster import pinned_roster, require_roster
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.keys import import_keys
from keyrotation_pipeline.rotation.reconcile import open_reconciliation
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.forging import Forger, as_another_process, owner_of, signature_of
from keyrotation_pipeline_tests.officers import at_instant, make_officer

V1 = KeyVersion(1)
NOT_SEEN = "is not the one that this home has seen"
NOT_IN_BACKUPS = "is not the one that a backup's manifest has seen"


@dataclass
class Office:
    """A clinic that Ada and Ben watch over; Eve and Mal own its database."""

    folder: Path
    url: str
    key: KeyMaterial
    people: dict[str, DemoOfficer]

    @property
    def file(self) -> Path:
        return self.folder / "keyrotation.toml"

    @property
    def anchors(self) -> Path:
        return self.folder / ".keyrotation" / "anchors"

    def configure(self, *names: str) -> None:
        officers = "".join(
            f'[[approvals.officers]]\nname = "{name}"\ncertificate = "{self.people[name].certificate}"\n'
            for name in names
        )
        tables = '[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
        self.file.write_text(f'database.url = "{self.url}"\nrollout.mode = "none"\n{officers}{tables}')

    def initialise(self) -> None:
        initialise(settings.load(self.file), KeyRing({V1: self.key}, V1), actor="test")

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            yield pipeline

    def forgotten_by_the_key_store(self) -> None:
        (self.anchors.parent / "keys" / "owner").unlink()

    @contextmanager
    def owner(self) -> Iterator[psycopg.Connection]:
        """The database's owner, who is kept from nothing by a trigger."""
        with owner_of(self.url) as connection:
            yield connection

    @contextmanager
    def forger(self) -> Iterator[Forger]:
        """What the owner can write into the audit who has the home, too, and so its key: only rules refuse it."""
        with self.owner() as connection:
            yield Forger(connection, signing_key(settings.load(self.file)))

    def changed(self, *names: str, by: tuple[str, ...] = ("Ada", "Ben")) -> str:
        """These officers, signed and pinned."""
        self.configure(*names)
        with self.pipeline() as pipeline:
            policy = open_policy(pipeline, reason="somebody leaves", requested_by="test")
            for name in by:
                add_approval(pipeline, policy, self.people[name].sign(pipeline.ledger.approval_text(policy.id)))
            change_policy(pipeline, policy)
        return policy.id


@pytest.fixture
def office(tmp_path: Path, database_url: str) -> Office:
    return office_in(tmp_path, database_url)


def office_in(folder: Path, url: str, more: str = "") -> Office:
    """A clinic in a folder; `more` stands in its configuration from the beginning."""
    key = KeyMaterial.generate()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text)")
        connection.execute("INSERT INTO clients VALUES (1, %s)", (encrypt(KeyRing({V1: key}, V1), "Zoe"),))
    people = {name: make_officer(folder, name) for name in ("Ada", "Ben", "Cem", "Eve", "Mal")}
    office = Office(folder, url, key, people)
    office.configure("Ada", "Ben")
    office.file.write_text(office.file.read_text() + more)
    office.initialise()
    return office


def schema_rebuilt(office: Office) -> None:
    """Everything as `init` would write it, which itself asks the key store first."""
    with office.owner() as owner:
        owner.execute("DROP SCHEMA keyrotation CASCADE")
    office.configure("Eve", "Mal")
    with pytest.raises(AuditError, match="the key store names another roster"):
        office.initialise()
    with office.pipeline() as pipeline:
        pipeline.ledger.pin_roster(pipeline.signatures.roster())
        ManifestTrust(
            signing_key(settings.load(office.file)), pipeline.ledger, pipeline.signatures, pipeline.clock
        ).pin()


def schema_rebuilt_without_backups(office: Office) -> None:
    schema_rebuilt(office)
    shutil.rmtree(office.anchors.parent.parent / "backups", ignore_errors=True)
    shutil.rmtree(office.anchors.parent / "backups", ignore_errors=True)


def event_forged(office: Office) -> None:
    """With the hash that belongs to it, as the program itself would write it."""
    office.configure("Eve", "Mal")
    with office.pipeline() as pipeline, office.forger() as forger:
        forger.append(RosterPinned.of(pipeline.signatures.roster()), "0f" * 16)


def policy_with_own_signatures(office: Office) -> None:
    office.configure("Eve", "Mal")
    forged_policy(office, ("Eve", "Ada"), ("Mal", "Ben"))


def policy_that_one_officer_signed_and_whose_other_signature_is_filed_under_another(office: Office) -> None:
    office.configure("Ada", "Mal")
    forged_policy(office, ("Ada", "Ada"), ("Ada", "Ben"))


def forged_policy(office: Office, *signers: tuple[str, str]) -> None:
    """A policy with signatures by whom, filed under whom, begun and pinned as the program itself would."""
    with office.pipeline() as pipeline, office.forger() as forger:
        officers = {officer.name: officer.fingerprint for officer in pinned_roster(pipeline).officers}
        policy = open_policy(pipeline, reason="take over", requested_by="owner")
        text = pipeline.ledger.approval_text(policy.id)
        for name, filed_as in signers:
            signature = signature_of(office.people[name], text, officers[filed_as])
            forger.append(SignatureAdded.of(signature), policy.id)
        forger.move(policy.id, RequestStatus.REQUESTED, RequestStatus.RUNNING)
        forger.append(RosterPinned.of(pipeline.signatures.roster()), policy.id)


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (schema_rebuilt, NOT_IN_BACKUPS),
        (schema_rebuilt_without_backups, NOT_SEEN),
    ],
)
def test_the_databases_owner_does_not_become_officer_by(
    office: Office, attack: Callable[[Office], None], sentence: str
) -> None:
    attack(office)
    with office.pipeline() as pipeline, pytest.raises(AuditError, match=sentence):
        open_request(pipeline, reason="mine now", requested_by="owner")


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (event_forged, r"\(roster_pinned\) is of a request that was never opened"),
        (policy_with_own_signatures, r"\(roster_pinned\) is by a request that too few have signed"),
        (
            policy_that_one_officer_signed_and_whose_other_signature_is_filed_under_another,
            r"\(signature_added\) is signed by .*, not by",
        ),
    ],
)
def test_the_databases_owner_pins_nobody_by_an_event(
    office: Office, attack: Callable[[Office], None], sentence: str
) -> None:
    attack(office)
    with office.pipeline() as pipeline:
        with pytest.raises(ApprovalError, match="differ from what is pinned"):
            open_request(pipeline, reason="mine now", requested_by="owner")
        with pytest.raises(AuditError, match=sentence):
            verify_everything(pipeline)


def test_roster_and_audit_replaced_wholesale_are_stopped_by_the_key_store_alone(office: Office) -> None:
    schema_rebuilt_without_backups(office)
    shutil.rmtree(office.anchors)
    as_another_process()
    with office.pipeline() as pipeline:
        with pytest.raises(NotOurKeyStoreError, match="belongs to another home"):
            import_keys(pipeline, KeyRing({V1: office.key}, V1))
        with pytest.raises(AuditError, match="is not the one that the key store has seen"):
            open_request(pipeline, reason="mine now", requested_by="owner")
        with pytest.raises(AuditError, match="neither the database, nor this home, nor keyrotation"):
            open_reconciliation(pipeline, requested_by="owner")
        assert any("belongs to another home" in each for each in overview(pipeline).attention)
        office.forgotten_by_the_key_store()  # without which the attack succeeds
        import_keys(pipeline, KeyRing({V1: office.key}, V1))
        open_request(pipeline, reason="mine now", requested_by="owner")


def test_a_roster_from_before_a_change_cannot_be_pinned_again_without_signatures(office: Office) -> None:
    office.changed("Ada", "Cem")
    office.configure("Ada", "Ben")
    with office.pipeline() as pipeline:
        with office.forger() as forger:
            forger.append(RosterPinned.of(pipeline.signatures.roster()), "forged")
        with pytest.raises(ApprovalError, match="differ from what is pinned"):
            require_roster(pipeline)
        with pytest.raises(AuditError, match=r"\(roster_pinned\) is of a request that was never opened"):
            verify_everything(pipeline)


def test_a_rebuilt_chain_is_noticed_by_what_a_backup_names_where_the_home_is_lost(office: Office) -> None:
    with office.pipeline() as pipeline:
        stored = pipeline.keys.read()
        pipeline.vault.store_key(V1, stored.material(V1), pipeline.ledger.head())
    shutil.rmtree(office.anchors)
    schema_rebuilt(office)
    with office.pipeline() as pipeline, pytest.raises(AuditError, match=NOT_IN_BACKUPS):
        require_roster(pipeline)


def test_a_new_home_believes_what_officers_signed_and_nothing_else(office: Office) -> None:
    office.changed("Ada", "Cem")
    shutil.rmtree(office.anchors)
    with office.pipeline() as pipeline:
        assert [officer.name for officer in require_roster(pipeline).officers] == ["Ada", "Cem"]
    assert json.loads((office.anchors / "roster.json").read_text())["roster"]["required"] == 2
    with office.owner() as owner:
        owner.execute("UPDATE keyrotation.audit_events SET body = replace(body, '\"required\":2', '\"required\":1')")
    shutil.rmtree(office.anchors)
    with office.pipeline() as pipeline, pytest.raises(KeyRotationError):
        pinned_roster(pipeline)


def test_a_change_stays_believed_after_the_certificates_that_signed_it_have_expired(
    office: Office, tmp_path: Path
) -> None:
    born = at_instant(datetime.now(UTC) - timedelta(days=9))
    office.people["Dan"] = make_officer(tmp_path, "Dan", "20270101T000000", born)
    office.changed("Ada", "Dan")
    office.changed("Ada", "Cem", by=("Ada", "Dan"))
    with office.pipeline() as pipeline:
        pins = [event for event in pipeline.ledger.events() if "roster_pinned" in event.body]
        assert len(pins) == 3
    shutil.rmtree(office.anchors)
    with office.pipeline() as pipeline:
        assert require_roster(pipeline).officers[1].name == "Cem"


def test_a_policy_that_was_signed_for_another_audit_pins_nothing_here(office: Office) -> None:
    with office.pipeline() as pipeline:
        before = pipeline.ledger.head()
    policy = office.changed("Ada", "Cem")
    with office.pipeline() as pipeline:
        copied = [event for event in pipeline.ledger.events(after_seq=before.seq) if event.request == policy]
        opened, signed, pinned = (
            [entry.fact() for entry in map(entry_of, copied) if entry.kind == kind.kind]
            for kind in (RequestOpened, SignatureAdded, RosterPinned)
        )
    with office.owner() as owner:
        owner.execute("DROP SCHEMA keyrotation CASCADE")
    shutil.rmtree(office.anchors)
    office.forgotten_by_the_key_store()
    office.configure("Ada", "Ben")
    office.initialise()
    office.configure("Ada", "Cem")
    with office.pipeline() as pipeline, office.forger() as forger:
        started = StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, datetime.now(UTC))
        for fact in (*opened, *signed, started, *pinned):
            assert fact is not None
            forger.append(fact, policy)
        assert [officer.name for officer in pinned_roster(pipeline).officers] == ["Ada", "Ben"]
        faults = pipeline.ledger.replayed().faults
        assert any("(request_opened) opens a request that is to be signed for another audit" in each for each in faults)
        with pytest.raises(AuditError):
            verify_everything(pipeline)


# --- events of requests and keys ------------------------------------------------------------------------------------


def signed_rotation(office: Office) -> str:
    with office.pipeline() as pipeline:
        rotation = open_request(pipeline, reason="yearly", requested_by="test")
        for name in ("Ada", "Ben"):
            add_approval(pipeline, rotation, office.people[name].sign(pipeline.ledger.approval_text(rotation.id)))
    return rotation.id


def run(office: Office, rotation: str, through: Step | None = None) -> None:
    with office.pipeline() as pipeline:
        for _ in runner.run(pipeline, rotation, lambda _progress: None, through):
            pass


@pytest.mark.parametrize("after", [RequestStatus.REQUESTED, RequestStatus.RUNNING])
def test_a_cancelled_request_with_its_signatures_is_not_revived(office: Office, after: RequestStatus) -> None:
    rotation = signed_rotation(office)
    with office.pipeline() as pipeline:
        cancel(pipeline, pipeline.ledger.request(rotation))
    with office.forger() as forger:
        forger.move(rotation, RequestStatus.CANCELLED, after)
    with pytest.raises(BlockedError, match="is cancelled"):
        run(office, rotation, Step.KEY_VERSION)
    with office.pipeline() as pipeline:
        assert [str(version) for version in pipeline.keys.read().versions] == ["v1"]
        with pytest.raises(AuditError, match=rf"makes a request that is cancelled {after}"):
            verify_everything(pipeline)


def opened_again(pipeline: Pipeline, forger: Forger, rotation: str) -> None:
    opened = next(recorded(pipeline.ledger, RequestOpened, rotation))
    longer = replace(opened, finish_by=opened.finish_by + timedelta(days=3000))
    forger.append(longer, rotation)


def signed_again(pipeline: Pipeline, forger: Forger, rotation: str) -> None:
    signed = next(recorded(pipeline.ledger, SignatureAdded, rotation))
    forger.append(replace(signed, signature="00"), rotation)


def finished_again(pipeline: Pipeline, forger: Forger, rotation: str) -> None:
    done = next(recorded(pipeline.ledger, StepFinished, rotation))
    forger.append(replace(done, facts={}), rotation)


def promoted_again(_pipeline: Pipeline, forger: Forger, rotation: str) -> None:
    for xid in (1, 2):
        forger.append(PromotionRecorded(xid), rotation)


@pytest.mark.parametrize("forge", [opened_again, signed_again, finished_again, promoted_again])
def test_a_walk_does_not_go_on_after_an_event_that_cannot_have_happened(
    office: Office, forge: Callable[[Pipeline, Forger, str], None]
) -> None:
    rotation = signed_rotation(office)
    run(office, rotation, Step.KEY_VERSION)
    with office.pipeline() as pipeline, office.forger() as forger:
        forge(pipeline, forger, rotation)
    with pytest.raises(AuditError, match="the audit does not verify: event"):
        run(office, rotation, Step.DUAL_KEY_ROLLOUT)


def destruction_of(pipeline: Pipeline, record: KeyRecord) -> Request:
    """A request to destroy a key, not stored yet."""
    return new_request(
        Request,
        pipeline,
        DESTROY,
        source=record.version,
        fingerprint=record.fingerprint,
        target=record.version,
        reason="x",
        requested_by="owner",
    )


def called_destroyed(forger: Forger, record: KeyRecord, request: str | None) -> None:
    """Every change of its state, up to the last one."""
    ways = {KeyState.ACTIVE: KeyState.DEACTIVATED, KeyState.DEACTIVATED: KeyState.ARCHIVED}
    state = record.state
    while state is not KeyState.DESTROYED:
        after = KeyState.DESTROYED if state is KeyState.ARCHIVED else ways.get(state, KeyState.ARCHIVED)
        forger.append(KeyStateChanged(record.version, state, after, record.fingerprint), request)
        state = after


def destroyed_by_event(_pipeline: Pipeline, forger: Forger, record: KeyRecord) -> None:
    called_destroyed(forger, record, None)


def destroyed_by_a_request_that_nobody_signed(pipeline: Pipeline, forger: Forger, record: KeyRecord) -> None:
    request = destruction_of(pipeline, record)
    forger.begin(request, approval_text(pipeline, request), ())
    called_destroyed(forger, record, request.id)


@pytest.mark.parametrize("attack", [destroyed_by_event, destroyed_by_a_request_that_nobody_signed])
def test_no_key_is_left_out_of_a_backup_because_it_is_called(
    office: Office, attack: Callable[[Pipeline, Forger, KeyRecord], None]
) -> None:
    with office.pipeline() as pipeline, office.forger() as forger:
        attack(pipeline, forger, pipeline.ledger.keys()[0])
    with open_backups(settings.load(office.file), actor="test") as site:
        assert [copy.version for copy in back_up(site).made.keys] == [V1]
        with pytest.raises(AuditError, match=r"\(key_state_changed\) is (of|by) a request"):
            verify_everything(site.pipeline)


def test_no_key_is_left_out_of_a_backup_by_signatures_that_no_officer_made(office: Office) -> None:
    """Request, signatures, status and state, all with events of right hashes: only gpg can tell."""
    with office.pipeline() as pipeline, office.forger() as forger:
        import_keys(pipeline, KeyRing({V1: office.key, KeyVersion(2): KeyMaterial.generate()}, V1))
        *_, record = pipeline.ledger.keys()
        request = destruction_of(pipeline, record)
        text = approval_text(pipeline, request)
        officers = zip(pinned_roster(pipeline).officers, ("Mal", "Eve"), strict=True)
        signatures = [signature_of(office.people[name], text, officer.fingerprint) for officer, name in officers]
        forger.begin(request, text, signatures)
        called_destroyed(forger, record, request.id)
    with open_backups(settings.load(office.file), actor="test") as site:
        assert [copy.version for copy in back_up(site).made.keys] == [V1, KeyVersion(2)]
        with pytest.raises(AuditError, match=r"\(signature_added\) has no good signature"):
            verify_everything(site.pipeline)


def test_an_event_that_was_changed_or_cut_out_is_noticed_before_anything_is_done(office: Office) -> None:
    rotation = signed_rotation(office)
    with office.owner() as owner:
        owner.execute("DELETE FROM keyrotation.audit_events WHERE seq = 2")
    as_another_process()
    with pytest.raises(AuditError, match="does not follow event 1"):
        run(office, rotation)
