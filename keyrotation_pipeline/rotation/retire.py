"""Retires the old key: withdraws it from the applications, on evidence from the same transaction that records it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import (
    BlockedError,
    DefinitionChangedError,
    FenceError,
    KeyStoreError,
    OutOfOrderError,
    ProofError,
    StaleWriterError,
)
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.fleet import RolloutTarget, TargetKind
from keyrotation_pipeline.model.key_events import (
    KeyRetired,
    MemberProven,
    ProvenAgain,
    ReplicasAccounted,
    RetirementIntended,
)
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import MemberEvidence, Proven, Searched, ZeroOldRows
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import of_member
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import require_authorised, signed_as_gone
from keyrotation_pipeline.requests.plaintext_outside_rows import look_after
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation.keys import described_archived, record_of, require_stored_and_backed_up
from keyrotation_pipeline.rotation.prove import prove_zero_old_rows, require_listed, retired_versions
from keyrotation_pipeline.rotation.rollout import pending

HORIZON_PATIENCE_SECONDS = 60
HORIZON_PAUSE_SECONDS = 0.5
# Of the proof, where others change the definition of a table all the time.
REPETITIONS = 2


def retire_key(pipeline: Pipeline, rotation: Walk, report: Report) -> KeyRetired:
    """Archives, in the key store, the source and every other registered version that is still live but not the target.

    The key store cannot take part in the transaction. So it comes last before the commit: a process that dies between
    the two leaves keys archived on complete evidence, and the next run takes the evidence again and records it.

    Raises:
        ProofError, BlockedError: a piece of evidence is missing; nothing was changed.
        KeyStoreError, BackupError: the target key is not stored and backed up as registered; nothing was changed.
    """
    proof = _newest_proof(pipeline.ledger, rotation)
    _wait_for_horizon(pipeline, rotation, proof, report)
    leaving = _versions_to_take(pipeline, rotation)
    pipeline.ledger.append(RetirementIntended(leaving, rotation.target), rotation.id)
    done = _retire_or_prove_again(pipeline, rotation, proof, leaving, report)
    proven = (each.evidence for each in recorded(pipeline.ledger, MemberProven, rotation.id))
    members = {each.member: each.proven_at for each in proven if each.member in done.members}
    look_after(pipeline, rotation, {"": done.proven_at, **members})
    return done


def _retire_or_prove_again(
    pipeline: Pipeline,
    rotation: Walk,
    proof: Proven,
    leaving: tuple[KeyVersion, ...],
    report: Report,
    repetitions: int = REPETITIONS,
) -> KeyRetired:
    """Retires, and proves everything again first where a definition was changed since the proof.

    Raises:
        ProofError: a fence was changed. Everything was proven again all the same, so that a retry can work.
    """
    try:
        return _retire(pipeline, rotation, proof, leaving, report)
    except FenceError as error:
        again = _proven_again(pipeline, rotation, str(error), report)
        if not repetitions or not isinstance(error, DefinitionChangedError):
            raise ProofError(
                f"{error}; nothing was retired, and the tables have been proven and fenced again: "
                f"when you know who it was, run `keyrotation rotate {rotation.id}`"
            ) from None
    _wait_for_horizon(pipeline, rotation, again, report)
    return _retire_or_prove_again(pipeline, rotation, again, leaving, report, repetitions - 1)


def _retire(
    pipeline: Pipeline, rotation: Walk, proof: Proven, leaving: tuple[KeyVersion, ...], report: Report
) -> KeyRetired:
    require_listed(pipeline.listed)
    # Reading everything may take hours, without locks; the transaction checks what has changed since.
    searched = pipeline.evidence.search(
        pipeline.tables, rotation.source, retired_versions(pipeline.ledger, rotation), report
    )
    members = _proven_members(pipeline, rotation, proof, searched, report)
    # Whatever may be slow to answer is asked before the transaction, whose session ends if it waits for a minute.
    stored = pipeline.keys.read()
    _require_writers(pipeline, rotation)
    backup = _require_target(pipeline, stored, rotation)
    stored = pipeline.keys.stamp(stored.revision)
    with pipeline.keys.unstamped(), pipeline.ledger.transaction():
        require_authorised(pipeline, rotation, stored)
        descriptions = {each: described_archived(pipeline, rotation, each) for each in leaving}
        retired = retired_versions(pipeline.ledger, rotation)
        evidence = pipeline.evidence.zero_old_rows(pipeline.tables, rotation.source, retired, proof.moment, searched)
        _require_no_old_form(rotation, evidence.plaintext)
        unseen, value_format = pipeline.environment.blind_spots(), pipeline.tables[0].format
        unread = (*evidence.not_read_again, *(name for each in members for name in each.not_read_again))
        done = KeyRetired(
            version=evidence.version,
            tables=(*evidence.tables, *(name for each in members for name in each.tables)),
            old_values=evidence.old_values,
            values=evidence.values + sum(each.values for each in members),
            fence_lsn=evidence.fence_lsn,
            proven_at=evidence.proven_at,
            fenced_against=retired,
            taken_from_applications=leaving,
            target=rotation.target,
            target_backup=backup.name,
            not_searched=tuple(map(str, unseen.unsearched)),
            not_seen=unseen.unseen,
            not_read_again=unread,
            searched_from=min(_searched_from(evidence, searched, members)) if unread else None,
            format=value_format.name,
            identified_by=value_format.identified_by,
            members=tuple(each.member for each in members),
        )
        pipeline.ledger.append(_accounted(pipeline.ledger, rotation, evidence, members), rotation.id)
        pipeline.ledger.append(done, rotation.id)
        pipeline.evidence.require_same(pipeline.tables, proof.moment, members, evidence, retired, searched)
        for version in leaving:
            stored = pipeline.keys.archive(version, stored.revision, descriptions[version])
    return done


def _proven_members(
    pipeline: Pipeline, rotation: Walk, proof: Proven, searched: Searched, report: Report
) -> tuple[MemberEvidence, ...]:
    """Takes and records the evidence of each member of a fleet; none of an earlier attempt is used again."""
    retired, found = retired_versions(pipeline.ledger, rotation), list[MemberEvidence]()
    for each in pipeline.evidence.members(pipeline.tables, rotation.source, retired, proof.moment, searched):
        _require_no_old_form(rotation, each.plaintext)
        pipeline.ledger.append(MemberProven(each), rotation.id)
        found.append(each)
        report(Progress(Step.RETIRED_KEY, each.member, len(found), 0, note="proven in its own transaction"))
    return tuple(found)


def _require_no_old_form(rotation: Walk, number: int) -> None:
    if number and rotation.encrypts_plaintext:
        raise ProofError(
            f"of {counted(number, 'value')} in an old form, only a rollback leaves any: events were hidden from the "
            "count; run `keyrotation audit verify`"
        )


def _searched_from(evidence: ZeroOldRows, searched: Searched, members: Sequence[MemberEvidence]) -> Iterator[datetime]:
    if evidence.not_read_again:
        yield searched.began_at
    yield from (each.searched_from for each in members if each.searched_from is not None)


def _accounted(
    ledger: Ledger, rotation: Walk, evidence: ZeroOldRows, members: Sequence[MemberEvidence]
) -> ReplicasAccounted:
    """Records the replicas in the chain, since the database's owner may change the rows that name them."""
    of_members = [
        replace(each, name=of_member(member.member, each.name)) for member in members for each in member.replicas
    ]
    replicas = (*evidence.replicas, *of_members)
    gone = tuple(dict.fromkeys(each.name for each in replicas if each.replayed is None))
    signed = signed_as_gone(ledger, rotation, gone)
    return ReplicasAccounted(replicas, signed, tuple(name for name in gone if name not in signed))


