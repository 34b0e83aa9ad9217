"""Whoever owns the database can write all of it, and still puts nobody else in the officers' place."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import AuditError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.request_events import RequestOpened, RosterPinned, SignatureAdded
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.roster import pinned_roster, require_roster
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.officers import at_instant, make_officer

V1 = KeyVersion(1)
NOT_SEEN = "is not the one that this home has seen"
NOT_IN_BACKUPS = "is not the one that a backup's manifest has seen"
NOT_SIGNED = "was not signed by officers of the one before"


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
        self.file.write_text(f'database.url = "{self.url}"\n{officers}{tables}')

    def initialise(self) -> None:
        assembly.initialise(settings.load(self.file), KeyRing({V1: self.key}, V1), actor="test")

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        with assembly.open_pipeline(settings.load(self.file), actor="test") as pipeline:
            yield pipeline

    @contextmanager
    def owner(self) -> Iterator[psycopg.Connection]:
        """The database's owner, who is kept from nothing by a trigger."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            yield connection

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
    key = KeyMaterial.generate()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text)")
        connection.execute("INSERT INTO clients VALUES (1, %s)", (encrypt(KeyRing({V1: key}, V1), "Zoe"),))
    people = {name: make_officer(tmp_path, name) for name in ("Ada", "Ben", "Cem", "Eve", "Mal")}
    office = Office(tmp_path, database_url, key, people)
    office.configure("Ada", "Ben")
    office.initialise()
    return office


def removed_row_and_init_again(office: Office) -> None:
    with office.owner() as owner:
        owner.execute("DELETE FROM keyrotation.rosters")
    office.configure("Eve", "Mal")
    with suppress(AuditError):
        office.initialise()


def schema_made_anew(office: Office) -> None:
    with office.owner() as owner:
        owner.execute("DROP SCHEMA keyrotation CASCADE")
    office.configure("Eve", "Mal")
    with suppress(AuditError):
        office.initialise()


def schema_made_anew_without_backups(office: Office) -> None:
    schema_made_anew(office)
    shutil.rmtree(office.anchors.parent.parent / "backups", ignore_errors=True)
    shutil.rmtree(office.anchors.parent / "backups", ignore_errors=True)


def event_and_row_forged(office: Office) -> None:
    """With the hashes that belong to them, as the program itself would write them."""
    office.configure("Eve", "Mal")
    with office.pipeline() as pipeline:
        pipeline.ledger.pin_roster(pipeline.signatures.roster(), "0f" * 16)


def policy_with_own_signatures(office: Office) -> None:
    office.configure("Eve", "Mal")
    forged_policy(office, ("Eve", "Eve"), ("Mal", "Mal"))


def policy_that_one_officer_signed_and_whose_other_signature_is_filed_under_another(office: Office) -> None:
    office.configure("Ada", "Mal")
    forged_policy(office, ("Ada", "Ada"), ("Ada", "Ben"))


def forged_policy(office: Office, *signers: tuple[str, str]) -> None:
    """A policy with signatures by whom, filed under whom, pinned as the program itself would."""
    with office.pipeline() as pipeline:
        policy = open_policy(pipeline, reason="take over", requested_by="owner")
        text = pipeline.ledger.approval_text(policy.id)
        for name, filed_as in signers:
            signature = Signature(filed_as, office.people[name].sign(text), datetime.now(UTC))
            pipeline.ledger.add_signature(policy.id, signature)
        pipeline.ledger.pin_roster(pipeline.signatures.roster(), policy.id)


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (removed_row_and_init_again, NOT_SIGNED),
        (schema_made_anew, NOT_IN_BACKUPS),
        (schema_made_anew_without_backups, NOT_SEEN),
        (event_and_row_forged, NOT_SIGNED),
        (policy_with_own_signatures, NOT_SIGNED),
        (policy_that_one_officer_signed_and_whose_other_signature_is_filed_under_another, NOT_SIGNED),
    ],
)
def test_the_databases_owner_does_not_become_officer_by(
    office: Office, attack: Callable[[Office], None], sentence: str
) -> None:
    attack(office)
    with office.pipeline() as pipeline, pytest.raises(AuditError, match=sentence):
        open_request(pipeline, reason="mine now", requested_by="owner")


def test_a_roster_from_before_a_change_cannot_be_pinned_again_without_signatures(office: Office) -> None:
    office.changed("Ada", "Cem")
    office.configure("Ada", "Ben")
    with office.pipeline() as pipeline:
        pipeline.ledger.pin_roster(pipeline.signatures.roster(), "forged")
        with pytest.raises(AuditError, match=NOT_SIGNED):
            require_roster(pipeline)


def test_a_chain_made_anew_is_noticed_by_what_a_backup_names_where_the_home_is_lost(office: Office) -> None:
    with office.pipeline() as pipeline:
        stored = pipeline.keys.read()
        pipeline.vault.store_key(V1, stored.material(V1), pipeline.ledger.head())
    shutil.rmtree(office.anchors)
    schema_made_anew(office)
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
    office.configure("Ada", "Ben")
    office.initialise()
    office.configure("Ada", "Cem")
    with office.pipeline() as pipeline:
        for fact in (*opened, *signed, *pinned):
            assert fact is not None
            pipeline.ledger.append(fact, policy)
        with pytest.raises(AuditError, match=NOT_SIGNED):
            pinned_roster(pipeline)
