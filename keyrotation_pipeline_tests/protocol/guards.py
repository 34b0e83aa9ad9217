"""Every guard of the model: what it prevents is found as soon as it is switched off.

Many guards stand in more than one place, since what a first one refuses may come another way, or after a crash. Such
places are one guard here, switched off together; that each of them alone is covered by the others is what they are for.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.audit import divergence, store_owner, verify
from keyrotation_pipeline.backups import destruction
from keyrotation_pipeline.model import audit_state
from keyrotation_pipeline.model.requests import WALK, RequestStatus
from keyrotation_pipeline.model.tables import OldRows
from keyrotation_pipeline.requests import approvals, conductor, policy, takeover
from keyrotation_pipeline.rotation import archive, deploy, keys, prove, retire, rollback, rollout, rotate, runner
from keyrotation_pipeline_tests.fakes import FakeLedger
from keyrotation_pipeline_tests.protocol import actors, machine, model_ports
from keyrotation_pipeline_tests.protocol.models import (
    DESTROY,
    EMERGENCY,
    POLICY,
    ROLLBACK,
    ROUTINE,
    Model,
)
from keyrotation_pipeline_tests.protocol.search import Exploration, explore
from keyrotation_pipeline_tests.protocol.state import KEY_OF

# What stands in for a function, by the object that has it and its name.
Switch = tuple[object, str, Any]


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard.

    Args:
        places: where it stands in the product.
        switches: what is replaced to switch it off.
        breaks: the invariant that then does not hold.
        model: in which that is found.
    """

    name: str
    places: str
    switches: tuple[Switch, ...]
    breaks: str
    model: Model

    @contextmanager
    def off(self) -> Iterator[None]:
        """Switches it off."""
        with ExitStack() as patched:
            for where, name, instead in self.switches:
                patched.enter_context(mock.patch.object(where, name, instead))
            yield


@cache
def counterexample(guard: Guard) -> Exploration:
    """Explores a guard's model without it."""
    with guard.off():
        return explore(guard.model, seconds=60)


def nothing(*_arguments: object, **_named: object) -> None:
    """Refuses nothing."""


def _seen(pipeline: Any, *_arguments: object) -> Any:  # noqa: ANN401
    return pipeline.rollout.instances()


def _decides_without_signatures(rotation: Any, _required: int, *arguments: Any) -> Any:  # noqa: ANN401
    return conductor.decide(rotation, 0, *arguments)


def _pretended(pipeline: Any, version: Any, material: Any, _request: Any) -> Any:  # noqa: ANN401
    return pipeline.vault.key_backup(version, material.fingerprint) or machine.backup_of(KEY_OF[material.fingerprint])


def _awake(rotation: Any, *arguments: Any) -> Any:  # noqa: ANN401
    return _PENDING(replace(rotation, status=RequestStatus.RUNNING), *arguments)


_PENDING = conductor._pending  # noqa: SLF001


class _Everything:
    """A decision by which everything is due."""

    tasks = type("All", (), {"__contains__": lambda *_: True, "__getitem__": lambda *_: conductor.Task(WALK[0])})()
    pending = None


_SMALL = Model("small", "one instance, one row", instances=1, rows=1)
_TWO = replace(_SMALL, instances=2)
_EMERGENCY = replace(_SMALL, asks=(ROUTINE, ROLLBACK, EMERGENCY), requests=3, versions=3, dies=False)

