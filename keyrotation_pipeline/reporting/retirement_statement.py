"""The statement of a certificate of key death: what the audit says, and the backups that still need the key.

A pack's `verify.py` makes it again from the audit, and compares.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState
from keyrotation_pipeline.audit.retirements import Retirement, retirement_of
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.approval import signed_fields
from keyrotation_pipeline.model.audit import STATEMENT_TYPE, EventKind, Note, instant
from keyrotation_pipeline.model.backup_events import RecoveryTestFacts
from keyrotation_pipeline.model.data_events import Counted, CountedTable, CountSkipped
from keyrotation_pipeline.model.key_events import KeyRetired, MemberProven, ReplicasAccounted
from keyrotation_pipeline.model.records import as_json, read
from keyrotation_pipeline.model.request_events import RequestOpened, StepFinished
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.signed_lines import ENCRYPTED
from keyrotation_pipeline.reporting.keys_in_audit import key_storage_key
from keyrotation_pipeline.reporting.plaintext import in_statement

PREDICATE_TYPE = "urn:keyrotation-pipeline:key-death:v1"
SIGNED_BY = (
    "the pipeline's own key, a file on the pipeline's host: whoever is root there can sign with it. Officers signed "
    "the request of the rotation, not this statement"
)
NOT_CLAIMED = (
    "that nobody has a copy of the key or of old values outside of what was searched and seen",
    "that the archived key, and backups of it, are destroyed: an archived key still decrypts old backups",
    "anything of a time after the audit head that it names",
)


def dead_keys(entries: Sequence[HistoryEntry]) -> Iterator[Retirement]:
    """The retirements whose keys are still dead, and that nothing contradicts; oldest first."""
    for rotation in dict.fromkeys(each.request for each in entries if isinstance(each.fact, KeyRetired)):
        retired = retirement_of(entries, rotation or "")
        if retired is None or not retired.fact.taken_from_applications:
            continue
        if not retired.revived and not retired.contradicted_by:
            yield retired


def statement_of(
    entries: Sequence[HistoryEntry],
    state: LedgerState,
    dead: Retirement,
    backups: Sequence[Mapping[str, Any]],
    plaintext: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The statement about the keys of one retirement, as of the newest event.

    Args:
        backups: the kept dumps that cannot be read whole without one of them.
        plaintext: those that may hold plaintext of columns that were encrypted later.
    """
    event, retired, newest = dead.entry, dead.fact, entries[-1]
    keys = [state.keys[version] for version in retired.taken_from_applications]
    replicas, archived = _accounted(entries, event), _archived(entries, event.request)
    accounted = replicas.fact.as_json() if replicas and isinstance(replicas.fact, ReplicasAccounted) else {}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": f"key {key.version}", "digest": {"sha256": key.fingerprint}} for key in keys],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "database": newest.entry.database,
            "rotation": event.request,
            "audit_head": {"seq": state.head.seq, "hash": state.head.hash, "at": instant(newest.at)},
            "keys": [
                {"version": str(key.version), "fingerprint": key.fingerprint, "state": str(key.state)} for key in keys
            ],
            "retired_at": instant(event.at),
            "rows": _rows(retired),
            **_members(entries, event, retired),
            "undeclared_columns": {
                "searched": _searched(retired),
                "not_searched": list(retired.not_searched),
            },
            "counted_again": _counted(entries, event, retired),
            "not_read_again": dead.unread,
            "found_since": [
                {**_named(each.entry), "at": instant(each.entry.at), "found": each.found} for each in dead.found
            ],
            "read_since": [
                {**_named(each.entry), "at": instant(each.entry.at), "subject": each.subject} for each in dead.newest
            ],
            "snapshots": f"no session, prepared transaction or slot of {_these('this server', retired)} could show a "
            f"value from before the proof of {instant(retired.proven_at)}",
            **_key_storage_key(entries, state),
            "replicas": {
                "accounted": accounted.get("replicas", []),
                "gone_as_signed": accounted.get("gone_as_signed", []),
                "gone_as_configured": accounted.get("gone_as_configured", []),
            },
            "not_seen": list(retired.not_seen),
            "applications": {
                "taken_from_key_store": [str(version) for version in retired.taken_from_applications],
                "seen_without_it": list(_step_facts(archived).get("names", ())) if archived else None,
            },
            **_compared(entries, event, retired),
            "archive": list(_step_facts(archived).get("archived", ())) if archived else None,
            "backups_that_need_it": list(backups),
            **in_statement(entries, plaintext),
            "signed_by": SIGNED_BY,
            "not_claimed": list(NOT_CLAIMED),
            "evidence": [_named(each) for each in (*_proven(entries, event), replicas, event, archived) if each],
        },
    }


def _compared(entries: Sequence[HistoryEntry], event: HistoryEntry, retired: KeyRetired) -> dict[str, Any]:
    """With which older backups the values of a library were compared since; nothing where none were taken over."""
    asked = next((e.fact for e in entries if e.request == event.request and isinstance(e.fact, RequestOpened)), None)
    fields = {} if asked is None else signed_fields(asked.approval_text.encode()) or {}
    if not fields.get("Other libraries", "").startswith(ENCRYPTED):
        return {}
    compared = [each for entry in entries if entry.at > retired.proven_at for each in _compared_by(entry)]
    return {"taken_over_from_a_library": {"not_authenticated": fields.get("Not authenticated"), "compared": compared}}


