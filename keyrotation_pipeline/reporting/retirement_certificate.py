"""The certificate of key death: one signed statement of where a retired key is no more, and what still needs it.

Everything in it is what an event of the verified audit says, named by its hash, but for the backups, which are looked
up where they are kept. It is signed by the pipeline's own key: it says that this pipeline states it, and no more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState, whole_history
from keyrotation_pipeline.backups.catalog import BackupContext, kept_sets
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import STATEMENT_TYPE, AuditEvent, envelope, instant, payload_of, to_sign
from keyrotation_pipeline.model.key_events import KeyRestoreIntended, KeyRetired, KeyStateChanged, ReplicasAccounted
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import StepFinished
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.reporting.gathering import verified_events

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
_ALIVE = frozenset({KeyState.ACTIVE, KeyState.PRE_ACTIVATION})


@dataclass(frozen=True, slots=True)
class RetirementCertificate:
    """The statement of one rotation, and its envelope as a file."""

    rotation: str
    statement: Mapping[str, Any]
    envelope: bytes


@dataclass(frozen=True, slots=True)
class RetirementEvents:
    """What the audit says of one retirement: events and what they hold."""

    retired: tuple[HistoryEntry, KeyRetired]
    replicas: tuple[HistoryEntry, ReplicasAccounted] | None = None
    archived: tuple[HistoryEntry, Mapping[str, Any]] | None = None


def certify(site: BackupContext, rotation: str) -> RetirementCertificate:
    """The certificate of the keys that a rotation retired, as of the audit's present head.

    Raises:
        AuditError: the audit does not verify.
        RequestError: the rotation retired no key, or one of them is used again.
        BackupError: a place for backups does not answer, or the pipeline's key is not here.
    """
    return _certificate(
        site, *whole_history(verified_events(site.pipeline), site.pipeline.signatures.verify_as_of), rotation
    )


def certificates(site: BackupContext, events: Sequence[AuditEvent]) -> Iterator[RetirementCertificate]:
    """The certificate of every rotation whose retired keys are still dead.

    Args:
        events: the whole verified audit.
    """
    told, state = whole_history(events, site.pipeline.signatures.verify_as_of)
    for rotation in dict.fromkeys(each.request for each in told if isinstance(each.fact, KeyRetired)):
        if rotation is not None and not revived(told, rotation):
            yield _certificate(site, told, state, rotation)


def _certificate(
    site: BackupContext, told: Sequence[HistoryEntry], state: LedgerState, rotation: str
) -> RetirementCertificate:
    found = told_of(told, rotation)
    if back := revived(told, rotation):
        raise RequestError(f"{', '.join(back)} was brought back after rotation {rotation}, so it is not dead")
    statement = _statement(site, state, told[-1], found)
    payload = payload_of(statement)
    public, signature = site.trust.signed(to_sign(payload))
    return RetirementCertificate(rotation, statement, envelope(payload, public, signature))


def in_words(statement: Mapping[str, Any]) -> str:
    """The statement as Markdown, for people."""
    said = statement["predicate"]
    keys = ", ".join(f"{each['version']} ({each['fingerprint'][:16]}, {each['state']})" for each in said["keys"])
    lines = [f"**{keys}** as of audit event {said['audit_head']['seq']}, by {SIGNED_BY}.", ""]
    rows, applications = said["rows"], said["applications"]
    searched = said["undeclared_columns"]
    lines.append(
        f"- rows: {rows['old_values']} of {rows['values']:,} values of {', '.join(rows['tables'])}; the database "
        f"refuses {', '.join(rows['fenced_against'])}"
    )
    lines.append(f"- undeclared columns: {searched['searched']}; not searched: {'; '.join(searched['not_searched'])}")
    seen = applications["seen_without_it"]
    told = "not seen yet" if seen is None else f"{len(seen)} instance(s) seen without it"
    lines.append(f"- applications: {told}")
    lines.append(f"- snapshots: {said['snapshots']}")
    lines.append(f"- standbys: {len(said['replicas']['accounted'])} accounted; not seen: {'; '.join(said['not_seen'])}")
    needed = [f"{each['dump']} in {each['place']} ({each['until']})" for each in said["backups_that_need_it"]]
    lines.append(f"- backups that still need it: {'; '.join(needed) or 'none is kept'}")
    lines += [f"- not claimed: {each}" for each in said["not_claimed"]]
    return "\n".join(lines)


def told_of(told: Sequence[HistoryEntry], rotation: str) -> RetirementEvents:
    """The newest retirement of a rotation.

    Raises:
        RequestError: there is none.
    """
    retired: tuple[HistoryEntry, KeyRetired] | None = None
    replicas: tuple[HistoryEntry, ReplicasAccounted] | None = None
    archived: tuple[HistoryEntry, Mapping[str, Any]] | None = None
    for each in told:
        match each.fact if each.request == rotation else None:
            case ReplicasAccounted() as fact:
                replicas = each, fact
            case KeyRetired() as fact:
                retired = each, fact
            case StepFinished(step=Step.ARCHIVED_KEY) as fact:
                archived = each, fact.facts
    if retired is None:
        raise RequestError(f"rotation {rotation} has retired no key; `keyrotation history` shows those that have")
    return RetirementEvents(retired, replicas, archived)


def revived(told: Sequence[HistoryEntry], rotation: str) -> tuple[str, ...]:
    """Those of the retired versions that somebody has given, or begun to give, to applications again."""
    gone: set[KeyVersion] = set()
    back: dict[str, None] = {}
    for each in told:
        match each.fact:
            case KeyRetired() as fact if each.request == rotation:
                gone, back = set(fact.taken_from_applications), {}
            case KeyStateChanged(version=version, after=after) if version in gone and after in _ALIVE:
                back[str(version)] = None
            case KeyRestoreIntended(version=version, place=place) if version in gone and place != "archive":
                back[str(version)] = None
    return tuple(back)


def _statement(site: BackupContext, state: LedgerState, newest: HistoryEntry, told: RetirementEvents) -> dict[str, Any]:
    event, retired = told.retired
    keys = [state.keys[version] for version in retired.taken_from_applications]
    accounted = told.replicas[1].as_json() if told.replicas else None
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
            "undeclared_columns": {
                "searched": "every other column of every relation of this database that can hold text: no value found",
                "not_searched": list(retired.not_searched),
            },
            "snapshots": "no session, prepared transaction or slot of this server could show a value from before the "
            f"proof of {instant(retired.proven_at)}",
            "replicas": {"accounted": [], "gone_as_signed": [], "gone_as_configured": []}
            if accounted is None
            else {
                "accounted": accounted["replicas"],
                "gone_as_signed": accounted["gone_as_signed"],
                "gone_as_configured": accounted["gone_as_configured"],
            },
            "not_seen": list(retired.not_seen),
            "applications": _applications(told),
            "archive": None if told.archived is None else list(told.archived[1].get("archived", ())),
            "backups_that_need_it": list(_backups(site, retired.taken_from_applications)),
            "signed_by": SIGNED_BY,
            "not_claimed": list(NOT_CLAIMED),
            "evidence": [_named(each) for each in (told.replicas, told.retired, told.archived) if each is not None],
        },
    }


def _rows(retired: KeyRetired) -> dict[str, Any]:
    told = retired.as_json()
    names = ("tables", "values", "old_values", "fenced_against", "fence_lsn", "proven_at")
    return {name: told[name] for name in names}


def _applications(told: RetirementEvents) -> dict[str, Any]:
    taken = [str(version) for version in told.retired[1].taken_from_applications]
    seen = None if told.archived is None else list(told.archived[1].get("names", ()))
    return {"taken_from_key_store": taken, "seen_without_it": seen}


def _named(told: tuple[HistoryEntry, object]) -> dict[str, Any]:
    each, _ = told
    return {"seq": each.seq, "event": each.kind, "hash": each.event.hash}


def _backups(site: BackupContext, versions: Sequence[KeyVersion]) -> Iterator[dict[str, Any]]:
    """Every kept dump that cannot be read whole without one of the keys, and until when it is sure to be kept."""
    for place in site.places:
        names = frozenset(place.names())
        for made in kept_sets(place, site.trust).sets:
            if made.dump is None or made.dump.file.name not in names:
                continue
            if needed := [str(version) for version in versions if version in made.dump.versions]:
                locked = place.locked_until(made.dump.file.name)
                until = "not locked; until somebody, or a rule of the place, removes it"
                yield {
                    "dump": made.dump.file.name,
                    "manifest": made.name,
                    "needs": needed,
                    "place": place.description,
                    "until": until if locked is None else f"locked until {instant(locked)}",
                }
