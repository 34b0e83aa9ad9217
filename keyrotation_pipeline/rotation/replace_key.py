"""Replaces an imported key that decrypts no value with one that does, for a home that took a wrong key.

Officers sign the fingerprints of both keys. The replaced key stays in the backups that hold it; nothing in the rows
changes. A process that dies midway completes it when it runs again.
"""

from collections.abc import Sequence

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.errors import KeyStoreDamagedError, RequestError, WrongKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.key_events import KeyImportIntended, KeyReplaced, KeyReplacementProposed
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.keys import KeyRecord, StoredKeys
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline
from keyrotation_pipeline.requests import opening, witnessing
from keyrotation_pipeline.requests.approvals import approval_text, require_authorised
from keyrotation_pipeline.requests.key_list import note_if_changed
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.rotation.key_checks import try_keys
from keyrotation_pipeline.rotation.keys import backed_up, record_of

LOCK = "replace-key"


def pending_replacement(ledger: Ledger, version: KeyVersion) -> Request | None:
    """The open request to replace the key of a version, if there is one."""
    return next((each for each in opening.pending(ledger, RequestAction.REPLACE_KEY) if each.source == version), None)


def open_replacement(
    pipeline: Pipeline, version: KeyVersion, material: KeyMaterial, *, reason: str | None, requested_by: str
) -> Request:
    """Opens a request to replace an imported key, for officers to sign.

    Raises:
        RequestError: the key was not imported, is not live, or decrypts values; such a request is open, or no reason is
            given.
        WrongKeyError: the other key does not decrypt the values either.
        ApprovalError: the roster differs from the pinned one, or a text has characters that could mislead.
        BlockedError: the database was restored to an earlier state, or a table cannot be read.
    """
    with pipeline.ledger.lock(LOCK):
        require_roster(pipeline)
        if reason is not None:
            opening.require_texts(reason, requested_by, None)
        stored = pipeline.keys.read()
        require_consistent(pipeline, stored)
        if (already := pending_replacement(pipeline.ledger, version)) is not None:
            raise RequestError(f"request {already.id} to replace {version} is open; sign or cancel it")
        record, (tried, opened) = _require_replaceable(pipeline, stored, version, material)
        if reason is None:
            raise RequestError(
                f"say why with `keyrotation replace-key {version} --reason TEXT`, which officers then sign"
            )
        # The text for signing is built from this event, which lies before the audit head that it names.
        pipeline.ledger.append(KeyReplacementProposed(version, record.fingerprint, material.fingerprint, tried, opened))
        request = opening.new_request(
            Request,
            pipeline,
            REPLACE_KEY,
            source=version,
            fingerprint=record.fingerprint,
            target=version,
            reason=reason,
            requested_by=requested_by,
        )
        pipeline.ledger.open(request, approval_text(pipeline, request))
    return request


def replace_key(pipeline: Pipeline, request: Request, material: KeyMaterial) -> KeyRecord:
    """Carries out what officers signed: backs the key up, stores it, reads it back, and only then registers it.

    Raises:
        ApprovalError: too few signatures, or something has changed since.
        RequestError: the request is over or past its dates, or the key given is not the one that was signed.
        WrongKeyError: values turned up that the present key decrypts, or that the other one does not.
        KeyStoreError: the key store was changed meanwhile, or does not read back.
        BackupError: the key could not be backed up.
    """
    version = request.source
    with pipeline.ledger.lock(LOCK):
        request = pipeline.ledger.request(request.id)
        if request.action is not RequestAction.REPLACE_KEY or request.is_over:
            raise RequestError(f"request {request.id} replaces nothing; open one with `{_command(request)}`")
        stored = pipeline.keys.read()
        require_consistent(pipeline, stored, afresh=True)
        require_authorised(pipeline, request, stored)
        proposed = _proposed(pipeline.ledger, request)
        if material.fingerprint != proposed.after:
            raise RequestError(
                f"the key given for {version} is {material.fingerprint[:16]}, but officers signed "
                f"{proposed.after[:16]}; give that one"
            )
        if request.status is not RequestStatus.RUNNING:
            _require_replaceable(pipeline, stored, version, material)
            pipeline.ledger.set_status(request.id, RequestStatus.RUNNING)
        _replace(pipeline, stored, request, material)
    witnessing.show_outside(pipeline)
    record = record_of(pipeline.ledger, version)
    if record is None or record.fingerprint != material.fingerprint:
        raise KeyStoreDamagedError(f"{version} is not registered as it was replaced; run `keyrotation audit verify`")
    return record


def _replace(pipeline: Pipeline, stored: StoredKeys, request: Request, material: KeyMaterial) -> None:
    version = request.source
    backed_up(pipeline, version, material, request.id)
    note_if_changed(pipeline.ledger, stored)
    after = pipeline.keys.replace(version, material, stored.revision)
    if after.live.get(version) != material:
        raise KeyStoreDamagedError(f"{version} does not read back from the key store as it was stored; check the store")
    with pipeline.ledger.transaction():
        pipeline.ledger.replace_key(version, material.fingerprint, request.id)
        pipeline.ledger.set_status(request.id, RequestStatus.FINISHED)


