"""The ledger's key versions and pinned roster, and its requests: signatures, finished steps and status."""

import re
from collections.abc import Sequence
from dataclasses import replace

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline.errors import ApprovalError, KeyStoreError, OutOfOrderError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, RosterChange, Signature
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState, other_generation
from keyrotation_pipeline.model.request_events import (
    Blocked,
    PromotionRecorded,
    RequestOpened,
    RosterPinned,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    ID_DIGITS,
    MAY_FOLLOW,
    SHOWN_ID_DIGITS,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    StepRecord,
    Walk,
)


class KeyRecords(AuditChain):
    """The part of the ledger on keys, and on who may approve."""

    def pinned_roster(self) -> Roster | None:
        """See `Ledger.pinned_roster`."""
        return self.replayed().roster

    def pin_roster(self, roster: Roster, request: str | None = None, changes: Sequence[RosterChange] = ()) -> None:
        """See `Ledger.pin_roster`; pinning the same roster again changes nothing."""
        with self.change():
            pinned = self.pinned_roster()
            if pinned == roster:
                return
            if pinned is not None and request is None:
                raise ApprovalError(
                    "another roster of officers and recipients is pinned already; restore them in keyrotation.toml, "
                    "or have the change signed with `keyrotation policy --reason TEXT`"
                )
            self.append(RosterPinned.of(roster, changes), request)

    def keys(self) -> tuple[KeyRecord, ...]:
        """See `Ledger.keys`."""
        return tuple(record for _, record in sorted(self.replayed().keys.items()))

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        """See `Ledger.add_key`."""
        with self.change():
            known = self.replayed().keys.get(record.version)
            if known is None:
                self._require_one_generation(record.version, record.fingerprint)
                self.append(KeyRegistered.of(record), request)
            elif known.fingerprint != record.fingerprint:
                raise KeyStoreError(
                    f"{record.version} is registered with the fingerprint {known.fingerprint[:16]}, but this key"
                    f" has {record.fingerprint[:16]}; restore the registered key to the key store"
                )

    def replace_key(self, version: KeyVersion, fingerprint: str, request: str) -> None:
        """See `Ledger.replace_key`.

        Raises:
            RequestError: the version is not registered.
        """
        with self.change():
            record = self._key(version)
            if record.fingerprint != fingerprint:
                self._require_one_generation(version, fingerprint)
                self.append(KeyReplaced(version, record.fingerprint, fingerprint), request)

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        """See `Ledger.set_key_state`.

        Raises:
            RequestError: the version is not registered.
            OutOfOrderError: the state may not follow the present one, or another version is active.
        """
        with self.change():
            record = self._key(version)
            if record.state is state:
                return
            if state not in ALLOWED_TRANSITIONS[record.state]:
                raise OutOfOrderError(
                    f"{version} is {record.state} and cannot become {state}; see `keyrotation status`"
                )
            if state is KeyState.ACTIVE:
                self._require_none_active()
            self.append(KeyStateChanged(version, record.state, state, record.fingerprint), request)

    def _key(self, version: KeyVersion) -> KeyRecord:
        record = self.replayed().keys.get(version)
        if record is None:
            raise RequestError(f"key version {version} is not registered; run `keyrotation init`")
        return record

    def _require_one_generation(self, version: KeyVersion, fingerprint: str) -> None:
        if other := other_generation(version, fingerprint, self.keys()):
            raise KeyStoreError(
                f"{version} has the number or the key of {other}, and no key serves both generations; leave "
                f"{version} out, and rotate to a new key"
            )

    def _require_none_active(self) -> None:
        for record in self.keys():
            if record.state is KeyState.ACTIVE:
                raise OutOfOrderError(f"{record.version} is still active; it must be deactivated first")


_ID_BEGINNING = re.compile(rf"[0-9a-f]{{6,{ID_DIGITS}}}", re.ASCII)
_ONE_AT_A_TIME = frozenset({RequestAction.RECONCILE, RequestAction.POLICY})


