"""A whole pipeline over fakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from keyrotation_pipeline.assembly.pipeline import ACTIONS
from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Officer, Roster, Signature
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.requests import RequestAction, RequestStatus, RotationType, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import approval_text
from keyrotation_pipeline.rotation.rollout import NAMED_IN_REPORTS
from keyrotation_pipeline_tests.fakes.backups import FakeAnchors, FakeVault
from keyrotation_pipeline_tests.fakes.clock import FakeClock, FakeHeartbeats
from keyrotation_pipeline_tests.fakes.database import FakeDatabase, FakeEnvironment
from keyrotation_pipeline_tests.fakes.inventory import FakeInventory
from keyrotation_pipeline_tests.fakes.journal import CLIENTS, START, V1, V2, Journal
from keyrotation_pipeline_tests.fakes.keys import FakeKeyStore
from keyrotation_pipeline_tests.fakes.ledger import FakeLedger
from keyrotation_pipeline_tests.fakes.retirement import FakeEvidence, FakeFencing
from keyrotation_pipeline_tests.fakes.rewriting import FakeRewriting
from keyrotation_pipeline_tests.fakes.rollout import FakeRollout
from keyrotation_pipeline_tests.fakes.signatures import FakeSignatures


@dataclass
class FakeWorld:
    """The fakes behind one `Pipeline`, each by its own type, for a test to arrange and to look at."""

    pipeline: Pipeline
    journal: Journal
    clock: FakeClock
    ledger: FakeLedger
    database: FakeDatabase
    keys: FakeKeyStore
    vault: FakeVault
    rollout: FakeRollout
    signatures: FakeSignatures
    anchors: FakeAnchors
    reported: list[Progress]

    def report(self, progress: Progress) -> None:
        self.reported.append(progress)

    def keys_are(self, states: Mapping[KeyVersion, KeyState]) -> None:
        """Before anything was requested: the ledger knows these versions, with the keys of the key store."""
        records = (KeyRecord(each, state, self.keys.get(each).fingerprint, START) for each, state in states.items())
        self.ledger.begin_with(self.ledger.pinned_roster(), *records)


ROSTER = Roster(2, (Officer("Ada", "A" * 40), Officer("Ben", "B" * 40)), ("F" * 40,))


def rotation_of(world: FakeWorld, source: KeyVersion = V1, target: KeyVersion = V2, *, promoted: bool = True) -> Walk:
    """The running rotation of a world, signed by both officers and promoted already, as its ledger holds it."""
    if (running := world.ledger.current()) is not None:
        return running
    head, past = world.ledger.head(), len(world.ledger.state.requests)
    identified = f"{past:032x}" if past else "0f" * 16
    opened = Walk(
        id=identified, type=RotationType.ROUTINE, action=RequestAction.ROTATE, source=source,
        source_fingerprint=world.ledger.state.keys[source].fingerprint, target=target, reason="yearly", incident=None,
        requested_by="test", requested_at=START, start_by=START + timedelta(days=7),
        finish_by=START + timedelta(days=60), audit_head=(head.seq, head.hash), status=RequestStatus.REQUESTED,
        approvals=(),
    )  # fmt: skip
    noted, world.ledger.journal = world.ledger.journal, Journal()
    text = approval_text(world.pipeline, opened)
    world.ledger.open(opened, text)
    for officer in ROSTER.officers:
        signature = FakeSignatures.sign(officer.fingerprint, text)
        world.ledger.add_signature(opened.id, Signature(officer.fingerprint, signature, START))
    world.ledger.set_status(opened.id, RequestStatus.RUNNING)
    if promoted:
        world.ledger.set_promotion(opened.id, 900)
    world.ledger.journal = noted
    return world.ledger.walk(opened.id)


def newest_nonce(world: FakeWorld) -> str:
    """What the database asks reports to name now."""
    return next((each.hash for each in reversed(list(world.ledger.events(*NAMED_IN_REPORTS)))), "")


def fake_pipeline(rows: Mapping[str, Sequence[Mapping[str, str | None]]] | None = None) -> FakeWorld:
    """A world in which v1 is deactivated, v2 active and primary, both registered and backed up, rows as given."""
    journal, clock = Journal(), FakeClock()
    keys = FakeKeyStore({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V2, journal)
    ledger = FakeLedger(clock, journal)
    vault = FakeVault()
    for version in keys.live:
        vault.store_key(version, keys.get(version), ledger.head())
    vault.journal = journal
    stored = {name: [dict(row) for row in table] for name, table in (rows or {"clients": []}).items()}
    database = FakeDatabase(stored, journal, clock)
    rollout = FakeRollout(keys, clock)
    signatures, anchors = FakeSignatures(ROSTER, now=clock.now), FakeAnchors()
    tables = tuple(EncryptedTable(TableName.parse(name), CLIENTS.columns) for name in stored)
    pipeline = Pipeline(
        tables, 2, 2, ledger, FakeInventory(database), FakeRewriting(database), FakeFencing(database),
        FakeEvidence(database), FakeEnvironment(database), OwnedKeyStore(keys, ledger), vault,
        rollout, signatures, clock, anchors, ACTIONS,
        FakeHeartbeats(),
    )  # fmt: skip
    world = FakeWorld(pipeline, journal, clock, ledger, database, keys, vault, rollout, signatures, anchors, [])
    ledger.verify, ledger.advance = signatures.verify_as_of, anchors.advance
    ledger.state.roster = ROSTER
    keys.roster = ROSTER.digest
    world.keys_are({V1: KeyState.DEACTIVATED, V2: KeyState.ACTIVE})
    return world