def _require_replaceable(
    pipeline: Pipeline, stored: StoredKeys, version: KeyVersion, material: KeyMaterial
) -> tuple[KeyRecord, tuple[int, int]]:
    """The record of the version, and how many values were tried and how many the given key decrypted.

    Where a request that was cancelled, or is past its dates, has already put the given key in the store, these are the
    numbers that officers signed then: the replaced key is no longer there to be tried.
    """
    record, already = record_of(pipeline.ledger, version), _stored_already(pipeline.ledger, stored, version, material)
    if record is not None and already is not None:
        live = {each: stored.material(each) for each in stored.live}
        _require_decrypts(
            try_keys(pipeline, KeyRing(live, version), _wanted(pipeline.tables, version)), version, material
        )
        return record, (already.tried, already.opened)
    record = _require_imported(pipeline.ledger, stored, version, material)
    return record, _require_better(pipeline, stored, record, material)


def _stored_already(
    ledger: Ledger, stored: StoredKeys, version: KeyVersion, material: KeyMaterial
) -> KeyReplacementProposed | None:
    """What was proposed when a request began that ended before it registered the key, which the store has since."""
    record = record_of(ledger, version)
    if stored.live.get(version) != material or record is None or record.fingerprint == material.fingerprint:
        return None
    for each in ledger.requests():
        if each.action is not RequestAction.REPLACE_KEY or each.source != version or each.started_at is None:
            continue
        proposed = _proposed(ledger, each)
        if (proposed.before, proposed.after) == (record.fingerprint, material.fingerprint):
            return proposed
    return None


def _wanted(tables: Sequence[EncryptedTable], version: KeyVersion) -> dict[str, dict[str, tuple[KeyVersion, ...]]]:
    return {str(table.name): dict.fromkeys(table.columns, (version,)) for table in tables}


def _require_imported(ledger: Ledger, stored: StoredKeys, version: KeyVersion, material: KeyMaterial) -> KeyRecord:
    record = record_of(ledger, version)
    if record is None:
        raise RequestError(f"{version} is not registered; `keyrotation status` shows the versions that are")
    if version not in stored.live:
        raise RequestError(f"{version} is {record.state} and not live in the key store, so its key is not replaced")
    stored.registered(record)
    imported = {fact.fingerprint for fact in recorded(ledger, KeyImportIntended) if fact.version == version}
    replaced = {fact.after for fact in recorded(ledger, KeyReplaced) if fact.version == version}
    if record.fingerprint not in imported | replaced:
        raise RequestError(
            f"{version} was made by this pipeline and not imported, so its key is the right one; find what does not "
            "decrypt with `keyrotation verify`"
        )
    if record.fingerprint == material.fingerprint:
        raise RequestError(f"the key given for {version} is the registered one already; there is nothing to replace")
    return record


def _require_better(
    pipeline: Pipeline, stored: StoredKeys, record: KeyRecord, material: KeyMaterial
) -> tuple[int, int]:
    """Values under the version that were tried, and how many the new key decrypts; the present one decrypts none."""
    version = record.version
    live = {each: stored.material(each) for each in stored.live}
    wanted = _wanted(pipeline.tables, version)
    tried, opened = try_keys(pipeline, KeyRing(live, version), wanted).of_version(version)
    if opened:
        raise RequestError(
            f"the registered {version} ({record.fingerprint[:16]}) decrypts {opened:,} of {tried:,} values under it, "
            "so it stays; give the other values a version of their own"
        )
    trial = try_keys(pipeline, KeyRing(live | {version: material}, version), wanted)
    return _require_decrypts(trial, version, material)


def _require_decrypts(trial: KeyTrial, version: KeyVersion, material: KeyMaterial) -> tuple[int, int]:
    tried, opened = trial.of_version(version)
    if not opened or any(each.is_wrong_key for each in trial.columns if each.version == version):
        raise WrongKeyError(
            f"the key given for {version} ({material.fingerprint[:16]}) decrypts {opened:,} of {tried:,} values under "
            "it; give the key that the application uses"
        )
    return tried, opened


def _proposed(ledger: Ledger, request: Request) -> KeyReplacementProposed:
    """What was proposed before the request was opened: the last such event within its audit head."""
    found = [
        read(KeyReplacementProposed, entry.facts)
        for entry in entries(ledger, EventKind.KEY_REPLACEMENT_PROPOSED)
        if entry.seq <= request.audit_head[0]
    ]
    last = next((each for each in reversed(found) if each.version == request.source), None)
    if last is None:
        raise RequestError(f"request {request.id} names no key; cancel it, and open one with `{_command(request)}`")
    return last


def _authorises(pipeline: Pipeline, request: Request) -> str:
    proposed = _proposed(pipeline.ledger, request)
    return (
        f"put another key in the place of the imported {request.source}, which opened none of {proposed.tried} values "
        f"that were tried; the other one opened {proposed.opened} of them; no row changes, and backups of the replaced "
        "key stay"
    )


def _command(request: Request) -> str:
    return f"keyrotation replace-key {request.source}"


REPLACE_KEY = Action(
    RequestAction.REPLACE_KEY,
    authorises=_authorises,
    # As requested, since the store may already hold the other key.
    source=lambda _pipeline, request, _stored: f"{request.source} {request.source_fingerprint}",
    target=lambda pipeline, request, _stored: f"{request.source} {_proposed(pipeline.ledger, request).after}",
    authority=require_roster,
    command=_command,
    renewal=lambda request: f"cancel it, then run `{_command(request)} --reason TEXT` for a new one",
    lock=LOCK,
)
