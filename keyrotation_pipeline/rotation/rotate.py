"""Opens and cancels rotations: from the primary to an unused version, in the steps of the walk."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import inf

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import BackupError, PreflightError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import is_odd
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.incident_events import EmergencyPrepared
from keyrotation_pipeline.model.incidents import Incident, IncidentStatus
from keyrotation_pipeline.model.keys import LOST, KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import CancelIntended
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Step, Walk, held_in_words
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline, StepFunction
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline.requests.approvals import approval_text, is_as_signed, stored_source
from keyrotation_pipeline.requests.conductor import command_of_walk, renewal_of_walk
from keyrotation_pipeline.requests.inventory import count_answering, require_preflight
from keyrotation_pipeline.requests.policy import require_signed_members
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.requests.takeover import (
    dead_end,
    held_compromised,
    mark_compromised,
    newer_version,
    out_of_use,
    taking_over,
)
from keyrotation_pipeline.rotation import archive, deploy, keys, prove, reencrypt, report, retire
from keyrotation_pipeline.rotation.key_checks import (
    MOST_NAMED,
    counted_in,
    misdeclared,
    require_keys_open,
    require_room,
)
from keyrotation_pipeline.scan.report import name_of

STEPS: Mapping[Step, StepFunction[Pipeline]] = {
    Step.KEY_VERSION: keys.create_key_version,
    Step.DUAL_KEY_ROLLOUT: deploy.roll_out_dual_key,
    Step.PRIMARY_KEY_ROLLOUT: deploy.roll_out_primary_key,
    Step.ROWS: reencrypt.close_rows,
    Step.ZERO_OLD_ROWS_PROOF: prove.prove_zero_old_rows,
    Step.RETIRED_KEY: retire.retire_key,
    Step.ARCHIVED_KEY: archive.confirm_key_withdrawn,
    Step.KEY_ROTATION_AUDIT: report.complete_rotation_audit,
    Step.COMPLIANCE_REPORT: report.report_compliance,
}


def open_request(
    pipeline: Pipeline,
    *,
    reason: str,
    requested_by: str,
    incident: str | None = None,
    start_by: datetime | None = None,
    finish_by: datetime | None = None,
    not_before: datetime | None = None,
    manual: bool = False,
) -> Walk:
    """Opens a rotation from the primary to an unused version, for officers to sign.

    If an unfinished request is past its dates, and its key is the primary already, then this opens its continuation:
    the same request again, which continues where the other one stopped. An emergency does so while any rotation or
    rollback runs. But if the target of that counts as compromised too, it ends it and uses a fresh version.
    So does any request if a server that holds the keys encrypts with a later version, which somebody else made; and if
    a rollback has begun whose target is compromised or destroyed, or which is not about the primary any more.

    Args:
        reason: one plain line; officers sign it.
        requested_by: who asks; `key_rotation_audit.initiated_by` names the officer who signed.
        incident: makes it an emergency, with the incident's deadlines. An opened incident says which versions are
            compromised; any other name means the version that is being rotated out.
        start_by: aware; default 30 days from now, or from `not_before`.
        finish_by: aware; default 90 days from then.
        not_before: aware; nothing starts before, though it may be signed. Not for an emergency.
        manual: people carry it out, and the conductor does not start its steps.

    Raises:
        ApprovalError: the roster differs from the pinned one, or a text has characters that could mislead.
        RequestError: another rotation is unfinished (and within its dates), there is no primary, the dates are
            impossible, an emergency is to be left to people, or the new key would come too near to what it may encrypt,
            for which an emergency is not refused.
        PreflightError: a table cannot be rotated in its present state, or is declared in the wrong format; the latter
            does not refuse an emergency.
        WrongKeyError: values do not decrypt with the key of their version.
        BackupError: the present key has no intact backup; an emergency is not refused for that.
        BlockedError: the database was restored to an earlier state.
    """
    require_roster(pipeline)
    opening.require_texts(reason, requested_by, incident)
    require_consistent(pipeline, pipeline.keys.read())
    opening.require_none_waiting(pipeline.ledger, emergency=incident is not None)
    require_signed_members(pipeline)
    known = _known_incident(pipeline, incident)
    former = _stuck(pipeline) if incident is None else pipeline.ledger.current()
    continued = former if former is not None and _leads_on(pipeline, former, known) else None
    source, target, counts = _ends(pipeline, continued)
    if continued is None and incident is None:
        if source.version != PLAINTEXT:
            require_backed_up(pipeline.vault, source)
        # Not an emergency: a key that somebody else knows is worse than one that has encrypted too much.
        require_room(pipeline, target, counts)
        _require_no_other_key(pipeline)
    require_keys_open(pipeline, pipeline.keys.read(), counted_in(counts), emergency=incident is not None)
    if incident is None and (messages := misdeclared(pipeline, counts)):
        raise PreflightError("; ".join(messages[:MOST_NAMED]))
    rotation = opening.new_request(
        Walk,
        pipeline,
        ROTATE if continued is None else pipeline.actions[continued.action],
        source=source.version,
        fingerprint=source.fingerprint,
        target=target,
        reason=reason,
        requested_by=requested_by,
        incident=known.id if known is not None else incident or (continued.incident if continued is not None else None),
        start_by=start_by,
        finish_by=finish_by,
        not_before=not_before,
        supersedes=None if former is None else former.id,
        manual=manual,
    )
    text = approval_text(pipeline, rotation, counts if continued is None else None)
    with pipeline.ledger.transaction():
        pipeline.ledger.open(rotation, text)
        # Once more, now that the audit is locked: counting takes long, and others act meanwhile.
        opening.require_none_waiting(pipeline.ledger, emergency=incident is not None, but=rotation)
        if known is not None:
            pipeline.ledger.append(EmergencyPrepared(known.id, rotation.id), rotation.id)
        pipeline.ledger.save_counts(counts)
    return rotation


def _require_no_other_key(pipeline: Pipeline) -> None:
    """Refuses what could not be ended: values elsewhere that may be under another key of a server, which no text tells.

    Other formats only warn of values elsewhere: there a rotation can be rolled back.

    Raises:
        PreflightError: names the first place.
    """
    rotated = pipeline.tables[0].format
    others = pipeline.inventory.other_formats() if rotated.is_held_by_server else ()
    if places := [name_of(each.place) for each in others if each.format == rotated.name]:
        raise PreflightError(
            f"{places[0]} holds undeclared values of {rotated.name}; no key version can be retired while it does. "
            "Declare it or remove them"
        )


def _known_incident(pipeline: Pipeline, incident: str | None) -> Incident | None:
    """The incident of that name, if one was opened; other names only appear in the signed text."""
    known = incidents(pipeline.ledger).by_id.get((incident or "").upper())
    if known is not None and known.status is IncidentStatus.CLOSED:
        raise RequestError(f"{known.id} is closed; open a new one with `keyrotation incident open`")
    if known is not None and (message := out_of_use(pipeline, known)) is not None:
        raise RequestError(message)
    return known


def require_backed_up(vault: BackupVault, record: KeyRecord) -> KeyBackup:
    """The intact backup of a key, without which nothing routine begins.

    Raises:
        BackupError: there is none, or a place for backups does not answer.
    """
    if (backup := vault.key_backup(record.version, record.fingerprint)) is None:
        raise BackupError(f"{record.version} has no intact backup in every place; run `keyrotation backup` first")
    return backup


def _ends(pipeline: Pipeline, continued: Walk | None) -> tuple[KeyRecord, KeyVersion, tuple[TableCount, ...]]:
    """The source key, the target version, and the counts from which a new version was chosen."""
    if continued is not None:
        records = (*pipeline.ledger.keys(), _no_key(pipeline.clock))
        source = next(each for each in records if each.version == continued.source)
        return source, continued.target, ()
    return present_key(pipeline), *_target(pipeline)


def _leads_on(pipeline: Pipeline, walk: Walk, incident: Incident | None) -> bool:
    """Whether a walk can still make its target the primary."""
    situation = Situation(pipeline)
    causes = (newer_version(situation, walk), dead_end(situation, walk))
    return not any(causes) and _is_sound(pipeline.ledger, walk.target, incident)


def _is_sound(ledger: Ledger, target: KeyVersion, incident: Incident | None) -> bool:
    """Whether a walk's target may still become the primary: neither recorded as lost nor named by an incident."""
    record = keys.record_of(ledger, target)
    if record is not None and record.state in LOST:
        return False
    named = ledger.replayed().suspected if incident is not None else {}
    return target not in named


