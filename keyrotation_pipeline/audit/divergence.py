"""Compares database, key store and anchors. After the database was restored to an earlier state they differ.

Approvals, key states and audit are then of an earlier time, and the key store and whatever was written down outside
are not. Whatever the key store holds must be explained by the ledger, and every anchor must lie in its audit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from keyrotation_pipeline.audit import store_owner
from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, EventKind
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.key_events import (
    KeyCreationIntended,
    KeyImportIntended,
    PrimaryChangeIntended,
    RetirementIntended,
)
from keyrotation_pipeline.model.keys import LOST, SHELVED, KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.request_events import CancelIntended, DatabaseReconciled, RosterPinned
from keyrotation_pipeline.ports.database import DatabaseEnvironment
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline

MOST_NAMED = 5  # events in a sentence
_TELLING = (
    EventKind.ROSTER_PINNED,
    EventKind.KEY_CREATION_INTENDED,
    EventKind.KEY_IMPORT_INTENDED,
    EventKind.PRIMARY_CHANGE_INTENDED,
    EventKind.RETIREMENT_INTENDED,
    EventKind.CANCEL_INTENDED,
    EventKind.DATABASE_RECONCILED,
)


@dataclass(frozen=True, slots=True)
class AuditExpectations:
    """What the audit says that the key store must hold, read at once.

    Args:
        keys: (version, fingerprint) of every key whose making or import was intended.
        primaries: (from, to) of every change of the primary that was intended.
        shelved: versions whose archiving was intended, or that the key store could have in its archive when database
            and key store were reconciled.
        rosters: digests of the rosters that were pinned.
    """

    keys: set[tuple[KeyVersion, str]] = field(default_factory=set)
    primaries: set[tuple[KeyVersion, KeyVersion]] = field(default_factory=set)
    shelved: set[KeyVersion] = field(default_factory=set)
    rosters: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where they differ: a phrase each, and the anchors that are not in the audit.

    Args:
        behind: all that differs is that the key store shows what the audit knows to be replaced.
        elsewhere: somebody else changed the key store, and nothing shows that the database was restored; a sentence.
        moved: where the database runs, if that is not where a walk that is under way was requested.
        unsigned: events of the audit that no pipeline of ours wrote.
        newcomer: fingerprint of this home's key, if officers have named another one.
    """

    findings: tuple[str, ...]
    unknown: tuple[AuditHead, ...]
    behind: bool = False
    elsewhere: str | None = None
    moved: DatabaseServer | None = None
    unsigned: tuple[AuditHead, ...] = ()
    newcomer: str | None = None

    @property
    def only_moved(self) -> bool:
        """Whether nothing else differs, as after a failover that has lost nothing."""
        return self.moved is not None and len(self.findings) == 1

    @property
    def changes_nothing(self) -> bool:
        """Whether keys, rows and the walk that is under way can stay as they are."""
        known = (self.moved is not None, bool(self.unsigned), self.newcomer is not None)
        return bool(self.findings) and len(self.findings) == sum(known)

    def __bool__(self) -> bool:
        return bool(self.findings)


def divergence(pipeline: Pipeline, stored: StoredKeys) -> Divergence:
    """Compare database, key store (as just read) and anchors, as they are now.

    They are read one after another, while another process may be changing them; so an apparent difference is
    looked at once more.
    """
    return _compared(pipeline, stored) and _compared(pipeline, pipeline.keys.read())


