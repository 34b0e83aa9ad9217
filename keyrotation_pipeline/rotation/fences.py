"""Does each table still refuse what was retired in it? By the audit and the catalogue alone: no row is read.

Whoever owns a table can drop its constraint after a rotation. `status`, its exit code, the check in Dagster and the
pre-flight all go by this one definition.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.errors import KeyRotationError, MemberUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, counted
from keyrotation_pipeline.model.key_events import KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import GONE, IN_USE, KeyRecord
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.request_events import DatabaseReconciled
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount, TableName
from keyrotation_pipeline.ports.database import TableFencing
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline

_TELLING = (EventKind.KEY_RETIRED, EventKind.KEY_STATE_CHANGED, EventKind.DATABASE_RECONCILED)


@dataclass(frozen=True, slots=True)
class Fences:
    """What tables must refuse, and what they do refuse, at one moment.

    Args:
        retired: by table, the versions that were retired in it and have not come back since.
        by_table: by declared table, the versions that the database refuses in it; those not in it were not seen.
        unseen: by declared table, why not.
        undeclared: tables of `retired` that are in the database and no longer declared, so that nobody looks.
        walk: id of the rotation or rollback that is not finished, which will have them refuse again what they should.
        decrypted: declared tables with columns that were decrypted, which must refuse encrypted values.
        indexes: the same of search indexes, for declared tables that have some.
    """

    retired: Mapping[str, tuple[KeyVersion, ...]]
    by_table: Mapping[str, tuple[KeyVersion, ...]]
    unseen: Mapping[str, str]
    undeclared: tuple[str, ...]
    walk: str | None = None
    indexes: "Fences | None" = None
    decrypted: tuple[str, ...] = ()

    @property
    def lost(self) -> tuple[tuple[str, KeyVersion], ...]:
        """Each table that takes a retired version again, with the version."""
        return tuple(
            (name, version)
            for name, refused in self.by_table.items()
            for version in self.retired.get(name, ())
            if version not in refused
        )

    @property
    def younger(self) -> tuple[tuple[str, KeyVersion], ...]:
        """Each declared table that takes a version which was retired in others only, before this one was declared."""
        elsewhere = sorted({version for versions in self.retired.values() for version in versions})
        return tuple(
            (name, version)
            for name, refused in self.by_table.items()
            for version in elsewhere
            if version not in refused and version not in self.retired.get(name, ())
        )

    def attention(self) -> Iterator[str]:
        """A sentence for each table that takes a retired version again, or was not seen."""
        again = "have them refused again with `keyrotation reconcile`"
        if self.walk is not None:
            again = f"rotation {self.walk} will refuse them again"
        for name, version in self.lost:
            also = ", or encrypted values in what was decrypted," if name in self.decrypted else ""
            yield (
                f"table {name} takes values under {version}{also} again, which was retired in it; find out who changed "
                f"its fence or declared a column, run `keyrotation status --count`, and {again}"
            )
        for name, version in self.indexes.lost if self.indexes is not None else ():
            yield (
                f"table {name} takes search indexes under {version} again, which were retired in it; find out who "
                f"changed its constraint …_retired_search_indexes, and {again}"
            )
        tables = dict[str, list[str]]()
        for name, message in self.unseen.items():
            tables.setdefault(message, []).append(name)
        for message, (name, *others) in tables.items():
            more = f" and {len(others)} more tables refuse" if others else " refuses"
            yield f"what table {name}{more} was not seen: {message}"

    def warnings(self) -> Iterator[str]:
        """A sentence for each table that nothing was promised of, or that nobody looks at."""
        for name, version in self.younger:
            yield f"table {name} was declared after {version} was retired and takes it; the next rotation refuses it"
        for name in self.undeclared:
            versions = ", ".join(map(str, self.retired[name]))
            yield (
                f"nobody looks whether table {name} still refuses {versions}, since it is no longer declared; "
                "declare it in keyrotation.toml, unless it is no longer used"
            )


# In the facts of a rollback's promotion: tables of members that did not answer, and may still refuse its target.
STILL_REFUSED = "still_refused"


def fences(pipeline: Pipeline, answers: Mapping[str, MemberAnswer] | None = None) -> Fences:
    """Looks at the fence of every declared table, and at what the audit says that it must refuse.

    Args:
        answers: what members of a fleet answered; they are not asked then. None: they are asked.
    """
    # Others name no version, and are refused as the values are: by the login.
    with_indexes = [table.of_indexes for table in pipeline.tables if table.indexes and table.format.names_versions]
    retired, of_indexes = _retired(pipeline.ledger, has_indexes=bool(with_indexes))
    given = [each for each in answers.values() if each.problem is None] if answers is not None else []
    tables = as_retired(pipeline.ledger, pipeline.tables)
    asked = [table for table in tables if answers is None or not table.name.database]
    by_table, unseen = _seen(pipeline.fencing, asked)
    by_index, unseen_indexes = _seen(
        pipeline.fencing, [each for each in with_indexes if answers is None or not each.name.database]
    )
    for each in given:
        by_table, unseen = {**by_table, **each.fences}, {**unseen, **each.unseen}
        by_index = {**by_index, **each.index_fences}
    others = no_longer_declared(pipeline.tables, retired)
    undeclared = tuple(
        name
        for name in others
        if (answers is None or not TableName.parse(name).database) and pipeline.inventory.columns(TableName.parse(name))
    )
    undeclared += tuple(name for each in given for name in each.undeclared)
    walk = pipeline.ledger.current()
    indexes = Fences(of_indexes, by_index, unseen_indexes, ()) if with_indexes else None
    decrypted = tuple(str(table.name) for table in tables if table.gives_back)
    return Fences(retired, by_table, unseen, undeclared, None if walk is None else walk.id, indexes, decrypted)


def no_longer_declared(tables: Iterable[EncryptedTable], names: Iterable[str]) -> Sequence[str]:
    """Those of these tables that are not declared now."""
    declared = {str(table.name) for table in tables}
    return [name for name in names if name not in declared]


def must_refuse(ledger: Ledger) -> Mapping[str, tuple[KeyVersion, ...]]:
    """By table, the versions that were retired in it and have not come back since."""
    return _retired(ledger, has_indexes=False)[0]


def as_retired(ledger: Ledger, tables: Sequence[EncryptedTable]) -> Sequence[EncryptedTable]:
    """The tables as they were when something was last retired: a decrypted column must refuse encrypted values, too."""
    decrypted = _decrypted(ledger) if any(table.begun for table in tables) else {}
    return [
        table if (target := decrypted.get(str(table.name))) is None else table.giving_back(target) for table in tables
    ]


def _decrypted(ledger: Ledger) -> Mapping[str, KeyVersion]:
    """By table, the version under which a walk has decrypted columns that no walk since has to do with."""
    decrypted = dict[str, KeyVersion]()
    for entry in history(ledger, EventKind.KEY_RETIRED, EventKind.KEY_STATE_CHANGED):
        match entry.fact if entry.fault is None else None:
            case KeyRetired(tables=names, target=target) if entry.request is not None:
                back = ledger.walk(entry.request).gives_back
                decrypted = {name: each for name, each in decrypted.items() if name not in names}
                decrypted |= dict.fromkeys(names, target) if back else {}
            case KeyStateChanged(version, after=after) if after in IN_USE:
                decrypted = {name: each for name, each in decrypted.items() if each != version}
    if (walk := ledger.current()) is not None and walk.started_at is not None:
        # A rollback that has begun lifts the fences.
        decrypted = {name: each for name, each in decrypted.items() if each != walk.target}
    return decrypted


def last_change(ledger: Ledger) -> int:
    """The newest event by which tables refuse other versions than before; 0: there is none."""
    return max((event.seq for event in ledger.events(*_TELLING)), default=0)


def lift(fencing: TableFencing, tables: Iterable[EncryptedTable], version: KeyVersion) -> tuple[str, ...]:
    """Has tables accept a version again; repeating it changes nothing.

    Returns:
        The names of those in a member of a fleet that does not answer.
    """
    missed = dict[str, None]()
    for table in tables:
        try:
            fencing.unfence(table, version)
        except MemberUnavailableError:
            missed[str(table.name)] = None
    return tuple(missed)


def _seen(
    fencing: TableFencing, tables: Sequence[EncryptedTable]
) -> tuple[Mapping[str, tuple[KeyVersion, ...]], Mapping[str, str]]:
    by_table, unseen = dict[str, tuple[KeyVersion, ...]](), dict[str, str]()
    for table, seen in fencing.all_fences(tables).items():
        if isinstance(seen, KeyRotationError):
            unseen[str(table.name)] = str(seen)
        else:
            by_table[str(table.name)] = seen
    return by_table, unseen


def values_of_gone_keys(count: TableCount, records: Sequence[KeyRecord]) -> Iterator[str]:
    """A sentence for each version that values were counted under, though its key has left the applications for good."""
    gone = {record.version: record.state for record in records if record.state in GONE}
    for version, number in sorted(count.values_by_version.items()):
        if number and version in gone:
            yield (
                f"table {count.table.name} holds {counted(number, 'value')} under {version}, which is "
                f"{gone[version]}: no application can read that; find out who wrote it, and write the records "
                "again"
            )


Refused = Mapping[str, tuple[KeyVersion, ...]]


def _retired(ledger: Ledger, *, has_indexes: bool) -> tuple[Refused, Refused]:
    """By table, what the audit says that it must refuse: of values, and of search indexes."""
    retired, indexes = dict[str, set[KeyVersion]](), dict[str, set[KeyVersion]]()
    for entry in history(ledger, *_TELLING):
        match entry.fact if entry.fault is None else None:
            case KeyRetired(tables=tables, fenced_against=versions):
                for name in tables:
                    retired.setdefault(name, set()).update(versions)
                for name in _cleared(ledger, entry.request) if has_indexes else ():
                    indexes.setdefault(name, set()).update(versions)
            # A rollback, or the reconciliation of a restored database, lifts the fences before it says this.
            case KeyStateChanged(version, after=after) if after in IN_USE:
                _remove_versions((retired, indexes), version)
            case DatabaseReconciled(primary=primary, in_rows=in_rows):
                _remove_versions((retired, indexes), primary, *in_rows)
    if (walk := ledger.current()) is not None and walk.started_at is not None:
        # A rollback that has begun lifts them before its version is active.
        _remove_versions((retired, indexes), walk.target)
    return _in_order(retired), _in_order(indexes)


def _cleared(ledger: Ledger, walk: str | None) -> Iterable[str]:
    """The tables whose search indexes a walk has cleared, and had refused, once it had retired their key."""
    archived = None if walk is None else ledger.walk(walk).done(Step.ARCHIVED_KEY)
    return () if archived is None else archived.facts.get("search_indexes_cleared", ())


def _remove_versions(refused: Sequence[Mapping[str, set[KeyVersion]]], *versions: KeyVersion) -> None:
    for by_table in refused:
        for each in by_table.values():
            each.difference_update(versions)


def _in_order(refused: Mapping[str, set[KeyVersion]]) -> Refused:
    return {name: tuple(sorted(versions)) for name, versions in refused.items() if versions}
