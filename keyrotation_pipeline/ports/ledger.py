"""What was requested, signed, done and recorded?"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, RosterChange, Signature
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, EventKind, Fact, Note
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.progress import ShardProgress, Wait
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.model.requests import Request, RequestStatus, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


class Ledger(Protocol):
    """The audit chain; requests, approvals and key records are its replay. It is stored in the same database.

    Every method that changes something appends its audit event in the same transaction, under the chain's lock.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Commits everything recorded and proven inside together, or nothing."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Reads everything inside from one snapshot, read-only; in a snapshot that one; never in a transaction."""

    def reading(self) -> AbstractContextManager[None]:
        """Reads everything inside in one transaction that sees new commits; a `transaction` inside is separate."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Holds a session lock, which ends with the process.

        Raises:
            AtWorkError: another process holds it.
        """

    def held_locks(self, prefix: str) -> tuple[str, ...]:
        """Returns the session locks that any process holds now whose names begin with `prefix`, in order."""

    # audit
    def head(self) -> AuditHead:
        """Returns the newest event."""

    def append(self, fact: Fact | Note, request: str | None = None) -> AuditHead:
        """Appends one event.

        Raises:
            TypeError: a fact is not plain JSON; nothing was appended.
        """

    def events(self, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> Iterator[AuditEvent]:
        """Yields events in order of seq: of these kinds (default: all), of `request`, and later than `after_seq`.

        The filter uses an index next to the bodies. It is fast, but only `audit verify` proves that the index agrees
        with all bodies; an event that is returned has been compared.

        Raises:
            AuditError: an event found by its kind is of another one.
        """

    def newest(self, *kinds: EventKind) -> Iterator[AuditEvent]:
        """Yields the events of these kinds, newest first, reading no further than they are taken; see `events`."""

    def verify_event(self, public: str, message: bytes, signature: bytes, /) -> bool:
        """Returns whether a signature of an event is by this key: base64 of its SubjectPublicKeyInfo."""

    def replayed(self) -> AuditState:
        """Returns where the events lead, each judged, with every signature verified as of its moment.

        Raises:
            AuditError: its events do not form a chain.
        """

    # roster
    def pinned_roster(self) -> Roster | None:
        """Returns the roster pinned by `init` or by a later policy."""

    def pin_roster(self, roster: Roster, request: str | None = None, changes: Sequence[RosterChange] = ()) -> None:
        """Pins the first roster; or, by a request that was signed for it, replaces the present one.

        Args:
            changes: by a reconciliation, the signed changes that the database has lost.

        Raises:
            ApprovalError: another roster is pinned, and no request is named.
        """

    # keys
    def keys(self) -> tuple[KeyRecord, ...]:
        """Returns every version ever registered, in order."""

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        """Registers a version; repeating it changes nothing; a different fingerprint is refused."""

    def replace_key(self, version: KeyVersion, fingerprint: str, request: str) -> None:
        """Registers another key for a version, by a request that officers signed; repeating it changes nothing."""

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        """Moves a version to a state that may follow its present one; repeating it changes nothing."""

    # requests
    def open(self, request: Request, text: bytes) -> None:
        """Stores a new request and the exact bytes to sign; refused while another rotation or rollback is unfinished.

        A request that supersedes another may wait in parallel with it.
        """

    def request(self, request: str) -> Request:
        """Returns one request by its id, or by an unambiguous prefix of it; a `Walk` if it is a rotation or rollback.

        Raises:
            RequestError: there is none.
        """

    def walk(self, request: str) -> Walk:
        """Returns the same for a rotation or rollback.

        Raises:
            RequestError: there is none, or it is of another action.
        """

    def current(self) -> Walk | None:
        """Returns the unfinished rotation or rollback, if any; not one that only waits to supersede another."""

    def waiting(self) -> Walk | None:
        """Returns the rotation or rollback that waits to start, to undo another or take it over, if any.

        If both an emergency and a routine one wait, it is the emergency.
        """

    def requests(self) -> tuple[Request, ...]:
        """Returns all requests, newest first."""

    def approval_text(self, request: str) -> bytes:
        """Returns the exact bytes that officers sign."""

    def signatures(self, request: str) -> tuple[Signature, ...]:
        """Returns the stored signatures."""

    def add_signature(self, request: str, signature: Signature) -> None:
        """Stores one officer's signature; a second by the same officer is refused."""

    def finish_step(self, request: str, record: StepRecord) -> None:
        """Records a finished step or shard; repeating it changes nothing."""

    def set_status(self, request: str, status: RequestStatus, by: str | None = None) -> None:
        """Changes the status of a request; `by` is the request that caused it, if any."""

    def set_promotion(self, request: str, xid: int) -> None:
        """Records the transaction id of the promotion, once."""

    def block(self, request: str, message: str | None, *, rollout_pending: bool = False) -> None:
        """Records what stopped the last attempt, or that nothing does.

        Args:
            rollout_pending: it waited in vain for a rollout.
        """

    def shard_progress(self, request: str) -> tuple[ShardProgress, ...]:
        """Returns the progress of each shard of a rotation."""

    def note_wait(self, request: str, place: str, waiting_for: str) -> None:
        """Records that a step waits now, until `end_wait` or the end of this process. Appends no event."""

    def end_wait(self, request: str, place: str) -> None:
        """Records that it continues."""

    def waits(self, request: str) -> tuple[Wait, ...]:
        """Returns what the steps of a request wait for now, the longest wait first."""

    # flags
    def raised_flags(self, taken: Collection[str]) -> tuple[Flag, ...]:
        """Returns incident flags that tools have raised and that are not among the taken ones, oldest first.

        At most a few hundred at once. Their content is not trusted to be well-formed.
        """

    # counts
    def save_counts(self, counts: Sequence[TableCount], not_counted: Sequence[EncryptedTable] = ()) -> None:
        """Records the last count of each declared table, and stores them for `status`; without any, does nothing.

        Args:
            not_counted: the declared tables that were never counted.
        """

    def counts(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """Returns the last stored counts of those tables that have been counted."""

    # members of a fleet
    def save_answers(self, answers: Sequence[MemberAnswer]) -> None:
        """Stores what members answered in place of what they did before. Appends no event."""

    def answers(self) -> Mapping[str, MemberAnswer]:
        """Returns what each member answered when it was last asked, by its name."""

    # the source procedure's table
    def rotation_audit(self) -> tuple[tuple[str | None, RotationAuditWritten], ...]:
        """Returns every row of `key_rotation_audit` as it is, with the request that it names."""

    def write_rotation_audit(
        self, rotation: Walk, initiated_by: str, records_reencrypted: int, completed_at: datetime | None
    ) -> None:
        """Inserts or completes the row of `key_rotation_audit` for this rotation.

        Args:
            initiated_by: who authorised it, by verified signatures; at most 255 characters.
        """
