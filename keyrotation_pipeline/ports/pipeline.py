"""Every port that a step of the procedure needs, opened; and what each kind of request asks for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Generic, TypeVar

from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.keys import KeyMade, StoredKeys
from keyrotation_pipeline.model.members import Listed, servers_among
from keyrotation_pipeline.model.page_reading import Verification
from keyrotation_pipeline.model.progress import Pace, Report
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.requests import Request, RequestAction, Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backups import Anchors, BackupVault
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.database import (
    AskMember,
    DatabaseEnvironment,
    RetirementEvidence,
    TableFencing,
    TableInventory,
    TableRewriting,
)
from keyrotation_pipeline.ports.heartbeats import Heartbeats
from keyrotation_pipeline.ports.keys import OwnedKeys
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.rollout import Rollout
from keyrotation_pipeline.ports.timestamps import TimestampAuthority
from keyrotation_pipeline.ports.witnesses import CheckpointWitness

Ports = TypeVar("Ports")  # what an action works with; the pipeline holds its actions, so they cannot name it

# Details that are read back later are records; the rest is free JSON.
StepFacts = KeyMade | Proven | KeyRetired | Mapping[str, Any]
StepFunction = Callable[[Ports, Walk, Report], StepFacts]


@dataclass(frozen=True, slots=True)
class Action(Generic[Ports]):
    """Describes one kind of request: rotation, rollback, reconciliation, destruction and policy each provide one.

    The text that officers sign is rebuilt from the current facts whenever it matters.

    Args:
        authorises: what may be done, in one sentence of the signed text.
        source: the line `From` of the signed text.
        target: the line `To`.
        authority: the roster whose signatures count; raises ApprovalError where none can count now.
        command: what carries an approved request out.
        renewal: how to continue when its signatures no longer count, as the rest of a sentence.
        start_within: deadline for the start, unless the requester names another.
        finish_within: deadline for the end; signatures do not count after it.
        withdraw: undoes what an opened rotation or rollback has done, when it is cancelled; raises RequestError where
            it can only continue. None: such a request changes nothing before it is carried out.
        is_one_way: whether it can only continue once it has begun.
        approved: called as soon as enough officers have signed, and possibly again at the start.
        lock: held while it is carried out; None: it has steps, each of which has a lock of its own.
        steps: what each step does; empty: it has no steps.
    """

    name: RequestAction
    authorises: Callable[[Ports, Request], str]
    source: Callable[[Ports, Request, StoredKeys], str]
    target: Callable[[Ports, Request, StoredKeys], str]
    authority: Callable[[Ports], Roster]
    command: Callable[[Request], str]
    renewal: Callable[[Request], str]
    start_within: timedelta = timedelta(days=7)
    finish_within: timedelta = timedelta(days=7)
    withdraw: Callable[[Ports, Walk], None] | None = None
    is_one_way: Callable[[Ports, Walk], bool] = lambda _pipeline, _walk: False
    approved: Callable[[Ports, Request], None] = lambda _pipeline, _request: None
    lock: str | None = None
    steps: Mapping[Step, StepFunction[Ports]] = field(default_factory=dict)


# Signs with the key of this home; returns its public half, base64, too.
Sign = Callable[[bytes], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The opened ports and the rules of the configuration: what every step gets.

    Args:
        shards: per table.
        parallel_shards: how many Dagster runs work on shards of a routine rotation at a time.
        timestamps: None: no authority is asked, and no time stamp can be verified.
        witnesses: those that the configuration names; asked only if officers have signed them.
        sign: signs with the key of this home; returns its public half, base64, too, or raises BackupError.
        hosts: those that the configuration names, each with its setting.
        secrets: where each secret is that is sent to one of them, and that officers sign, with its setting.
        backup_signer: fingerprint of the key of this home that signs backups; None: it has none.
        run_minutes: of a fleet, for how long a Dagster run begins further shards.
        listed: asks which databases rules of a fleet list; raises PreflightError.
        pace: of a routine rotation, where nobody sets another.
        verification: the number of days within which, and the hours at which, every value is read.
        ask_member: of a fleet; None: there is none.
    """

    tables: tuple[EncryptedTable, ...]
    shards: int
    parallel_shards: int
    ledger: Ledger
    inventory: TableInventory
    rewriting: TableRewriting
    fencing: TableFencing
    evidence: RetirementEvidence
    environment: DatabaseEnvironment
    keys: OwnedKeys
    vault: BackupVault
    rollout: Rollout
    signatures: SignatureVerifier
    clock: Clock
    anchors: Anchors
    actions: Mapping[RequestAction, Action["Pipeline"]]
    heartbeats: Heartbeats
    timestamps: TimestampAuthority | None = None
    witnesses: tuple[CheckpointWitness, ...] = ()
    sign: Sign | None = None
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    backup_signer: str | None = None
    run_minutes: int = 60
    listed: Callable[[], Listed] = Listed
    pace: Pace = field(default_factory=Pace)
    verification: Verification = field(default_factory=Verification)
    ask_member: AskMember | None = None

    def of_walk(self, walk: Walk) -> "Pipeline":
        """The same with the tables as a walk rewrites them."""
        if not walk.gives_back:
            return self
        return replace(self, tables=tuple(each.giving_back(walk.target) for each in self.tables))

    @property
    def own_tables(self) -> tuple[EncryptedTable, ...]:
        """The declared tables of the home's own database, which backups hold."""
        return tuple(table for table in self.tables if not table.name.database)

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the further databases of a fleet; of one database there are none."""
        return tuple(dict.fromkeys(table.name.database for table in self.tables if table.name.database))

    def servers(self) -> Mapping[str, str]:
        """The server of each database of a fleet by the database's name, "" the home's own: its system identifier.

        One that could not be told when it was signed counts as a server of its own.
        """
        signed = servers_among(self.hosts)
        own = {"": self.environment.identity().system_identifier}
        return own | {name: signed.get(name, name) for name in self.members}
