"""The fakes of the tests as the explorer needs them: each tells what it is about to change, and what of it was read."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from keyrotation_pipeline.audit.history import LedgerState as ReplayedState
from keyrotation_pipeline.errors import ApprovalError, KeyStoreUnavailableError, OutOfOrderError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.approval import Officer, VerifiedSignature
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, Fact, Note
from keyrotation_pipeline.model.keys import StoredKeys, StoreOwner
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import DecryptedCount, SnapshotPosition
from keyrotation_pipeline.model.tables import EncryptedTable, QuarantinedValue
from keyrotation_pipeline_tests.fakes import (
    FakeClock,
    FakeDatabase,
    FakeEvidence,
    FakeFencing,
    FakeKeyStore,
    FakeLedger,
    FakeRewriting,
    FakeRollout,
    FakeSignatures,
    FakeVault,
    Journal,
)
from keyrotation_pipeline_tests.fakes.chain import LedgerState
from keyrotation_pipeline_tests.fakes.journal import OWNER
from keyrotation_pipeline_tests.protocol.state import MATERIALS, Keys, View

YOUNG = 10**9
# Kinds of view that show no earlier moment: somebody holds the oldest row, or no key opens its value.
LOCK, DAMAGE = "row lock", "damaged value"
_CONTAINERS = ("events", "keys", "requests", "texts", "signatures", "counts", "seed_rows", "audit_rows")


def copied(state: LedgerState) -> LedgerState:
    """A ledger's state whose containers can change on their own."""
    after = copy.copy(state)
    for name in _CONTAINERS:
        setattr(after, name, copy.copy(getattr(state, name)))
    return after


class ModelClock(FakeClock):
    """A wait takes no time of the model: time passes as a transition of its own."""

    waited = 0.0

    def monotonic(self) -> float:
        return self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += seconds


class ModelJournal(Journal):
    """Tells before each write."""

    def __init__(self, before: Callable[[str], None]) -> None:
        super().__init__()
        self.before = before

    def note(self, entry: str) -> None:
        self.before(entry)


class ModelLedger(FakeLedger):
    """Knows what is committed while a transaction runs, and replays from where the loaded state was replayed.

    Args:
        gap: called wherever another process could come in between.
        replays: each replay that was ever made, by the hash of its last event.
    """

    committed: LedgerState | None = None
    base: ReplayedState
    replays: dict[str, ReplayedState]
    gap: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        if not self.depth:
            self.gap()
            self.committed = copied(self.state)
        with super()._at_once():
            yield

    def append(self, fact: Fact | Note, request: str | None = None) -> AuditHead:
        if not self.depth:
            self.gap()
        return super().append(fact, request)

    def replayed(self) -> ReplayedState:
        return self._after(self.state.events)

    def _after(self, events: Sequence[AuditEvent]) -> ReplayedState:
        head = events[-1].hash if events else ""
        if (known := self.replays.get(head)) is None:
            replay = self._replay
            if replay is None or not self._has(replay.head):
                replay = self.base
            known = self.replays[head] = replay.apply(events[replay.head.seq :])
        if events is self.state.events:
            self._replay = known
        return known

    def _require_possible(self, event: AuditEvent) -> None:
        kind, fault = self._after([*self.state.events, event]).refused.get(event.seq, (None, None))
        if fault is not None:
            raise OutOfOrderError(f"an event {kind} {fault}, so nothing was recorded; see `keyrotation status`")


class ModelSignatures(FakeSignatures):
    """A signature says when it was made, too."""

    clock: FakeClock

    def verify(
        self,
        text: bytes,
        signature: bytes,
        officers: Sequence[Officer],
        at: datetime | None = None,
    ) -> VerifiedSignature:
        who, _, rest = signature.partition(b" at ")
        when, _, over = rest.partition(b": ")
        for officer in officers:
            if over == text and who == f"signed by {officer.fingerprint}".encode():
                if at is None:
                    self._require_valid(officer, at)
                return VerifiedSignature(officer.fingerprint, datetime.fromisoformat(when.decode()))
        raise ApprovalError("the signature is not over this text; sign what `keyrotation approve --text` prints")

    def verify_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
        return self.verify(text, signature, officers, at)

    def sign_now(self, fingerprint: str, text: bytes) -> bytes:
        """One officer's signature over a text, made now."""
        return f"signed by {fingerprint} at {self.clock.now().isoformat()}: ".encode() + text


class Fault(NamedTuple):
    """What the key store does wrong while one action runs.

    Args:
        kind: "late": reads show what was there before the last change; "silent": it does not answer one call;
            "unheard": it makes one change, and whoever asked for it gets no answer.
        call: which call, counted from 0.
        name: of that call.
    """

    kind: str
    call: int = -1
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "late":
            return "the key store answers late"
        silent = self.kind == "silent"
        return f"the key store {'does not answer' if silent else 'loses its answer to'} call {self.call} ({self.name})"


_CALLS = frozenset({
    "read", "add", "set_primary", "archive", "restore", "destroy", "name_owner", "publish_compromised",
})  # fmt: skip


