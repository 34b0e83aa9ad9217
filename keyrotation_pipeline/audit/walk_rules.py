"""What the steps of a walk change, and the states of keys: in order, and while their request is under way."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import COLUMNS, signed_fields
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    require,
    require_lines,
)
from keyrotation_pipeline.model.key_events import (
    KeyDestroyed,
    KeyImportIntended,
    KeyRegistered,
    KeyReplaced,
    KeyRetired,
    KeyStateChanged,
    MemberProven,
    RetirementIntended,
)
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, IN_USE, LOST, KeyRecord, KeyState, other_generation
from keyrotation_pipeline.model.members import members_in
from keyrotation_pipeline.model.proof import MemberEvidence
from keyrotation_pipeline.model.request_events import (
    PromotionRecorded,
    StepFinished,
)
from keyrotation_pipeline.model.requests import (
    WALK,
    RequestAction,
    Step,
    StepRecord,
    Walk,
    held_in,
)
from keyrotation_pipeline.model.visible_text import signed_names

# A time is taken just before its event is recorded, which may wait for a lock.
_RECORDED_WITHIN = timedelta(minutes=10)
_CHANGING_STATES = (RequestAction.ROTATE, RequestAction.ROLLBACK, RequestAction.DECRYPT, RequestAction.RECONCILE)


def require_its_time(state: AuditState, entry: AuditEntry, said: datetime) -> None:
    """What it says of its own time is the time when it was recorded."""
    in_time = abs(entry.at - said) <= _RECORDED_WITHIN
    require(state.signed_from is None or in_time, "says another time than that of its record")


def require_after(state: AuditState, walk: Walk, step: Step | None) -> None:
    """The walk is under way, and every step before this one is finished; None: every one is."""
    if state.signed_from is None:
        return
    require(walk.started_at is not None, "is of a request that has not begun")
    before = WALK if step is None else WALK[: WALK.index(step)]
    missing = next((each for each in before if walk.done(each) is None), None)
    require(missing is None, f"comes before the step {missing}")


def _finished(state: AuditState, entry: AuditEntry, fact: StepFinished) -> None:
    walk = state.require_walk(entry.request)
    require(walk.done(fact.step, fact.table, fact.shard) is None, "finishes a step again")
    record = StepRecord(fact.step, fact.table, fact.shard, fact.finished_at, fact.facts)
    require_after(state, walk, fact.step)
    if not _is_taken_over(state, record):
        require_its_time(state, entry, fact.finished_at)
    state.requests[walk.id] = walk.with_step(record)
    if fact.step is Step.ARCHIVED_KEY:
        state.unseen = {version: request for version, request in state.unseen.items() if request != walk.id}


def _is_taken_over(state: AuditState, record: StepRecord) -> bool:
    """Whether it was finished by another walk, which this one continues."""
    walks = (each for each in state.requests.values() if isinstance(each, Walk))
    return any(each.done(record.step, record.table, record.shard) == record for each in walks)


def _promoted(state: AuditState, entry: AuditEntry, fact: PromotionRecorded) -> None:
    walk = state.require_walk(entry.request)
    require(walk.promotion_xid is None, "records a promotion again")
    require_after(state, walk, Step.PRIMARY_KEY_ROLLOUT)
    state.requests[walk.id] = replace(walk, promotion_xid=fact.xid)


def _registered(state: AuditState, entry: AuditEntry, fact: KeyRegistered) -> None:
    if entry.request is not None:
        state.require_running(entry.request)
    require(fact.version not in state.keys, f"registers {fact.version} again")
    other = other_generation(fact.version, fact.fingerprint, state.keys.values())
    require(other is None, f"registers {fact.version} next to {other}, for both generations of the format")
    require(fact.state not in LOST, f"registers {fact.version} as {fact.state}")
    require_its_time(state, entry, fact.created_at)
    if state.signed_from is not None:
        require(_is_asked_for(state, entry.request, fact), f"registers {fact.version}, which nobody asked for")
    _require_only_active(state, fact.version, fact.state)
    state.keys[fact.version] = KeyRecord(fact.version, fact.state, fact.fingerprint, fact.created_at)


def _is_asked_for(state: AuditState, request: str | None, fact: KeyRegistered) -> bool:
    if request is None:
        return (fact.version, fact.fingerprint) in state.imports
    by = state.known(request)
    return by.action is RequestAction.RECONCILE or (isinstance(by, Walk) and by.target == fact.version)


def _import_intended(state: AuditState, _entry: AuditEntry, fact: KeyImportIntended) -> None:
    state.imports.add((fact.version, fact.fingerprint))


def _state_changed(state: AuditState, entry: AuditEntry, fact: KeyStateChanged) -> None:
    record = state.keys.get(fact.version)
    if record is None or (record.state, record.fingerprint) != (fact.before, fact.fingerprint):
        raise ImpossibleError(f"changes {fact.version}, which is not registered so")
    require(fact.after in ALLOWED_TRANSITIONS[record.state], f"makes {fact.version} {fact.after} from {record.state}")
    _require_only_active(state, fact.version, fact.after)
    if fact.after is KeyState.COMPROMISED:
        # The last signature calls a version compromised, before the request begins.
        by = state.require_signed(entry.request)
        held = fact.version in held_in(state.texts[by.id])
        require(held, f"is by a request that does not hold {fact.version} compromised")
        state.compromised_by[fact.version] = by.id
    elif fact.after is KeyState.DESTROYED:
        _require_to_destroy(state, entry, fact)
    elif (fact.before, fact.after) == (KeyState.PRE_ACTIVATION, KeyState.ARCHIVED):
        # A rotation that is cancelled withdraws its key, also if its signers are not on the roster any more.
        require(not state.known(entry.request).is_over, "is by a request that is over")
    else:
        by = state.require_signed(entry.request, *_CHANGING_STATES)
        if isinstance(by, Walk) and state.signed_from is not None:
            _require_its_change(state, by, fact)
    if fact.after in IN_USE:
        state.retired.discard(fact.version)
    state.keys[fact.version] = replace(record, state=fact.after)


def _require_its_change(state: AuditState, walk: Walk, fact: KeyStateChanged) -> None:
    """The target becomes the primary, the source makes way for it, and what is withdrawn was retired before."""
    if fact.after is KeyState.ARCHIVED:
        is_its_own, before = fact.version != walk.target, Step.ARCHIVED_KEY
    elif fact.after is KeyState.ACTIVE:
        is_its_own, before = fact.version == walk.target, Step.PRIMARY_KEY_ROLLOUT
    else:
        is_its_own, before = fact.version == walk.source, Step.PRIMARY_KEY_ROLLOUT
    require(is_its_own, f"makes {fact.version} {fact.after}, which its request does not")
    require_after(state, walk, before)


def _require_only_active(state: AuditState, version: KeyVersion, after: KeyState) -> None:
    active = [each.version for each in state.keys.values() if each.state is KeyState.ACTIVE]
    require(after is not KeyState.ACTIVE or not active, f"makes {version} active next to {', '.join(map(str, active))}")


def _replaced(state: AuditState, entry: AuditEntry, fact: KeyReplaced) -> None:
    record = state.keys.get(fact.version)
    if record is None or record.fingerprint != fact.before:
        raise ImpossibleError(f"replaces {fact.version}, which is not registered so")
    require(record.state is not KeyState.DESTROYED, f"replaces {fact.version}, which is destroyed")
    other = other_generation(fact.version, fact.after, state.keys.values())
    require(other is None, f"gives {fact.version} the key of {other}, for both generations of the format")
    by = state.require_running(entry.request, RequestAction.REPLACE_KEY)
    require_lines(state.texts[by.id], {"From": f"{fact.version} {fact.before}", "To": f"{fact.version} {fact.after}"})
    state.keys[fact.version] = replace(record, fingerprint=fact.after)


def _retirement_intended(state: AuditState, entry: AuditEntry, _fact: RetirementIntended) -> None:
    """Each attempt takes the evidence of every member anew."""
    if entry.request is not None:
        state.proven.pop(entry.request, None)


def _member_proven(state: AuditState, entry: AuditEntry, fact: MemberProven) -> None:
    evidence, walk = fact.evidence, state.require_walk(entry.request)
    signed = _members(state, walk).get(evidence.member)
    require(signed == evidence.state.place, f"is of {evidence.member} in another place than officers signed")
    require(_has_its_tables(state, walk, evidence), f"is not of the tables of {evidence.member} that officers signed")
    old = evidence.old_values + (evidence.plaintext if walk.encrypts_plaintext else 0)
    require(old == 0, f"counts old values in {evidence.member}")
    state.proven.setdefault(walk.id, {})[evidence.member] = evidence


# A fleet has an event of each member for each text.
@lru_cache(maxsize=4)
def _signed(text: bytes) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
    """The members in a signed text, each with its place, and their columns, by the member that they are in."""
    fields, columns = signed_fields(text), defaultdict[str, list[str]](list)
    for each in signed_names(fields.get(COLUMNS, "")):
        columns[each.partition(":")[0]].append(each)
    return members_in(fields), columns


def _members(state: AuditState, walk: Walk) -> Mapping[str, str]:
    """The members that officers signed, and those that joined since by a rule which they signed."""
    signed, _ = _signed(state.texts[walk.id])
    return {**signed, **state.joined_after(walk.audit_head[0])}


def _has_its_tables(state: AuditState, walk: Walk, evidence: MemberEvidence) -> bool:
    """Whether it is of tables of the member alone, and of every one that has a column in the signed text.

    There, ``north:a.b.c`` may be a path in a table ``a``, or a column of a table in a schema ``a``. Whichever of them
    the walk has re-encrypted must be among them.
    """
    own, (_, signed) = f"{evidence.member}:", _signed(state.texts[walk.id])
    columns, tables = signed.get(evidence.member, ()), frozenset(evidence.tables)
    possible = frozenset(chain.from_iterable(map(_possible_tables, columns)))
    return (
        all(each.startswith(own) for each in tables)
        and all(not tables.isdisjoint(_possible_tables(each)) for each in columns)
        and tables.issuperset(walk.tables_of(evidence.member) & possible)
    )


def _possible_tables(column: str) -> Iterator[str]:
    """Each table that a column in a signed text may be of: what is before one of its dots."""
    return (column[: each.start()] for each in re.finditer(r"\.", column))


def _retired(state: AuditState, entry: AuditEntry, fact: KeyRetired) -> None:
    walk = state.require_walk(entry.request)
    members = _members(state, walk)
    odd = next(iter(sorted(set(fact.members) ^ set(members))), None)
    require(odd is None, f"is not of the members that officers signed: {odd}")
    proven = state.proven.get(walk.id, {})
    missing = next((each for each in members if each not in proven), None)
    require(missing is None, f"lacks the evidence of {missing}")
    less = next((name for name, each in proven.items() if not {*each.tables} <= {*fact.tables}), None)
    require(less is None, f"leaves out tables of {less}")
    require(fact.target == walk.target, f"retires keys for {fact.target}, which its request is not about")
    require_after(state, walk, Step.RETIRED_KEY)
    if state.signed_from is not None:
        require(fact.target not in fact.taken_from_applications, f"takes {fact.target} away, which it keeps")
    state.retired.update(fact.taken_from_applications)
    state.unseen.update(dict.fromkeys(fact.taken_from_applications, walk.id))


def _require_to_destroy(state: AuditState, entry: AuditEntry, fact: KeyStateChanged | KeyDestroyed) -> None:
    by = state.require_running(entry.request, RequestAction.DESTROY)
    is_same = (by.source, by.source_fingerprint) == (fact.version, fact.fingerprint)
    require(is_same, f"destroys {fact.version} by a request to destroy {by.source} {by.source_fingerprint[:16]}")


WALK_RULES: Rules = {
    StepFinished: _finished,
    PromotionRecorded: _promoted,
    KeyImportIntended: _import_intended,
    KeyRegistered: _registered,
    KeyStateChanged: _state_changed,
    KeyReplaced: _replaced,
    RetirementIntended: _retirement_intended,
    MemberProven: _member_proven,
    KeyRetired: _retired,
    KeyDestroyed: _require_to_destroy,
}