def _authorises(pipeline: Pipeline, request: Request) -> str:
    # Older live versions are retired with the source: nothing may be left under any version but the target.
    older = " and every older version" if request.source.number > 1 else ""
    ended = ""
    if pipeline.tables[0].format.is_held_by_server:
        if request.target != request.source.next():
            older = f" and every other version before {request.target}"  # somebody else made those between them
        ended = f"end rotation {request.supersedes}: " if request.supersedes is not None else ""
    elif (former := _ended_rollback(pipeline.ledger, request)) is not None:
        ended = f"end rollback {former.id} to {former.target}: "
    beginning = (
        f"{held_in_words(held_compromised(pipeline.ledger, request))}{taking_over(pipeline.ledger, request) or ended}"
    )
    if request.source == PLAINTEXT:
        what = "encrypt plaintext" if any(table.held_plaintext for table in pipeline.tables) else "re-encrypt"
        return f"{beginning}create {request.target}, distribute, promote, {what}, fence{older}"
    return (
        f"{beginning}create {request.target}, distribute, promote, re-encrypt, fence, retire, "
        f"archive {request.source}{older}"
    )


def _ended_rollback(ledger: Ledger, request: Request) -> Walk | None:
    """The rollback that a request ends since neither of its versions is the primary; None: it ends none."""
    former = None if request.supersedes is None else ledger.walk(request.supersedes)
    if former is None or not former.action.goes_back:
        return None
    return None if request.source in {former.source, former.target} else former


