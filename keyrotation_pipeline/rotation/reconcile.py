"""Reconciles a database that was restored to an earlier state with the key store, which was not."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field

from keyrotation_pipeline.audit.divergence import Divergence, divergence
from keyrotation_pipeline.audit.request_rules import (
    abandoning,
    continuing,
    leaving,
    left_in,
    members_reconciled_in,
    reconciled_in,
    voiding,
)
from keyrotation_pipeline.audit.store_owner import places_of
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.audit.witnessed import witnessed
from keyrotation_pipeline.errors import BlockedError, KeyStoreError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.key_events import KeyRestoreIntended
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, LOST, KeyRecord, KeyState, StoredKeys, StoreOwner
from keyrotation_pipeline.model.request_events import CancelIntended, DatabaseReconciled, MemberReconciled, TreeLeft
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, held_in_words
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline.model.visible_text import plain_name, visible
from keyrotation_pipeline.ports.database import TableFencing
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline
from keyrotation_pipeline.requests import opening, takeover, witnessing
from keyrotation_pipeline.requests.approvals import approval_text, require_authorised, stored_source
from keyrotation_pipeline.requests.control import hold_all_steps
from keyrotation_pipeline.requests.roster import (
    authority_to_reconcile,
    changes_lost,
    claim_store,
    lost_roster,
    pinned_roster,
)
from keyrotation_pipeline.rotation.fences import Fences, as_retired, fences
from keyrotation_pipeline.rotation.keys import record_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found, and the state to reach.

    Args:
        in_rows: the versions that have values.
        states: the state of every version that the ledger or the key store knows.
        missing: versions with values whose key is not in the key store at all.
        starved: versions with values whose key is only in the archive.
        roster: the roster of this home, which the audit has lost; it is pinned again.
        ends: ids of the requests of the earlier time, which are cancelled.
        refused: by table, the versions that were retired in it and that it must refuse, except live ones.
        lost: versions that the key store calls compromised, and of which the audit has lost that.
        unfenced: each table that accepts such a version, which no running rotation will refuse, with the version.
        refused_indexes, unfenced_indexes: the same of search indexes.
        former: the other home whose key store becomes that of this one.
        server: where the walk goes on that is under way. Where nothing else differs, nothing else is changed.
        left_tree: what a witness has signed and the audit does not continue.
        members: of a fleet, those that run elsewhere, or whose copy of the audit holds more than the audit.
    """

    found: Divergence
    primary: KeyVersion
    in_rows: tuple[KeyVersion, ...]
    states: Mapping[KeyVersion, KeyState]
    missing: tuple[KeyVersion, ...]
    starved: tuple[KeyVersion, ...]
    ends: tuple[str, ...]
    roster: Roster | None = None
    refused: Mapping[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    unfenced: tuple[tuple[str, KeyVersion], ...] = ()
    lost: tuple[KeyVersion, ...] = ()
    refused_indexes: Mapping[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    unfenced_indexes: tuple[tuple[str, KeyVersion], ...] = ()
    former: StoreOwner | None = None
    server: DatabaseServer | None = None
    left_tree: TreeLeft | None = None
    members: Mapping[str, MemberReconciled] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[str, ...]:
        """Every inconsistency, one phrase each."""
        rows = (f"values are under {version}, whose key applications do not get" for version in self.starved)
        roster = ("the audit has lost the roster that was pinned last",) if self.roster is not None else ()
        fences = (f"table {name} accepts {version} again, which was retired in it" for name, version in self.unfenced)
        indexes = (
            f"table {name} accepts search indexes under {version} again, which were retired in it"
            for name, version in self.unfenced_indexes
        )
        left = self.left_tree
        tree = () if left is None else (f"{left.witness} has signed {left.signed:,} events of another history",)
        return (*self.found.findings, *roster, *rows, *fences, *indexes, *tree, *self._of_members())

    def _of_members(self) -> Iterator[str]:
        for name, each in self.members.items():
            if each.server is not None:
                yield f"database {name} runs on {each.server}, and not where it ran when the walk was requested"
            if (events := each.set_aside) is not None:
                yield (
                    f"the copy of the audit in {name} has events {events.first} to {events.last.seq}, which this audit "
                    "lacks"
                )

    @property
    def changes_nothing(self) -> bool:
        """Whether keys, rows and the walk that is under way stay as they are."""
        return not self.states

    @property
    def live(self) -> tuple[KeyVersion, ...]:
        """Versions that applications must have."""
        if self.changes_nothing:
            return ()
        return tuple(sorted({self.primary, *self.in_rows}))

    def message(self) -> str:
        """What officers authorise, in one line."""
        states = ", ".join(f"{version} {state}" for version, state in self.states.items())
        beginning = f"{held_in_words(self.lost)}reconcile database and key store"
        parts = [f"{beginning}: primary {self.primary}, live {_list(self.live)}; states {states}"]
        if self.changes_nothing:
            parts = []
        if self.ends:
            parts.append(f"end {', '.join(self.ends)}")
        parts += [f"refuse {_list(versions)} in {plain_name(name)}" for name, versions in sorted(self.refused.items())]
        parts += [
            f"refuse search indexes under {_list(versions)} in {plain_name(name)}"
            for name, versions in sorted(self.refused_indexes.items())
        ]
        if self.server is not None:
            parts.append(continuing(self.server))
        if self.former is not None:
            parts.append(
                f"take the key store over from the home {visible(self.former.home)} of {places_of(self.former)}"
            )
        if self.roster is not None:
            parts.append(f"pin again {self.roster}")
        if self.found.unknown:
            parts.append(abandoning(self.found.unknown))
        if self.found.unsigned:
            parts.append(voiding(self.found.unsigned))
        if self.found.newcomer is not None:
            parts.append(f"let this home, whose key is {self.found.newcomer}, go on with the audit")
        if self.left_tree is not None:
            parts.append(leaving(self.left_tree))
        return "; ".join((*parts, *self._signed_of_members()))

    def _signed_of_members(self) -> Iterator[str]:
        for name, each in self.members.items():
            yield from reconciled_in(name, each)


def plan(pipeline: Pipeline, request: Request | None = None) -> Plan:
    """Reads rows, key store, ledger and anchors, and decides what to change.

    Args:
        request: the one that it is signed by; None: none is open yet.

    Raises:
        KeyStoreError: the key store names no primary, or one that is destroyed.
    """
    registered = {record.version: record for record in pipeline.ledger.keys()}
    stored = pipeline.keys.read()
    primary, found = _primary(stored, registered), divergence(pipeline, stored)
    left, members = _left_tree(pipeline.ledger, request), _members(pipeline, request)
    if found.changes_nothing or (not found and (left is not None or members)):
        return Plan(found, primary, (), {}, (), (), (), server=found.moved, left_tree=left, members=members)
    in_rows = _in_rows(pipeline.inventory.count(pipeline.tables))
    known = sorted({*registered, *stored.versions})
    compromised = tuple(each for each in known if each in stored.compromised and _may_be_lost(registered.get(each)))
    states = {
        version: _state_of_primary(registered.get(version))
        if version == primary
        else KeyState.COMPROMISED
        if version in compromised
        else _state(registered.get(version), needed=version in in_rows, live=version in stored.live)
        for version in known
    }
    missing = tuple(version for version in in_rows if version not in stored)
    # An emergency that has not begun has changed nothing, and is still to happen.
    waiting = [each for each in takeover.waiting(pipeline.ledger) if not each.is_emergency]
    ends = tuple(each.id for each in (pipeline.ledger.current(), *waiting) if each is not None)
    starved = tuple(version for version in in_rows if version in stored.archived)
    fenced, live = fences(pipeline), {primary, *in_rows}
    refused, unfenced = _refused(fenced, live, ends)
    of_indexes = ({}, ()) if fenced.indexes is None else _refused(fenced.indexes, live, ends)
    lost, owner = lost_roster(pipeline), stored.owner
    former = owner if owner is not None and owner.home != pipeline.ledger.replayed().home else None
    return Plan(
        found, primary, in_rows, states, missing, starved, ends, lost, refused, unfenced, compromised, *of_indexes,
        former=former,
        server=found.moved,
        left_tree=left,
        members=members,
    )  # fmt: skip


def _left_tree(ledger: Ledger, request: Request | None) -> TreeLeft | None:
    """What a witness has signed that the audit does not continue; of several, the one with the most events.

    Once a request is open, as its text says: a witness that says something else each time must not void signatures.
    """
    if request is not None and (text := ledger.replayed().texts.get(request.id)) is not None:
        return left_in(text)
    contradicting = [(each.signed, each) for each in witnessed(ledger) if each.signed is not None]
    if not contradicting:
        return None
    signed, by = max(contradicting, key=lambda pair: pair[0])
    return TreeLeft(by.origin, by.witness.name, signed)


def _members(pipeline: Pipeline, request: Request | None) -> Mapping[str, MemberReconciled]:
    """What is to be signed of a fleet's members; once a request is open, as its text says: see `_left_tree`."""
    found, state = pipeline.environment.members(reconciling=True), pipeline.ledger.replayed()
    if request is not None and (text := state.texts.get(request.id)) is not None:
        return members_reconciled_in(text)
    members = {
        name: MemberReconciled(
            server=None if state.left(name) in {None, each.server} else each.server,
            set_aside=None if each.former is None or each.former.last in state.set_aside.get(name, ()) else each.former,
        )
        for name, each in found.items()
    }
    return {name: each for name, each in members.items() if each != MemberReconciled()}


def _refused(
    fenced: Fences, live: Set[KeyVersion], ends: Sequence[str]
) -> tuple[Mapping[str, tuple[KeyVersion, ...]], tuple[tuple[str, KeyVersion], ...]]:
    """What each table must refuse, and what of that it accepts though no running rotation will refuse it."""
    # Everything that must hold, not only what is missing, so that the plan stays the same while it is carried out.
    refused = {
        name: wanted
        for name in fenced.by_table
        if (wanted := tuple(version for version in fenced.retired.get(name, ()) if version not in live))
    }
    return refused, () if ends else tuple((name, version) for name, version in fenced.lost if version not in live)


def _may_be_lost(record: KeyRecord | None) -> bool:
    return record is None or record.state not in LOST


def _state_of_primary(record: KeyRecord | None) -> KeyState:
    """Active; a compromised key stays compromised until its rotation has replaced it."""
    return KeyState.COMPROMISED if record is not None and record.state is KeyState.COMPROMISED else KeyState.ACTIVE


def _state(record: KeyRecord | None, *, needed: bool, live: bool) -> KeyState:
    if record is not None and record.state in LOST:
        return record.state
    if needed or record is None:
        return KeyState.DEACTIVATED
    # A key that was still being distributed is withdrawn with its rotation, as `cancel` does.
    if record.state is KeyState.PRE_ACTIVATION or (record.state is KeyState.ARCHIVED and not live):
        return KeyState.ARCHIVED
    # Also if it is in the archive: instances may still have it, for which the next rotation waits.
    return KeyState.DEACTIVATED


_IN_USE = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED})


