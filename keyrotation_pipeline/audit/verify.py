"""Verifies the audit chain from its first event to its last, and everything else that the audit vouches for.

That is: its anchors, tables, time stamps and every signature.
"""

import json
import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import pairwise

from keyrotation_pipeline.audit.events import entries, is_indexed
from keyrotation_pipeline.audit.history import LedgerState, history
from keyrotation_pipeline.audit.witnessed import KINDS, faults, witnessed_in
from keyrotation_pipeline.errors import AuditError, TimestampError
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, GENESIS, AuditEvent, AuditHead, hash_of
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.timestamps import TimestampAuthority

NAMED_AT_MOST = 5


_WHAT_TO_DO = "keep this database as it is, and compare it with a backup"


_LINE = re.compile(r"^Audit head: (\d{1,18}) ([0-9a-f]{64})$", re.MULTILINE)


def verify_audit(ledger: Ledger, *anchors: AuditHead) -> AuditHead:
    """Verify the stored chain against its own head and `anchors`.

    Raises:
        AuditError: names each event that was changed, removed, reordered, cut off or added from outside, by its seq.
    """
    head = ledger.head()
    newest = verify_chain(ledger.events(), [head, *anchors])
    # Asked again, since others append meanwhile.
    if newest.seq > ledger.head().seq:
        raise AuditError(f"audit event {newest.seq} was added from outside; {_WHAT_TO_DO}")
    return newest


def verify_chain(events: Iterable[AuditEvent], anchors: Iterable[AuditHead] = ()) -> AuditHead:
    """Verify a chain from its first event to its last.

    Args:
        events: all of them, in order of seq.
        anchors: heads that were written down when they were the newest; the chain must lead through each.

    Returns:
        The last event.

    Raises:
        AuditError: names what was changed, removed, reordered or cut off, each by its seq.
    """
    expected: dict[int, set[str]] = {}
    for anchor in anchors:
        expected.setdefault(anchor.seq, set()).add(anchor.hash)
    last = AuditEvent(0, "", "", GENESIS, "", None)
    faults: list[str] = []
    for before, event in pairwise(_after(last, events)):
        faults += _chain_faults(before, event)
        if expected.pop(event.seq, {event.hash}) != {event.hash}:
            faults.append(f"event {event.seq} is not the one that an anchor names")
        last = event
    if (furthest := max(expected, default=0)) > last.seq:
        faults.append(f"{_span(last.seq + 1, furthest)} cut off")
    if faults:
        raise AuditError(summary(faults))
    return AuditHead(last.seq, last.hash)


def summary(faults: list[str]) -> str:
    """The sentence for what is wrong with an audit; names the first few."""
    return f"the audit does not verify: {_some(faults)}; {_WHAT_TO_DO}"


def read_anchor(text: str) -> AuditHead:
    """The newest audit head that a text names; arguments and errors as of `read_anchors`."""
    return max(read_anchors(text), key=lambda head: head.seq)


def read_anchors(text: str) -> tuple[AuditHead, ...]:
    """Every audit head that a text names: an approval text, a backup's manifest, a report, a status.

    Args:
        text: holds lines ``Audit head: <seq> <hash>``, or is JSON with ``seq`` and ``hash`` (or ``head``) somewhere, or
            as OSCAL has them, in the properties ``audit-seq`` and ``audit-head``.

    Raises:
        AuditError: it names none.
    """
    found = [AuditHead(int(seq), digest) for seq, digest in _LINE.findall(text)]
    with suppress(ValueError, RecursionError):  # not JSON, or deeper than anything of ours
        found += _heads(json.loads(text))
    if not found:
        raise AuditError("the anchor names no audit head; give an approval text, a backup's manifest or a report")
    return tuple(dict.fromkeys(found))


def _after(first: AuditEvent, events: Iterable[AuditEvent]) -> Iterator[AuditEvent]:
    yield first
    yield from events