def _newest_proof(ledger: Ledger, rotation: Walk) -> Proven:
    """The proof, or the newest repetition of it, which the audit holds."""
    if again := list(recorded(ledger, ProvenAgain, rotation.id)):
        return again[-1].proof
    record = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    if record is None:
        raise OutOfOrderError(
            f"rotation {rotation.id} has no proof of zero old rows yet; run `keyrotation rotate {rotation.id}`"
        )
    return read(Proven, record.facts)


def _proven_again(pipeline: Pipeline, rotation: Walk, finding: str, report: Report) -> Proven:
    """Repeats the proof, with what was found in the audit, so that the change does not go unnoticed."""
    proof = prove_zero_old_rows(pipeline, rotation, report)
    pipeline.ledger.append(ProvenAgain(proof, finding), rotation.id)
    return proof


def _wait_for_horizon(pipeline: Pipeline, rotation: Walk, proof: Proven, report: Report) -> None:
    """Waits, without holding locks, until no snapshot can show a value from before the proof."""
    patience = HORIZON_PATIENCE_SECONDS
    try:
        for waited in attempts(pipeline.clock, pause_seconds=HORIZON_PAUSE_SECONDS, patience_seconds=patience):
            holders = pipeline.evidence.snapshot_blockers(proof.moment)
            if not holders:
                return
            report(Progress(Step.RETIRED_KEY, "old snapshots", int(waited), patience, "seconds", holders[0]))
            pipeline.ledger.note_wait(rotation.id, Step.RETIRED_KEY, holders[0])
    finally:
        pipeline.ledger.end_wait(rotation.id, Step.RETIRED_KEY)
    raise BlockedError(f"old values may still be shown: {'; '.join(holders)}")


def _versions_to_take(pipeline: Pipeline, rotation: Walk) -> tuple[KeyVersion, ...]:
    """The source, and whatever other registered version is still live; an unregistered live key is left alone.

    One that is in the archive, but was never seen to be gone from all instances, is among them, also if it was called
    compromised since.
    """
    stored, state = pipeline.keys.read(), pipeline.ledger.replayed()
    unseen = {record.version for record in pipeline.ledger.keys() if state.may_be_held(record)}
    concerned = {rotation.source, *stored.live, *unseen.intersection(stored.archived)}
    retired = retired_versions(pipeline.ledger, rotation)
    return tuple(each for each in retired if each in concerned and each != PLAINTEXT)


def _require_writers(pipeline: Pipeline, rotation: Walk) -> None:
    if reason := pending(Situation(pipeline), rotation, RolloutTarget(TargetKind.WRITES, (rotation.target,))):
        raise StaleWriterError(str(reason))


def _require_target(pipeline: Pipeline, stored: StoredKeys, rotation: Walk) -> KeyBackup:
    """Checks again that the target key reads back as registered and is backed up."""
    target, registered = rotation.target, record_of(pipeline.ledger, rotation.target)
    if registered is None or stored.primary != target:
        raise KeyStoreError(
            f"the key store names {stored.primary} as primary, not {target}; "
            "check `keyrotation status` before continuing"
        )
    stored.ring()
    return require_stored_and_backed_up(pipeline.vault, stored, registered)
