"""Adds approvals, and checks that what officers signed is still what the request asks for.

"Approved" is stored nowhere. Whatever acts on a request rebuilds the canonical text from the present facts, compares it
with the bytes that were signed, and verifies every signature again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.errors import ApprovalError, RequestError
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, UNBOUND
from keyrotation_pipeline.fieldcrypto.formats.sources import SourceForm
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, PLAINTEXT, SECOND, KeyVersion
from keyrotation_pipeline.model.approval import (
    HEADER,
    ApprovalText,
    Roster,
    Signature,
    VerifiedSignature,
    differing_lines,
    header_of,
    one_of_several,
    signed_fields,
    signer_in,
)
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.environment import gone_as_signed, lines_as_signed
from keyrotation_pipeline.model.incidents import IncidentStatus
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.members import member_line, values_in
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.model.signed_lines import DECRYPTS, ENCRYPTED, LEFT, NOT_COUNTED, decrypts_in
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableCount
from keyrotation_pipeline.model.visible_text import plain_name
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.compared_backups import compared_backups
from keyrotation_pipeline.requests.conductor import past_dates
from keyrotation_pipeline.requests.situation import Situation

# The source procedure's column is VARCHAR(255).
LONGEST_INITIATOR_CHARS = 255
MOST_FIELDS = 3


def approval_text(pipeline: Pipeline, request: Request, counts: Sequence[TableCount] | None = None) -> bytes:
    """The canonical text of a request, made of the present facts.

    Args:
        counts: taken just now, of every database that answered; None: the last ones count.
    """
    return _text(pipeline, request, pipeline.keys.read(), authority(pipeline, request), counts=counts).render()


def is_as_signed(pipeline: Pipeline, request: Request) -> bool:
    """Whether the text for signing, made again of the present facts, is the stored one."""
    stored = pipeline.ledger.approval_text(request.id)
    roster = authority(pipeline, request)
    return _text(pipeline, request, pipeline.keys.read(), roster, header_of(stored)).render() == stored


def changed_since_signed(situation: Situation, walk: Walk) -> PendingReason | None:
    """That a walk which has begun is no longer what officers signed, and what to do; None: it is.

    Raises:
        KeyStoreError: the key store cannot be read.
        ApprovalError, AuditError: as `authority`.
    """
    pipeline = situation.pipeline
    if walk.started_at is None or walk.is_over:
        return None
    signed = pipeline.ledger.approval_text(walk.id)
    rebuilt = _text(pipeline, walk, situation.stored, authority(pipeline, walk), header_of(signed)).render()
    if not (fields := differing_lines(signed, rebuilt)):
        return None
    renewal = "keyrotation request" if situation.stored.primary == walk.target else f"keyrotation cancel {walk.id}"
    shown, more = fields[:MOST_FIELDS], len(fields) - MOST_FIELDS
    named = f"{', '.join(shown)}{f' and {more} more' if more > 0 else ''}"
    return PendingReason(
        PendingCode.CHANGED,
        "officers",
        f"rotation {walk.id} is no longer what officers signed ({named})",
        f"restore that, or `{renewal}`",
    )


def authority(pipeline: Pipeline, request: Request) -> Roster:
    """The roster under which a request counts; of one that has begun, the one that was pinned then.

    Raises:
        ApprovalError, AuditError: no signature can count now, since the configuration names another roster than is
            pinned, or the pinned one cannot be trusted.
    """
    present = pipeline.actions[request.action].authority(pipeline)
    return pipeline.ledger.replayed().began_under.get(request.id, present)


def text_to_sign(pipeline: Pipeline, request: Request) -> tuple[bytes, Roster]:
    """The text of a request, a signature over which would count now, and the roster whose officers sign it.

    Of a request that has begun, these are the officers of that time who are pinned now, too.

    Raises:
        ApprovalError, RequestError: as `add_approval`, whatever the signature.
    """
    if request.is_over:
        raise RequestError(f"request {request.id} is {request.status}; open the next one with `keyrotation request`")
    roster = authority(pipeline, request)
    _require_within_dates(pipeline, request)
    if isinstance(request, Walk) and (pending := named_by_incident(Situation(pipeline), request.target)) is not None:
        raise RequestError(str(pending))
    text = _unchanged_text(pipeline, request, pipeline.keys.read(), roster)
    if request.started_at is None:
        return text, roster
    return text, replace(roster, officers=pipeline.ledger.replayed().signers_of(request.id))


def add_approval(pipeline: Pipeline, request: Request, signature: bytes) -> tuple[str, int]:
    """Verifies and stores one officer's detached signature over the text of a request.

    Returns:
        The officer's name, and how many different officers have now signed.

    Raises:
        ApprovalError: the signature does not count, with a sentence for each reason; or what is signed has changed.
        RequestError: the request is over, or past its dates.
    """
    request = pipeline.ledger.request(request.id)
    text, roster = text_to_sign(pipeline, request)
    verified = _verified(pipeline, request, roster, text, signature)
    name = str(roster.name_of(verified.officer))
    if verified.officer in request.approvals:
        raise ApprovalError(f"{name} has signed this request already; another officer must sign it too")
    signed_at = verified.signed_at or pipeline.clock.now()
    pipeline.ledger.add_signature(request.id, Signature(verified.officer, signature, signed_at))
    request = pipeline.ledger.request(request.id)
    if len(request.approvals) >= roster.required:
        pipeline.actions[request.action].approved(pipeline, request)
    return name, len(request.approvals)


def require_authorised(pipeline: Pipeline, request: Request, stored: StoredKeys) -> None:
    """Requires that enough officers signed exactly what is about to be done; verifies every signature now.

    Args:
        stored: the key store as read for the action that follows.

    Raises:
        ApprovalError: roster or facts changed, a signature no longer counts, or there are too few.
        RequestError: the request is past its dates.
    """
    roster = authority(pipeline, request)
    _require_within_dates(pipeline, request)
    text = _unchanged_text(pipeline, request, stored, roster)
    good, refused = _counted(pipeline, request, roster, text)
    if (missing := roster.required - len({each.officer for each in good})) <= 0:
        return
    if refused:
        raise ApprovalError(f"request {request.id} needs {counted(missing, 'more signature')}: {refused[0]}")
    raise ApprovalError(
        f"request {request.id} needs {counted(missing, 'more signature')} of different officers; "
        f"sign with `keyrotation approve {request.id}`"
    )


def named_by_incident(situation: Situation, version: KeyVersion) -> PendingReason | None:
    """The incident for which a version must not become the primary.

    None: no incident names it that is open or that officers have not settled, or it is the primary already.
    """
    incident = situation.pipeline.ledger.replayed().suspected.get(version)
    if incident is None or situation.stored.primary == version:
        return None
    is_open = incident.status is not IncidentStatus.CLOSED
    prepared = is_open and incident.request is not None
    emergency = f"sign its emergency: `keyrotation approve {incident.request}`; " if prepared else ""
    otherwise = f"for a false alarm, sign the assessment: `keyrotation incident assess {incident.id}`"
    then = ", and close it" if is_open else ""
    return PendingReason(
        PendingCode.INCIDENT,
        "officers",
        f"{version} is named by the {incident.status} incident {incident.id} and does not become the primary",
        f"{emergency}{otherwise}{then}",
    )


def authorised_by(pipeline: Pipeline, request: Request) -> str:
    """The officer who signed a request first, as ``Name <address>`` or the name alone.

    Raises:
        ApprovalError: no signature counts.
    """
    roster, text = authority(pipeline, request), pipeline.ledger.approval_text(request.id)
    good, refused = _counted(pipeline, request, roster, text)
    if not good:
        raise ApprovalError(
            refused[0]
            if refused
            else f"nobody has signed request {request.id}; sign with `keyrotation approve {request.id}`"
        )
    first = good[0]
    name = str(roster.name_of(first.officer))
    full = name if first.address is None else f"{name} <{first.address}>"
    return full if len(full) <= LONGEST_INITIATOR_CHARS else name[:LONGEST_INITIATOR_CHARS]


def signed_as_gone(ledger: Ledger, request: Request, gone: tuple[str, ...]) -> tuple[str, ...]:
    """The replicas declared gone that the signed text of the request names as gone."""
    return gone_as_signed(signed_fields(ledger.approval_text(request.id)), gone)


def stored_source(_pipeline: Pipeline, request: Request, stored: StoredKeys) -> str:
    """The source version and the fingerprint of its key in the key store, which plaintext has none of."""
    if request.source == PLAINTEXT:
        return str(request.source)
    return f"{request.source} {stored.material(request.source).fingerprint}"


def _text(
    pipeline: Pipeline,
    request: Request,
    stored: StoredKeys,
    roster: Roster,
    header: str = HEADER,
    counts: Sequence[TableCount] | None = None,
) -> ApprovalText:
    pipeline = _as_requested(pipeline, request)
    action, rollout = pipeline.actions[request.action], pipeline.rollout
    unauthenticated = _unauthenticated(pipeline.tables, request)
    return ApprovalText(
        request=request.id,
        action=action.name,
        authorises=action.authorises(pipeline, request),
        database=pipeline.environment.identity().signed(header),
        key_store=pipeline.keys.description,
        source=action.source(pipeline, request, stored),
        target=action.target(pipeline, request, stored),
        columns=tuple(f"{table.name}.{column}" for table in pipeline.tables for column in table.columns),
        rollout=rollout.mode.rule(request.source, request.target, rollout.workloads) if action.steps else None,
        not_looked_at=_not_checked(pipeline, request) if action.steps else (),
        roster=roster,
        audit_head=request.audit_head,
        start_by=request.start_by,
        finish_by=request.finish_by,
        requested_by=request.requested_by,
        reason=request.reason if request.incident is None else f"incident {request.incident}: {request.reason}",
        not_before=request.not_before,
        manual=request.manual,
        incident=request.incident,
        compared=_compared(pipeline.ledger, request),
        hosts=pipeline.hosts,
        secrets=pipeline.secrets,
        signer=_signer(pipeline, request),
        value_format=_value_format(pipeline.tables, request, header),
        plaintext=_plaintext(pipeline.tables, request, header),
        migrated=_migrated(pipeline.tables, request, stored, header),
        unauthenticated=_named(unauthenticated, header),
        compared_backups=compared_backups(pipeline.ledger, request, (table.name for table, _ in unauthenticated))
        if unauthenticated
        else None,
        decrypts=_decrypts(pipeline, request, header, counts),
        values_in=_values_in(pipeline, request, counts),
        header=header,
    )


def _as_requested(pipeline: Pipeline, request: Request) -> Pipeline:
    """Without the members of a fleet that joined after a request by a rule, which stands in its text for them."""
    if not (late := pipeline.ledger.replayed().joined_after(request.audit_head[0])):
        return pipeline
    lines = {member_line(*each) for each in late.items()}
    return replace(
        pipeline,
        tables=tuple(table for table in pipeline.tables if table.name.database not in late),
        hosts=tuple(each for each in pipeline.hosts if each not in lines),
    )


def _values_in(pipeline: Pipeline, request: Request, counts: Sequence[TableCount] | None) -> Mapping[str, str]:
    """How many values were counted in each member of a fleet: before the request, and from then on as in its text."""
    if not pipeline.members:
        return {}
    if request.id in pipeline.ledger.replayed().texts:
        return values_in(signed_fields(pipeline.ledger.approval_text(request.id)))
    found, old = Counter[str](), Counter[str]()
    for count in pipeline.ledger.counts(pipeline.tables) if counts is None else counts:
        found[count.table.name.database] += sum(count.values_by_version.values()) + count.unencrypted
        old[count.table.name.database] += count.plaintext
    said = {
        name: f"{number:,} values when last counted" + (f", {old[name]:,} of them in an old form" if old[name] else "")
        for name, number in found.items()
        if name
    }
    return said if counts is None else dict.fromkeys(pipeline.members, NOT_COUNTED) | said


def _decrypts(pipeline: Pipeline, request: Request, header: str, counts: Sequence[TableCount] | None) -> str | None:
    """The columns that get their old form back, with how many values were counted: from then on as in the text."""
    if not isinstance(request, Walk) or not request.gives_back:
        return None
    signed = ""
    if request.id in pipeline.ledger.replayed().texts:
        signed = (signed_fields(pipeline.ledger.approval_text(request.id)) or {}).get(DECRYPTS, "")
    taken = pipeline.ledger.counts(pipeline.tables) if counts is None else counts
    held = {(each.table.name, column): sum(of.values()) for each in taken for column, of in each.by_column.items()}
    return "; ".join(
        decrypts_in(signed, name) or f"{counted(held.get((table.name, place.name), 0), 'value')} in {name}"
        for table in pipeline.tables
        for place in table.places
        if place.source
        for name in (f"{one_of_several(f'{table.name}.{place.name}', header)} to {place.source}",)
    )


def _value_format(tables: Sequence[EncryptedTable], request: Request, header: str) -> str | None:
    indexes = [index.signed(table.name) for table in tables for index in table.indexes]
    if isinstance(request, Walk) and request.source.generation == SECOND and request.target.generation == FIRST:
        return "; ".join([UNBOUND, *indexes])  # whatever the configuration says of the rotation after it
    common = (table.format.of_all_tables for table in tables)
    formats = {each.signed() for each in common if each != NATIVE}
    declared = [
        f"{plain_name(f'{table.name}.{column}')} is bound as {plain_name(label)}"
        for table in tables
        if table.format.generation != 1 or table.format.has_keys_of_columns
        for column, label in table.bindings
    ]
    declared += [row for table in tables if (row := _bound_to_rows(table, request))]
    mixed = [
        one_of_several(f"{table.name}.{place.declaration}", header)
        for table in tables
        for place in table.places
        if place.when
    ]
    conditions = [f"other text stays as it is where a row's column is not true: {', '.join(mixed)}"] if mixed else []
    return "; ".join([*sorted(formats), *declared, *conditions, *indexes]) or None


def _plaintext(tables: Sequence[EncryptedTable], request: Request, header: str) -> str | None:
    """The columns whose plaintext is encrypted, or is left by a rollback."""
    begun = [one_of_several(f"{table.name}.{name}", header) for table in tables for name in table.held_plaintext]
    if not begun or not isinstance(request, Walk):
        return None
    return f"{ENCRYPTED if request.encrypts_plaintext else LEFT} {', '.join(begun)}"


def _migrated(tables: Sequence[EncryptedTable], request: Request, stored: StoredKeys, header: str) -> str | None:
    """The columns that come from another library, each with its format and its key."""
    if not isinstance(request, Walk):
        return None
    places = []
    for table, place, form in _from_libraries(tables):
        name = one_of_several(f"{table.name}.{place.name}", header)
        if request.encrypts_plaintext or place.source_key in stored.sources:
            version, key = stored.source(place.source_key)
            places.append(f"{name} ({form}, under {version} {key.fingerprint})")
        else:  # destroyed since, so that there is none to leave
            places.append(f"{name} ({form})")
    return f"{ENCRYPTED if request.encrypts_plaintext else LEFT} {', '.join(places)}" if places else None


def _unauthenticated(tables: Sequence[EncryptedTable], request: Request) -> Sequence[tuple[EncryptedTable, Place]]:
    """Those of these columns where a value opens under a wrong key by chance, and nothing shows that it was changed."""
    if not isinstance(request, Walk) or not request.encrypts_plaintext:
        return ()
    return [(table, place) for table, place, form in _from_libraries(tables) if not form.spec.authenticated]


def _named(places: Sequence[tuple[EncryptedTable, Place]], header: str) -> str | None:
    return ", ".join(one_of_several(f"{table.name}.{place.name}", header) for table, place in places) or None


def _from_libraries(tables: Sequence[EncryptedTable]) -> Iterator[tuple[EncryptedTable, Place, SourceForm]]:
    for table in tables:
        for place in table.places:
            if (form := place.form) is not None:
                yield table, place, form


def _bound_to_rows(table: EncryptedTable, request: Request) -> str | None:
    """What values are bound to their row by, where a table's are or will be of the second generation."""
    declared = table.format
    versions = (request.source, request.target) if isinstance(request, Walk) else ()
    if not declared.row or (declared.generation == 1 and SECOND not in {each.generation for each in versions}):
        return None
    first = f"v{declared.row_from}{SECOND.marker}"
    name, key = plain_name(str(table.name)), plain_name(declared.row)
    text = f"{name}: values under {first} and later open only in their row, by {key}"
    is_undone = versions and declared.binds_rows(versions[0]) and not declared.binds_rows(versions[1])
    return f"{text}, and new values are bound to no row" if is_undone else text