def _chain_faults(before: AuditEvent, event: AuditEvent) -> Iterator[str]:
    """What is wrong with one event, compared with the one stored before it."""
    seq = event.seq
    if seq != before.seq + 1:
        yield f"{_span(before.seq + 1, seq - 1)} removed"
    if (stated := _seq_in(event.body)) != seq and stated is not None:
        yield f"event {seq} was reordered (it is event {stated})"
    elif hash_of(event.previous, event.body) != event.hash or stated is None:
        yield f"event {seq} was changed"
    elif not is_indexed(event):
        yield f"event {seq} is filed under another kind or request than its own"
    elif seq == before.seq + 1 and event.previous != before.hash:
        yield f"event {seq} does not follow event {before.seq} as it is now, so one of them was replaced"


def _seq_in(body: str) -> int | None:
    try:
        seq = json.loads(body)["seq"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return seq if isinstance(seq, int) else None


def _heads(content: object) -> Iterator[AuditHead]:
    if isinstance(content, dict):
        seq, digest = content.get("seq"), content.get("hash", content.get("head"))
        if type(seq) is int and isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest):
            yield AuditHead(seq, digest)
        content = list(content.values())
    if isinstance(content, list):
        yield from _in_properties([each for each in content if isinstance(each, dict)])
        for each in content:
            yield from _heads(each)


def _in_properties(content: list[dict[str, object]]) -> Iterator[AuditHead]:
    values = {str(each.get("name")): str(each.get("value")) for each in content}
    seq, digest = values.get("audit-seq", ""), values.get("audit-head", "")
    if re.fullmatch(r"[0-9]{1,18}", seq) and re.fullmatch(r"[0-9a-f]{64}", digest):
        yield AuditHead(int(seq), digest)


def _span(first: int, last: int) -> str:
    return f"event {first} was" if first == last else f"events {first} to {last} were"