def _primary(stored: StoredKeys, registered: Mapping[KeyVersion, KeyRecord]) -> KeyVersion:
    primary = stored.primary
    if primary is None:
        raise KeyStoreError("the key store names no primary; put the keys back with `keyrotation restore-key` first")
    used = [version for version, each in registered.items() if each.state in _IN_USE]
    if primary == PLAINTEXT and used:
        raise KeyStoreError(
            f"the key store's primary is plaintext, and {used[-1]} is {registered[used[-1]].state} in the database; "
            f"name {used[-1]} there first"
        )
    record = registered.get(primary)
    if record is not None and record.state is KeyState.DESTROYED:
        raise KeyStoreError(
            f"the key store's primary {primary} is {record.state} in the database; name another version there first"
        )
    return primary


def _in_rows(counts: Sequence[TableCount]) -> tuple[KeyVersion, ...]:
    return tuple(sorted({version for count in counts for version, number in count.values_by_version.items() if number}))


def _list(versions: tuple[KeyVersion, ...]) -> str:
    return ", ".join(map(str, versions))


LOCK = "reconcile"


def pending_reconciliation(ledger: Ledger) -> Request | None:
    """The open request to reconcile, if there is one."""
    return next(iter(opening.pending(ledger, RequestAction.RECONCILE)), None)


