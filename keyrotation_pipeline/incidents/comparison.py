"""Compares present values with those of a backup from before an incident was discovered.

Whoever holds the leaked key and can write a table may have planted values, and an emergency that re-encrypts them
makes them authentic under the new key. So the newest intact backup from before the discovery is restored in a scratch
server, both tables are read in the order of their keys, and both values of each cell are decrypted and compared in
memory. Nothing is found by content: what differs is named by table, row and column.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from json import loads
from pathlib import Path

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.backups.catalog import BackupContext, fetch, kept_sets
from keyrotation_pipeline.backups.recovery_test import LOCK, recovered_keys
from keyrotation_pipeline.backups.restore_checks import require_all_there, require_no_failure
from keyrotation_pipeline.backups.table_comparison import TableComparison
from keyrotation_pipeline.errors import (
    BackupError,
    BlockedError,
    DamagedBackupError,
    IncidentError,
    KeyRotationError,
    MemberUnavailableError,
    PreflightError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind, Note, counted
from keyrotation_pipeline.model.backup_events import BackupSealed
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy, stamp_in, stamped_at
from keyrotation_pipeline.model.comparison import NO_WRITE, Difference, TableCompared, ValuesCompared
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.tables import EncryptedTable, of_member
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.database import TableInventory
from keyrotation_pipeline.ports.incidents import ApplicationAudit
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Baseline:
    """A backup from before the discovery, whose dump was fetched.

    Args:
        keys: every key in it.
        passed_over: newer ones that could not be used, one phrase each.
    """

    place: BackupPlace
    made: BackupSet
    dump: DatabaseCopy
    keys: Mapping[KeyVersion, KeyMaterial]
    passed_over: tuple[str, ...]


def fetched_baseline(
    site: BackupContext, incident: Incident, key: RecoveryKey, target: Path, wanted: str | None
) -> Baseline:
    """The newest backup from before an incident's discovery that is intact somewhere; its dump is then in `target`.

    Args:
        wanted: manifest or dump of the one to take; None: the newest.

    Raises:
        IncidentError: there is none, or the wanted one is not from before.
        RecoveryError, BackupError: it is damaged everywhere, or its keys cannot be read.
    """
    found = _Found(site, incident)
    for place, made, dump in found.candidates(wanted):
        try:
            fetch(place, dump.file, target)
            keys = recovered_keys(place, made, key, site.pipeline.ledger.keys())
        except (BackupError, DamagedBackupError) as error:
            found.refused[f"{made.name} in {place.description}"] = error
            continue
        newer = found.passed_over(made) if wanted is None else ()
        return Baseline(place, made, dump, keys, tuple(newer))
    raise found.refusal(wanted)


class _Found:
    """The backups of every place, as far as they can be used for one incident.

    Args:
        refused: by name, why it cannot be used.
    """

    def __init__(self, site: BackupContext, incident: Incident) -> None:
        self.refused: dict[str, KeyRotationError] = {}
        self._site = site
        self._incident = incident
        self._sealed_at = _sealed_at(site.pipeline.ledger)
        self._sets: list[tuple[BackupPlace, BackupSet, DatabaseCopy]] = []
        for place in site.places:
            try:
                kept = kept_sets(place, site.trust)
            except BackupError as error:
                self.refused[place.description] = error
                continue
            self.refused |= {f"{name} in {place.description}": why for name, why in kept.refused.items()}
            self._sets += [(place, made, made.dump) for made in kept.sets if made.dump is not None]

    def candidates(self, wanted: str | None) -> list[tuple[BackupPlace, BackupSet, DatabaseCopy]]:
        """Those from before the discovery, the newest first, in each place."""
        named = [each for each in self._sets if wanted in {None, each[1].name, each[2].file.name}]
        usable = [each for each in named if self._is_before(each[1].name)]
        if named and not usable and wanted is not None:
            raise IncidentError(
                f"{wanted} was not complete before {self._discovered}, when {self._incident.id} was discovered, so it "
                "may hold what was planted; name an older one with --backup, or none"
            )
        return sorted(usable, key=lambda each: self._site.trust.order(each[1]), reverse=True)

    def passed_over(self, chosen: BackupSet) -> Iterator[str]:
        """Why newer ones from before the discovery were not used: refused, damaged, or in no place."""
        trust, recorded = self._site.trust, set[str]()
        for name, why in self.refused.items():
            manifest = name.partition(" in ")[0]
            if stamp_in(manifest) is None or (self._is_before(manifest) and trust.is_after(manifest, chosen)):
                recorded.add(manifest)
                yield f"{name}: {why}"
        here = {made.name for _, made, _ in self._sets}
        for manifest in trust.sealed_with_dump:
            if manifest not in here | recorded and self._is_before(manifest) and trust.is_after(manifest, chosen):
                yield f"{manifest} is in no place, although the audit has it"

    def refusal(self, wanted: str | None) -> KeyRotationError:
        """Why no backup can be used."""
        for name, why in self.refused.items():
            if wanted is None or stamp_in(name.partition(" in ")[0]) == stamp_in(wanted):
                return why
        places = " or ".join(place.description for place in self._site.places)
        what = "no backup of the database" if wanted is None else f"no backup {wanted}"
        return IncidentError(
            f"{what} from before {self._discovered}, when {self._incident.id} was discovered, is in {places}, so "
            "nothing shows the values before; put an older one back there, and run this again"
        )

    def _is_before(self, manifest: str) -> bool:
        """Whether a set was complete by then: its snapshot is of a moment after its stamp, and before its event."""
        try:
            begun = stamped_at(stamp_in(manifest) or "")
        except ValueError:  # somebody else's name, of no day that there is
            return False
        return max(begun, self._sealed_at.get(manifest, begun)) <= self._incident.discovered_at

    @property
    def _discovered(self) -> str:
        return f"{self._incident.discovered_at:%Y-%m-%d %H:%M:%S} UTC"


def _sealed_at(ledger: Ledger) -> Mapping[str, datetime]:
    """When each manifest was signed, by the audit; one that was made from another set: when that one was."""
    sealed: dict[str, datetime] = {}
    for entry in entries(ledger, EventKind.BACKUP_SEALED):
        if isinstance(fact := entry.fact(), BackupSealed):
            sealed[fact.manifest] = sealed.get(fact.made_from or "", entry.at)
    return sealed


# How many rows the application's audit is asked about at a time.
BATCH = 5_000


@dataclass(frozen=True, slots=True)
class Output:
    """Where a comparison goes while it runs.

    Args:
        found: is called with each difference, in the order of tables and keys.
        note: is called with a phrase for each part that begins.
    """

    found: Callable[[Difference], None]
    note: Callable[[str], None]


def compare_values(
    site: BackupContext,
    key: RecoveryKey,
    name: str,
    by: str,
    audit: ApplicationAudit | None,
    output: Output,
    wanted: str | None = None,
) -> ValuesCompared:
    """Compares every present value with the newest backup from before an incident's discovery, and records the result.

    Args:
        key: decrypts the backup.
        audit: is asked about the rows that differ; None: there is none.
        wanted: manifest or dump of another backup from before the discovery; None: the newest that is intact.

    Raises:
        IncidentError: there is no such incident, or no backup from before it.
        RecoveryError, BackupError: the backup cannot be restored completely.
        BlockedError: another recovery test, rehearsal or comparison is running.
    """
    pipeline = site.pipeline
    ledger, incident = pipeline.ledger, incidents(pipeline.ledger).incident(name)
    with ledger.lock(LOCK):
        began = pipeline.clock.now()
        ledger.append(Note(EventKind.COMPARISON_STARTED, {"incident": incident.id, "recovery_key": key.label}))
        try:
            audited = audit if audit is not None and audit.names_rows() else None
            with site.restorer.workspace() as workspace:
                base = fetched_baseline(site, incident, key, workspace / "dump", wanted)
                compared = _Comparison(pipeline, base, audited, output)
                compared.run(site, key, workspace / "dump")
        except KeyRotationError as error:
            failure = {"incident": incident.id, "failure": type(error).__name__, "reason": str(error)}
            ledger.append(Note(EventKind.COMPARISON_FAILED, failure))
            raise
        fact = ValuesCompared(
            incident=incident.id,
            by=by,
            at=began,
            backup=base.made.name,
            made_at=base.made.made_at,
            place=base.place.description,
            tables=tuple(compared.tables),
            not_compared=tuple(compared.not_compared),
            passed_over=base.passed_over,
            audited=None if audited is None else audited.name,
        )
        ledger.append(fact, incident.request)
        return fact


class _Comparison:
    """One comparison, table by table."""

    def __init__(self, pipeline: Pipeline, base: Baseline, audit: ApplicationAudit | None, output: Output) -> None:
        self.tables: list[TableCompared] = []
        self.not_compared: list[str] = []
        self._pipeline = pipeline
        self._base = base
        self._audit = audit
        self._output = output

    def run(self, site: BackupContext, key: RecoveryKey, file: Path) -> None:
        """Of the home's own database, whose dump was fetched, and of each member of a fleet."""
        self._run(site, key, file, self._base.dump)
        for name in self._pipeline.members:
            try:
                if (dump := self._base.made.dump_of(name)) is None:
                    self.not_compared.append(f"{name}: {self._base.made.name} has no dump of it")
                    continue
                fetch(self._base.place, dump.file, file)
                self._run(site, key, file, dump)
            except KeyRotationError as error:  # which must not keep the others from being compared
                self.not_compared.append(f"{name}: {error}")

    def _run(self, site: BackupContext, key: RecoveryKey, file: Path, dump: DatabaseCopy) -> None:
        tables = [each for each in self._pipeline.tables if each.name.database == dump.member]
        self._output.note(f"restoring {dump.file.name} from {self._base.place.description}")
        with site.restorer.restored(dump, file, key) as restored:
            file.unlink()
            require_no_failure(restored, dump)
            require_all_there(restored, dump)
            ring = _ring(self._pipeline, self._base)
            self.not_compared += (of_member(dump.member, each) for each in _without_key(dump, ring))
            for table in tables:
                self._output.note(f"comparing {table.name}")
                self._compare(table, dump, restored.inventory, ring)
        self.not_compared += _no_longer_declared(dump, tables)

    def _compare(self, table: EncryptedTable, dump: DatabaseCopy, backup: TableInventory, ring: KeyRing) -> None:
        then = next((each.table for each in dump.tables if each.table.name == table.name), table)
        comparison, done = TableComparison(table, ring, then), TableCompared(str(table.name))
        try:
            # Closed at once: the audit is appended to on the connection that has the snapshot.
            with closing(comparison.differences(backup, self._pipeline.inventory)) as every:
                # An application's audit names rows of the database that it is in.
                for each in self._with_audit(every) if not dump.member else every:
                    self._output.found(each)
                    done = done.plus(each)
            self.tables.append(replace(done, rows=comparison.rows, values=comparison.values))
        except (PreflightError, BlockedError, MemberUnavailableError) as error:
            # Whoever owns one table must not keep the others from being compared.
            begun = f", after {counted(done.differences, 'difference')} in the list" if done.differences else ""
            self.not_compared.append(f"{table.name}{begun}: {error}")

    def _with_audit(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        if self._audit is None:
            yield from differences
            return
        every = iter(differences)
        while batch := list(islice(every, BATCH)):
            rows = {row for each in batch if (row := _single(each.key)) is not None}
            written = self._audit.writes(rows, self._base.made.made_at) if rows else {}
            for each in batch:
                row = _single(each.key)
                yield each if row is None else replace(each, recorded=written.get(row, NO_WRITE))


def _single(key: str) -> str | None:
    """The text of a row's key, if it has one column: what an application's audit may name the row by."""
    columns: list[str] = loads(key)
    return columns[0] if len(columns) == 1 else None


def _ring(pipeline: Pipeline, base: Baseline) -> KeyRing:
    """Every key that the backup's values or the present ones may be under, each the registered one."""
    stored, keys = pipeline.keys.read(), dict[KeyVersion, KeyMaterial](base.keys)
    for record in pipeline.ledger.keys():
        if record.version not in keys and record.version in stored:
            keys[record.version] = stored.registered(record)
    return KeyRing.for_reading(keys)


def _without_key(dump: DatabaseCopy, ring: KeyRing) -> Iterator[str]:
    """Versions of values in the backup that nobody registered: one that somebody wrote must not end the comparison."""
    known = {*ring.versions, *(version for version, _ in ring.sources.values())}
    for version in dump.versions:
        if version not in known:
            yield f"values under {version} in the backup: no key opens them, so that any other value counts as changed"


def _no_longer_declared(dump: DatabaseCopy, tables: Sequence[EncryptedTable]) -> Iterator[str]:
    """What the configuration declared when the backup was made, and does not any more."""
    present: Mapping[object, EncryptedTable] = {table.name: table for table in tables}
    for each in dump.tables:
        table = present.get(each.table.name)
        gone = [column for column in each.table.columns if table is None or column not in table.columns]
        yield from (f"{each.table.name}.{column}: [[tables]] does not declare it any more" for column in gone)
