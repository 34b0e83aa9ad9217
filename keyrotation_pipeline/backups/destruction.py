"""Destroys a key version permanently, once nothing stored can need it.

The ledger says `destroyed` before the key is removed: from then on no backup copies it, no rollback uses it, and
`restore-key` refuses it. A process that dies midway completes it when it runs again.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.backups.backup import BACKUP_LOCK
from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets
from keyrotation_pipeline.backups.remaining_copies import (
    HeldCopy,
    described_copies,
    described_replaced,
    dumps_from_before,
    kept_dumps_that_need,
    replaced_dumps,
    unlisted_dumps,
)
from keyrotation_pipeline.errors import ApprovalError, BlockedError, KeyStoreError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, counted
from keyrotation_pipeline.model.key_events import HeldFile, KeyDestroyed, KeyDestructionIntended, SourceKeyImported
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline
from keyrotation_pipeline.requests import opening, witnessing
from keyrotation_pipeline.requests.approvals import approval_text, require_authorised
from keyrotation_pipeline.requests.key_list import note_if_changed
from keyrotation_pipeline.requests.roster import claim_store, require_roster
from keyrotation_pipeline.requests.takeover import waiting
from keyrotation_pipeline.rotation.keys import record_of

DestructionFact = TypeVar("DestructionFact", KeyDestructionIntended, KeyDestroyed)
LOCK = "destroy"
DESTROYABLE = frozenset({KeyState.ARCHIVED, KeyState.COMPROMISED})


@dataclass(frozen=True, slots=True)
class Destruction:
    """What will be, or was, destroyed.

    Args:
        local: files of the local directory that are removed.
        held: copies that stay.
    """

    version: KeyVersion
    fingerprint: str
    local: tuple[str, ...]
    held: tuple[HeldCopy, ...]

    def as_fact(self, record: type[DestructionFact]) -> DestructionFact:
        """The audit's record of it, before and after."""
        held = tuple(HeldFile(copy.name, copy.place, copy.locked_until, copy.superseded) for copy in self.held)
        return record(self.version, self.fingerprint, self.local, held)


def pending_destruction(ledger: Ledger, version: KeyVersion) -> Request | None:
    """The open request to destroy a version, if there is one."""
    return next((each for each in opening.pending(ledger, RequestAction.DESTROY) if each.source == version), None)


def open_destruction(
    site: BackupContext, version: KeyVersion, *, reason: str | None, requested_by: str
) -> tuple[Request, Destruction]:
    """Open a request to destroy a version, for officers to sign; copies stored elsewhere are named in its reason.

    Raises:
        RequestError: the version is not archived or compromised, such a request is open, or no reason is given.
        BlockedError: something still needs it; names what.
        ApprovalError: the roster differs from the pinned one, or a text has characters that could mislead.
    """
    pipeline = site.pipeline
    with pipeline.ledger.lock(LOCK):
        require_roster(pipeline)
        if reason is not None:
            opening.require_texts(reason, requested_by, None)
        stored = pipeline.keys.read()
        require_consistent(pipeline, stored)
        if (already := pending_destruction(pipeline.ledger, version)) is not None:
            raise RequestError(f"request {already.id} to destroy {version} is open; sign or cancel it")
        record, kept = _require_destroyable(site, stored, version)
        if reason is None:  # checked last: a destroyed version needs no reason
            raise RequestError(f"say why with `keyrotation destroy {version} --reason TEXT`, which officers then sign")
        found = _found(site, record, kept)
        copies = f"{described_copies(version, found.held)}{described_replaced(replaced_dumps(kept, version))}"
        opened = _request(pipeline, record, f"{reason}; {copies}", requested_by)
        pipeline.ledger.open(opened, approval_text(pipeline, opened))
    return opened, found


