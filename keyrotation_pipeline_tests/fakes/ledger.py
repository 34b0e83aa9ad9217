"""The ledger in memory."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from keyrotation_pipeline.errors import ApprovalError, KeyStoreError, OutOfOrderError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, RosterChange, Signature
from keyrotation_pipeline.model.data_events import Counted
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState, other_generation
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.progress import ShardProgress, Wait
from keyrotation_pipeline.model.request_events import (
    Blocked,
    HomeNamed,
    PromotionRecorded,
    RequestOpened,
    RosterPinned,
    RotationAuditWritten,
    ServerSeen,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    MAY_FOLLOW,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    StepRecord,
    Walk,
)
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline_tests.fakes.chain import FakeChain, LedgerState
from keyrotation_pipeline_tests.fakes.journal import OWNER, SERVER, Journal


@dataclass
class FakeLedger(FakeChain):
    """`Ledger` in memory."""

    flags: list[Flag] = field(default_factory=list)
    noted_waits: dict[tuple[str, str], Wait] = field(default_factory=dict)
    stored_answers: dict[str, MemberAnswer] = field(default_factory=dict)

    def begin_with(self, roster: Roster | None, *keys: KeyRecord) -> None:
        """For arrangements: forget all, then pin a roster and register keys, as `init` does; nothing is noted."""
        noted, self.journal = self.journal, Journal()
        advance, self.advance = self.advance, None
        self.state = LedgerState()
        if roster is not None:
            self.pin_roster(roster)
            self.append(HomeNamed(OWNER.home))
            self.append(ServerSeen(SERVER))
        for record in keys:
            self.add_key(record, None)
        self.journal, self.advance = noted, advance

    def pinned_roster(self) -> Roster | None:
        return self.state.roster

    def pin_roster(self, roster: Roster, request: str | None = None, changes: Sequence[RosterChange] = ()) -> None:
        if self.state.roster == roster:
            return
        if self.state.roster is not None and request is None:
            raise ApprovalError("another roster is pinned; run `keyrotation policy`")
        self.append(RosterPinned.of(roster, changes), request)
        self.state.roster = roster

    def keys(self) -> tuple[KeyRecord, ...]:
        return tuple(self.state.keys[version] for version in sorted(self.state.keys))

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        known = self.state.keys.get(record.version)
        if known is not None:
            if known.fingerprint != record.fingerprint:
                raise KeyStoreError(f"{record.version} is registered with another fingerprint; use the next version")
            return
        if other := other_generation(record.version, record.fingerprint, self.state.keys.values()):
            raise KeyStoreError(f"{record.version} is like {other}, and no key serves both generations")
        self.append(KeyRegistered.of(record), request)
        self.state.keys[record.version] = record

    def replace_key(self, version: KeyVersion, fingerprint: str, request: str) -> None:
        record = self.state.keys[version]
        if record.fingerprint != fingerprint:
            self.append(KeyReplaced(version, record.fingerprint, fingerprint), request)
            self.state.keys[version] = replace(record, fingerprint=fingerprint)

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        if (record := self.state.keys.get(version)) is None:
            raise RequestError(f"{version} is not registered; run `keyrotation init`")
        if record.state is state:
            return
        if state not in ALLOWED_TRANSITIONS[record.state]:
            raise OutOfOrderError(f"{version} is {record.state} and cannot become {state}; see `keyrotation status`")
        if state is KeyState.ACTIVE and any(each.state is state for each in self.keys()):
            raise OutOfOrderError("another version is still active; deactivate it first")
        self.append(KeyStateChanged(version, record.state, state, record.fingerprint), request)
        self.state.keys[version] = replace(record, state=state)

    def open(self, request: Request, text: bytes) -> None:
        self._require_place(request)
        self.append(RequestOpened.of(request, text), request.id)
        self.state.requests[request.id] = request
        self.state.texts[request.id] = text

    def _require_place(self, request: Request) -> None:
        others = [each for each in self.state.requests.values() if each.id != request.id]
        if not request.is_over and any(self._excludes(each, request) for each in others):
            raise RequestError("another rotation is unfinished; finish or cancel it")

    def _excludes(self, other: Request, request: Request) -> bool:
        """Whether both cannot be unfinished at once."""
        if other.is_over or other.action.walks != request.action.walks:
            return False
        if request.action.walks:
            both_wait = other.waits_to_supersede and request.waits_to_supersede
            return other.waits_to_supersede == request.waits_to_supersede and (
                not both_wait or other.type is request.type
            )
        return other.action is request.action and request.action in {RequestAction.RECONCILE, RequestAction.POLICY}

    def request(self, request: str) -> Request:
        found = [stored for each, stored in self.state.requests.items() if each.startswith(request)]
        if len(found) != 1:
            raise RequestError(f"there is no rotation {request}; look at `keyrotation status`")
        return found[0]

    def walk(self, request: str) -> Walk:
        found = self.request(request)
        if not isinstance(found, Walk):
            raise RequestError(f"request {request} is not a rotation; run `keyrotation {found.action}`")
        return found

    def current(self) -> Walk | None:
        return next((each for each in self._unfinished() if not each.waits_to_supersede), None)

    def waiting(self) -> Walk | None:
        waiting = [each for each in self._unfinished() if each.waits_to_supersede]
        return min(waiting, key=lambda each: each.type is not RotationType.EMERGENCY, default=None)

    def _unfinished(self) -> list[Walk]:
        return [each for each in self.state.requests.values() if isinstance(each, Walk) and not each.is_over]

    def requests(self) -> tuple[Request, ...]:
        return tuple(reversed(self.state.requests.values()))

    def approval_text(self, request: str) -> bytes:
        if request not in self.state.texts:
            raise RequestError(f"there is no rotation {request}; look at `keyrotation status`")
        return self.state.texts[request]

    def signatures(self, request: str) -> tuple[Signature, ...]:
        return tuple(self.state.signatures.get(request, ()))

    def add_signature(self, request: str, signature: Signature) -> None:
        if (found := self.request(request)).is_over:
            raise RequestError(f"request {request} is {found.status}; open the next one")
        stored = self.signatures(found.id)
        if any(each.officer == signature.officer for each in stored):
            raise ApprovalError("this officer has signed already; another officer must")
        self.append(SignatureAdded.of(signature), request)
        self.state.signatures[request] = [*stored, signature]
        self.change_request(request, approvals=tuple(each.officer for each in [*stored, signature]))

    def finish_step(self, request: str, record: StepRecord) -> None:
        rotation = self.walk(request)
        if rotation.done(record.step, record.table, record.shard) is None:
            with self._at_once():
                self.block(request, None)
                self.append(StepFinished.of(record), request)
                self.change_request(request, steps=rotation.with_step(record).steps)

    def set_status(self, request: str, status: RequestStatus, by: str | None = None) -> None:
        stored, now = self.request(request), self.clock.now()
        if status is stored.status:
            return
        if status not in MAY_FOLLOW[stored.status]:
            raise OutOfOrderError(f"request {request} is {stored.status} and cannot become {status}; see its status")
        self._require_place(replace(stored, status=status))
        self.append(StatusChanged(stored.status, status, now, by), request)
        self.change_request(
            request,
            status=status,
            started_at=stored.started_at or (now if status is RequestStatus.RUNNING else None),
            finished_at=now if status in {RequestStatus.FINISHED, RequestStatus.CANCELLED} else None,
        )

    def set_promotion(self, request: str, xid: int) -> None:
        if self.walk(request).promotion_xid is None:
            self.append(PromotionRecorded(xid), request)
            self.change_request(request, promotion_xid=xid)

    def block(self, request: str, sentence: str | None, *, rollout_pending: bool = False) -> None:
        stored = self.request(request)
        if (stored.blocked_by, stored.rollout_pending) != (sentence, rollout_pending):
            self.append(Unblocked() if sentence is None else Blocked(sentence, rollout_pending), request)
            self.change_request(request, blocked_by=sentence, rollout_pending=rollout_pending)

    def change_request(self, request: str, **changes: Any) -> None:  # noqa: ANN401 - fields of a request
        stored = self.request(request)
        self.state.requests[stored.id] = replace(stored, **changes)

    def shard_progress(self, request: str) -> tuple[ShardProgress, ...]:
        return ()

    def raised_flags(self, taken: Collection[str]) -> tuple[Flag, ...]:
        return tuple(flag for flag in self.flags if flag.key not in taken)

    def note_wait(self, request: str, place: str, waiting_for: str) -> None:
        before = self.noted_waits.get((request, place))
        self.noted_waits[request, place] = Wait(place, waiting_for, before.since if before else self.clock.now())

    def end_wait(self, request: str, place: str) -> None:
        self.noted_waits.pop((request, place), None)

    def waits(self, request: str) -> tuple[Wait, ...]:
        return tuple(wait for (each, _), wait in self.noted_waits.items() if each == request)

    def save_counts(self, counts: Sequence[TableCount], not_counted: Sequence[EncryptedTable] = ()) -> None:
        if counts:
            self.append(Counted.of(counts, not_counted))
        self.state.counts.update({str(count.table.name): count for count in counts})

    def counts(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        kept, wanted = (self.state.counts.get(str(table.name)) for table in tables), set(tables)
        return tuple(count for count in kept if count is not None and count.table in wanted)

    def save_answers(self, answers: Sequence[MemberAnswer]) -> None:
        self.stored_answers |= {each.member: each for each in answers}

    def answers(self) -> Mapping[str, MemberAnswer]:
        return dict(self.stored_answers)

    def rotation_audit(self) -> tuple[tuple[str | None, RotationAuditWritten], ...]:
        return tuple(self.state.audit_rows.items())

    def write_rotation_audit(
        self, rotation: Walk, initiated_by: str, records_reencrypted: int, completed_at: datetime | None
    ) -> None:
        if self.state.seed_rows.get(rotation.id, (0, None))[1] is not None:
            return
        written = RotationAuditWritten(
            rotation.id, rotation.started_at or self.clock.now(), str(rotation.source), str(rotation.target),
            str(rotation.action if rotation.action == "rollback" else rotation.type), initiated_by,
            completed_at, records_reencrypted, rotation.reason,
        )  # fmt: skip
        self.append(written, rotation.id)
        self.state.audit_rows[rotation.id] = written
        self.state.seed_rows[rotation.id] = (records_reencrypted, completed_at)
