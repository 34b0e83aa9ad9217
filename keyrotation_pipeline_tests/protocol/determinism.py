"""Has the state choose ids and keys, so that it decides a run; and remembers pure functions of events."""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from unittest import mock

from keyrotation_pipeline.audit import events, history, verify
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model import approval
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline_tests.protocol.machine import Machine
from keyrotation_pipeline_tests.protocol.state import KEY_OF, MATERIALS


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
    described = lru_cache(maxsize=1000)(Roster.__str__)
    render = lru_cache(maxsize=20_000)(approval.rendered)
    with (
        mock.patch.object(KeyMaterial, "generate", staticmethod(generate)),
        mock.patch.object(opening, "os", types.SimpleNamespace(urandom=urandom)),
        mock.patch.object(events, "entry_of", remembered),
        mock.patch.object(history, "entry_of", remembered),
        mock.patch.object(Roster, "__str__", described),
        mock.patch.object(approval, "rendered", lambda header, fields: render(header, tuple(fields))),
        mock.patch.object(verify, "_replayed", lambda pipeline: pipeline.ledger.replayed()),
    ):
        yield
