"""The audit chain, verified from its first event to its last and against its anchors."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise

from keyrotation_pipeline.audit.events import is_indexed
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, hash_of
from keyrotation_pipeline.ports.ledger import Ledger

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
        faults += _faults(before, event)
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
    """The newest audit head that a text names: an approval text, a backup's manifest, a report, a status.

    Args:
        text: holds lines ``Audit head: <seq> <hash>``, or is JSON with ``seq`` and ``hash`` (or ``head``) somewhere.

    Raises:
        AuditError: it names none.
    """
    found = [AuditHead(int(seq), digest) for seq, digest in _LINE.findall(text)]
    with suppress(ValueError, RecursionError):  # not JSON, or deeper than anything of ours
        found += _heads(json.loads(text))
    if not found:
        raise AuditError("the anchor names no audit head; give an approval text, a backup's manifest or a report")
    return max(found, key=lambda head: head.seq)


def _after(first: AuditEvent, events: Iterable[AuditEvent]) -> Iterator[AuditEvent]:
    yield first
    yield from events


def _faults(before: AuditEvent, event: AuditEvent) -> Iterator[str]:
    """What is wrong with one event, compared with the one stored before it."""
    seq = event.seq
    if seq != before.seq + 1:
        yield f"{_span(before.seq + 1, seq - 1)} removed"
    if (told := _seq_in(event.body)) != seq and told is not None:
        yield f"event {seq} was reordered (it is event {told})"
    elif hash_of(event.previous, event.body) != event.hash or told is None:
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
        for each in content:
            yield from _heads(each)


def _span(first: int, last: int) -> str:
    return f"event {first} was" if first == last else f"events {first} to {last} were"


def _some(faults: list[str]) -> str:
    more = len(faults) - NAMED_AT_MOST
    return ", ".join(faults[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