def open_reconciliation(pipeline: Pipeline, *, requested_by: str) -> tuple[Request, Plan]:
    """Opens a request to carry out the plan, for officers to sign.

    Raises:
        RequestError: there is nothing to reconcile.
        AuditError: somebody has tampered with the database, at any time.
        BlockedError: values are under a version whose key is not in the key store.
    """
    witnessing.witness(pipeline)  # a restored audit does not know yet what was signed
    decided = _verified_plan(pipeline)
    if not decided.findings and not decided.missing:
        raise RequestError("database, key store and anchors are consistent; there is nothing to reconcile")
    _require_readable(pipeline.keys, decided)
    opened = opening.new_request(
        Request,
        pipeline,
        RECONCILE,
        source=decided.primary,
        fingerprint="" if decided.primary == PLAINTEXT else pipeline.keys.read().material(decided.primary).fingerprint,
        target=decided.primary,
        reason="; ".join(decided.findings),
        requested_by=requested_by,
    )
    pipeline.ledger.open(opened, approval_text(pipeline, opened))
    return opened, decided


def reconcile(pipeline: Pipeline, rotation: Request) -> Plan:
    """Carries out what officers signed, if the facts still call for exactly that; may be repeated after a crash.

    Raises:
        ApprovalError: too few signatures, or something has changed since.
        AuditError: as `open_reconciliation`.
        RequestError: the request is over or past its dates.
        BlockedError: a step of an earlier rotation is still running, a key is missing, or a table stays locked.
        ProofError: a value under a retired version was written just now.
    """
    with pipeline.ledger.lock(LOCK), ExitStack() as held:
        rotation = pipeline.ledger.request(rotation.id)
        if rotation.is_over:
            raise RequestError(f"request {rotation.id} is {rotation.status}; run `keyrotation reconcile`")
        decided = _verified_plan(pipeline, rotation)
        require_authorised(pipeline, rotation, pipeline.keys.read())
        _require_readable(pipeline.keys, decided)
        _stop(pipeline, decided, rotation, held)
        # The key store goes on naming whoever changed it last, as officers signed, until everything is recorded.
        with pipeline.keys.unstamped():
            for version in decided.live:
                _bring_back(pipeline, version, rotation)
            _withdraw(pipeline, decided, rotation)
        tables = as_retired(pipeline.ledger, pipeline.tables)
        for table in tables:
            # Under a fence, rows of its version could not be updated.
            for version in decided.live:
                pipeline.fencing.unfence(table, version)
                pipeline.fencing.unfence(table.of_indexes, version)
        _fence(pipeline.fencing, tables, decided)
        with pipeline.ledger.transaction():
            _record(pipeline, decided, rotation)
        claim_store(pipeline, pipeline.keys.read(), tried=True)  # as officers signed
        pinned_roster(pipeline)  # which stores it in the home
    witnessing.show_outside(pipeline)
    return decided