def _is_promoted(pipeline: Pipeline, rotation: Walk) -> bool:
    """Whether writes may have moved to the new key."""
    recorded = rotation.done(Step.PRIMARY_KEY_ROLLOUT) is not None or rotation.promotion_xid is not None
    # A server that holds the keys encrypts with the newest.
    at_once = pipeline.tables[0].format.is_held_by_server and _is_made(pipeline, rotation.target)
    return recorded or at_once or pipeline.keys.read().primary == rotation.target


def _withdraw(pipeline: Pipeline, rotation: Walk) -> None:
    """Cancels a rotation, and archives its key if one was made."""
    _require_cancellable(pipeline, rotation)
    stored = pipeline.keys.read()
    require_consistent(pipeline, stored)
    pipeline.ledger.append(CancelIntended(rotation.target), rotation.id)
    if rotation.target in stored.live:
        pipeline.keys.archive(rotation.target, stored.revision)
    with pipeline.ledger.transaction():
        record = keys.record_of(pipeline.ledger, rotation.target)
        if record is not None and record.state is not KeyState.COMPROMISED:
            pipeline.ledger.set_key_state(rotation.target, KeyState.ARCHIVED, rotation.id)
        pipeline.ledger.set_status(rotation.id, RequestStatus.CANCELLED)


def _require_cancellable(pipeline: Pipeline, rotation: Walk) -> None:
    if rotation.status is RequestStatus.FINISHED:
        raise RequestError(f"rotation {rotation.id} is finished; there is nothing to cancel")
    if _is_promoted(pipeline, rotation):
        raise RequestError(
            f"rotation {rotation.id} has made {rotation.target} the primary, so it cannot be cancelled; "
            f"continue with `keyrotation rotate {rotation.id}`, or undo it with `keyrotation rollback {rotation.id}`"
        )
    made = _is_made(pipeline, rotation.target)
    for table in pipeline.tables:
        # Only our own values can name a key that was never made.
        if not made and not table.format.names_versions:
            continue
        rows = pipeline.inventory.rows_seen(table, rotation.target, inf)
        if rows is None and made:
            raise RequestError(
                f"table {table.name} cannot be searched for values under {rotation.target} now, so rotation "
                f"{rotation.id} cannot be cancelled; run this again when its database answers"
            )
        if rows:
            raise RequestError(
                f"table {table.name} holds values under {rotation.target} in {counted(rows, 'row')}, so rotation "
                f"{rotation.id} cannot be cancelled; stop what writes them and re-encrypt them first"
            )