def _compared(ledger: Ledger, request: Request) -> str | None:
    """Whether an emergency's values were compared with a backup by the event that its text is anchored at."""
    if request.incident is None:
        return None
    return ledger.replayed().incidents.compared(request.incident, request.audit_head[0])


def _signer(pipeline: Pipeline, request: Request) -> str | None:
    """The pipeline's own key: the present one until the request begins, and from then on the one in the signed text.

    A home that was lost and made again has another key, which must not strand what officers have signed.
    """
    if request.started_at is None:
        return pipeline.backup_signer
    return next(iter(signer_in(signed_fields(pipeline.ledger.approval_text(request.id)))), None)


def _not_checked(pipeline: Pipeline, request: Request) -> tuple[tuple[str, str], ...]:
    """What nothing checks: as it is until the walk begins, and from then on as in the signed text.

    An application that gets another column, or a failover that makes a standby the primary, must not strand a walk;
    the retirement records what is not checked then.
    """
    text = pipeline.ledger.replayed().texts.get(request.id)
    signed = None if text is None else signed_fields(text)
    if request.started_at is None or signed is None:
        return pipeline.environment.blind_spots().lines(signed)
    return lines_as_signed(signed)


def _unchanged_text(pipeline: Pipeline, request: Request, stored: StoredKeys, roster: Roster) -> bytes:
    signed = pipeline.ledger.approval_text(request.id)
    rebuilt = _text(pipeline, request, stored, roster, header_of(signed)).render()
    if signed != rebuilt:
        fields = ", ".join(differing_lines(signed, rebuilt)) or "white space"
        raise ApprovalError(
            f"request {request.id} is no longer what its text for signing says ({fields}); "
            f"restore that, or {pipeline.actions[request.action].renewal(request)}"
        )
    return signed