def _verified_plan(pipeline: Pipeline, request: Request | None = None) -> Plan:
    """The plan, for an audit that verifies from its first event on, except for the anchors to be abandoned."""
    authority_to_reconcile(pipeline)  # which refuses another roster than this home's
    decided = plan(pipeline, request)
    require_verified(pipeline, afresh=True, but=decided.found.unknown, reconciling=True)
    return decided


def _require_readable(keys: KeyStore, decided: Plan) -> None:
    if decided.missing:
        version = decided.missing[0]
        raise BlockedError(
            f"values are under {version}, whose key is not in the key store; put it back with "
            f"{keys.read().restore(version)}, then run this again"
        )


def _stop(pipeline: Pipeline, decided: Plan, rotation: Request, held: ExitStack) -> None:
    for former in map(pipeline.ledger.walk, decided.ends):
        # A home that officers have still to name pauses nothing, but holds the steps all the same.
        if former.status is RequestStatus.RUNNING and pipeline.ledger.replayed().writes_what_counts:
            pipeline.ledger.set_status(former.id, RequestStatus.PAUSED, by=rotation.id)
        held.enter_context(hold_all_steps(pipeline, former))


def _bring_back(pipeline: Pipeline, version: KeyVersion, rotation: Request) -> None:
    stored = pipeline.keys.read()
    if version in stored.archived:
        pipeline.ledger.append(KeyRestoreIntended(version, stored.material(version).fingerprint), rotation.id)
        pipeline.keys.restore(version, stored.revision)


