"""Marks key versions as compromised once enough officers have signed an emergency request."""

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Request, RequestStatus, RotationType, held_in_words
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import require_authorised

_BEYOND = frozenset({KeyState.COMPROMISED, KeyState.DESTROYED})


def held_compromised(pipeline: Pipeline, request: Request) -> tuple[KeyVersion, ...]:
    """The versions that a request calls compromised: those of its incident, else its source; none if routine."""
    if request.type is not RotationType.EMERGENCY:
        return ()
    known = incidents(pipeline.ledger).by_id.get(request.incident or "")
    return (request.source,) if known is None else known.versions


def in_words(pipeline: Pipeline, request: Request) -> str:
    """The beginning of the sentence that officers sign; empty for a routine request."""
    return held_in_words(held_compromised(pipeline, request))


def mark_compromised(pipeline: Pipeline, request: Request) -> None:
    """Mark the versions as compromised that enough officers have signed for; repeating changes nothing.

    A walk that makes one of them the primary, or encrypts under it, is paused in the same commit.

    Raises:
        ApprovalError, RequestError: the signatures do not count.
    """
    versions = held_compromised(pipeline, request)
    if not versions:
        return
    require_authorised(pipeline, request, pipeline.keys.read())
    with pipeline.ledger.transaction():
        registered = pipeline.ledger.keys()
        for record in registered:
            if record.version in versions and record.state not in _BEYOND:
                pipeline.ledger.set_key_state(record.version, KeyState.COMPROMISED, request.id)
        walk = pipeline.ledger.current()
        concerned = walk is not None and walk.id != request.id and walk.target in versions
        if walk is not None and concerned and walk.status is RequestStatus.RUNNING:
            pipeline.ledger.set_status(walk.id, RequestStatus.PAUSED, by=request.id)
    publish_compromised(pipeline, request.id)


def publish_compromised(pipeline: Pipeline, request: str | None) -> None:
    """Publish the compromised versions in the key store, so that applications never encrypt under them. Repeatable.

    Except the primary: applications write under it until another is promoted; then it is published, too.

    Raises:
        KeyStoreError: the key store rejects the change.
    """
    registered = pipeline.ledger.keys()
    if not (compromised := {each.version for each in registered if each.state is KeyState.COMPROMISED}):
        return
    stored = pipeline.keys.read()
    lost = frozenset(compromised - {stored.primary})
    if not lost <= stored.compromised:
        intent = {"versions": sorted(map(str, lost))}
        pipeline.ledger.append(Note(EventKind.COMPROMISE_TELLING_INTENDED, intent), request)
        pipeline.keys.publish_compromised(lost, stored.revision)
