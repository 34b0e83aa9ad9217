"""How a restored database and the key store are to agree: decided from what rows need and what the store holds.

The key store is right about the primary, since applications write under it. The rows are right about which keys must be
live. The plan says what must hold at the end, not how to get there. So it stays the same while it is carried out, and
after any crash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyrotation_pipeline.audit import verify
from keyrotation_pipeline.audit.divergence import Divergence, divergence
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import lost_roster
from keyrotation_pipeline.rotation.fences import fences

FINAL = frozenset({KeyState.COMPROMISED, KeyState.DESTROYED})


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found, and how everything is to be in the end.

    Args:
        in_rows: the versions that values are under.
        states: the state of every version that the ledger or the key store knows.
        missing: versions that values are under, and whose key is nowhere in the key store.
        starved: versions that values are under, and whose key is in the archive.
        roster: the roster of this home, which the audit has lost; it is pinned again.
        ends: ids of the requests of the earlier time, which are cancelled.
        refused: by table, the versions that were retired in it and that it must refuse, but those that are live.
        unfenced: each table that takes such a version, and no rotation under way will refuse it, with the version.
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

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that does not fit, a phrase each."""
        rows = (f"values are under {version}, whose key applications do not get" for version in self.starved)
        roster = ("the audit has lost the roster that was pinned last",) if self.roster is not None else ()
        fences = (f"table {name} takes {version} again, which was retired in it" for name, version in self.unfenced)
        return (*self.found.findings, *roster, *rows, *fences)

    @property
    def live(self) -> tuple[KeyVersion, ...]:
        """Versions that applications must have."""
        return tuple(sorted({self.primary, *self.in_rows}))

    def sentence(self) -> str:
        """What officers authorise, in one line."""
        states = ", ".join(f"{version} {state}" for version, state in self.states.items())
        parts = [f"reconcile database and key store: primary {self.primary}, live {_list(self.live)}; states {states}"]
        if self.ends:
            parts.append(f"end {', '.join(self.ends)}")
        parts += [f"refuse {_list(versions)} in {name}" for name, versions in sorted(self.refused.items())]
        if self.roster is not None:
            parts.append(f"pin again {self.roster}")
        if self.found.strangers:
            parts.append(verify.sentence(self.found.strangers))
        return "; ".join(parts)


def plan(pipeline: Pipeline) -> Plan:
    """Look at rows, key store, ledger and anchors as they are, and decide.

    Raises:
        KeyStoreError: the key store names no primary, or one that is destroyed.
    """
    records = pipeline.ledger.keys()
    registered = {record.version: record for record in records}
    stored = pipeline.keys.read()
    primary = _primary(stored, registered)
    in_rows = _in_rows(pipeline)
    known = sorted({*registered, *stored.versions})
    states = {
        version: _state_of_primary(registered.get(version))
        if version == primary
        else _state(registered.get(version), needed=version in in_rows, live=version in stored.live)
        for version in known
    }
    missing = tuple(version for version in in_rows if version not in stored)
    ends = tuple(each.id for each in (pipeline.ledger.current(), pipeline.ledger.waiting()) if each is not None)
    starved = tuple(version for version in in_rows if version in stored.archived)
    found = divergence(pipeline, stored)
    fenced, live = fences(pipeline), {primary, *in_rows}
    # All that must hold, not only what is missing: so that it stays the same while it is done.
    refused = {
        name: wanted
        for name in fenced.standing
        if (wanted := tuple(version for version in fenced.retired.get(name, ()) if version not in live))
    }
    unfenced = () if ends else tuple((name, version) for name, version in fenced.lost if version not in live)
    lost = lost_roster(pipeline)
    return Plan(found, primary, in_rows, states, missing, starved, ends, lost, refused, unfenced)


def _state_of_primary(record: KeyRecord | None) -> KeyState:
    """Active; what officers have called compromised stays so until its rotation has replaced it."""
    return KeyState.COMPROMISED if record is not None and record.state is KeyState.COMPROMISED else KeyState.ACTIVE


def _state(record: KeyRecord | None, *, needed: bool, live: bool) -> KeyState:
    if record is not None and record.state in FINAL:
        return record.state
    if needed:
        return KeyState.DEACTIVATED
    # A key that was still being distributed is withdrawn with its rotation, as `cancel` does.
    withdrawn = record is not None and record.state is KeyState.PRE_ACTIVATION
    return KeyState.DEACTIVATED if live and not withdrawn else KeyState.ARCHIVED


def _primary(stored: StoredKeys, registered: Mapping[KeyVersion, KeyRecord]) -> KeyVersion:
    primary = stored.primary
    if primary is None:
        raise KeyStoreError("the key store names no primary; put the keys back with `keyrotation restore-key` first")
    record = registered.get(primary)
    if record is not None and record.state is KeyState.DESTROYED:
        raise KeyStoreError(
            f"the key store's primary {primary} is {record.state} in the database; name another version there first"
        )
    return primary


def _in_rows(pipeline: Pipeline) -> tuple[KeyVersion, ...]:
    counts = pipeline.database.count(pipeline.tables)
    return tuple(sorted({version for count in counts for version, number in count.values_by_version.items() if number}))


def _list(versions: tuple[KeyVersion, ...]) -> str:
    return ", ".join(map(str, versions))