class ModelKeyStore(FakeKeyStore):
    """Counts its calls, and does wrong what a fault says.

    Args:
        calls: the names of those made so far.
        effective: which of them were changes that took effect.
        gap: called before each, where another process could come in between.
    """

    fault: Fault | None = None
    gap: Callable[[], None] = staticmethod(lambda: None)

    def begin(self, keys: Keys, fault: Fault | None, stamp: AuditHead) -> None:
        """Loads what it holds."""
        self.live, self.shelf, self.primary_version = _materials(keys.live), _materials(keys.shelf), _version(keys)
        self.owner = None if keys.roster is None else replace(OWNER, roster=keys.roster, head=stamp)
        self.compromised = frozenset(map(KeyVersion, keys.compromised))
        self.fault = fault
        self.calls: list[str] = []
        self.effective: set[int] = set()
        self.shown = _shown(keys.earlier, self.owner) if fault is not None and fault.kind == "late" else None
        self.loses_answer = False
        self.descriptions.clear()

    @contextmanager
    def _changing(self, revision: str | None) -> Iterator[tuple[StoredKeys, str]]:
        """A change writes everything, as in AWS: what was decided from a late answer would undo what came since."""
        late, before = self.shown, self.contents()
        with super()._changing(revision) as found:
            yield found
            if late is not None and revision == late.revision and self.contents().revision != before.revision:
                self.live = _rewritten(late.live, before.live, self.live)
                self.shelf = _rewritten(late.archived, before.archived, self.shelf)
                self.primary_version = self.primary_version if self.primary_version != before.primary else late.primary

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        if name in _CALLS:
            object.__getattribute__(self, "_called")(name)
        return object.__getattribute__(self, name)

    @property
    def head(self) -> AuditHead:
        """The event that it names."""
        assert self.owner is not None
        return self.owner.head

    def _called(self, name: str) -> None:
        self.gap()
        number, fault = len(self.calls), self.fault
        self.calls.append(name)
        if fault is not None and fault.call == number:
            if fault.kind == "silent":
                raise KeyStoreUnavailableError("the key store does not answer; try again")
            self.loses_answer = True


def _rewritten(
    late: Mapping[KeyVersion, Any], before: Mapping[KeyVersion, Any], after: Mapping[KeyVersion, Any]
) -> Any:  # noqa: ANN401
    """What was there late, with what changed."""
    added = {version: key for version, key in after.items() if version not in before}
    gone = before.keys() - after.keys()
    return {version: key for version, key in {**late, **added}.items() if version not in gone}


def _materials(keys: tuple[tuple[int, int], ...]) -> dict[KeyVersion, Any]:
    return {KeyVersion(key[0]): MATERIALS[key] for key in keys}


def _version(keys: Keys) -> KeyVersion | None:
    return None if keys.primary is None else KeyVersion(keys.primary)


def _shown(keys: Keys | None, owner: StoreOwner | None) -> StoredKeys | None:
    if keys is None:
        return None
    compromised = frozenset(map(KeyVersion, keys.compromised))
    return StoredKeys.of(
        _materials(keys.live), _materials(keys.shelf), _version(keys), compromised=compromised, owner=owner
    )


class Reads:
    """Which components were read."""

    def __init__(self) -> None:
        self.names: set[str] = set()


_COMPONENT_OF = {
    "rows": "rows", "fence_state": "fence", "fence_made": "fence", "views": "views", "backups": "store",
    "running": "instances", "locked": "views", "unreadable": "views",
}  # fmt: skip


class _Recorded:
    """Records which of a fake's attributes are read."""

    reads: Reads

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        component = _COMPONENT_OF.get(name)
        if component is not None:
            object.__getattribute__(self, "reads").names.add(component)
        return object.__getattribute__(self, name)


class ModelDatabase(_Recorded, FakeDatabase):
    """Knows who still sees an earlier moment, and when its table is rewritten.

    Args:
        file: how often it was rewritten; a snapshot of an earlier file shows an empty table.
        held: our own lock keeps others from rewriting it.
        read: a full decrypt has met what does not decrypt. Only then it is in quarantine.
    """

    reads = Reads()
    views: tuple[View, ...] = ()
    file = 0
    held = read = False

    def rewrite(self) -> bool:
        """Somebody's ALTER TABLE; returns whether it got its lock."""
        self.file += not self.held
        return not self.held

    def quarantined(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        return super().quarantined(tables) if self.read else ()


class ModelVault(_Recorded, FakeVault):
    """Key backups."""

    reads = Reads()


class ModelRollout(_Recorded, FakeRollout):
    """Instances as the state has them."""

    reads = Reads()


class ModelFencing(FakeFencing):
    """A fence that is made now is younger than any proof."""

    def _make_fence(self, table: EncryptedTable, versions: Any) -> None:  # noqa: ANN401
        super()._make_fence(table, versions)
        self.database.fence_made[str(table.name)] = YOUNG


class ModelRewriting(FakeRewriting):
    """A full decrypt takes its snapshot some time before it reads.

    Args:
        gap: called in between.
    """

    database: ModelDatabase
    gap: Callable[[], None] = staticmethod(lambda: None)

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        database = self.database
        database.held, snapshot_of = self.locks_first(), database.file
        try:
            self.gap()
            if database.file != snapshot_of:
                nothing: dict[str, dict[KeyVersion, int]] = {column: {} for column in table.columns}
                return DecryptedCount(str(table.name), 0, 0, 0, nothing, 0, database.clock.now())
            database.read = True
            return super().decrypt_all(table, ring, report, request)
        finally:
            database.held = False

    def locks_first(self) -> bool:
        """Whether the table is locked before the snapshot is taken."""
        return True


class ModelEvidence(FakeEvidence):
    """Whoever began before the newest moment of proof may still show what was there before."""

    database: ModelDatabase

    def current_xid(self) -> int:
        self.database.fence_made.update(dict.fromkeys(self.database.fence_made, 1))
        self.database.views = tuple(sorted({view._replace(before_proof=True) for view in self.database.views}))
        return super().current_xid()

    def snapshot_blockers(self, moment: SnapshotPosition) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(
            f"{view.kind} began before the proof"
            for view in self.database.views
            if view.before_proof and view.kind not in {LOCK, DAMAGE}
        )