def _compared(pipeline: Pipeline, stored: StoredKeys) -> Divergence:
    anchors = pipeline.anchors.heads()
    expected, replayed = _expectations(pipeline.ledger), pipeline.ledger.replayed()
    missing, other = replayed.missing(anchors), store_owner.of_others(stored, replayed)
    unknown = missing if other is None else tuple(dict.fromkeys((*missing, other.head)))
    elsewhere = None if missing else other
    records = pipeline.ledger.keys()
    moved, unsigned = _moved(pipeline.environment, replayed), replayed.unvouched_until(replayed.head.seq)
    newcomer = None if replayed.writes_what_counts else replayed.own_signer
    newcomer_found = about_newcomer(replayed)
    findings = [
        *_about_database(pipeline.environment, replayed),
        *(
            _about_anchors(pipeline.ledger, unknown)
            if elsewhere is None
            else [store_owner.finding(elsewhere, replayed)]
        ),
        *_about_keys(stored, records, expected),
        *_about_primary(stored, records, expected),
        *_about_roster(stored, expected),
        *_about_compromised(stored, records),
        *_about_server(replayed, moved),
        *([] if newcomer_found is None else [newcomer_found]),
        *_about_unsigned(unsigned),
    ]
    behind = len(findings) == 1 and _is_behind(stored, records, expected)
    message = None if elsewhere is None else store_owner.refusal(elsewhere, replayed)
    return Divergence(tuple(findings), unknown, behind, message, moved, unsigned, newcomer)


def require_consistent(pipeline: Pipeline, stored: StoredKeys, *, afresh: bool = False) -> None:
    """Refuse to change anything in a database that was restored to an earlier state, or whose audit does not verify.

    Args:
        afresh: before what cannot be undone, in a process that may be weeks old: see `require_verified`.

    Raises:
        BlockedError: it was restored; names what does not fit.
        AuditError: somebody has written to it from outside.
    """
    if message := warning(divergence(pipeline, stored)):
        raise BlockedError(message)
    require_verified(pipeline, afresh=afresh)


def warning(found: Divergence) -> str | None:
    """Describe a divergence in one sentence; None if there is none."""
    if not found:
        return None
    if found.elsewhere is not None:
        return found.elsewhere
    if found.only_moved:
        return f"{found.findings[0]}: after a failover, or in a copy; run `keyrotation reconcile`"
    if found.changes_nothing:
        return f"{'; '.join(found.findings)}; run `keyrotation reconcile`"
    if found.behind:
        return (
            f"{found.findings[0]}, which replaced it; a key store may answer late, so wait a minute and run this "
            "again: if it stays so, run `keyrotation reconcile`"
        )
    return (
        f"this database was restored, or is not the one that it was ({'; '.join(found.findings)}); "
        "run `keyrotation reconcile`"
    )


def _expectations(ledger: Ledger) -> AuditExpectations:
    expected = AuditExpectations()
    for entry in history(ledger, *_TELLING):
        match entry.fact if entry.fault is None else None:
            case KeyCreationIntended(version, fingerprint) | KeyImportIntended(version, fingerprint):
                expected.keys.add((version, fingerprint))
            case PrimaryChangeIntended(source, target):
                expected.primaries.add((source, target))
            case RetirementIntended(versions):
                expected.shelved.update(versions)
            case CancelIntended(version):
                expected.shelved.add(version)
            case DatabaseReconciled(primary=primary, in_rows=in_rows, states=states):
                expected.shelved.update({*map(KeyVersion.parse, states)}.difference((primary, *in_rows)))
            case RosterPinned() as pinned:
                expected.rosters.add(pinned.roster.digest)
    return expected


def _about_database(environment: DatabaseEnvironment, replayed: AuditState) -> Iterator[str]:
    here = environment.identity().place
    if replayed.database not in {None, here}:
        yield f"the audit is of {replayed.database}, and this is {here}"


def _moved(environment: DatabaseEnvironment, replayed: AuditState) -> DatabaseServer | None:
    if replayed.server is None or not replayed.has_walk:
        return None
    here = environment.server()
    return None if here == replayed.server else here


def _about_server(replayed: AuditState, moved: DatabaseServer | None) -> Iterator[str]:
    if moved is not None:
        yield f"a walk is under way that was requested where the database ran on {replayed.server}, and this is {moved}"


