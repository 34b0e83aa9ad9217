"""What people and the conductor may call in a state: the real code of the pipeline."""

from collections.abc import Iterator

from keyrotation_pipeline.backups import destruction
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.requests import confirming, control, policy
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import reconcile, rollback, rotate, runner
from keyrotation_pipeline_tests.fakes import ROSTER
from keyrotation_pipeline_tests.protocol.destruction import site_of
from keyrotation_pipeline_tests.protocol.machine import TABLE, Action, Machine
from keyrotation_pipeline_tests.protocol.models import DESTROY, EMERGENCY, POLICY, RECONCILE, ROLLBACK, ROUTINE, Model
from keyrotation_pipeline_tests.protocol.state import Ledger

ASKS = "dba@clinic"


def ask_routine(machine: Machine) -> None:
    """`keyrotation request`."""
    rotate.open_request(machine.pipeline, reason="yearly", requested_by=ASKS)


def ask_emergency(machine: Machine) -> None:
    """`keyrotation request --emergency`."""
    rotate.open_request(machine.pipeline, reason="exposed", requested_by=ASKS, incident="leak")


def ask_rollback(machine: Machine, request: str) -> None:
    """`keyrotation rollback`."""
    walk = machine.pipeline.ledger.walk(request)
    rollback.open_rollback(machine.pipeline, walk, reason="slow", requested_by=ASKS)


def sign(machine: Machine, request: str, officer: str) -> None:
    """`keyrotation approve --signature`."""
    text = machine.ledger.approval_text(request)
    signature = machine.signatures.sign_now(officer, text)
    add_approval(machine.pipeline, machine.ledger.request(request), signature)


def rotate_on(machine: Machine, request: str) -> None:
    """The first step that is due, as `keyrotation rotate` and the conductor run it."""
    walk = machine.ledger.walk(request)
    decision = runner.next_decision(Situation(machine.pipeline), walk)
    if not decision.tasks:
        raise BlockedError(str(decision.pending))
    machine.task = str(decision.tasks[0].step)
    runner.run_step(machine.pipeline, request, decision.tasks[0], lambda _progress: None)


def run_task(machine: Machine, request: str, step: Step, *, shard: bool = False) -> None:
    """One asset materialized by hand, due or not."""
    task = Task(step, Shard(TABLE, 0, 1) if shard else None)
    runner.run_step(machine.pipeline, request, task, lambda _progress: None)


def cancel(machine: Machine, request: str) -> None:
    """`keyrotation cancel`."""
    control.cancel(machine.pipeline, machine.ledger.request(request))


def pause(machine: Machine, request: str) -> None:
    """`keyrotation pause`."""
    control.pause(machine.pipeline.ledger, machine.ledger.walk(request))


def resume(machine: Machine, request: str) -> None:
    """`keyrotation resume`."""
    control.resume(machine.pipeline.ledger, machine.ledger.walk(request))


def confirm(machine: Machine, request: str, officer: str) -> None:
    """`keyrotation confirm --signature`: an officer knows that what is silent has ended."""
    walk = machine.ledger.walk(request)
    text = confirming.confirmation_text(machine.pipeline, walk)
    confirming.add_confirmation(machine.pipeline, walk, machine.signatures.sign_now(officer, text))


def ask_policy(machine: Machine) -> None:
    """`keyrotation policy --reason`."""
    policy.open_policy(machine.pipeline, reason="Ben leaves", requested_by=ASKS)


def change_policy(machine: Machine, request: str) -> None:
    """`keyrotation policy`, once it is signed."""
    policy.change_policy(machine.pipeline, machine.ledger.request(request))


def ask_reconcile(machine: Machine) -> None:
    """`keyrotation reconcile`."""
    reconcile.open_reconciliation(machine.pipeline, requested_by=ASKS)


def carry_out_reconcile(machine: Machine, request: str) -> None:
    """`keyrotation reconcile`, once it is signed."""
    reconcile.reconcile(machine.pipeline, machine.ledger.request(request))