def _counted(
    pipeline: Pipeline, request: Request, roster: Roster, text: bytes
) -> tuple[list[VerifiedSignature], list[str]]:
    """The signatures that count now, the oldest first, and why each of the others does not."""
    good, refused = list[VerifiedSignature](), list[str]()
    for each in sorted(pipeline.ledger.signatures(request.id), key=lambda signed: signed.signed_at):
        try:
            good.append(_verified(pipeline, request, roster, text, each.signature))
        except ApprovalError as error:
            refused.append(str(error))
    return good, refused


def _verified(pipeline: Pipeline, request: Request, roster: Roster, text: bytes, signature: bytes) -> VerifiedSignature:
    since, what = request.requested_at, "the request"
    return verified_signature(pipeline, roster, text, signature, since=since, what=what)


def verified_signature(
    pipeline: Pipeline, roster: Roster, text: bytes, signature: bytes, *, since: datetime, what: str
) -> VerifiedSignature:
    """A signature over a text by an officer of the roster, if it counts.

    Args:
        since: aware; an earlier signature does not count.
        what: what began at that moment, for the error message.

    Raises:
        ApprovalError: it does not count, with a sentence for each reason.
    """
    verified = pipeline.signatures.verify(text, signature, roster.officers)
    name = roster.name_of(verified.officer)
    if name is None:
        raise ApprovalError(
            f"the signature is by {verified.officer[-16:]}, who is not on the pinned roster; let an officer sign"
        )
    if verified.signed_at is None:  # by an SSH key: nobody can have known the text before it was there
        return verified
    # OpenPGP times are in whole seconds.
    if verified.signed_at < since.replace(microsecond=0):
        raise ApprovalError(f"the signature of {name} is dated before {what}; sign again with the right time")
    if verified.signed_at > pipeline.clock.now():
        raise ApprovalError(f"the signature of {name} is dated in the future; correct that clock and sign again")
    return verified


def _require_within_dates(pipeline: Pipeline, request: Request) -> None:
    renewal = pipeline.actions[request.action].renewal(request)
    if (passed := past_dates(request, renewal, pipeline.clock.now())) is not None:
        raise RequestError(str(passed))
