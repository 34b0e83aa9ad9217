"""Reconcile: make a database that was restored to an earlier state agree with the key store, which was not.

Nothing is re-encrypted here. Afterwards every value can be read, every key is registered as what it is, and the next
rotation brings everything under one version as always.
"""

from contextlib import ExitStack
from datetime import timedelta

from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.errors import BlockedError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.key_events import KeyRestoreIntended
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import CancelIntended, DatabaseReconciled
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.ports.actions import Action
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import opening, time_stamping
from keyrotation_pipeline.requests.approvals import approval_text, require_authorised, stored_source
from keyrotation_pipeline.requests.control import hold_all_steps
from keyrotation_pipeline.requests.roster import authority_to_reconcile, pin_roster_in_store, pinned_roster
from keyrotation_pipeline.rotation.reconcile_plan import Plan, plan

LOCK = "reconcile"


def pending(pipeline: Pipeline) -> Request | None:
    """The open request to reconcile, if there is one."""
    return next(iter(opening.pending(pipeline, RequestAction.RECONCILE)), None)


def open_reconciliation(pipeline: Pipeline, *, requested_by: str) -> tuple[Request, Plan]:
    """Open a request to carry the plan out, for officers to sign.

    Raises:
        RequestError: there is nothing to reconcile.
        AuditError: somebody has written to the database from outside, whenever it is from.
        BlockedError: values are under a version whose key is not in the key store.
    """
    decided = _verified_plan(pipeline)
    if not decided.findings and not decided.missing:
        raise RequestError("database, key store and anchors tell one story; there is nothing to reconcile")
    _require_readable(decided)
    opened = opening.new_request(
        Request,
        pipeline,
        RECONCILE,
        source=decided.primary,
        fingerprint=pipeline.keys.read().material(decided.primary).fingerprint,
        target=decided.primary,
        reason="; ".join(decided.findings),
        requested_by=requested_by,
    )
    pipeline.ledger.open(opened, approval_text(pipeline, opened))
    return opened, decided


def reconcile(pipeline: Pipeline, rotation: Request) -> Plan:
    """Carry out what officers signed, if the facts still ask for exactly that; may be repeated after a crash.

    Raises:
        ApprovalError: too few signatures, or something has changed since.
        AuditError: as `open_reconciliation`.
        BlockedError: a step of an earlier rotation is still running, a key is missing, or a table stays locked.
        ProofError: a value under a retired version was written just now.
    """
    with pipeline.ledger.lock(LOCK), ExitStack() as held:
        decided = _verified_plan(pipeline)
        require_authorised(pipeline, rotation, pipeline.keys.read())
        _require_readable(decided)
        _stop(pipeline, decided, rotation, held)
        for version in decided.live:
            _bring_back(pipeline, version, rotation)
        _withdraw(pipeline, decided, rotation)
        for table in pipeline.tables:
            # Under a fence, rows of its version could not be updated at all.
            for version in decided.live:
                pipeline.database.unfence(table, version)
        _fence(pipeline, decided)
        with pipeline.ledger.transaction():
            _record(pipeline, decided, rotation)
        pipeline.anchors.keep(pipeline.ledger.head())
        pin_roster_in_store(pipeline, pipeline.keys.read())
        pinned_roster(pipeline)  # which keeps it in the home
    time_stamping.stamp(pipeline)
    return decided


def _verified_plan(pipeline: Pipeline) -> Plan:
    """The plan, for an audit that verifies from its first event on, but for the anchors that are to be given up."""
    roster, decided = authority_to_reconcile(pipeline), plan(pipeline)
    require_verified(pipeline, afresh=True, but=decided.found.strangers, reconciled_by=roster)
    return decided


def _require_readable(decided: Plan) -> None:
    if decided.missing:
        raise BlockedError(
            f"values are under {decided.missing[0]}, whose key is not in the key store; "
            f"put it back with `keyrotation restore-key {decided.missing[0]}`, then run this again"
        )


def _stop(pipeline: Pipeline, decided: Plan, rotation: Request, held: ExitStack) -> None:
    for former in map(pipeline.ledger.walk, decided.ends):
        if former.status is RequestStatus.RUNNING:
            pipeline.ledger.set_status(former.id, RequestStatus.PAUSED, by=rotation.id)
        held.enter_context(hold_all_steps(pipeline, former))


def _bring_back(pipeline: Pipeline, version: KeyVersion, rotation: Request) -> None:
    stored = pipeline.keys.read()
    if version in stored.archived:
        pipeline.ledger.append(KeyRestoreIntended(version, stored.material(version).fingerprint), rotation.id)
        pipeline.keys.restore(version, stored.revision)


def _withdraw(pipeline: Pipeline, decided: Plan, rotation: Request) -> None:
    stored = pipeline.keys.read()
    for version, state in decided.states.items():
        if state is KeyState.ARCHIVED and version in stored.live:
            pipeline.ledger.append(CancelIntended(version), rotation.id)
            stored = pipeline.keys.archive(version, stored.revision)


def _fence(pipeline: Pipeline, decided: Plan) -> None:
    """Let each table refuse again what was retired in it, beside whatever else it refuses."""
    for table in pipeline.tables:
        if wanted := decided.refused.get(str(table.name)):
            pipeline.database.fence(table, sorted({*wanted, *pipeline.database.fences(table)}))


def _record(pipeline: Pipeline, decided: Plan, rotation: Request) -> None:
    pipeline.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    for former in decided.ends:
        pipeline.ledger.set_status(former, RequestStatus.CANCELLED, by=rotation.id)
    if decided.roster is not None:
        pipeline.ledger.pin_roster(decided.roster, rotation.id)
    # The primary last: only one version may be active.
    for version in sorted(decided.states, key=lambda each: each == decided.primary):
        _set_state(pipeline, version, decided.states[version], rotation)
    done = DatabaseReconciled(
        found=rotation.reason,
        primary=decided.primary,
        in_rows=decided.in_rows,
        states={str(version): str(state) for version, state in decided.states.items()},
        ended=decided.ends,
        accepted=decided.found.strangers,
    )
    pipeline.ledger.append(done, rotation.id)
    pipeline.ledger.set_status(rotation.id, RequestStatus.FINISHED)


def _set_state(pipeline: Pipeline, version: KeyVersion, state: KeyState, rotation: Request) -> None:
    registered = pipeline.ledger.keys()
    record = next((each for each in registered if each.version == version), None)
    if record is None:
        fingerprint = pipeline.keys.read().material(version).fingerprint
        pipeline.ledger.add_key(KeyRecord(version, state, fingerprint, pipeline.clock.now()), rotation.id)
        return
    if state is not record.state and state not in ALLOWED_TRANSITIONS[record.state]:
        pipeline.ledger.set_key_state(version, KeyState.DEACTIVATED, rotation.id)
    pipeline.ledger.set_key_state(version, state, rotation.id)


RECONCILE = Action(
    RequestAction.RECONCILE,
    authorises=lambda pipeline, _request: plan(pipeline).sentence(),
    source=stored_source,
    target=lambda _pipeline, request, _stored: str(request.target),
    authority=authority_to_reconcile,
    start_within=timedelta(days=7),
    finish_within=timedelta(days=7),
    command=lambda _request: "keyrotation reconcile",
    renewal=lambda _request: "cancel it, then run `keyrotation reconcile` for a new one",
)