def _compared_by(entry: HistoryEntry) -> Iterator[dict[str, Any]]:
    """What a recovery test says of tables whose older backup it compared with the present rows."""
    note = entry.fact
    if entry.fault is not None or not isinstance(note, Note) or note.kind != EventKind.RECOVERY_TEST_PASSED:
        return
    tested = read(RecoveryTestFacts, note.facts)
    for file, table in tested.compared:
        yield {**_named(entry), "at": instant(entry.at), "backup": file, **as_json(table), "equal": table.equal}


def _key_storage_key(entries: Sequence[HistoryEntry], state: LedgerState) -> dict[str, Any]:
    """Under which copies of the key are sealed; nothing without one, as in statements of before."""
    found = key_storage_key(entries, state.hosts or ())
    return {} if found is None else {"key_storage_key": {**as_json(found), "asked_at": instant(found.asked_at)}}


def _searched(retired: KeyRetired) -> str:
    if not retired.identified_by.is_searchable:
        return "none: nothing tells a value of this format from other text"
    return (
        f"every other column of every relation of {_these('this database', retired)} that can hold text: no value found"
    )


def _these(what: str, retired: KeyRetired) -> str:
    return f"{what} and of {', '.join(retired.members)}" if retired.members else what


def _proven(entries: Sequence[HistoryEntry], event: HistoryEntry) -> Sequence[HistoryEntry]:
    """The last evidence of each member of a fleet before a retirement; of one database there is none."""
    found = dict[str, HistoryEntry]()
    for entry in entries:
        fact = entry.fact
        is_of_it = entry.fault is None and entry.request == event.request and entry.seq < event.seq
        if is_of_it and isinstance(fact, MemberProven):
            found[fact.evidence.member] = entry
    return tuple(found.values())


def _members(entries: Sequence[HistoryEntry], event: HistoryEntry, retired: KeyRetired) -> dict[str, Any]:
    """The places of a fleet's members, and what each of them proved in a transaction of its own."""
    proven = [as_json(each.fact.evidence) for each in _proven(entries, event) if isinstance(each.fact, MemberProven)]
    members = [{**each, **each.pop("state")} for each in proven if each["member"] in retired.members]
    return {"members": members} if members else {}


def _accounted(entries: Sequence[HistoryEntry], retired: HistoryEntry) -> HistoryEntry | None:
    own = (each for each in reversed(entries) if each.request == retired.request)
    return next((each for each in own if isinstance(each.fact, ReplicasAccounted)), None)


def _archived(entries: Sequence[HistoryEntry], rotation: str | None) -> HistoryEntry | None:
    own = (each for each in reversed(entries) if each.request == rotation)
    return next((e for e in own if isinstance(e.fact, StepFinished) and e.fact.step is Step.ARCHIVED_KEY), None)


def _step_facts(entry: HistoryEntry) -> Mapping[str, Any]:
    return entry.fact.facts if isinstance(entry.fact, StepFinished) else {}


def _rows(retired: KeyRetired) -> dict[str, Any]:
    values = retired.as_json()
    names = ("tables", "values", "old_values", "fenced_against", "fence_lsn", "proven_at", "format", "identified_by")
    return {**{name: values[name] for name in names}, "rests_on": retired.identified_by.evidence}


def _counted(entries: Sequence[HistoryEntry], event: HistoryEntry, retired: KeyRetired) -> dict[str, Any] | None:
    """The newest count since, by table, or by whose choice there is no newer one; None: there is none."""
    for entry in reversed(entries):
        if entry.seq <= event.seq:
            return None
        fact = entry.fact if entry.fault is None else None
        if isinstance(fact, CountSkipped):
            before = [each for each in entries if each.seq < entry.seq]
            by, at = entry.entry.actor, instant(entry.at)
            return {**_named(entry), "not_taken_by": by, "at": at, "last": _counted(before, event, retired)}
        if isinstance(fact, Counted) and fact.tables:
            return _count_of(entry, fact, retired)
    return None


def _count_of(entry: HistoryEntry, counted: Counted, retired: KeyRetired) -> dict[str, Any]:
    by_name = retired.identified_by is IdentifiedBy.MARKER
    names = {each.table for each in counted.tables}
    return {
        **_named(entry),
        "began_at": instant(min(each.counted_at for each in counted.tables)),
        "recorded_at": instant(entry.at),
        "how": "by what each value names" if by_name else "by decrypting every value",
        "tables": [_of_table(each, retired) for each in counted.tables],
        "not_counted": sorted({*counted.not_counted, *(each for each in retired.tables if each not in names)}),
    }


def _of_table(counted: CountedTable, retired: KeyRetired) -> dict[str, Any]:
    old = (counted.values_by_version.get(str(each), 0) for each in retired.taken_from_applications)
    return {
        "table": counted.table,
        "columns": list(counted.columns),
        "rows": counted.rows,
        "values": sum(counted.values_by_version.values()),
        "old_values": sum(old),
        "unreadable": counted.unreadable,
        "unencrypted": counted.unencrypted,
        "refuses": [str(each) for each in counted.fenced_against],
        "counted_at": instant(counted.counted_at),
    }


def _named(entry: HistoryEntry) -> dict[str, Any]:
    return {"seq": entry.seq, "event": entry.kind, "hash": entry.event.hash}