def about_newcomer(replayed: AuditState) -> str | None:
    """Says that officers have not named the key of this home; None: they have, or nobody signs."""
    if replayed.writes_what_counts or replayed.own_signer is None:
        return None
    signer, own = (replayed.signer or "")[:16], replayed.own_signer[:16]
    return f"the audit is signed with the key {signer}, and this home has another one ({own})"


def _about_unsigned(unsigned: Sequence[AuditHead]) -> Iterator[str]:
    if unsigned:
        shown = ", ".join(str(head.seq) for head in unsigned[:MOST_NAMED])
        more = f" and {len(unsigned) - MOST_NAMED} more" if len(unsigned) > MOST_NAMED else ""
        yield f"somebody else wrote into the audit (events {shown}{more}, which count for nothing)"


def _about_anchors(ledger: Ledger, unknown: tuple[AuditHead, ...]) -> Iterator[str]:
    if not unknown:
        return
    newest, head = max(unknown, key=lambda anchor: anchor.seq), ledger.head()
    unsigned = ", and this home signs no event of it" if ledger.replayed().signed_from is None else ""
    if newest.seq > head.seq:
        named = f"event {newest.seq} {newest.hash[:16]}"
        yield f"the audit ends at event {head.seq}, but a copy outside names {named}{unsigned}"
    else:
        yield f"event {newest.seq} of the audit is not the one that a copy outside names ({newest.hash[:16]}){unsigned}"


def _about_keys(stored: StoredKeys, records: Sequence[KeyRecord], expected: AuditExpectations) -> Iterator[str]:
    registered = {record.version: record for record in records}
    for version in (*stored.live, *stored.archived):
        record = registered.get(version)
        if record is None:
            if (version, stored.material(version).fingerprint) not in expected.keys:
                yield f"the key store holds {version}, of which the database knows nothing"
        elif version in stored.archived and not _may_be_shelved(record, expected):
            yield f"the key store has archived {version}, which is {record.state} in the database"


def _may_be_shelved(record: KeyRecord, expected: AuditExpectations) -> bool:
    return record.state in SHELVED or record.version in expected.shelved


def _in_use(records: Sequence[KeyRecord]) -> tuple[KeyVersion, ...]:
    """The active version; where that was called compromised, it is one of the compromised ones."""
    active = tuple(record.version for record in records if record.state is KeyState.ACTIVE)
    return active or tuple(record.version for record in records if record.state is KeyState.COMPROMISED)


def _is_behind(stored: StoredKeys, records: Sequence[KeyRecord], expected: AuditExpectations) -> bool:
    """A restored database is behind the key store; here it is the other way round."""
    return any((stored.primary, each) in expected.primaries for each in _in_use(records))


def _about_primary(stored: StoredKeys, records: Sequence[KeyRecord], expected: AuditExpectations) -> Iterator[str]:
    primary, in_use = stored.primary, _in_use(records)
    if primary is None or not in_use or primary in in_use:
        return
    if not any((each, primary) in expected.primaries for each in in_use):
        active = next((each.version for each in records if each.state is KeyState.ACTIVE), None)
        known = next((f"which is {each.state}" for each in records if each.version == primary), "which is not known")
        yield f"the key store's primary is {primary}, {f'but {active} is active' if active else known} in the database"


def _about_roster(stored: StoredKeys, expected: AuditExpectations) -> Iterator[str]:
    # An earlier one is fine: the audit pins first, and the key store follows.
    if stored.roster is not None and stored.roster not in expected.rosters:
        yield f"the key store names a roster ({stored.roster[:16]}) that was never pinned in the database"


def _about_compromised(stored: StoredKeys, records: Sequence[KeyRecord]) -> Iterator[str]:
    # The audit is first to call a version compromised, and the key store follows.
    known = {record.version for record in records if record.state in LOST}
    for version in sorted(stored.compromised - known):
        yield f"the key store calls {version} compromised, and the database does not"
