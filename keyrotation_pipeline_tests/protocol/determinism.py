"""Has the state choose ids and keys, so that it decides a run; and remembers pure functions of events and rosters."""

import gc
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TypeVar
from unittest import mock

from keyrotation_pipeline.audit import events, history, verify
from keyrotation_pipeline.audit.events import AuditEntry
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model import approval
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import EventKind, hash_of
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline_tests.fakes import chain
from keyrotation_pipeline_tests.protocol import state, traces
from keyrotation_pipeline_tests.protocol.machine import Machine
from keyrotation_pipeline_tests.protocol.state import KEY_OF, MATERIALS

T = TypeVar("T")
_chain_faults = verify._chain_faults  # noqa: SLF001


@contextmanager
def determined(machine: Machine) -> Iterator[None]:
    """While a machine runs, chance is the state's."""

    def generate() -> KeyMaterial:
        ledger = machine.ledger
        made = events.entries(ledger, EventKind.KEY_CREATION_INTENDED)
        walk = ledger.current()
        assert walk is not None
        number = walk.target.number
        attempts = sum(KEY_OF[str(each.facts["fingerprint"])][0] == number for each in made)
        return MATERIALS[number, min(attempts + machine.life, 7)]

    def urandom(size: int) -> bytes:
        opened = len(machine.ledger.state.requests) + 10 * machine.life + 1
        machine.clock.at += timedelta(seconds=1)  # no two requests are opened at one moment
        return opened.to_bytes(size, "big")

    remembered = lru_cache(maxsize=200_000)(events.entry_of)
    faults = lru_cache(maxsize=200_000)(lambda before, event: tuple(_chain_faults(before, event)))
    render = lru_cache(maxsize=20_000)(approval.rendered)
    patches: tuple[AbstractContextManager[object], ...] = (
        mock.patch.object(KeyMaterial, "generate", staticmethod(generate)),
        mock.patch.object(opening, "os", types.SimpleNamespace(urandom=urandom)),
        *(mock.patch.object(module, "entry_of", remembered) for module in (events, history, chain, state, traces)),
        mock.patch.object(history, "_read", _once(history._read)),  # noqa: SLF001
        mock.patch.object(history, "hash_of", lru_cache(maxsize=200_000)(hash_of)),
        mock.patch.object(verify, "_chain_faults", faults),
        mock.patch.object(Roster, "__str__", lru_cache(maxsize=1000)(Roster.__str__)),
        mock.patch.object(Roster, "digest", property(lru_cache(maxsize=1000)(vars(Roster)["digest"].fget))),
        mock.patch.object(approval, "rendered", lambda header, fields: render(header, tuple(fields))),
        mock.patch.object(verify, "_replayed", lambda pipeline: pipeline.ledger.replayed()),
        _without_collecting(),
    )
    with ExitStack() as patched:
        for each in patches:
            patched.enter_context(each)
        yield


def _once(function: Callable[[AuditEntry], T]) -> Callable[[AuditEntry], T]:
    """The same, called once for each entry."""
    known: dict[int, tuple[AuditEntry, T]] = {}

    def found(entry: AuditEntry) -> T:
        if id(entry) not in known:
            known[id(entry)] = entry, function(entry)
        return known[id(entry)][1]

    return found


@contextmanager
def _without_collecting() -> Iterator[None]:
    """States, which stay, are not searched for cycles again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
