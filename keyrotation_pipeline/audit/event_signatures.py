"""Who wrote an event: the pipeline signs each one that it appends, with the key that signs its backups.

A signature is over the event's hash, which covers all events before it, and over the seq since which its signer vouches
for every one. So of a run of events by one signer only the last signature is verified. An event without a signature, or
with one that does not verify, is nobody's.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Self

from keyrotation_pipeline.model.audit import AuditEvent, hash_of
from keyrotation_pipeline.model.backups import signer_fingerprint

LABEL = "keyrotation-audit-signature-v1"
# Whether 64 bytes are an Ed25519 key's signature on a message; the key is base64 of its SubjectPublicKeyInfo.
VerifyEvent = Callable[[str, bytes, bytes], bool]
# So many events are read before they are judged.
_PIECE = 1000
_STORED = re.compile(r"([1-9]\d{0,17}) ([A-Za-z0-9+/=]{1,200}) ([A-Za-z0-9+/]{86}==)", re.ASCII)


def nothing_verifies(_public: str, _message: bytes, _signature: bytes) -> bool:
    """Where no signature can be verified, such as over fakes."""
    return False


def message_of(since: int, digest: str) -> bytes:
    """The bytes that are signed for an event: label, first event vouched for, and the event's hash, as ASCII."""
    return f"{LABEL} {since} {digest}".encode("ascii")


@dataclass(frozen=True, slots=True)
class EventSignature:
    """The signature of one event.

    Args:
        since: the signer vouches for every event from this seq to the signed one.
        public: its key, base64 of the SubjectPublicKeyInfo.
        signature: 64 bytes.
    """

    since: int
    public: str
    signature: bytes

    @classmethod
    def parse(cls, stored: str | None) -> Self | None:
        """Read what `encode` writes; None for anything else."""
        found = _STORED.fullmatch(stored or "")
        return None if found is None else cls(int(found[1]), found[2], base64.b64decode(found[3]))

    def encode(self) -> str:
        """As it is stored beside the event."""
        return f"{self.since} {self.public} {base64.b64encode(self.signature).decode()}"

    def verifies(self, event: AuditEvent, verify: VerifyEvent) -> bool:
        """Whether it is over this event."""
        return self.since <= event.seq and verify(self.public, message_of(self.since, event.hash), self.signature)

    @property
    def signer(self) -> str | None:
        """The fingerprint of its key; None: it is none."""
        try:
            return signer_fingerprint(self.public)
        except (ValueError, binascii.Error):
            return None


def with_signers(events: Iterable[AuditEvent], verify: VerifyEvent) -> Iterator[tuple[AuditEvent, str | None]]:
    """Each event with the fingerprint of the key that signed it, or None."""
    remaining = iter(events)
    while piece := tuple(islice(remaining, _PIECE)):
        signed = [(event, EventSignature.parse(event.signature)) for event in piece]
        for claim, run in groupby(signed, lambda each: each[1] and (each[1].since, each[1].public)):
            members = list(run)
            yield from ((event, None) for event, _ in members) if claim is None else _signed(members, verify)


def _signed(
    run: Sequence[tuple[AuditEvent, EventSignature | None]], verify: VerifyEvent
) -> Iterator[tuple[AuditEvent, str | None]]:
    """A run of events that name the same signer: it vouches for all up to the last one that it signed."""
    covered = next((n for n in range(len(run), 0, -1) if _is_good(*run[n - 1], verify)), 0)
    for place, (event, signature) in enumerate(run):
        is_signed = place < covered and signature is not None and signature.since <= event.seq
        yield event, signature.signer if is_signed and signature is not None else None


def _is_good(event: AuditEvent, signature: EventSignature | None, verify: VerifyEvent) -> bool:
    return signature is not None and signature.verifies(event, verify)


@dataclass(frozen=True, slots=True)
class VouchedEvents:
    """Which events count for whoever reads a few of them without a replay, such as the engine while it works.

    Args:
        since: the event with which the pipeline began to sign; None: it never did. Older ones count as they are.
        signers: fingerprints of the keys that sign.
        verify: a function of a module, since workers get it pickled.
    """

    since: int | None
    signers: frozenset[str]
    verify: VerifyEvent

    def counts(self, event: AuditEvent) -> bool:
        """Whether one of the keys signed exactly this event."""
        if self.since is None or event.seq < self.since:
            return True
        signature = EventSignature.parse(event.signature)
        if signature is None or signature.signer not in self.signers or not signature.verifies(event, self.verify):
            return False
        # Only now is it known who wrote the body.
        is_whole = hash_of(event.previous, event.body) == event.hash
        return is_whole and bool(json.loads(event.body)["seq"] == event.seq)
