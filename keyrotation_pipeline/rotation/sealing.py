"""Seals stored keys under the wrapping key that the configuration names, once applications have shown to open it.

Applications read the same entries as before, so one that cannot open a sealed key would not start any more. Before the
first key is sealed each instance therefore opens a canary, and proves it in its report.
"""

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.errors import BlockedError, KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.key_events import KeysResealed, KeysResealIntended
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline.requests.canary import lacking, offer_canary, sentence
from keyrotation_pipeline.requests.policy import require_signed_key_store
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.requests.wrapping_key import record_origin

LOCK = "reseal"


def reseal(pipeline: Pipeline) -> KeysResealed:
    """Seals every key that is not under the configured wrapping key; repeating it changes nothing.

    Raises:
        BlockedError: a rotation has begun, an instance has not opened the canary, or the wrapping key is not usable.
        ApprovalError: the wrapping key is not the one that officers signed.
        KeyStoreError: none is configured, or the store refuses the change.
    """
    with pipeline.ledger.lock(LOCK):
        require_roster(pipeline)
        require_signed_key_store(pipeline)
        require_consistent(pipeline, stored := pipeline.keys.read(), afresh=True)
        if not stored.sealed_by:
            raise KeyStoreError("keyrotation.toml names no wrapping key; add [keys.seal] first")
        if not stored.unsealed:
            return _recorded(pipeline.ledger, stored.sealed_by)
        _require_at_rest(pipeline.ledger)
        stored = offer_canary(pipeline.keys, stored)
        _require_opened(pipeline, stored)
        intended = KeysResealIntended(stored.sealed_by, stored.unsealed)
        pipeline.ledger.append(intended)
        after = pipeline.keys.reseal(pipeline.keys.read().revision)
        if after.unsealed or after.fingerprints != stored.fingerprints:
            raise KeyStoreDamagedError("the key store does not read back as it was sealed; run `keyrotation status`")
        done = KeysResealed(stored.sealed_by, intended.versions)
        pipeline.ledger.append(done)
        record_origin(pipeline)
    return done


def _recorded(ledger: Ledger, sealed_by: str) -> KeysResealed:
    """Returns that nothing is left to seal, after recording what a process sealed that died before it could."""
    *_, last = None, *(each.fact() for each in entries(ledger, EventKind.KEYS_RESEAL_INTENDED, EventKind.KEYS_RESEALED))
    if isinstance(last, KeysResealIntended) and last.wrapping_key == sealed_by:
        ledger.append(KeysResealed(sealed_by, last.versions))
    return KeysResealed(sealed_by, ())


def _require_opened(pipeline: Pipeline, stored: StoredKeys) -> None:
    if (state := pipeline.keys.wrapping_key()) is not None and state.problems:
        raise BlockedError(state.problems[0])
    instances = pipeline.rollout.instances()
    if unable := lacking(instances):
        raise BlockedError(f"{sentence(unable, stored)}; then run `keyrotation reseal` again")
    listed = any(table.format.spec.lists_keys for table in pipeline.tables)
    # Whose library reads a list reports nothing by itself; that `exec` starts it, officers sign with the seal.
    if pipeline.rollout.mode is RolloutMode.NONE or (listed and pipeline.rollout.mode is not RolloutMode.ATTEST):
        return
    if not any(each.opens_sealed and not each.silent for each in instances):
        raise BlockedError(
            f"no instance has opened the canary under {stored.sealed_by}; have each report by attest, then run "
            "`keyrotation reseal` again"
        )


def _require_at_rest(ledger: Ledger) -> None:
    if (walk := ledger.current()) is not None:
        raise BlockedError(f"{walk.action} {walk.id} is not finished; finish it, then run `keyrotation reseal`")
    if destroying := opening.pending(ledger, RequestAction.DESTROY):
        raise BlockedError(f"request {destroying[0].id} is open; finish or cancel it, then run `keyrotation reseal`")
