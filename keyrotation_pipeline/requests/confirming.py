"""Confirmations: an officer's signed statement that a rollout is done, and which silent instances have ended.

As with approvals, "confirmed" is stored nowhere: the audit holds what was signed, and what relies on it rebuilds the
text from the present facts and verifies the signature again.
"""

from collections.abc import Iterable, Iterator, Mapping

from keyrotation_pipeline.audit.events import entry_of, recorded
from keyrotation_pipeline.errors import ApprovalError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.model.approval import header_of
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, counted
from keyrotation_pipeline.model.fleet import Confirmation, Gone, RolloutMode, RolloutTarget, TargetKind
from keyrotation_pipeline.model.request_events import RolloutConfirmed
from keyrotation_pipeline.model.requests import CONFIRMATION_HEADERS, ConfirmationText, RequestAction, Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import verified_signature
from keyrotation_pipeline.requests.roster import require_roster, roster_of
from keyrotation_pipeline.requests.takeover import lineage

# The application's list of keys was changed, whoever noticed it: what was confirmed before may be of that.
_LISTED_AGAIN: tuple[EventKind, None] = (EventKind.KEY_LIST_DELIVERY_INTENDED, None)
# The events that each rollout begins with: their kind and, for a finished step, its name.
_BEGINNINGS: Mapping[TargetKind, frozenset[tuple[EventKind, Step | None]]] = {
    TargetKind.NAMES: frozenset({(EventKind.REQUEST_OPENED, None)}),
    TargetKind.READS: frozenset({(EventKind.STEP_FINISHED, Step.KEY_VERSION), _LISTED_AGAIN}),
    TargetKind.WRITES: frozenset(
        {(EventKind.PRIMARY_CHANGE_INTENDED, None), (EventKind.STEP_FINISHED, Step.DUAL_KEY_ROLLOUT), _LISTED_AGAIN}
    ),
    TargetKind.WITHOUT: frozenset({(EventKind.STEP_FINISHED, Step.RETIRED_KEY), _LISTED_AGAIN}),
}


def is_to_make_key(ledger: Ledger, walk: Walk) -> bool:
    """Whether the walk's key has yet to be made; a rollback makes none."""
    made = {record.version for record in ledger.keys()}
    return walk.action is RequestAction.ROTATE and walk.target not in made


def awaits_named_primary(pipeline: Pipeline, walk: Walk) -> bool:
    """Whether the walk's key may be made only once applications are seen to name their primary.

    Without a key nothing proves their reports yet, and the key store names the primary with the first one.
    """
    is_to_make = walk.source != PLAINTEXT and is_to_make_key(pipeline.ledger, walk)
    return pipeline.rollout.mode is RolloutMode.ATTEST and is_to_make


def target_at(pipeline: Pipeline, walk: Walk) -> RolloutTarget:
    """The walk's present rollout, or its last one."""
    if awaits_named_primary(pipeline, walk):
        return RolloutTarget(TargetKind.NAMES, (walk.source,))
    if (retired := walk.done(Step.RETIRED_KEY)) is not None:
        taken = retired.facts["taken_from_applications"]
        return RolloutTarget(TargetKind.WITHOUT, tuple(KeyVersion.parse(version) for version in taken))
    if walk.done(Step.DUAL_KEY_ROLLOUT) is None or pipeline.keys.read().primary != walk.target:
        return reading_target(pipeline, walk)
    return RolloutTarget(TargetKind.WRITES, (walk.target,))


def reading_target(pipeline: Pipeline, walk: Walk) -> RolloutTarget:
    """The rollout before the promotion: the target is read, and so is the old form of what the walk encrypts.

    Or of what it decrypts: under the target that is written again.
    """
    if not (walk.encrypts_plaintext or walk.gives_back):
        return RolloutTarget(TargetKind.READS, (walk.target,))
    places = {
        table.label(each.name) or each.name: each for table in pipeline.tables for each in table.places if each.source
    }
    stored = pipeline.keys.read() if any(each.form for each in places.values()) else None
    forms = tuple(
        (label, f"{each.form}: {stored.source(each.source_key)[1].fingerprint}")
        for label, each in places.items()
        if stored is not None and each.form is not None
    )
    before = walk.source if walk.gives_back else None
    return RolloutTarget(TargetKind.READS, (walk.target,), tuple(places), forms, before)


def confirmation_text(pipeline: Pipeline, walk: Walk) -> bytes:
    """The canonical text that confirms a walk's present rollout.

    Raises:
        RequestError: it has none, or none needs confirming.
        ApprovalError: an instance's name has characters that could mislead.
    """
    _require_confirmable(pipeline, walk)
    target = target_at(pipeline, walk)
    return _text(pipeline, walk, target, Gone.of(pipeline.rollout.instances()), _began(pipeline, walk, target)).render()


