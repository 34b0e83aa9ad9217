"""Changes the policy by signature: the officers, how many must sign, who can read backups, and the hosts.

`keyrotation.toml` holds the new policy. Pinned officers sign the change from one complete roster to the other, by
fingerprint and name. Then the new one is pinned, and officers who are not on it can approve nothing. A request that
has begun goes on under the roster that it began under.

`init` pins the hosts, as it pins the roster. From then on they stand in every text that officers sign, so the last
request that began says which ones were signed; this has a change signed on its own.
"""

from collections.abc import Callable, Iterator, Sequence

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.errors import ApprovalError, AuditError, BlockedError, KeyRotationError, RequestError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.members import Listed, members_among, rules_among
from keyrotation_pipeline.model.request_events import HostsPinned
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline
from keyrotation_pipeline.requests import opening, witnessing
from keyrotation_pipeline.requests.approvals import approval_text, require_authorised
from keyrotation_pipeline.requests.roster import claim_store, pinned_roster, require_usable
from keyrotation_pipeline.requests.takeover import emergency_first

MAIL = "alerts.smtp"


def pin_hosts(pipeline: Pipeline) -> None:
    """Pins the configured hosts, and the secrets for them, if none are pinned or signed yet."""
    if pipeline.ledger.replayed().hosts is None:
        pipeline.ledger.append(HostsPinned(_configured(pipeline)), None)


def signed_hosts(pipeline: Pipeline) -> tuple[str, ...] | None:
    """The hosts, and the places of secrets, that officers signed, or `init` pinned; None: nothing is pinned yet.

    None of them is, where the audit is not the one of this home: whoever names another database has another list there.
    """
    state = pipeline.ledger.replayed()
    if state.roster is None and pipeline.anchors.roster() is None:
        return None
    try:
        pinned_roster(pipeline)
    except (ApprovalError, AuditError):
        return ()
    return state.hosts


def _configured(pipeline: Pipeline) -> tuple[str, ...]:
    return (*pipeline.hosts, *pipeline.secrets)


def changed_hosts(pipeline: Pipeline) -> Iterator[str]:
    """A sentence if the configuration names other hosts, or secrets, than officers signed; one if mail waits for it."""
    gone, new = changed_host_names(pipeline)
    if gone or new:
        named = ", ".join((*(f"{each} is new" for each in new), *(f"{each} is gone" for each in gone)))
        yield (
            f"keyrotation.toml names other hosts than officers signed ({named}); restore them there, or have the "
            "change signed with `keyrotation policy --reason TEXT`"
        )
    if any(each.startswith(MAIL) for each in new) and any(each.startswith(MAIL) for each in pipeline.secrets):
        yield "mail is sent without its password until officers have signed the server and where the password is"


def changed_host_names(pipeline: Pipeline) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is signed and the configuration no longer names, and what it names and nobody signed: hosts and secrets."""
    signed, configured = pipeline.ledger.replayed().hosts, _configured(pipeline)
    if signed is None:
        return (), ()
    gone = tuple(each for each in signed if each not in configured)
    return gone, tuple(each for each in configured if each not in signed)


def require_signed_members(pipeline: Pipeline) -> None:
    """Refuses to have officers sign among other things that a fleet has a new member or rule, or one less.

    Raises:
        ApprovalError: the configuration names one that they have not signed on its own, nor `init` pinned; or lacks
            one that they have.
    """
    signed = pipeline.ledger.replayed().hosts
    if signed is None:
        return
    known, named = dict(_places(signed)), dict(_places(pipeline.hosts))
    for name, place in named.items():
        if name not in known:
            raise ApprovalError(
                f"[[databases]] {name} is {place}, and no officers have signed that it is one; have it signed with "
                "`keyrotation policy --reason TEXT`, then run `keyrotation init`"
            )
    for name in known:
        if name not in named:
            raise ApprovalError(
                f"{name} is no longer in [[databases]], and no officers have signed that; restore it there, or have it "
                "signed with `keyrotation policy --reason TEXT`"
            )


def _places(hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The members of a fleet, and the rules, each with its place."""
    yield from (*members_among(hosts).items(), *rules_among(hosts).items())


def listed_otherwise(listed: Callable[[], Listed]) -> Iterator[str]:
    """A sentence if rules of a fleet list others than its members, or cannot be asked."""
    try:
        yield from listed().sentences
    except KeyRotationError as error:
        yield str(error)


def require_signed_key_store(pipeline: Pipeline) -> None:
    """Refuses to send keys to a key store on a host that officers have not signed.

    Raises:
        ApprovalError: it is on another one than they signed, or `init` pinned.
    """
    if (unsigned := unsigned_key_store(pipeline)) is not None:
        raise ApprovalError(
            f"keys would go to {unsigned.removeprefix('keys ')}, which officers have not signed; restore [keys] in "
            "keyrotation.toml, or have the change signed with `keyrotation policy --reason TEXT`"
        )


