"""What the events of keys change: registered, active, retired, replaced, compromised, destroyed."""

from dataclasses import replace

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit_state import AuditState, ImpossibleError, require, require_lines
from keyrotation_pipeline.model.key_events import KeyDestroyed, KeyRegistered, KeyReplaced, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, LOST, KeyRecord, KeyState, other_generation
from keyrotation_pipeline.model.requests import RequestAction, held_in

_CHANGING_STATES = (RequestAction.ROTATE, RequestAction.ROLLBACK, RequestAction.RECONCILE)
_BACK = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED})


def _registered(state: AuditState, entry: AuditEntry, fact: KeyRegistered) -> None:
    if entry.request is not None:
        state.require_running(entry.request)
    require(fact.version not in state.keys, f"registers {fact.version} again")
    other = other_generation(fact.version, fact.fingerprint, state.keys.values())
    require(other is None, f"registers {fact.version} next to {other}, for both generations of the format")
    require(fact.state not in LOST, f"registers {fact.version} as {fact.state}")
    _require_only_active(state, fact.version, fact.state)
    state.keys[fact.version] = KeyRecord(fact.version, fact.state, fact.fingerprint, fact.created_at)


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
        state.require_signed(entry.request, *_CHANGING_STATES)
    if fact.after in _BACK:
        state.retired.discard(fact.version)
    state.keys[fact.version] = replace(record, state=fact.after)


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


def _retired(state: AuditState, entry: AuditEntry, fact: KeyRetired) -> None:
    walk = state.require_walk(entry.request)
    require(fact.target == walk.target, f"retires keys for {fact.target}, which its request is not about")
    state.retired.update(fact.taken_from_applications)


def _require_to_destroy(state: AuditState, entry: AuditEntry, fact: KeyStateChanged | KeyDestroyed) -> None:
    by = state.require_running(entry.request, RequestAction.DESTROY)
    is_same = (by.source, by.source_fingerprint) == (fact.version, fact.fingerprint)
    require(is_same, f"destroys {fact.version} by a request to destroy {by.source} {by.source_fingerprint[:16]}")


KEY_RULES: Rules = {
    KeyRegistered: _registered,
    KeyStateChanged: _state_changed,
    KeyReplaced: _replaced,
    KeyRetired: _retired,
    KeyDestroyed: _require_to_destroy,
}
