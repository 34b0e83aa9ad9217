"""The ledger's requests: signatures, finished steps, and the status of each."""

import re
from dataclasses import replace

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline.errors import ApprovalError, OutOfOrderError, RequestError
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.request_events import (
    Blocked,
    PromotionRecorded,
    RequestOpened,
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

_ID_BEGINNING = re.compile(r"[0-9a-f]{6,32}", re.ASCII)
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
                "a rotation is named by its id or at least its first six hex digits; `keyrotation status` shows it"
            )
        found = [each for each in self.replayed().requests.values() if each.id.startswith(beginning)]
        if not found:
            raise _unknown(beginning)
        if len(found) > 1:
            raise RequestError(f"more than one rotation begins with {beginning}; give more of its id")
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

    def block(self, request: str, sentence: str | None) -> None:
        """See `Ledger.block`; the same sentence again changes nothing."""
        with self.change():
            stored = self.request(request)
            if stored.blocked_by != sentence:
                self.append(Unblocked() if sentence is None else Blocked(sentence), stored.id)

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


def _another() -> RequestError:
    return RequestError(
        "another rotation is not finished yet; `keyrotation status` shows it, finish or cancel it first"
    )


def _unknown(request: str) -> RequestError:
    return RequestError(f"there is no rotation {request}; `keyrotation status` shows the one that is open")