def _withdraw(pipeline: Pipeline, decided: Plan, rotation: Request) -> None:
    stored = pipeline.keys.read()
    for version, state in decided.states.items():
        if state is KeyState.ARCHIVED and version in stored.live:
            pipeline.ledger.append(CancelIntended(version), rotation.id)
            stored = pipeline.keys.archive(version, stored.revision)


def _fence(fencing: TableFencing, tables: Sequence[EncryptedTable], decided: Plan) -> None:
    """Makes each table refuse again what was retired in it, in addition to what else it refuses."""
    for table in tables:
        if wanted := decided.refused.get(str(table.name)):
            fencing.fence(table, sorted({*wanted, *fencing.fences(table)}))
        if wanted := decided.refused_indexes.get(str(table.name)):
            fencing.fence(table.of_indexes, sorted({*wanted, *fencing.fences(table.of_indexes)}))


def _record(pipeline: Pipeline, decided: Plan, rotation: Request) -> None:
    if decided.roster is not None:
        # First: its officers have signed what begins now.
        pipeline.ledger.pin_roster(decided.roster, rotation.id, changes_lost(pipeline))
    pipeline.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    for former in decided.ends:
        pipeline.ledger.set_status(former, RequestStatus.CANCELLED, by=rotation.id)
    # The primary last: only one version may be active.
    for version in sorted(decided.states, key=lambda each: each == decided.primary):
        _set_state(pipeline, version, decided.states[version], rotation)
    done = DatabaseReconciled(
        found=rotation.reason,
        primary=decided.primary,
        in_rows=decided.in_rows,
        states={str(version): str(state) for version, state in decided.states.items()},
        ended=decided.ends,
        accepted=decided.found.unknown,
        server=decided.server,
        left_tree=decided.left_tree,
        members=decided.members,
    )
    pipeline.ledger.append(done, rotation.id)
    pipeline.ledger.set_status(rotation.id, RequestStatus.FINISHED)


def _set_state(pipeline: Pipeline, version: KeyVersion, state: KeyState, rotation: Request) -> None:
    record = record_of(pipeline.ledger, version)
    if record is None:
        fingerprint, first = pipeline.keys.read().material(version).fingerprint, state
        if state is KeyState.COMPROMISED:
            first = KeyState.DEACTIVATED  # no version is compromised before it is registered
        record = KeyRecord(version, first, fingerprint, pipeline.clock.now())
        pipeline.ledger.add_key(record, rotation.id)
        if first is state:
            return
    if state is not record.state and state not in ALLOWED_TRANSITIONS[record.state]:
        pipeline.ledger.set_key_state(version, KeyState.DEACTIVATED, rotation.id)
    pipeline.ledger.set_key_state(version, state, rotation.id)


RECONCILE = Action(
    RequestAction.RECONCILE,
    authorises=lambda pipeline, request: plan(pipeline, request).message(),
    source=stored_source,
    target=lambda _pipeline, request, _stored: str(request.target),
    authority=authority_to_reconcile,
    command=lambda _request: "keyrotation reconcile",
    renewal=lambda _request: "cancel it, then run `keyrotation reconcile` for a new one",
    lock=LOCK,
)
