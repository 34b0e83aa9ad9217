"""The ledger's requests: requests, signatures, finished steps, and where each stands."""

import re
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg

from keyrotation_pipeline.adapters.postgres.ledger.believed import BelievedRows
from keyrotation_pipeline.adapters.postgres.ledger.rows import jsonb, request_of, row_of
from keyrotation_pipeline.errors import ApprovalError, OutOfOrderError, RequestError
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.request_events import (
    Blocked,
    PromotionRecorded,
    RequestOpened,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import MAY_FOLLOW, Request, RequestStatus, RotationType, StepRecord, Walk

# One statement, so that a rotation and its steps are of the same instant.
_ROTATIONS = """
    SELECT r.id, r.type, r.action, r.source_version, r.source_fingerprint, r.target_version, r.reason, r.incident,
           r.requested_by, r.requested_at, r.start_by, r.finish_by, r.audit_seq, r.audit_hash, r.status,
           r.started_at, r.finished_at, r.promotion_xid, r.blocked_by, r.supersedes, r.not_before, r.approval_text,
           ARRAY(SELECT s.officer FROM keyrotation.signatures s WHERE s.request = r.id ORDER BY s.signed_at, s.officer)
               AS approvals,
           (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.finished_at, t.step, t.table_name, t.shard), '[]')
            FROM keyrotation.rotation_steps t WHERE t.request = r.id) AS steps
    FROM keyrotation.rotations r
"""

_INSERT = """
    INSERT INTO keyrotation.rotations
        (id, type, action, source_version, source_fingerprint, target_version, reason, incident, requested_by,
         requested_at, start_by, finish_by, audit_seq, audit_hash, approval_text, status, supersedes,
         not_before)
    VALUES
        (%(id)s, %(type)s, %(action)s, %(source_version)s, %(source_fingerprint)s, %(target_version)s, %(reason)s,
         %(incident)s, %(requested_by)s, %(requested_at)s, %(start_by)s, %(finish_by)s, %(audit_seq)s, %(audit_hash)s,
         %(approval_text)s, %(status)s, %(supersedes)s, %(not_before)s)
"""

_ID_BEGINNING = re.compile(r"[0-9a-f]{6,32}", re.ASCII)


class RequestRecords(BelievedRows):
    """What the ledger knows of requests."""

    def open(self, request: Request, text: bytes) -> None:
        """See `Ledger.open`.

        Raises:
            RequestError: another rotation is unfinished, also one that was opened just now by another process.
        """
        try:
            with self.change():
                self.query(_INSERT, row_of(request, text))
                self.append(RequestOpened.of(request, text), request.id)
        except psycopg.errors.UniqueViolation:
            raise RequestError(
                "another rotation is not finished yet; `keyrotation status` shows it, finish or cancel it first"
            ) from None

    def request(self, request: str) -> Request:
        """See `Ledger.request`; a beginning has six digits or more."""
        beginning = request.strip().lower()
        if not _ID_BEGINNING.fullmatch(beginning):
            raise RequestError(
                "a rotation is named by its id or at least its first six hex digits; `keyrotation status` shows it"
            )
        rows = self.query(
            "SELECT id FROM keyrotation.rotations WHERE left(id, %s) = %s LIMIT 2", (len(beginning), beginning)
        )
        if not rows:
            raise _unknown(beginning)
        if len(rows) > 1:
            raise RequestError(f"more than one rotation begins with {beginning}; give more of its id")
        return self._request(rows[0]["id"])

    def walk(self, request: str) -> Walk:
        """See `Ledger.walk`."""
        return _walk(self.request(request))

    def current(self) -> Walk | None:
        """See `Ledger.current`."""
        return self._unfinished(waiting=False)

    def waiting(self) -> Walk | None:
        """See `Ledger.waiting`."""
        return self._unfinished(waiting=True)

    def requests(self) -> tuple[Request, ...]:
        """See `Ledger.requests`."""
        rows = self.believed(
            lambda: {row["id"]: request_of(row) for row in self.query(_ROTATIONS)},
            lambda belief: belief.requests,
            "a row of keyrotation.rotations or keyrotation.rotation_steps",
        )
        return tuple(sorted(rows.values(), key=lambda each: (-each.requested_at.timestamp(), each.id)))

    def signed_heads(self) -> tuple[AuditHead, ...]:
        """See `Ledger.signed_heads`."""
        rows = self.query("SELECT DISTINCT audit_seq, audit_hash FROM keyrotation.rotations ORDER BY audit_seq")
        return tuple(AuditHead(row["audit_seq"], row["audit_hash"]) for row in rows)

    def approval_text(self, request: str) -> bytes:
        """See `Ledger.approval_text`."""

        def read() -> bytes:
            row = self._one_rotation("SELECT approval_text FROM keyrotation.rotations WHERE id = %s", request)
            return bytes(row["approval_text"])

        where = f"the text of request {request} in keyrotation.rotations"
        return self.believed(read, lambda belief: belief.texts.get(request, b""), where)

    def signatures(self, request: str) -> tuple[Signature, ...]:
        """See `Ledger.signatures`; in order of time."""

        def read() -> tuple[Signature, ...]:
            rows = self.query(
                "SELECT officer, signature, signed_at FROM keyrotation.signatures WHERE request = %s"
                " ORDER BY signed_at, officer",
                (request,),
            )
            return tuple(Signature(row["officer"], bytes(row["signature"]), row["signed_at"]) for row in rows)

        where = f"a signature of request {request} in keyrotation.signatures"
        return self.believed(read, lambda belief: belief.signatures.get(request, ()), where)

    def add_signature(self, request: str, signature: Signature) -> None:
        """See `Ledger.add_signature`."""
        try:
            with self.change():
                self.query(
                    "INSERT INTO keyrotation.signatures (request, officer, signature, signed_at)"
                    " VALUES (%s, %s, %s, %s)",
                    (request, signature.officer, signature.signature, signature.signed_at),
                )
                self.append(SignatureAdded.of(signature), request)
        except psycopg.errors.UniqueViolation:
            raise ApprovalError(
                f"the officer {signature.officer} has signed this request already; another officer must sign"
            ) from None
        except psycopg.errors.ForeignKeyViolation:
            raise _unknown(request) from None

    def finish_step(self, request: str, record: StepRecord) -> None:
        """See `Ledger.finish_step`; whatever blocked the rotation does so no longer."""
        table, shard = record.table or "", -1 if record.shard is None else record.shard
        with self.change():
            inserted = self.query(
                "INSERT INTO keyrotation.rotation_steps (request, step, table_name, shard, finished_at, facts)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING step",
                (request, str(record.step), table, shard, record.finished_at, jsonb(record.facts)),
            )
            if not inserted:
                return
            self.block(request, None)
            self.append(StepFinished.of(record), request)

    def set_status(self, request: str, status: RequestStatus, by: str | None = None) -> None:
        """See `Ledger.set_status`; the same status again is no change.

        Raises:
            OutOfOrderError: the status may not follow the present one.
        """
        with self.change():
            before = self.request(request).status
            if status is before:
                return
            if status not in MAY_FOLLOW[before]:
                raise OutOfOrderError(
                    f"rotation {request} is {before} and cannot become {status}; see `keyrotation status`"
                )
            now = self.clock.now()
            self.query(
                "UPDATE keyrotation.rotations SET status = %(status)s,"
                " started_at = CASE WHEN %(status)s = 'running' THEN coalesce(started_at, %(now)s) ELSE started_at END,"
                " finished_at = CASE WHEN %(status)s IN ('cancelled', 'finished') THEN %(now)s END"
                " WHERE id = %(id)s",
                {"status": str(status), "now": now, "id": request},
            )
            self.append(StatusChanged(before, status, now, by), request)

    def set_promotion(self, request: str, xid: int) -> None:
        """See `Ledger.set_promotion`; a second time is no change."""
        with self.change():
            changed = self.query(
                "UPDATE keyrotation.rotations SET promotion_xid = %s WHERE id = %s AND promotion_xid IS NULL"
                " RETURNING id",
                (xid, request),
            )
            if changed:
                self.append(PromotionRecorded(xid), request)

    def block(self, request: str, sentence: str | None) -> None:
        """See `Ledger.block`; the same sentence again is no change."""
        with self.change():
            changed = self.query(
                "UPDATE keyrotation.rotations SET blocked_by = %s WHERE id = %s AND blocked_by IS DISTINCT FROM %s"
                " RETURNING id",
                (sentence, request, sentence),
            )
            if changed:
                self.append(Unblocked() if sentence is None else Blocked(sentence), request)

    def _request(self, request: str) -> Request:
        found: Request | None = self.believed(
            lambda: request_of(self._one_rotation(f"{_ROTATIONS} WHERE r.id = %s", request)),
            lambda belief: belief.requests.get(request),
            f"request {request} in keyrotation.rotations, or a step or a signature of it,",
        )
        if found is None:
            raise _unknown(request)
        return found

    def _unfinished(self, *, waiting: bool) -> Walk | None:
        """By the audit and not by the rows, of which one may say that it is over, or be gone."""
        known = sorted(self.belief().requests.values(), key=lambda each: each.type is not RotationType.EMERGENCY)
        for stored in known:
            if isinstance(stored, Walk) and not stored.is_over and stored.waits_to_supersede is waiting:
                found = _walk(self._request(stored.id))
                # Somebody may have ended or started it just now.
                return found if not found.is_over and found.waits_to_supersede is waiting else None
        return None

    def _one_rotation(self, statement: LiteralString, request: str) -> Mapping[str, Any]:
        rows = self.query(statement, (request,))
        if not rows:
            raise _unknown(request)
        return rows[0]


def _walk(request: Request) -> Walk:
    if not isinstance(request, Walk):
        raise RequestError(
            f"request {request.id} is no rotation; run `keyrotation {request.action}`, which carries it out"
        )
    return request


def _unknown(request: str) -> RequestError:
    return RequestError(f"there is no rotation {request}; `keyrotation status` shows the one that is open")