def add_confirmation(pipeline: Pipeline, walk: Walk, signature: bytes) -> tuple[str, RolloutTarget]:
    """Verifies one officer's detached signature over the text that confirms the present rollout, and stores it.

    Returns:
        The officer's name, and the target that is confirmed.

    Raises:
        ApprovalError: the signature does not count, with a sentence for each reason.
        RequestError: see `confirmation_text`.
    """
    walk = pipeline.ledger.walk(walk.id)
    _require_confirmable(pipeline, walk)
    target, gone = target_at(pipeline, walk), Gone.of(pipeline.rollout.instances())
    began = _began(pipeline, walk, target)
    text = _text(pipeline, walk, target, gone, began).render()
    verified, name = _verified(pipeline, text, signature, began)
    with pipeline.ledger.transaction():
        pipeline.ledger.append(RolloutConfirmed(target.kind, gone, verified, signature.hex(), text.decode()), walk.id)
        pipeline.ledger.block(walk.id, None)
    return name, target


def confirmation_of(pipeline: Pipeline, walk: Walk, target: RolloutTarget) -> Confirmation:
    """What officers confirmed about a rollout, as far as their signatures count now."""
    kept = [each for each in recorded(pipeline.ledger, RolloutConfirmed, walk.id) if each.rollout is target.kind]
    if not kept:
        return Confirmation()
    began = _began(pipeline, walk, target)
    counting = list(_counting(pipeline, walk, target, began, kept))
    return Confirmation(
        tuple(dict.fromkeys(name for name, _ in counting)), frozenset(each for _, gone in counting for each in gone)
    )


def _counting(
    pipeline: Pipeline, walk: Walk, target: RolloutTarget, began: AuditEvent, kept: Iterable[RolloutConfirmed]
) -> Iterator[tuple[str, tuple[Gone, ...]]]:
    for each in kept:
        try:
            header = header_of(each.text.encode(), CONFIRMATION_HEADERS)
            text = _text(pipeline, walk, target, each.gone, began, header).render()
            _, name = _verified(pipeline, text, bytes.fromhex(each.signature), began)
        except (ApprovalError, ValueError):
            continue  # of another rollout, or no longer valid: ignored
        yield name, each.gone


def _text(
    pipeline: Pipeline,
    walk: Walk,
    target: RolloutTarget,
    gone: tuple[Gone, ...],
    began: AuditEvent,
    header: str = CONFIRMATION_HEADERS[0],
) -> ConfirmationText:
    stored = pipeline.keys.read()
    return ConfirmationText(
        request=walk.id,
        target=target,
        database=pipeline.environment.identity().signed(header),
        key_store=pipeline.keys.description,
        keys=[f"{version} {stored.material(version).fingerprint}" for version in target.versions],
        gone=gone,
        audit_head=(began.seq, began.hash),
        header=header,
    )


def _verified(pipeline: Pipeline, text: bytes, signature: bytes, began: AuditEvent) -> tuple[str, str]:
    roster, what = require_roster(pipeline), "the rollout that it confirms"
    officer = verified_signature(pipeline, roster, text, signature, since=entry_of(began).at, what=what).officer
    return officer, str(roster.name_of(officer))


def _began(pipeline: Pipeline, walk: Walk, target: RolloutTarget) -> AuditEvent:
    """The newest event that the rollout began with."""
    beginnings = _BEGINNINGS[target.kind]
    requests = {None, *(each.id for each in lineage(pipeline, walk))}  # `init` delivers a list for none
    found = None
    for event in pipeline.ledger.events(*{kind for kind, _ in beginnings}):
        entry = entry_of(event)
        if entry.request in requests and (entry.kind, entry.facts.get("step")) in beginnings:
            found = event
    if found is None:
        raise RequestError(
            f"rotation {walk.id} has not reached a rollout yet; run `keyrotation rotate {walk.id}` up to there first"
        )
    return found


def _require_confirmable(pipeline: Pipeline, walk: Walk) -> None:
    if walk.is_over or not (walk.done(Step.KEY_VERSION) or awaits_named_primary(pipeline, walk)):
        raise RequestError(
            f"rotation {walk.id} is not at a rollout, so there is nothing to confirm; see `keyrotation status`"
        )
    if (missing := roster_of(pipeline, walk).required - len(walk.approvals)) > 0:
        raise RequestError(
            f"rotation {walk.id} needs {counted(missing, 'more approval')} before a rollout of it can be confirmed; "
            f"sign with `keyrotation approve {walk.id} --text`"
        )
    if (mode := pipeline.rollout.mode) in {RolloutMode.NONE, RolloutMode.SERVER}:
        raise RequestError(
            f'[rollout] mode is "{mode}", so that no rollout is waited for; there is nothing to confirm, '
            f"run `keyrotation rotate {walk.id}`"
        )
