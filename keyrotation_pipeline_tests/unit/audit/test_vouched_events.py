"""Which single events count for whoever does not replay the audit: those that one of its keys signed, as they were."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, Note, hash_of
from keyrotation_pipeline.model.backups import signer_fingerprint
from keyrotation_pipeline_tests.fakes import FakeLedger
from keyrotation_pipeline_tests.fakes.event_key import PUBLIC, signed, verify_event

VOUCHED = VouchedEvents(1, frozenset({signer_fingerprint(PUBLIC)}), verify_event)


@pytest.fixture
def event() -> AuditEvent:
    ledger = FakeLedger(signs=True)
    ledger.append(Note(EventKind.COUNTED, {}))
    return ledger.state.events[-1]


def moved(event: AuditEvent) -> AuditEvent:
    """As it was signed, in the place of another one."""
    return replace(event, seq=event.seq + 1)


def other_body(event: AuditEvent) -> AuditEvent:
    return replace(event, body=event.body.replace("test", "else"))


def unreadable(event: AuditEvent) -> AuditEvent:
    return replace(event, body="[]", hash=hash_of(event.previous, "[]"))


def test_what_one_of_its_keys_signed_counts(event: AuditEvent) -> None:
    assert VOUCHED.counts(event)
    unsigned = replace(event, signature=None)
    assert VouchedEvents(event.seq + 1, VOUCHED.signers, verify_event).counts(unsigned), "as it was before signing"
    assert VouchedEvents(None, VOUCHED.signers, verify_event).counts(unsigned)


@pytest.mark.parametrize("changed", [
    moved, other_body, unreadable, lambda event: replace(event, signature=None), lambda event: signed(event, "RXZl"),
    lambda event: replace(event, signature="1 x y"),
])  # fmt: skip
def test_what_is_another_or_by_another_does_not(event: AuditEvent, changed: object) -> None:
    assert callable(changed)
    assert not VOUCHED.counts(changed(event))
