"""Approvals: whether what two officers signed is still what is asked.

"Approved" is stored nowhere. Whoever acts on a request rebuilds the canonical text from the facts as they are, compares
it with the bytes that were signed, and has every signature verified again.
"""

from keyrotation_pipeline.errors import ApprovalError, RequestError
from keyrotation_pipeline.model.approval import ApprovalText, Roster, Signature, VerifiedSignature, differing_lines
from keyrotation_pipeline.model.request import Request, RequestAction
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.conductor import past_dates
from keyrotation_pipeline.rotation.reconcile_plan import plan


def pinned_roster(pipeline: Pipeline) -> Roster:
    """The roster that `init` pinned.

    Raises:
        ApprovalError: there is none.
    """
    roster = pipeline.ledger.pinned_roster()
    if roster is None:
        raise ApprovalError("no roster of officers is pinned yet; run `keyrotation init`")
    return roster


def require_roster(pipeline: Pipeline) -> Roster:
    """The pinned roster, if the configuration still says the same, in whatever order.

    Raises:
        ApprovalError: it differs; names what, so that it can be restored.
    """
    pinned, configured = pinned_roster(pipeline), pipeline.signatures.roster()
    differs = [
        what
        for what, before, now in (
            ("required", pinned.required, configured.required),
            ("officers", set(pinned.officers), set(configured.officers)),
            ("recipients", set(pinned.recipients), set(configured.recipients)),
        )
        if before != now
    ]
    if differs:
        raise ApprovalError(
            f"{' and '.join(differs)} in keyrotation.toml differ from those that `keyrotation init` pinned; "
            "restore them there"
        )
    return pinned


def approval_text(pipeline: Pipeline, rotation: Request) -> bytes:
    """The canonical text of a request, rebuilt from the facts as they are now."""
    return _text(pipeline, rotation, pinned_roster(pipeline)).render()


def add_approval(pipeline: Pipeline, rotation: Request, signature: bytes) -> tuple[str, int]:
    """Verify and store one officer's detached signature over the text of a request.

    Returns:
        The officer's name, and how many different officers have signed now.

    Raises:
        ApprovalError: the signature does not count, each reason its own sentence; or what is signed has changed.
        RequestError: the request is over, or past its dates.
    """
    rotation = pipeline.ledger.request(rotation.id)
    roster = require_roster(pipeline)
    if rotation.is_over:
        raise RequestError(f"rotation {rotation.id} is {rotation.status}; open the next one with `keyrotation request`")
    _require_within_dates(pipeline, rotation)
    text = _unchanged_text(pipeline, rotation, roster)
    verified = _verified(pipeline, rotation, roster, text, signature)
    name = _names(roster)[verified.officer]
    if verified.officer in rotation.approvals:
        raise ApprovalError(f"{name} has signed this request already; another officer must sign it too")
    pipeline.ledger.add_signature(rotation.id, Signature(verified.officer, signature, verified.signed_at))
    return name, len(pipeline.ledger.request(rotation.id).approvals)


def require_authorised(pipeline: Pipeline, rotation: Request) -> None:
    """Take the evidence that enough officers signed exactly what is about to be done, at this very moment.

    Raises:
        ApprovalError: roster or facts changed, a signature no longer counts, or too few are there.
        RequestError: the request is past its dates.
    """
    roster = require_roster(pipeline)
    _require_within_dates(pipeline, rotation)
    text = _unchanged_text(pipeline, rotation, roster)
    officers = {
        _verified(pipeline, rotation, roster, text, stored.signature).officer
        for stored in pipeline.ledger.signatures(rotation.id)
    }
    if (missing := roster.required - len(officers)) > 0:
        raise ApprovalError(
            f"rotation {rotation.id} lacks {missing} signature(s) of different officers; "
            f"sign with `keyrotation approve {rotation.id} --text`"
        )