def destroy(site: BackupContext, rotation: Request) -> Destruction:
    """Carry out what officers signed; repeatable after a crash.

    Raises:
        ApprovalError: too few signatures, or something has changed since.
        RequestError: the request is over or past its dates, or the version's state has changed.
        BlockedError: something needs the version, or a backup is running.
        KeyStoreError: the key store or its archive holds another key, or the key could not be removed.
    """
    pipeline, version = site.pipeline, rotation.source
    # The lock of `backup`, too: a running backup may be copying the key right now.
    with pipeline.ledger.lock(LOCK), pipeline.ledger.lock(BACKUP_LOCK):
        rotation = pipeline.ledger.request(rotation.id)
        if rotation.action != RequestAction.DESTROY or rotation.is_over:
            raise RequestError(f"request {rotation.id} destroys nothing; open one with `keyrotation destroy {version}`")
        stored = pipeline.keys.read()
        require_consistent(pipeline, stored, afresh=True)
        require_authorised(pipeline, rotation, stored)
        stored = claim_store(pipeline, stored)
        record, kept = _require_destroyable(site, stored, version, begun=rotation.status is RequestStatus.RUNNING)
        if record.fingerprint != rotation.source_fingerprint:
            raise ApprovalError(f"{version} is registered as another key than the one signed for; cancel {rotation.id}")
        found = _found(site, record, kept)
        with pipeline.ledger.transaction():
            pipeline.ledger.append(found.as_fact(KeyDestructionIntended), rotation.id)
            # Once more, now that the audit is locked: the search takes long, and others act meanwhile.
            _require_no_walk(pipeline.ledger, version)
            pipeline.ledger.set_status(rotation.id, RequestStatus.RUNNING)
            pipeline.ledger.set_key_state(version, KeyState.DESTROYED, rotation.id)
        note_if_changed(pipeline.ledger, stored)
        _remove(site, found, stored.revision)
        done = _as_intended(pipeline.ledger, found)
        with pipeline.ledger.transaction():
            pipeline.ledger.append(done.as_fact(KeyDestroyed), rotation.id)
            pipeline.ledger.set_status(rotation.id, RequestStatus.FINISHED)
    witnessing.show_outside(pipeline)
    return done


def _request(pipeline: Pipeline, record: KeyRecord, reason: str, requested_by: str) -> Request:
    return opening.new_request(
        Request,
        pipeline,
        DESTROY,
        source=record.version,
        fingerprint=record.fingerprint,
        target=record.version,
        reason=reason,
        requested_by=requested_by,
    )


def _require_destroyable(
    site: BackupContext, stored: StoredKeys, version: KeyVersion, *, begun: bool = False
) -> tuple[KeyRecord, Sequence[KeptSets]]:
    """The version's record, if it may be destroyed, and what is kept in each place.

    Checks everything again; what cannot be determined is refused.
    """
    record = _require_state(site, stored, version, begun=begun)
    _require_no_walk(site.pipeline.ledger, version)
    _require_not_live(stored, version)
    if version in stored.archived:
        stored.registered(record)
    _require_no_values(site.pipeline, version)
    kept = site.kept()
    if dumps := kept_dumps_that_need(kept, version):
        raise BlockedError(
            f"{version} is needed to read {', '.join(dumps)}; destroy it when these database backups are gone, or "
            "replaced by `keyrotation backup --rekey`"
        )
    _require_no_older_dumps(site.pipeline.ledger, kept, version)
    unlisted = unlisted_dumps(kept, site.trust)
    if lost := [dump for dump, whose in unlisted.items() if whose is None]:
        raise BlockedError(
            f"no manifest says which keys {', '.join(lost)} needs; restore its manifest or remove it first"
        )
    if unlisted:
        named = ", ".join(f"{dump} (of the pipeline {whose})" for dump, whose in unlisted.items())
        raise BlockedError(
            f"it is unknown which keys {named} needs; give each pipeline a directory or [backup.s3] prefix of its "
            "own, and move its backups there"
        )
    return record, kept


def _require_state(site: BackupContext, stored: StoredKeys, version: KeyVersion, *, begun: bool) -> KeyRecord:
    record = record_of(site.pipeline.ledger, version)
    if record is None:
        raise RequestError(f"{version} is not registered; `keyrotation status` shows the versions that are")
    if record.state is KeyState.DESTROYED:
        # One that was interrupted, and whose request has expired, is requested again.
        is_recorded = version in {fact.version for fact in recorded(site.pipeline.ledger, KeyDestroyed)}
        if is_recorded and not (begun or version in stored.archived or _key_files(site.local, version)):
            raise RequestError(f"{version} is destroyed already; `keyrotation audit log` has the record of it")
    elif record.state not in DESTROYABLE:
        raise RequestError(
            f"{version} is {record.state}, and only an archived or compromised version is destroyed; "
            "replace it first with `keyrotation request`"
        )
    return record


def _require_no_walk(ledger: Ledger, version: KeyVersion) -> None:
    for unfinished in (ledger.current(), *waiting(ledger)):
        if unfinished is not None and version in {unfinished.source, unfinished.target}:
            raise BlockedError(
                f"{unfinished.action} {unfinished.id} is about {version} and not finished; finish or cancel it first"
            )


def _require_not_live(stored: StoredKeys, version: KeyVersion) -> None:
    if version in stored.live or version == stored.primary:
        raise BlockedError(
            f"{version} is live in the key store; let a rotation archive it first with `keyrotation request`"
        )