def unsigned_key_store(pipeline: Pipeline) -> str | None:
    """Returns the first host of keys that officers have not signed; None: there is none, or nothing is pinned yet."""
    signed = pipeline.ledger.replayed().hosts
    if signed is None:
        return None
    return next((each for each in pipeline.hosts if each.startswith("keys ") and each not in signed), None)


LOCK = "policy"


def pending_policy(ledger: Ledger) -> Request | None:
    """The open request to change the policy, if there is one."""
    return next(iter(opening.pending(ledger, RequestAction.POLICY)), None)


def open_policy(pipeline: Pipeline, *, reason: str | None, requested_by: str) -> Request:
    """Opens a request to pin what the configuration says, for officers of the pinned roster to sign.

    Raises:
        RequestError: that is already pinned, no reason is given, or no key is registered yet.
        ApprovalError: the configured roster is wrong, or a text has characters that could mislead.
        BlockedError: the database was restored to an earlier state.
    """
    if reason is not None:
        opening.require_texts(reason, requested_by, None)
    require_consistent(pipeline, stored := pipeline.keys.read())
    claim_store(pipeline, stored)  # which an interrupted change may have left undone
    differs = pinned_roster(pipeline).differences(pipeline.signatures.roster())
    require_usable(pipeline.signatures, pipeline.signatures.roster(), pinned_roster(pipeline))
    if not differs and not list(changed_hosts(pipeline)):
        raise RequestError(
            "keyrotation.toml names the officers, the threshold, the recipients and the hosts that are pinned; change "
            "[approvals], [backup] recipients or a host there first"
        )
    if reason is None:
        raise RequestError("say why with `keyrotation policy --reason TEXT`, which pinned officers then sign")
    active = _active(pipeline)
    opened = opening.new_request(
        Request,
        pipeline,
        POLICY,
        source=active.version,
        fingerprint=active.fingerprint,
        target=active.version,
        reason=reason,
        requested_by=requested_by,
    )
    pipeline.ledger.open(opened, approval_text(pipeline, opened))
    return opened


def change_policy(pipeline: Pipeline, request: Request) -> Roster:
    """Pins the roster that officers signed, if the configuration still says the same.

    Raises:
        ApprovalError: too few signatures, or something has changed since.
        RequestError: the request is over or past its dates.
        BlockedError: the database was restored to an earlier state.
    """
    with pipeline.ledger.lock(LOCK):
        stored = pipeline.keys.read()
        require_consistent(pipeline, stored, afresh=True)
        with pipeline.ledger.transaction():
            _pin(pipeline, pipeline.ledger.request(request.id), stored)
        claim_store(pipeline, stored)
    witnessing.show_outside(pipeline)
    return pinned_roster(pipeline)


def _pin(pipeline: Pipeline, request: Request, stored: StoredKeys) -> None:
    if request.is_over:
        raise RequestError(f"request {request.id} is {request.status}; open the next one with `keyrotation policy`")
    require_authorised(pipeline, request, stored)
    require_usable(pipeline.signatures, roster := pipeline.signatures.roster(), pinned_roster(pipeline))
    pipeline.ledger.set_status(request.id, RequestStatus.RUNNING)
    _require_no_emergency(pipeline, request)  # under the lock of the audit, so that none is signed meanwhile
    pipeline.ledger.pin_roster(roster, request.id)
    pipeline.ledger.set_status(request.id, RequestStatus.FINISHED)


def _require_no_emergency(pipeline: Pipeline, request: Request) -> None:
    """Refuses to pin other officers, which would void the signatures of an emergency that has not begun."""
    if (reason := emergency_first(pipeline, request)) is not None:
        undo = "it starts with what is pinned now, so undo the change in keyrotation.toml first"
        raise BlockedError(f"{reason}; {undo}")


def _active(pipeline: Pipeline) -> KeyRecord:
    registered, primary = pipeline.ledger.keys(), pipeline.keys.read().primary
    # In an emergency the primary may be compromised, and no version active.
    active = next((record for record in registered if record.state is KeyState.ACTIVE), None) or next(
        (record for record in registered if record.version == primary), None
    )
    if active is None:
        raise RequestError("no key is registered as active yet; run `keyrotation init`")
    return active


POLICY = Action(
    RequestAction.POLICY,
    authorises=lambda _pipeline, _request: "pin other officers, threshold, recipients or hosts than the present ones",
    source=lambda pipeline, _request, _stored: str(pinned_roster(pipeline)),
    target=lambda pipeline, _request, _stored: str(pipeline.signatures.roster()),
    # The configuration differs from what is pinned.
    authority=pinned_roster,
    command=lambda _request: "keyrotation policy",
    renewal=lambda _request: "cancel it, then run `keyrotation policy --reason TEXT` for a new one",
    lock=LOCK,
)