def _is_made(pipeline: Pipeline, version: KeyVersion) -> bool:
    return keys.record_of(pipeline.ledger, version) is not None or version in pipeline.keys.read()


def _stuck(pipeline: Pipeline) -> Walk | None:
    """The unfinished request, if only a continuation can finish it; None if there is no unfinished one."""
    opening.require_none_waiting(pipeline.ledger, emergency=True)
    current = pipeline.ledger.current()
    if current is None:
        return None
    if pipeline.actions[current.action].is_one_way(pipeline, current) and _is_stuck(pipeline, current):
        return current
    raise RequestError(
        f"rotation {current.id} ({current.source} to {current.target}) is not finished; "
        f"finish it with `keyrotation rotate {current.id}`, or cancel it"
    )


def _is_stuck(pipeline: Pipeline, rotation: Walk) -> bool:
    """Whether its signatures no longer count, or it was overtaken.

    That is: their date has passed, or the roster or a signed fact has changed.
    """
    situation = Situation(pipeline)
    if pipeline.clock.now() > rotation.finish_by or newer_version(situation, rotation) or dead_end(situation, rotation):
        return True
    return not is_as_signed(pipeline, rotation)


def present_key(pipeline: Pipeline) -> KeyRecord:
    """The primary, as registered, if the key store holds exactly that key."""
    stored = pipeline.keys.read()
    if stored.primary == PLAINTEXT:
        return _no_key(pipeline.clock)
    if stored.primary is None or (record := keys.record_of(pipeline.ledger, stored.primary)) is None:
        raise RequestError("the key store has no registered primary; run `keyrotation init`")
    stored.registered(record)
    return record


def _no_key(clock: Clock) -> KeyRecord:
    """What a home without a key starts from; it is no record of the ledger."""
    return KeyRecord(PLAINTEXT, KeyState.ACTIVE, "", clock.now())


def _target(pipeline: Pipeline) -> tuple[KeyVersion, tuple[TableCount, ...]]:
    """The new version, which every table can take, and the counts from which it was chosen."""
    # The pre-flight runs before the count, since it explains what the count would only fail on.
    require_preflight(pipeline, expected := next_version(pipeline, ()))
    counts = count_answering(pipeline)
    # Of a member that does not answer, what was counted last.
    known = {each.table: each for each in (*pipeline.ledger.counts(pipeline.tables), *counts)}
    target = next_version(pipeline, tuple(known.values()))
    if target != expected:
        require_preflight(pipeline, target)
    return target, counts


def next_version(pipeline: Pipeline, counts: Sequence[TableCount]) -> KeyVersion:
    """One more than the highest number registered, stored, or seen in the data: a number is never used twice.

    With search indexes one number may be left out, so that indexes under the new key have a column of their own: those
    under the oldest live key stay in theirs until every row has one under the new key.
    """
    stored, seen = pipeline.keys.read(), {record.version for record in pipeline.ledger.keys()}
    seen.update(stored.versions)
    seen.update(version for count in counts for version in count.values_by_version)
    value_format = pipeline.tables[0].format  # all tables have one format
    following = value_format.next_of(max(seen, default=PLAINTEXT))
    indexed = any(table.indexes for table in pipeline.tables)
    shared = indexed and any(is_odd(following) == is_odd(oldest) for oldest in list(stored.live)[:1])  # in order
    return value_format.next_of(following) if shared else following


ROTATE = Action(
    RequestAction.ROTATE,
    authorises=_authorises,
    source=stored_source,
    target=lambda _pipeline, request, _stored: str(request.target),
    authority=require_roster,
    start_within=timedelta(days=30),
    finish_within=timedelta(days=90),
    command=command_of_walk,
    renewal=renewal_of_walk,
    withdraw=_withdraw,
    is_one_way=_is_promoted,
    approved=mark_compromised,
    steps=STEPS,
)