def _require_no_values(pipeline: Pipeline, version: KeyVersion) -> None:
    found = _import_of(pipeline.ledger, version)
    for count in pipeline.inventory.count(pipeline.tables):
        if values := count.values_by_version.get(version, 0):
            raise BlockedError(
                f"table {count.table.name} holds {counted(values, 'value')} under {version}; re-encrypt them "
                "first with `keyrotation request`"
            )
        if found is not None:
            _require_no_old_forms(count, version, found[1])
    for finding in pipeline.inventory.discover(pipeline.tables):
        if version in finding.versions:
            raise BlockedError(
                f"{finding.relation}.{finding.column} is not declared and holds values under {version}; declare it "
                "under [[tables]] and rotate, or clear it"
            )


def _require_no_old_forms(count: TableCount, version: KeyVersion, name: str) -> None:
    """Refuses while a column holds values of another library, or what may be some where `from` is not declared."""
    for column, values in count.unencrypted_by_column.items():
        place = count.table.place(column)
        if not values or (place.source and place.source_key != name):
            continue
        what = "of another library" if place.source else "in plaintext"
        its = "is its key" if place.source else "may be their key, as `from` is not declared"
        raise BlockedError(
            f"{count.table.name}.{column} holds {counted(values, 'value')} {what}, and {version} {its}; encrypt "
            "them first with `keyrotation request`"
        )


def _import_of(ledger: Ledger, version: KeyVersion) -> tuple[int, str] | None:
    """The position in the audit at which another library's key was imported, and its name; None: it is no such key."""
    for entry in entries(ledger, EventKind.SOURCE_KEY_IMPORTED):
        match entry.fact():
            case SourceKeyImported(imported, name=name) if imported == version:
                return entry.seq, name
    return None


def _require_no_older_dumps(ledger: Ledger, kept: Sequence[KeptSets], version: KeyVersion) -> None:
    """Refuses while there are backups from before another library's key was imported: nothing in them names it."""
    if (found := _import_of(ledger, version)) is not None and (dumps := dumps_from_before(kept, found[0])):
        raise BlockedError(
            f"{version} may be needed to read {', '.join(dumps)}, made before it was imported; destroy it when these "
            "database backups are gone"
        )


def _found(site: BackupContext, record: KeyRecord, kept: Sequence[KeptSets]) -> Destruction:
    copies = (copy for sets in kept for made in sets.sets for copy in made.keys)
    sealed = {copy.file.name: copy.sealed_by for copy in copies}
    held = tuple(
        HeldCopy(each.name, place.description, each.locked_until, each.superseded, sealed.get(each.name, ""))
        for place in site.offsite
        for each in place.versions(_prefix(record.version))
        if not each.name.endswith(".json")
    )
    return Destruction(record.version, record.fingerprint, _key_files(site.local, record.version), held)


def _key_files(place: BackupPlace, version: KeyVersion) -> tuple[str, ...]:
    """Files by name, so that a damaged manifest hides none."""
    return tuple(name for name in place.names() if name.startswith(_prefix(version)))


def _prefix(version: KeyVersion) -> str:
    return f"encryption-key-{version}-"


def _remove(site: BackupContext, found: Destruction, revision: str) -> None:
    with suppress(BlockedError):  # of a cluster that does not answer
        site.pipeline.rollout.forget()  # while sign-offs of instances that held this key can still be verified
    stored = site.pipeline.keys.destroy(found.version, revision)
    for name in found.local:
        site.local.remove(name)
    if found.version in stored or _key_files(site.local, found.version):
        raise KeyStoreError(f"{found.version} is still there after it was removed; check the disk, and run this again")


def _as_intended(ledger: Ledger, found: Destruction) -> Destruction:
    """The destruction, with the files that earlier attempts removed, also those of a request that then expired."""
    files: set[str] = set()
    for entry in entries(ledger, EventKind.KEY_DESTRUCTION_INTENDED, EventKind.KEY_DESTROYED):
        match entry.fact():
            case KeyDestructionIntended(version, files=removed) if version == found.version:
                files.update(removed)
            case KeyDestroyed(version) if version == found.version:
                files.clear()
    return Destruction(found.version, found.fingerprint, tuple(sorted(files)), found.held)


def _authorises(pipeline: Pipeline, request: Request) -> str:
    text = (
        f"destroy {request.source} in the key store and its key files in the local backups; copies elsewhere stay "
        f"until their locks and rules end; nothing under {request.source} can be read again without such a copy"
    )
    return f"{text}; {pipeline.keys.residual_copies}" if pipeline.keys.residual_copies else text


def _command(request: Request) -> str:
    return f"keyrotation destroy {request.source}"


DESTROY = Action(
    RequestAction.DESTROY,
    authorises=_authorises,
    # As requested, since the key may be gone already.
    source=lambda _pipeline, request, _stored: f"{request.source} {request.source_fingerprint}",
    target=lambda _pipeline, _request, _stored: "destroyed",
    authority=require_roster,
    command=_command,
    renewal=lambda request: f"cancel it, then run `{_command(request)}` for a new one",
    lock=LOCK,
)
