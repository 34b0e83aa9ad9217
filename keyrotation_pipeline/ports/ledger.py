"""What was requested, signed, done and recorded?"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, Signature
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, EventKind, Fact, Note
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import ShardProgress, Wait
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.model.requests import Request, RequestStatus, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


class Ledger(Protocol):
    """The audit chain, of which requests, approvals and key records are the replay: kept in the same database.

    Every method that changes something appends its audit event in the same transaction, under the chain's lock.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Everything recorded and proven inside commits together or not at all."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Whatever is read inside is of one moment, and nothing is changed; not inside a transaction."""

    def reading(self) -> AbstractContextManager[None]:
        """Whatever is read inside takes one transaction, and sees what is new; a `transaction` inside is its own."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a session lock, which ends with the process.

        Raises:
            AtWorkError: another process holds it.
        """

    # audit
    def head(self) -> AuditHead:
        """The newest event."""

    def append(self, fact: Fact | Note, request: str | None = None) -> AuditHead:
        """Append one event.

        Raises:
            TypeError: a fact is not plain JSON; nothing was appended.
        """

    def events(self, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> Iterator[AuditEvent]:
        """Events in order of seq: of these kinds (none given: of all), of `request`, and later than `after_seq`.

        The filter works on an index beside the bodies. It is quick, but only `audit verify` tells that the index says
        the same as the bodies; an event that comes back has been compared.

        Raises:
            AuditError: an event that was asked for by its kind is of another.
        """

    # roster
    def pinned_roster(self) -> Roster | None:
        """The roster pinned by `init` or by a later policy."""

    def pin_roster(self, roster: Roster, request: str | None = None) -> None:
        """Pin the first roster; or, by a request that was signed for it, one in place of the present one.

        Raises:
            ApprovalError: another roster is pinned, and no request is named.
        """

    # keys
    def keys(self) -> tuple[KeyRecord, ...]:
        """Every version ever registered, in order."""

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        """Register a version; repeating it changes nothing; a different fingerprint is refused."""

    def replace_key(self, version: KeyVersion, fingerprint: str, request: str) -> None:
        """Register another key for a version, by a request that officers signed; repeating it changes nothing."""

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        """Move a version to a state that may follow its present one; repeating it changes nothing."""

    # requests
    def open(self, request: Request, text: bytes) -> None:
        """Store a new request and the exact bytes to sign; refused while another that walks is unfinished.

        One that supersedes another may wait beside that.
        """

    def request(self, request: str) -> Request:
        """One request by its id (or an unambiguous beginning of it); a `Walk`, if it walks.

        Raises:
            RequestError: there is none.
        """

    def walk(self, request: str) -> Walk:
        """The same of a rotation or rollback.

        Raises:
            RequestError: there is none, or it does not walk.
        """

    def current(self) -> Walk | None:
        """The unfinished rotation or rollback, if any; not one that only waits to supersede another."""

    def waiting(self) -> Walk | None:
        """The rotation or rollback that waits for its start, to undo another or to take it over, if any.

        An emergency may wait beside a routine one; then it is that.
        """

    def requests(self) -> tuple[Request, ...]:
        """All, newest first."""

    def approval_text(self, request: str) -> bytes:
        """The exact bytes that officers sign."""

    def signatures(self, request: str) -> tuple[Signature, ...]:
        """The stored signatures."""

    def add_signature(self, request: str, signature: Signature) -> None:
        """Store one officer's signature; a second by the same officer is refused."""

    def finish_step(self, request: str, record: StepRecord) -> None:
        """Record a finished step or shard; repeating it changes nothing."""

    def set_status(self, request: str, status: RequestStatus, by: str | None = None) -> None:
        """Change where a request stands as a whole; `by` is the request that makes it so, if another does."""

    def set_promotion(self, request: str, xid: int) -> None:
        """Record the transaction id of the promotion, once."""

    def block(self, request: str, sentence: str | None) -> None:
        """Record what stopped the last attempt, or that nothing does."""

    def shard_progress(self, request: str) -> tuple[ShardProgress, ...]:
        """Where the walks of a rotation are."""

    def note_wait(self, request: str, place: str, waiting_for: str) -> None:
        """Say that a step waits now; it counts until `end_wait`, at most as long as this process lives. No event."""

    def end_wait(self, request: str, place: str) -> None:
        """Say that it goes on."""

    def waits(self, request: str) -> tuple[Wait, ...]:
        """What the steps of a request wait for now, the longest wait first."""

    # flags
    def raised_flags(self, taken: Collection[str]) -> tuple[Flag, ...]:
        """Flags of incidents that tools have raised and that are not among the taken ones, oldest first.

        At most a few hundred at once. Nothing of them is believed to be well formed.
        """

    # counts
    def save_counts(self, counts: Sequence[TableCount]) -> None:
        """Keep the last counts for `status`."""

    def counts(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """The last counts kept, for those tables that have been counted."""

    # the seed's table
    def rotation_audit(self) -> tuple[tuple[str | None, RotationAuditWritten], ...]:
        """Every row of `key_rotation_audit` as it is, with the request that it names."""

    def write_rotation_audit(
        self, rotation: Walk, initiated_by: str, records_reencrypted: int, completed_at: datetime | None
    ) -> None:
        """Insert or complete the row of `key_rotation_audit` for this rotation.

        Args:
            initiated_by: who authorised it, by verified signatures; at most 255 characters.
        """
