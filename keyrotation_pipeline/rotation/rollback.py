"""Rolls back to the previous primary, and every row with it, so that nothing written since is lost.

It is the walk of a rotation with source and target exchanged, and three differences. The target is a key that was used
before, and is restored from wherever it is. Rows under it are expected. The fences against it are dropped before
anything is written under it again. The version that is undone is withdrawn, and its number is never used again.

A rollback of another action, `DECRYPT`, also gives columns that are declared with `from` that form back, which its
signed text says first. Applications write it again as soon as the earlier version is the primary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import BlockedError, KeyStoreDamagedError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.key_events import KeyRestoreIntended, PrimaryChangeIntended
from keyrotation_pipeline.model.keys import LOST, KeyMade, KeyRecord, KeyState, StoredKeys, active_version
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Step, Walk, held_in_words
from keyrotation_pipeline.model.signed_lines import DECRYPTS
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline, StepFunction
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline.requests.approvals import approval_text, named_by_incident, stored_source
from keyrotation_pipeline.requests.conductor import command_of_walk, renewal_of_walk
from keyrotation_pipeline.requests.inventory import require_preflight
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.requests.takeover import (
    PRIMARY_LOCK,
    held_compromised,
    mark_compromised,
    publish_compromised,
    taking_over,
)
from keyrotation_pipeline.rotation import deploy
from keyrotation_pipeline.rotation import report as rotation_report
from keyrotation_pipeline.rotation.fences import STILL_REFUSED, lift
from keyrotation_pipeline.rotation.keys import backed_up, described_primary, record_of
from keyrotation_pipeline.rotation.report import post_mortem
from keyrotation_pipeline.rotation.rollout import seen_facts
from keyrotation_pipeline.rotation.rotate import STEPS


def open_rollback(
    pipeline: Pipeline,
    rotation: Walk,
    *,
    reason: str,
    requested_by: str,
    decrypt: bool = False,
    start_by: datetime | None = None,
    finish_by: datetime | None = None,
) -> Walk:
    """Opens a request to undo a rotation, for officers to sign; the rotation is paused from now on.

    Args:
        rotation: the unfinished one, or the last finished one.
        reason: one plain line; officers sign it, and the post-mortem begins with it.
        decrypt: whether columns that are declared with `from` get that form back.
        start_by: aware; default 7 days from now.
        finish_by: aware; default 30 days from now.

    Raises:
        RequestError: it cannot be undone; the message says what to do instead.
        ApprovalError: the roster differs from the pinned one, or a text has characters that could mislead.
        AuditError: somebody has tampered with the database; the audit is read from its first event.
        PreflightError, BlockedError, MemberUnavailableError: of `decrypt`, columns cannot get it back, or cannot be
            counted, whose number officers sign.
    """
    require_roster(pipeline)
    opening.require_texts(reason, requested_by, None)
    stored = pipeline.keys.read()
    require_consistent(pipeline, stored, afresh=True)
    opening.require_none_waiting(pipeline.ledger)
    rotation = pipeline.ledger.walk(rotation.id)
    _require_undoable(pipeline, rotation, stored.primary)
    source = _registered(pipeline.ledger, rotation)
    if decrypt:
        _require_decryptable(pipeline.tables, stored)
    opened = opening.new_request(
        Walk,
        pipeline,
        DECRYPT if decrypt else ROLLBACK,
        source=rotation.target,
        fingerprint=source.fingerprint,
        target=rotation.source,
        reason=reason,
        requested_by=requested_by,
        start_by=start_by,
        finish_by=finish_by,
        supersedes=rotation.id,
    )
    counts = None
    if decrypt:
        require_preflight(pipeline.of_walk(opened), opened.target)
        counts = pipeline.inventory.count(pipeline.tables)
    text = approval_text(pipeline, opened, counts)
    with pipeline.ledger.transaction():
        pipeline.ledger.open(opened, text)
        # Once more, now that the audit is locked: others may have acted since.
        rotation = pipeline.ledger.walk(rotation.id)
        _require_undoable(pipeline, rotation, active_version(pipeline.ledger.keys()) or stored.primary)
        if rotation.status is RequestStatus.RUNNING:
            pipeline.ledger.set_status(rotation.id, RequestStatus.PAUSED, by=opened.id)
        if counts is not None:
            pipeline.ledger.save_counts(counts)
    return opened


def reactivate_key(pipeline: Pipeline, rotation: Walk, report: Report) -> KeyMade:
    """Makes the key of the earlier version live again, from the archive if it is there.

    Raises:
        RequestError: it is compromised or destroyed.
        KeyStoreError: the key store does not hold it, or holds another key under its version.
    """
    version, record = rotation.target, _require_usable(pipeline, rotation)
    stored = pipeline.keys.read()
    material = stored.registered(record)
    # As soon as an instance has the key, it writes search indexes under it: also where they are no longer declared.
    lift(pipeline.fencing, [table.of_indexes for table in pipeline.tables], version)
    intent = KeyRestoreIntended(version, record.fingerprint)
    if version in stored.archived:
        pipeline.ledger.append(intent, rotation.id)
        stored = pipeline.keys.restore(version, stored.revision)
    if stored.live.get(version) != material:
        raise KeyStoreDamagedError(
            f"{version} does not read back from the key store as it was archived; check the store"
        )
    backup = backed_up(pipeline, version, material, rotation.id)
    report(Progress(Step.KEY_VERSION, str(version), 1, 1, "keys", "live, read back and backed up"))
    from_archive = intent in recorded(pipeline.ledger, KeyRestoreIntended, rotation.id)
    if from_archive:
        # Each time, since a process that died here has not recorded it: only reports from now on say who has the key.
        pipeline.ledger.append(Note(EventKind.KEY_RESTORED, intent.as_json()), rotation.id)
    return KeyMade(version, record.fingerprint, backup.name, backup.sha256, backup.recipients, from_archive)


def roll_out_old_key(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Waits until every application instance is seen to read the earlier version.

    Raises:
        BlockedError: an instance does not read it in time.
    """
    instances = deploy.bring_to_read(pipeline, rotation, report, Step.DUAL_KEY_ROLLOUT)
    return {"version": str(rotation.target), **seen_facts(instances)}