def _some(faults: list[str]) -> str:
    more = len(faults) - NAMED_AT_MOST
    return ", ".join(faults[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def verify_everything(pipeline: Pipeline, *anchors: AuditHead) -> AuditHead:
    """Verify the chain against every external anchor, then everything it records, as of one moment.

    Args:
        anchors: further ones, that somebody gives.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    # Read the anchors first: the chain may grow meanwhile, but never ends before them.
    kept = pipeline.anchors.heads()
    with pipeline.ledger.snapshot():
        newest = verify_audit(pipeline.ledger, *anchors)
        replayed = _replayed(pipeline)
        faults = [
            *_unlike(replayed, kept),
            *_in_the_future(replayed, pipeline.clock.now()),
            *_faults(pipeline, replayed),
            *_audit_rows(pipeline.ledger, replayed),
            *_time_stamps(pipeline),
            *_checkpoints(pipeline.ledger, replayed),
        ]
    if faults := [*faults, *_lost(pipeline.ledger)]:
        raise AuditError(summary(faults))
    return newest


def require_verified(
    pipeline: Pipeline, *, afresh: bool = False, but: Collection[AuditHead] = (), reconciling: bool = False
) -> None:
    """Verify the chain, its events and the anchors before whatever destroys or decides.

    Args:
        afresh: read every event again; else those that this process has verified before are not, which is the price
            of what is new.
        but: anchors that the audit need not lead through, since officers are to give them up.
        reconciling: whether a restored or renamed database is about to become that of the audit.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    kept = pipeline.anchors.heads()
    with pipeline.ledger.snapshot():
        replayed = _replayed(pipeline) if afresh else pipeline.ledger.replayed()
        ends = (
            *(_ends(replayed, pipeline.ledger.head()) if not reconciling else ()),
            *_unlike(replayed, (head for head in kept if head not in but)),
        )
        faults = [
            *ends,
            *_faults(pipeline, replayed, reconciling=reconciling),
            *_audit_rows(pipeline.ledger, replayed),
        ]
    if not reconciling:
        faults += _lost(pipeline.ledger)
    if faults:
        raise AuditError(summary(faults))


def _replayed(pipeline: Pipeline) -> AuditState:
    verifiers = pipeline.signatures.verify_as_of, pipeline.ledger.verify_event
    state = LedgerState(verifiers[0], verify_event=verifiers[1], own_signer=pipeline.backup_signer)
    return state.apply(pipeline.ledger.events())


def _faults(pipeline: Pipeline, replayed: AuditState, *, reconciling: bool = False) -> Iterator[str]:
    """What is wrong with the events."""
    known = pipeline.anchors.roster()
    lost_officers = known.roster.officers if known else ()
    place = pipeline.environment.identity().place
    yield from replayed.faults_but(lost_officers, place if reconciling else None, reconciling=reconciling)


def _lost(ledger: Ledger) -> Iterator[str]:
    """What this process has read and is gone; in a snapshot it would be what another thread has read since."""
    if (head := ledger.replayed().lost) is not None:
        yield f"event {head.seq} {head.hash[:16]}, which was read here before, is no longer in the audit"


def _ends(replayed: AuditState, head: AuditHead) -> Iterator[str]:
    """Report where the chain does not end at its own head."""
    if head != replayed.head:
        yield f"the audit ends at event {replayed.head.seq} and not at event {head.seq}, as its head says"


def _unlike(replayed: AuditState, kept: Iterable[AuditHead]) -> Iterator[str]:
    """Report each anchor that the chain must contain and does not, and how many events it lacks after its last."""
    missing, last = replayed.missing(kept), replayed.head.seq
    yield from (f"event {each.seq} is not the one that an anchor names" for each in missing if each.seq <= last)
    if (furthest := max((each.seq for each in missing), default=0)) > last:
        yield f"{_span(last + 1, furthest)} cut off"


def _in_the_future(replayed: AuditState, now: datetime) -> Iterator[str]:
    if replayed.latest is not None and replayed.latest > now + EVENTS_DIFFER_BY:
        yield f"an event is dated {replayed.latest:%Y-%m-%d %H:%M:%S}, which is in the future"


def _audit_rows(ledger: Ledger, replayed: AuditState) -> Iterator[str]:
    rows = ledger.rotation_audit()
    for request, row in rows:
        if request not in replayed.audit_rows:
            yield f"the row {row.id} of key_rotation_audit was added from outside"
        elif row != replayed.audit_rows[request]:
            yield f"the row of request {request} in key_rotation_audit was changed"
    for request in replayed.audit_rows.keys() - {request for request, _ in rows}:
        yield f"the row of request {request} in key_rotation_audit was removed"


def _time_stamps(pipeline: Pipeline) -> Iterator[str]:
    """Verify every time stamp again, as far as certificates are configured."""
    for entry in entries(pipeline.ledger, AuditTimestamped.kind):
        stamped = entry.fact()
        if not isinstance(stamped, AuditTimestamped):
            continue
        which = f"the time stamp of event {stamped.seq} (event {entry.seq})"
        event = next(pipeline.ledger.events(after_seq=stamped.seq - 1), None)
        if event is None or (event.seq, event.hash) != (stamped.seq, stamped.hash):
            yield f"{which} is of another audit"
        elif pipeline.timestamps is not None and (message := refusal_of(pipeline.timestamps, stamped)):
            yield f"{which} does not hold: {message.replace(';', ',')}"


def _checkpoints(ledger: Ledger, replayed: AuditState) -> Iterator[str]:
    """Verify the newest checkpoint of each witness again."""
    tree = EventTree(replayed.hashes)
    for each in witnessed_in(history(ledger, *KINDS), replayed):
        yield from faults(each, tree, ledger.verify_event)


def refusal_of(authority: TimestampAuthority, stamped: AuditTimestamped) -> str | None:
    """Why a recorded time stamp does not verify; None: it does, and says the recorded time."""
    try:
        at = authority.stamped_at(bytes.fromhex(stamped.hash), b64decode(stamped.response, validate=True))
    except (TimestampError, ValueError) as error:
        return str(error)
    return None if at == stamped.stamped_at else f"it is of {at:%Y-%m-%d %H:%M:%S} UTC"
