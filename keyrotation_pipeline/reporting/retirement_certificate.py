"""The certificate of key death: one signed statement of where a retired key is no more, and what still needs it.

Everything in it is what an event of the verified audit says, named by its hash, but for the backups, which are looked
up where they are kept. A count of its own is such an event, too; key store and fences are looked at, and refuse it.
It is signed by the pipeline's own key: it says that this pipeline states it, and no more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState, history, whole_history
from keyrotation_pipeline.audit.retirements import Retirement, retirement_of
from keyrotation_pipeline.backups.catalog import BackupContext, kept_sets
from keyrotation_pipeline.errors import (
    BlockedError,
    KeyStoreError,
    MemberUnavailableError,
    PreflightError,
    RequestError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.audit import EventKind, counted, envelope, instant, payload_of, to_sign, utc_minute
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy
from keyrotation_pipeline.model.data_events import CountSkipped
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.reporting.gathering import verified_events
from keyrotation_pipeline.reporting.key_in_use import require_not_in_use
from keyrotation_pipeline.reporting.plaintext import encrypted_by
from keyrotation_pipeline.reporting.retirement_statement import SIGNED_BY, dead_keys, statement_of
from keyrotation_pipeline.requests.inventory import count_again


@dataclass(frozen=True, slots=True)
class RetirementCertificate:
    """The statement of one rotation, and its envelope as a file."""

    rotation: str
    statement: Mapping[str, Any]
    envelope: bytes


@dataclass(frozen=True, slots=True)
class RefusedCertificate:
    """Why a rotation gets no certificate, as a sentence."""

    rotation: str
    reason: str


def last_rotation(requests: Iterable[Request]) -> Request:
    """The rotation that finished last.

    Raises:
        RequestError: none has finished.
    """
    rotations = [each for each in requests if each.action is RequestAction.ROTATE]
    finished = [each for each in rotations if each.status is RequestStatus.FINISHED]
    if not finished:
        raise RequestError("no rotation has finished yet; see `keyrotation status`")
    return max(finished, key=lambda each: each.finished_at or each.requested_at)


def certify(site: BackupContext, rotation: str) -> RetirementCertificate:
    """The certificate of the keys that a rotation retired, as of the audit's present head, after a count of its own.

    Raises:
        AuditError: the audit does not verify.
        RequestError: the rotation retired no key, one of them is used again, a fence is missing, or a reading of the
            database found values under one of them.
        PreflightError, BlockedError: a declared table cannot be counted.
        KeyStoreError: the key store does not answer.
        BackupError: a place for backups does not answer, or the pipeline's key is not here.
    """
    _dead(site.pipeline, rotation)  # before a count that may take hours
    count_again(site.pipeline)
    return _certificate(site, *_dead(site.pipeline, rotation))


def count_before_certificates(pipeline: Pipeline) -> str | None:
    """Counts every declared table again, if a rotation has ever retired a key; why it could not be done, else None."""
    try:
        if history(pipeline.ledger, EventKind.KEY_RETIRED):
            count_again(pipeline)
    except (PreflightError, BlockedError, MemberUnavailableError) as error:
        return str(error)
    return None


def skip_count(ledger: Ledger) -> None:
    """Records that somebody wants certificates without a fresh count, which they then say."""
    ledger.append(CountSkipped())


def certificates(
    site: BackupContext, entries: Sequence[HistoryEntry], state: LedgerState, uncounted: str | None = None
) -> Iterator[RetirementCertificate | RefusedCertificate]:
    """The certificate of every rotation whose retired keys the audit says to be dead; or why it gets none.

    Args:
        entries, state: the whole verified audit, judged, with a count that was made for this, or that was skipped.
        uncounted: why there was none.
    """
    for retired in dead_keys(entries):
        if refusal := uncounted or _refusal(site.pipeline, retired):
            yield RefusedCertificate(retired.entry.request or "", refusal)
        else:
            yield _certificate(site, entries, state, retired)


def _refusal(pipeline: Pipeline, retired: Retirement) -> str | None:
    try:
        require_not_in_use(pipeline, retired)
    except (RequestError, KeyStoreError) as error:
        return str(error)
    return None


def _dead(pipeline: Pipeline, rotation: str) -> tuple[Sequence[HistoryEntry], LedgerState, Retirement]:
    verifiers = pipeline.signatures.verify_as_of, pipeline.ledger.verify_event
    entries, state = whole_history(verified_events(pipeline), *verifiers)
    retired = retirement_of(entries, rotation)
    if retired is None or not retired.fact.taken_from_applications:
        raise RequestError(f"rotation {rotation} has retired no key; `keyrotation history` shows those that have")
    require_dead(retired)
    require_not_in_use(pipeline, retired)
    return entries, state, retired


def require_dead(retired: Retirement) -> None:
    """Refuses to certify the death of a key that is in use again, or that a later reading found in use.

    Raises:
        RequestError: says what contradicts it.
    """
    rotation = retired.entry.request
    if back := retired.revived:
        raise RequestError(f"{', '.join(back)} was brought back after rotation {rotation}, so it is not dead")
    if found := retired.contradicted_by:
        said = "; ".join(f"{each.found} (event {each.entry.seq}, {utc_minute(each.entry.at)})" for each in found)
        raise RequestError(
            f"after rotation {rotation}, {said}, so its key is not dead; find what wrote them, re-encrypt them, and "
            "run `keyrotation inventory`"
        )


def _certificate(
    site: BackupContext, entries: Sequence[HistoryEntry], state: LedgerState, retired: Retirement
) -> RetirementCertificate:
    needed = list(_backups(site, retired.fact.taken_from_applications))
    plaintext = list(_with_plaintext(site, encrypted_by(entries)))
    statement = statement_of(entries, state, retired, needed, plaintext)
    payload = payload_of(statement)
    public, signature = site.trust.signed(to_sign(payload))
    return RetirementCertificate(retired.entry.request or "", statement, envelope(payload, public, signature))


def in_words(statement: Mapping[str, Any]) -> str:
    """The statement as Markdown, for people."""
    said = statement["predicate"]
    keys = ", ".join(f"{each['version']} ({each['fingerprint'][:16]}, {each['state']})" for each in said["keys"])
    lines = [f"**{keys}** as of audit event {said['audit_head']['seq']}, by {SIGNED_BY}.", ""]
    rows, applications = said["rows"], said["applications"]
    searched = said["undeclared_columns"]
    refused = IdentifiedBy(rows["identified_by"]).refused(", ".join(rows["fenced_against"]))
    lines.append(
        f"- rows: {rows['old_values']} of {rows['values']:,} values of {', '.join(rows['tables'])}; the database "
        f"refuses {refused}; format {rows['format']}: {rows['rests_on']}"
    )
    lines += [
        f"- {each['member']} ({each['place']}): {each['old_values']} of {each['values']:,} values, proven "
        f"{each['proven_at']}"
        for each in said.get("members", ())
    ]
    lines.append(f"- undeclared columns: {searched['searched']}; not searched: {'; '.join(searched['not_searched'])}")
    if (again := said["counted_again"]) is not None:
        lines.append(f"- {_counted_in_words(again)}")
    if unread := said["not_read_again"]:
        lines.append(f"- {unread}")
    lines += [f"- found since, and gone by now: {each['found']} (event {each['seq']})" for each in said["found_since"]]
    lines += [f"- read since: {each['subject']} (event {each['seq']}): nothing found" for each in said["read_since"]]
    seen = applications["seen_without_it"]
    seen_without = "not seen yet" if seen is None else f"{counted(len(seen), 'instance')} seen without it"
    lines.append(f"- applications: {seen_without}")
    lines.append(f"- snapshots: {said['snapshots']}")
    lines.append(f"- standbys: {len(said['replicas']['accounted'])} accounted; not seen: {'; '.join(said['not_seen'])}")
    needed = [f"{each['dump']} in {each['place']} ({each['until']})" for each in said["backups_that_need_it"]]
    lines.append(f"- backups that still need it: {'; '.join(needed) or 'none is kept'}")
    lines += _plaintext_in_words(said.get("plaintext"))
    lines += [f"- not claimed: {each}" for each in said["not_claimed"]]
    return "\n".join(lines)


def verdict(statement: Mapping[str, Any]) -> str:
    """The statement in one line, for whoever made it."""
    said = statement["predicate"]
    keys = " and ".join(f"{each['version']} ({each['state']})" for each in said["keys"])
    rows, again = said["rows"], said["counted_again"] or {}
    tables = again.get("tables") or [rows]
    old, values = (sum(each[name] for each in tables) for name in ("old_values", "values"))
    at = (again.get("recorded_at") or rows["proven_at"])[:16].replace("T", " ")
    refused = IdentifiedBy(rows["identified_by"]).refused(", ".join(rows["fenced_against"]))
    backups = counted(len(said["backups_that_need_it"]), "stored backup")
    return (
        f"{keys}: {old:,} of {values:,} values under it, counted {at} UTC; the database refuses {refused}; needed by "
        f"{backups}"
    )


def _counted_in_words(again: Mapping[str, Any]) -> str:
    if (by := again.get("not_taken_by")) is not None:
        last = "" if again["last"] is None else f"; {_counted_in_words(again['last'])}"
        return f"not counted again for this, by the choice of {by} ({again['at']}){last}"
    tables = again["tables"]
    values, found, unread = (sum(each[name] for each in tables) for name in ("values", "old_values", "unreadable"))
    more = f"; {unread:,} more that no key decrypts" if unread else ""
    left_out = f"; not counted: {', '.join(again['not_counted'])}" if again["not_counted"] else ""
    return (
        f"counted again from {again['began_at']} to {again['recorded_at']}, {again['how']}: {found} of {values:,} "
        f"values of {', '.join(each['table'] for each in tables)}{more}{left_out}"
    )


def _plaintext_in_words(said: Mapping[str, Any] | None) -> Iterator[str]:
    if said is None:
        return
    columns = ", ".join(said["encrypted_in_the_live_rows"])
    yield f"- encrypted in the live rows: {columns}; plaintext is known, as of {said['looked_at']}, in:"
    yield from (f"  - {each['where']}: {each['known']}; {each['until']}" for each in said["known_outside"])
    yield from (f"  - {each['dump']} in {each['place']}: {each['until']}" for each in said["backups_kept"])


def _with_plaintext(site: BackupContext, encrypted_by: int) -> Iterator[dict[str, Any]]:
    """Every kept dump of before an event, and until when it is sure to be kept."""
    for place in site.places if encrypted_by else ():
        for made, dump in kept_sets(place, site.trust).dumps:
            if made.rows_seq(dump) < encrypted_by:
                yield {**_kept(place, made, dump), "tables": [str(each.table.name) for each in dump.tables]}


def _kept(place: BackupPlace, made: BackupSet, dump: DatabaseCopy) -> dict[str, Any]:
    locked = place.locked_until(dump.file.name)
    until = "not locked; until somebody, or a rule of the place, removes it"
    return {
        "dump": dump.file.name,
        **({"member": dump.member, "database": dump.place} if dump.member else {}),
        "manifest": made.name,
        "place": place.description,
        "until": until if locked is None else f"locked until {instant(locked)}",
    }


def _backups(site: BackupContext, versions: Sequence[KeyVersion]) -> Iterator[dict[str, Any]]:
    """Every kept dump that cannot be read whole without one of the keys, and until when it is sure to be kept."""
    for place in site.places:
        for made, dump in kept_sets(place, site.trust).dumps:
            if needed := [str(version) for version in versions if version in dump.versions]:
                yield {**_kept(place, made, dump), "needs": needed}
