"""Records what product code appends to audits, in this process and in the commands that a test types."""

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

from keyrotation_pipeline.adapters.backups.signing_key import verifies
from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import ApprovalError, AuditError
from keyrotation_pipeline.model.approval import Officer, VerifiedSignature
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, EventKind
from keyrotation_pipeline_tests.protocol.traces import abstract, copied

# The file to which a command, typed by a test, adds what it appends.
_SIGNED = frozenset({EventKind.SIGNATURE_ADDED, EventKind.ROLLOUT_CONFIRMED, EventKind.ASSESSMENT_SIGNED})
VARIABLE = "TEST_RECORDS_AUDIT_IN"
_TESTS = "/keyrotation_pipeline_tests/"
_LEDGERS = ("/adapters/postgres/ledger/", "/contextlib.py", f"{_TESTS}fakes/", f"{_TESTS}protocol/traces_recorder.py")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event.

    Args:
        arranged: a test appended it past the product, so that what follows is not the protocol's.
    """

    event: AuditEvent
    arranged: bool


@dataclass
class Recorder:
    """What is appended while it records."""

    found: list[Recorded] | None = None

    def forget(self, undone: Collection[str]) -> None:
        """Leaves out events, by their hash, whose transaction was rolled back; a command's stay."""
        if self.found is not None and undone:
            self.found[:] = [each for each in self.found if each.event.hash not in undone]

    def note(self, event: AuditEvent) -> None:
        if self.found is not None:
            self.found.append(Recorded(event, _is_arranged()))
        elif (file := os.environ.get(VARIABLE)) is not None:
            line = json.dumps([*astuple(event), _is_arranged()]) + "\n"
            with Path(file).open("ab", buffering=0) as spool:
                spool.write(line.encode())


RECORDER = Recorder()


def install(chain: type) -> None:
    """From now on each event is noted that a ledger of this class stores, unless its transaction is rolled back."""
    store, transaction = chain._store, chain.transaction  # type: ignore[attr-defined]  # noqa: SLF001

    @wraps(store)
    def noted(self: Any, event: AuditEvent) -> None:  # noqa: ANN401 - a ledger of the class
        store(self, event)
        self.__dict__.setdefault("_noted", []).append(event.hash)
        RECORDER.note(event)

    @wraps(transaction)
    @contextmanager
    def undone(self: Any) -> Iterator[None]:  # noqa: ANN401 - as above
        hashes = self.__dict__.setdefault("_noted", [])
        before = len(hashes)
        try:
            with transaction(self):
                yield
        except BaseException:
            RECORDER.forget(set(hashes[before:]))
            raise

    chain._store, chain.transaction = noted, undone  # type: ignore[attr-defined]  # noqa: SLF001


@contextmanager
def recording(spool: Path) -> Iterator[list[Recorded]]:
    """Yields what is appended inside, and at the end also what commands have."""
    found: list[Recorded] = []
    outer, outer_spool = RECORDER.found, os.environ.get(VARIABLE)
    RECORDER.found, os.environ[VARIABLE] = found, str(spool)
    try:
        yield found
    finally:
        RECORDER.found = outer
        del os.environ[VARIABLE]
        if outer_spool is not None:
            os.environ[VARIABLE] = outer_spool
    if spool.exists():
        lines = map(json.loads, spool.read_text().splitlines())
        found += (Recorded(AuditEvent(*event), arranged) for *event, arranged in lines)


def _is_arranged() -> bool:
    frame = sys._getframe(2)  # noqa: SLF001
    while frame is not None and any(part in frame.f_code.co_filename for part in _LEDGERS):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is None or _TESTS in frame.f_code.co_filename


@dataclass
class Signatures:
    """Verifies what was recorded: product code has verified it before."""

    made: dict[bytes, tuple[str, datetime | None]] = field(default_factory=dict)

    def keep(self, event: AuditEvent) -> None:
        if event.kind in _SIGNED:
            facts = entry_of(event).facts
            signed_at = facts.get("signed_at")
            made = facts["officer"], None if signed_at is None else datetime.fromisoformat(str(signed_at))
            self.made[bytes.fromhex(facts["signature"])] = made

    def verify(self, _text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime) -> VerifiedSignature:
        officer, signed_at = self.made.get(signature, ("nobody", None))
        if officer not in {each.fingerprint for each in officers}:
            raise ApprovalError("the signature is by nobody of these officers; look at the test")
        return VerifiedSignature(officer, signed_at or at)


@dataclass
class Examined:
    """What chains of events hold.

    Args:
        steps: how often each was made by product code, in a chain that product code alone made.
        skipped: events of chains that a test arranged, or whose beginning was not recorded.
    """

    steps: Counter[str] = field(default_factory=Counter)
    skipped: int = 0

    def after(self, state: LedgerState, recorded: Recorded) -> list[tuple[str, LedgerState]]:
        """Adds an event to a state, which changes; gives back its hash and the state, or nothing to follow further."""
        event = recorded.event
        # A test begins as `init` ends: with a roster and keys.
        if recorded.arranged and (event.request is not None or state.requests):
            return []
        try:
            step = None if recorded.arranged else abstract(state, event)
            deque(state.read((event,)), maxlen=0)
        except AuditError:
            return []
        if event.seq in state.refused or event.seq in state.unsigned:
            return []
        self.skipped -= 1
        if step is not None:
            self.steps[step] += 1
        return [(event.hash, state)]


def examined(recorded: Iterable[Recorded]) -> Examined:
    """Replays each chain from its first event, and again from where it was put back."""
    signatures, following = Signatures(), dict[str, dict[str, Recorded]]()
    for each in recorded:
        following.setdefault(each.event.previous, {}).setdefault(each.event.hash, each)
        signatures.keep(each.event)
    found = Examined(skipped=sum(map(len, following.values())))
    states = [(GENESIS, LedgerState(signatures.verify, verify_event=verifies))]
    while states:
        head, state = states.pop()
        for each in following.get(head, {}).values():
            states += found.after(copied(state) if len(following[head]) > 1 else state, each)
    return found