def return_primary(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Lets the tables accept the earlier version again, makes it the primary, and waits until every instance writes it.

    Raises:
        RequestError: it was compromised or destroyed meanwhile.
        BlockedError: a third version is the primary, a table cannot be unfenced, or an instance lags.
    """
    _require_usable(pipeline, rotation)
    stored = pipeline.keys.read()
    if stored.primary not in {rotation.source, rotation.target}:
        raise BlockedError(
            f"the key store names {stored.primary} as the primary, but the rollback {rotation.id} is from "
            f"{rotation.source} to {rotation.target}; request a fresh version with `keyrotation request`"
        )
    # A member of a fleet that does not answer keeps the others from nothing: it accepts the version before its rows.
    again = [table.of_indexes for table in pipeline.tables if table.name.database]
    refusing = lift(pipeline.fencing, [*again, *pipeline.tables], rotation.target)
    if is_to_return := stored.primary != rotation.target:
        deploy.bring_to_read(pipeline, rotation, report, Step.PRIMARY_KEY_ROLLOUT)
    with pipeline.ledger.lock(PRIMARY_LOCK):
        if is_to_return:
            _require_usable(pipeline, rotation)
            pipeline.ledger.append(PrimaryChangeIntended(rotation.source, rotation.target), rotation.id)
            pipeline.keys.set_primary(rotation.target, stored.revision, described_primary(pipeline, rotation))
        _record_return(pipeline, rotation)
    publish_compromised(pipeline, rotation.id)
    instances = deploy.bring_to_write(pipeline, rotation, report)
    if rotation.promotion_xid is None:
        pipeline.ledger.set_promotion(rotation.id, pipeline.evidence.current_xid())
    left = {STILL_REFUSED: list(refusing)} if refusing else {}
    return {"primary": str(rotation.target), **seen_facts(instances), **left}


def report_rollback(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """The summary that every request ends with, and the source procedure's post-mortem, filled in from the facts.

    Raises:
        AuditError: the chain does not verify.
    """
    text = post_mortem(pipeline, rotation)
    facts = {"undoes": rotation.supersedes, "text": text}
    pipeline.ledger.append(Note(EventKind.ROLLBACK_POST_MORTEM, facts), rotation.id)
    return {**rotation_report.report_compliance(pipeline, rotation, report), "post_mortem": text}


def _require_undoable(pipeline: Pipeline, rotation: Walk, primary: KeyVersion | None) -> None:
    if rotation.action != RequestAction.ROTATE:
        raise RequestError(
            f"request {rotation.id} is a {rotation.action} itself; when it is over, use `keyrotation request`"
        )
    if rotation.status is RequestStatus.CANCELLED:
        raise RequestError(f"rotation {rotation.id} was cancelled; there is nothing to roll back")
    if pipeline.tables[0].format.is_held_by_server:
        raise RequestError(
            f"the key server encrypts with its newest version, so rotation {rotation.id} cannot be rolled back; finish "
            f"it with `keyrotation rotate {rotation.id}`, or run `keyrotation request`"
        )
    if rotation.source == PLAINTEXT:
        raise RequestError(
            f"before rotation {rotation.id} there was no key; `keyrotation cancel` it, or finish it, rotate again, and "
            "undo that with `keyrotation rollback --decrypt`"
        )
    if rotation.done(Step.KEY_VERSION) is None:
        raise RequestError(f"rotation {rotation.id} has made no key yet; cancel it with `keyrotation cancel`")
    if rotation.status is RequestStatus.FINISHED:
        _require_last(pipeline.ledger, rotation, primary)
    source = record_of(pipeline.ledger, rotation.source)
    if source is not None and source.state in LOST:
        raise RequestError(_cannot_roll_back(rotation, source))
    if (reason := named_by_incident(Situation(pipeline), rotation.source)) is not None:
        raise RequestError(f"rotation {rotation.id} cannot be rolled back: {reason}")


def _require_decryptable(tables: Sequence[EncryptedTable], stored: StoredKeys) -> None:
    """Refuses what could not be given back, or would leave hashes of what becomes plain text."""
    if not any(table.begun for table in tables):
        raise RequestError("no column has `from`, so none is decrypted; declare it (`keyrotation docs plaintext`)")
    for table in tables:
        if indexed := [index.of for index in table.indexes if index.of in table.begun]:
            raise RequestError(
                f"the search index of {table.name}.{indexed[0]} would stay under the keys; drop it, in [[tables]] and "
                "in the table"
            )
        for place in table.places:
            if place.form is not None and place.form.columns:
                raise RequestError(
                    f"a value of {table.name}.{place.name} has parts in {', '.join(place.form.columns)} too, which is "
                    "not written back; leave this column without `from`, or roll back without --decrypt"
                )
            if place.source_key:
                stored.source(place.source_key)


def _require_last(ledger: Ledger, rotation: Walk, primary: KeyVersion | None) -> None:
    current = ledger.current()
    if current is not None and current.action.goes_back and current.source == rotation.target:
        raise RequestError(
            f"rotation {rotation.id} is being rolled back already; continue with `keyrotation rotate {current.id}`"
        )
    if current is not None:
        raise RequestError(
            f"{current.action if current.action.goes_back else 'rotation'} {current.id} is not finished; "
            f"roll that back with `keyrotation rollback {current.id}`"
        )
    if primary != rotation.target:
        raise RequestError(
            f"rotation {rotation.id} is not the last one: {primary} is the primary now, not {rotation.target}; "
            "to replace that, run `keyrotation request`"
        )


def _cannot_roll_back(rotation: Walk, record: KeyRecord) -> str:
    onward = f"finish it with `keyrotation rotate {rotation.id}`, then " if not rotation.is_over else ""
    return (
        f"{record.version} is {record.state} and never becomes the primary again, so rotation {rotation.id} cannot be "
        f"rolled back; {onward}request a fresh version with `keyrotation request`"
    )


def _registered(ledger: Ledger, rotation: Walk) -> KeyRecord:
    record = record_of(ledger, rotation.target)
    if record is None:
        raise RequestError(f"{rotation.target} is not registered; run `keyrotation reconcile`")
    return record


def _require_usable(pipeline: Pipeline, rotation: Walk) -> KeyRecord:
    """The record of the version to roll back to."""
    record = record_of(pipeline.ledger, rotation.target)
    if record is None or record.state in LOST:
        state = "not registered" if record is None else str(record.state)
        raise RequestError(
            f"{rotation.target} is {state} and never becomes the primary again, so the rollback {rotation.id} cannot "
            "continue; request a fresh version with `keyrotation request`"
        )
    if (reason := named_by_incident(Situation(pipeline), rotation.target)) is not None:
        raise BlockedError(str(reason))
    return record


def _record_return(pipeline: Pipeline, rotation: Walk) -> None:
    """Moves both states together; the source first, since only one version may be active."""
    with pipeline.ledger.transaction():
        source = record_of(pipeline.ledger, rotation.source)
        if source is not None and source.state is KeyState.ACTIVE:
            pipeline.ledger.set_key_state(rotation.source, KeyState.DEACTIVATED, rotation.id)
        deploy.record_primary(pipeline, rotation)


def _authorises(pipeline: Pipeline, request: Request) -> str:
    source, target = request.source, request.target
    beginning = held_in_words(held_compromised(pipeline.ledger, request))
    beginning += taking_over(pipeline.ledger, request) or f"end rotation {request.supersedes} and undo it: "
    return (
        f"{beginning}make {target} the primary again, from the archive if it is there, re-encrypt {source} to "
        f"{target}, fence, withdraw and archive {source}"
    )


def _authorises_decryption(pipeline: Pipeline, request: Request) -> str:
    return f"{_authorises(pipeline, request)}, and decrypt what the line {DECRYPTS} says"


def _target(_pipeline: Pipeline, request: Request, stored: StoredKeys) -> str:
    """The line `To`: with the fingerprint, since the key exists already."""
    return f"{request.target} {stored.material(request.target).fingerprint}"


def _refuse_to_cancel(_pipeline: Pipeline, rotation: Walk) -> None:
    if rotation.status is RequestStatus.FINISHED:
        raise RequestError(f"rollback {rotation.id} is finished; there is nothing to cancel")
    raise RequestError(
        f"the rollback {rotation.id} has begun, so it cannot be cancelled; "
        f"continue with `keyrotation rotate {rotation.id}`"
    )


# The same walk with source and target exchanged; only its beginning and its report are different.
STEPS_BACK: Mapping[Step, StepFunction[Pipeline]] = {
    **STEPS,
    Step.KEY_VERSION: reactivate_key,
    Step.DUAL_KEY_ROLLOUT: roll_out_old_key,
    Step.PRIMARY_KEY_ROLLOUT: return_primary,
    Step.COMPLIANCE_REPORT: report_rollback,
}

ROLLBACK = Action(
    RequestAction.ROLLBACK,
    authorises=_authorises,
    source=stored_source,
    target=_target,
    authority=require_roster,
    finish_within=timedelta(days=30),
    command=command_of_walk,
    renewal=renewal_of_walk,
    withdraw=_refuse_to_cancel,
    is_one_way=lambda _pipeline, _rotation: True,
    approved=mark_compromised,
    steps=STEPS_BACK,
)

DECRYPT = replace(ROLLBACK, name=RequestAction.DECRYPT, authorises=_authorises_decryption)