GUARDS: Sequence[Guard] = (
    Guard(
        "early promotion", "rotation/deploy.bring_to_read",
        ((deploy, "bring_to_read", _seen),),
        "no instance lacks a key", _TWO,
    ),
    Guard(
        "every instance writes under the target before the rows", "rotation/deploy.bring_to_write",
        ((deploy, "bring_to_write", _seen), (retire, "_require_writers", nothing)),
        "no write is refused", _SMALL,
    ),
    Guard(
        "retirement with a stale writer",
        "rotation/deploy.bring_to_write, rotation/retire._require_writers, the fence",
        ((deploy, "bring_to_write", _seen), (retire, "_require_writers", nothing), (actors, "refuses", nothing)),
        "nothing old after retirement", _SMALL,
    ),
    Guard(
        "retirement under an old snapshot", "rotation/retire._wait_for_horizon, the evidence in the transaction",
        ((model_ports.ModelEvidence, "snapshot_blockers", lambda *_: ()),),
        "nothing old after retirement", replace(_SMALL, views=1),
    ),
    Guard(
        "zero old rows", "rotation/prove._sweep, the fence's and the evidence's own count",
        (
            (prove, "_sweep", lambda *_: 0),
            (model_ports.ModelEvidence, "_require_nothing_left", nothing),
            (model_ports.ModelFencing, "old_rows", lambda *_: OldRows(0, 0)),
        ),
        "nothing old after retirement", replace(_SMALL, controls=frozenset({"lock"}), dies=False),
    ),
    Guard(
        "a table is locked before its snapshot", "adapters/postgres/inventory/snapshots.begin",
        ((model_ports.ModelRewriting, "locks_first", lambda *_: False),),
        "no value is passed over",
        replace(_SMALL, controls=frozenset({"damage"}), inside=frozenset({"rewrite"}), dies=False),
    ),
    Guard(
        "a rollback to a compromised version",
        "rotation/rollback._require_usable and _require_undoable, requests/takeover.dead_end, "
        "adapters/keystores/changes.needs_promoting",
        (
            (rollback, "LOST", frozenset()), (takeover, "dead_end", nothing),
            (changes, "needs_promoting", lambda stored, version, *_: stored.primary != version),
        ),
        "never a compromised primary again",
        replace(_EMERGENCY, controls=frozenset({"cancel"}), prefix=(
            "request a rotation", "Ada", "Ben", "run what is due", "request an emergency", "Ada", "Ben",
            "cancel emergency",
        )),
    ),
    Guard(
        "an emergency against a signed rollback", "requests/takeover.emergency_first",
        ((takeover, "emergency_first", nothing),),
        "a signed emergency goes first", _EMERGENCY,
    ),
    Guard(
        "a truncated chain", "audit/divergence._about_anchors, audit/verify._unlike",
        ((divergence, "_about_anchors", lambda *_: ()), (verify, "_unlike", lambda *_: ())),
        "nothing acts on a database that was put back",
        replace(_SMALL, asks=(ROUTINE,), requests=2, controls=frozenset({"restore"}), dies=False),
    ),
    Guard(
        "two copies of a home over one key store", "audit/store_owner.of_others",
        ((store_owner, "of_others", nothing),),
        "no copy changes what another has changed",
        replace(_SMALL, requests=1, controls=frozenset({"copy"}), dies=False),
    ),
    Guard(
        "a key destroyed while a backup needs it", "backups/destruction: kept_dumps_that_need",
        ((destruction, "kept_dumps_that_need", lambda *_: ()),),
        "no key is destroyed that is needed",
        replace(_SMALL, asks=(ROUTINE, DESTROY), requests=2, controls=frozenset({"dump"}), dies=False),
    ),
    Guard(
        "nothing without a quorum",
        "requests/conductor.decide, requests/approvals.require_authorised, the ledger (AuditState.require_enough)",
        (
            (runner, "decide", _decides_without_signatures),
            *((module, "require_authorised", nothing) for module in (runner, retire, takeover)),
            (takeover, "authorised_by", lambda *_: "nobody"),
            *((module, "authorised_by", lambda *_: "nobody") for module in (keys,)),
            (audit_state.AuditState, "require_enough", nothing),
        ),
        "nothing without a quorum", _SMALL,
    ),
    Guard(
        "nothing after the last date", "requests/conductor.past_dates",
        ((conductor, "past_dates", nothing), (approvals, "past_dates", nothing)),
        "nothing without a quorum", replace(_SMALL, controls=frozenset({"time"})),
    ),
    Guard(
        "no other roster without a quorum", "requests/policy: require_authorised, the ledger (require_enough)",
        ((policy, "require_authorised", nothing), (audit_state.AuditState, "require_enough", nothing)),
        "nothing without a quorum", replace(_SMALL, asks=(POLICY,), requests=1),
    ),
    Guard(
        "key before rows", "rotation/keys.backed_up and _intact_backup",
        ((keys, "backed_up", _pretended), (keys, "_intact_backup", lambda *_: machine.backup_of((1, 0)))),
        "key before rows", _SMALL,
    ),
    Guard(
        "applications name their primary", "rotation/rollout.unnamed_primary",
        ((rollout, "unnamed_primary", nothing),),
        "no instance lacks a key", replace(_TWO, names=False),
    ),
    Guard(
        "no instance has the archived key", "rotation/archive: await_instances",
        ((archive, "await_instances", lambda pipeline, *_: _seen(pipeline)),),
        "no instance has an archived key", _SMALL,
    ),
    Guard(
        "no cancellation after promotion",
        "rotation/rotate._require_cancellable, adapters/keystores/changes.needs_archiving",
        (
            (rotate, "_require_cancellable", nothing),
            (changes, "needs_archiving", lambda stored, version, *_: version in stored.live),
        ),
        "no instance lacks a key", replace(_SMALL, controls=frozenset({"cancel"})),
    ),
    Guard(
        "a rollback lifts the fence first", "rotation/rollback.return_primary: unfence",
        ((model_ports.ModelFencing, "unfence", nothing),),
        "no write is refused",
        replace(_SMALL, asks=(ROUTINE, ROLLBACK), requests=2, dies=False, prefix=(
            "request a rotation", "Ada", "Ben", "run what is due", "instance 0 reads", "instance 0 reports",
            "run what is due", "run what is due", "instance 0 reads", "instance 0 reports", *["run what is due"] * 3,
            "request a rollback", "Ada signs rollback", "Ben signs rollback",
        )),
    ),
    Guard(
        "one walk at a time", "rotation/rotate._stuck, the ledger (open)",
        ((rotate, "_stuck", nothing), (FakeLedger, "_require_place", nothing)),
        "one walk at a time", replace(_SMALL, requests=2),
    ),
    Guard(
        "only what is due", "rotation/runner.run_step: the conductor is asked",
        ((runner, "next_decision", lambda *_: _Everything()),),
        "no write is refused", replace(_SMALL, controls=frozenset({"out of order", "cancel"})),
    ),
    Guard(
        "a report is newer than the change of the key store", "rotation/rollout._nonces, the event after the change",
        ((rollout, "_nonces", lambda *_: None),),
        "no instance has an archived key", replace(_SMALL, asks=(ROUTINE, ROLLBACK), requests=2, dies=False),
    ),
    Guard(
        "an emergency begins only where its source is the primary and its target is not in use",
        "requests/takeover.cannot_start",
        ((takeover, "cannot_start", nothing),),
        "no write is refused", replace(_EMERGENCY, versions=2),
    ),
    Guard(
        "a pause, and an end", "requests/conductor._pending",
        ((conductor, "_pending", _awake),),
        "nothing for a request that is paused or over",
        replace(_SMALL, dies=False, controls=frozenset({"pause", "cancel"})),
    ),
)  # fmt: skip
