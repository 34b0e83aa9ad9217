"""Holds every port that a step of the procedure needs, opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyrotation_pipeline.model.page_reading import Verification
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.actions import Action
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backups import Anchors, BackupVault
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.evidence import RetirementEvidence
from keyrotation_pipeline.ports.fencing import TableFencing
from keyrotation_pipeline.ports.heartbeats import Heartbeats
from keyrotation_pipeline.ports.inventory import TableInventory
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.rewriting import TableRewriting
from keyrotation_pipeline.ports.rollout import Rollout
from keyrotation_pipeline.ports.surroundings import DatabaseSurroundings
from keyrotation_pipeline.ports.timestamps import TimestampAuthority


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The opened ports and the rules of the configuration: what every step gets.

    Args:
        shards: per table.
        parallel_shards: how many Dagster runs work on shards of a routine rotation at a time.
        timestamps: None: no authority is asked, and no time stamp can be verified.
        hosts: those that the configuration names, each with its setting.
        verification: the number of days within which, and the hours at which, every value is read.
    """

    tables: tuple[EncryptedTable, ...]
    shards: int
    parallel_shards: int
    ledger: Ledger
    inventory: TableInventory
    rewriting: TableRewriting
    fencing: TableFencing
    evidence: RetirementEvidence
    surroundings: DatabaseSurroundings
    keys: KeyStore
    vault: BackupVault
    rollout: Rollout
    signatures: SignatureVerifier
    clock: Clock
    anchors: Anchors
    actions: Mapping[RequestAction, Action["Pipeline"]]
    heartbeats: Heartbeats
    timestamps: TimestampAuthority | None = None
    hosts: tuple[str, ...] = ()
    verification: Verification = field(default_factory=Verification)