def ask_destroy(machine: Machine, version: int) -> None:
    """`keyrotation destroy --reason`."""
    destruction.open_destruction(site_of(machine), KeyVersion(version), reason="old", requested_by=ASKS)


def carry_out_destroy(machine: Machine, request: str) -> None:
    """`keyrotation destroy`, once it is signed."""
    destruction.destroy(site_of(machine), machine.ledger.request(request))


# The roster that `keyrotation.toml` may be changed to: Ben leaves, Cleo comes.
CLEO = Officer("Cleo", "C" * 40)
OTHER = Roster(2, (ROSTER.officers[0], CLEO), ROSTER.recipients)
THREE = Roster(2, (*ROSTER.officers, CLEO), ROSTER.recipients)


def roster_of(model: Model) -> Roster:
    """The roster that is pinned when a model begins."""
    return THREE if "expire" in model.controls else ROSTER


CARRIES_OUT = {
    RequestAction.POLICY: change_policy,
    RequestAction.RECONCILE: carry_out_reconcile,
    RequestAction.DESTROY: carry_out_destroy,
}

# Commands that read for minutes between their first look and what they record.
LOOK_FIRST = frozenset({ask_routine, ask_rollback, ask_destroy, carry_out_destroy})


def _named(request: Request) -> str:
    kind = request.type if request.action == "rotate" else request.action
    return f"{kind} {int(request.id, 16)} ({request.source} to {request.target})"


def commands_of(model: Model, ledger: Ledger) -> Iterator[Action]:
    """What people may type in a ledger's state."""
    requests = list(ledger.state.requests.values())
    open_ones = [each for each in requests if not each.is_over]
    highest = max(version.number for version in ledger.state.keys)
    may_ask = len(requests) < model.requests
    if may_ask and ROUTINE in model.asks and highest < model.versions:
        yield Action("request a rotation", ask_routine)
    if may_ask and EMERGENCY in model.asks and highest < model.versions:
        yield Action("request an emergency", ask_emergency)
    if may_ask and ROLLBACK in model.asks:
        for each in requests:
            if each.action == "rotate":
                yield Action(f"request a rollback of {_named(each)}", ask_rollback, (each.id,))
    if may_ask and POLICY in model.asks:
        yield Action("request another roster", ask_policy)
    if may_ask and RECONCILE in model.asks and (ledger.restored or ledger.copy is not None):
        yield Action("request a reconciliation", ask_reconcile)
    if may_ask and DESTROY in model.asks:
        for version in ledger.state.keys:
            yield Action(f"request the destruction of {version}", ask_destroy, (version.number,))
    for each in open_ones:
        yield from _about(model, ledger, each)


def _about(model: Model, ledger: Ledger, request: Request) -> Iterator[Action]:
    name, roster = _named(request), ledger.replay.roster
    if roster is not None and len(set(request.approvals) - ledger.expired) < roster.required:
        # Officers are alike; once the roster may change, they are not.
        officers = roster.officers if POLICY not in model.asks else dict.fromkeys((*ROSTER.officers, CLEO))
        able = [each for each in officers if each.fingerprint not in {*request.approvals, *ledger.expired}]
        for officer in able if POLICY in model.asks else able[:1]:
            yield Action(f"{officer.name} signs {name}", sign, (request.id, officer.fingerprint))
    if "cancel" in model.controls:
        yield Action(f"cancel {name}", cancel, (request.id,))
    if not isinstance(request, Walk):
        yield Action(f"carry out {name}", CARRIES_OUT[request.action], (request.id,))
        return
    if "confirm" in model.controls and roster is not None:
        first = roster.officers[0]
        yield Action(f"{first.name} confirms a rollout of {name}", confirm, (request.id, first.fingerprint))
    if "pause" in model.controls and request.status is not RequestStatus.PAUSED:
        yield Action(f"pause {name}", pause, (request.id,))
    if request.status is RequestStatus.PAUSED:
        yield Action(f"resume {name}", resume, (request.id,))
    yield Action(f"run what is due of {name}", rotate_on, (request.id,))
    if "out of order" in model.controls:
        for step in Step:
            yield Action(f"run {step} of {name}", run_task, (request.id, step))