class RequestRecords(AuditChain):
    """The part of the ledger on requests."""

    def open(self, request: Request, text: bytes) -> None:
        """See `Ledger.open`.

        Raises:
            RequestError: another rotation is unfinished, possibly just opened by another process.
        """
        with self.change():
            if request.id in (known := self.replayed().requests):
                raise _another()
            if request.supersedes is not None and request.supersedes not in known:
                raise _unknown(request.supersedes)
            self._require_place(request, request.status)
            self.append(RequestOpened.of(request, text), request.id)

    def request(self, request: str) -> Request:
        """See `Ledger.request`; a prefix has at least six digits."""
        beginning = request.strip().lower()
        if not _ID_BEGINNING.fullmatch(beginning):
            raise RequestError(
                "a request is named by its id, or by the first six or more hex digits of it; `keyrotation requests` "
                "and `keyrotation history` show them"
            )
        found = [each for each in self.replayed().requests.values() if each.id.startswith(beginning)]
        if not found:
            raise _unknown(beginning)
        if len(found) > 1:
            raise RequestError(f"{len(found)} requests begin with {beginning}; give more digits: {_distinct(found)}")
        return found[0]

    def walk(self, request: str) -> Walk:
        """See `Ledger.walk`."""
        found = self.request(request)
        if not isinstance(found, Walk):
            raise RequestError(
                f"request {found.id} is not a rotation; run `keyrotation {found.action}`, which carries it out"
            )
        return found

    def current(self) -> Walk | None:
        """See `Ledger.current`."""
        return self._unfinished(waiting=False)

    def waiting(self) -> Walk | None:
        """See `Ledger.waiting`."""
        return self._unfinished(waiting=True)

    def requests(self) -> tuple[Request, ...]:
        """See `Ledger.requests`."""
        known = self.replayed().requests.values()
        return tuple(sorted(known, key=lambda each: (-each.requested_at.timestamp(), each.id)))

    def approval_text(self, request: str) -> bytes:
        """See `Ledger.approval_text`."""
        text = self.replayed().texts.get(request)
        if text is None:
            raise _unknown(request)
        return text

    def signatures(self, request: str) -> tuple[Signature, ...]:
        """See `Ledger.signatures`, in order of time."""
        return self.replayed().signatures.get(request, ())

    def add_signature(self, request: str, signature: Signature) -> None:
        """See `Ledger.add_signature`."""
        with self.change():
            stored = self.request(request)
            if signature.officer in stored.approvals:
                raise ApprovalError(
                    f"the officer {signature.officer} has signed this request already; another officer must sign"
                )
            if stored.is_over:  # by another process, just now
                raise RequestError(
                    f"request {stored.id} is {stored.status}; open the next one with `keyrotation request`"
                )
            self.append(SignatureAdded.of(signature), stored.id)

    def finish_step(self, request: str, record: StepRecord) -> None:
        """See `Ledger.finish_step`; clears whatever blocked the rotation."""
        with self.change():
            walk = self.walk(request)
            if walk.done(record.step, record.table, record.shard) is None:
                self.block(walk.id, None)
                self.append(StepFinished.of(record), walk.id)

    def set_status(self, request: str, status: RequestStatus, by: str | None = None) -> None:
        """See `Ledger.set_status`; setting the same status again changes nothing.

        Raises:
            OutOfOrderError: the status may not follow the present one.
            RequestError: it would make two rotations unfinished at once.
        """
        with self.change():
            stored = self.request(request)
            if status is stored.status:
                return
            if status not in MAY_FOLLOW[stored.status]:
                raise OutOfOrderError(
                    f"rotation {request} is {stored.status} and cannot become {status}; see `keyrotation status`"
                )
            self._require_place(stored, status)
            self.append(StatusChanged(stored.status, status, self.clock.now(), by), stored.id)

    def set_promotion(self, request: str, xid: int) -> None:
        """See `Ledger.set_promotion`; a second call changes nothing."""
        with self.change():
            walk = self.walk(request)
            if walk.promotion_xid is None:
                self.append(PromotionRecorded(xid), walk.id)

    def block(self, request: str, message: str | None, *, rollout_pending: bool = False) -> None:
        """See `Ledger.block`; the same sentence again changes nothing."""
        with self.change():
            stored = self.request(request)
            if (stored.blocked_by, stored.rollout_pending) != (message, rollout_pending):
                self.append(Unblocked() if message is None else Blocked(message, rollout_pending), stored.id)

    def _unfinished(self, *, waiting: bool) -> Walk | None:
        known = sorted(self.replayed().requests.values(), key=lambda each: each.type is not RotationType.EMERGENCY)
        walks = (each for each in known if isinstance(each, Walk) and not each.is_over)
        return next((each for each in walks if each.waits_to_supersede is waiting), None)

    def _require_place(self, request: Request, status: RequestStatus) -> None:
        """Refuses a status in which a request would take the place of another that is unfinished."""
        place = _place(replace(request, status=status))
        others = (each for each in self.replayed().requests.values() if each.id != request.id)
        if place is not None and place in map(_place, others):
            raise _another()


def _place(request: Request) -> str | None:
    """Returns what only one request may occupy: being under way, or waiting as its type's successor; None: nothing."""
    if request.is_over:
        return None
    if isinstance(request, Walk):
        return f"{request.type} successor" if request.waits_to_supersede else "walk"
    return str(request.action) if request.action in _ONE_AT_A_TIME else None


def _distinct(requests: Sequence[Request]) -> str:
    """Returns the first digits of each id: as many as tell them apart, at least as many as are shown elsewhere."""
    lengths = range(SHOWN_ID_DIGITS, ID_DIGITS)
    enough = (length for length in lengths if len({each.id[:length] for each in requests}) == len(requests))
    length = next(enough, ID_DIGITS)
    return ", ".join(each.id[:length] for each in requests)


def _another() -> RequestError:
    return RequestError(
        "another rotation is not finished yet; `keyrotation status` shows it, finish or cancel it first"
    )


def _unknown(request: str) -> RequestError:
    return RequestError(f"there is no request {request}; `keyrotation requests` and `keyrotation history` show all")