def _text(pipeline: Pipeline, rotation: Request, roster: Roster) -> ApprovalText:
    return ApprovalText(
        request=rotation.id,
        action=rotation.action,
        authorises=_authorises(pipeline, rotation),
        database=str(pipeline.database.identity()),
        key_store=pipeline.keys.description,
        source=f"{rotation.source} {_fingerprint(pipeline, rotation)}",
        target=_target(pipeline, rotation),
        columns=tuple(f"{table.name}.{column}" for table in pipeline.tables for column in table.columns),
        required=roster.required,
        officers=tuple(officer.fingerprint for officer in roster.officers),
        recipients=roster.recipients,
        audit_head=rotation.audit_head,
        start_by=rotation.start_by,
        finish_by=rotation.finish_by,
        reason=rotation.reason if rotation.incident is None else f"incident {rotation.incident}: {rotation.reason}",
    )


def _fingerprint(pipeline: Pipeline, rotation: Request) -> str:
    """Of the key that the store holds; of one that is being destroyed, as requested, since it may be gone already."""
    if rotation.action == RequestAction.DESTROY:
        return rotation.source_fingerprint
    return pipeline.keys.get(rotation.source).fingerprint


def _authorises(pipeline: Pipeline, rotation: Request) -> str:
    if rotation.action == RequestAction.RECONCILE:
        return plan(pipeline).sentence()
    if rotation.action == RequestAction.DESTROY:
        return (
            f"destroy {rotation.source} in the key store and its key files in the local backups; copies elsewhere stay "
            f"until their locks and rules end; nothing under {rotation.source} can be read again without such a copy"
        )
    source, target = rotation.source, rotation.target
    former = None if rotation.supersedes is None else pipeline.ledger.request(rotation.supersedes)
    beginning = ""
    if former is not None and former.action == rotation.action:
        beginning = f"take over {rotation.action} {former.id} where it stands: "
    elif former is not None:
        beginning = f"end rotation {former.id} and undo it: "
    if rotation.action == RequestAction.ROLLBACK:
        return (
            f"{beginning}make {target} the primary again, from the archive if it is there, re-encrypt {source} to "
            f"{target}, fence, withdraw and archive {source}"
        )
    # Whatever is live and older goes with the source: nothing may be left under any version but the target.
    older = " and every older version" if source.number > 1 else ""
    return f"{beginning}create {target}, distribute, promote, re-encrypt, fence, retire, archive {source}{older}"


def _target(pipeline: Pipeline, rotation: Request) -> str:
    """The version; for a rollback, whose key is there already, with its fingerprint."""
    if rotation.action == RequestAction.ROLLBACK:
        return f"{rotation.target} {pipeline.keys.get(rotation.target).fingerprint}"
    return "destroyed" if rotation.action == RequestAction.DESTROY else str(rotation.target)


def _unchanged_text(pipeline: Pipeline, rotation: Request, roster: Roster) -> bytes:
    stored, rebuilt = pipeline.ledger.approval_text(rotation.id), _text(pipeline, rotation, roster).render()
    if stored != rebuilt:
        fields = ", ".join(differing_lines(stored, rebuilt)) or "white space"
        raise ApprovalError(
            f"rotation {rotation.id} is no longer what its text for signing says ({fields}); "
            "restore that, or cancel it and request a new one"
        )
    return stored


def _verified(
    pipeline: Pipeline, rotation: Request, roster: Roster, text: bytes, signature: bytes
) -> VerifiedSignature:
    verified = pipeline.signatures.verify(text, signature)
    name = _names(roster).get(verified.officer)
    if name is None:
        raise ApprovalError(
            f"the signature is by {verified.officer[-16:]}, who is not on the pinned roster; let an officer sign"
        )
    # OpenPGP knows whole seconds only.
    if verified.signed_at < rotation.requested_at.replace(microsecond=0):
        raise ApprovalError(f"the signature of {name} is dated before the request; sign again with the right time")
    if verified.signed_at > pipeline.clock.now():
        raise ApprovalError(f"the signature of {name} is dated in the future; correct that clock and sign again")
    return verified


def _require_within_dates(pipeline: Pipeline, rotation: Request) -> None:
    if (passed := past_dates(rotation, pipeline.clock.now())) is not None:
        raise RequestError(passed)


def _names(roster: Roster) -> dict[str, str]:
    return {officer.fingerprint: officer.name for officer in roster.officers}
