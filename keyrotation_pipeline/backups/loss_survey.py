"""Surveys a loss of keys: what can still be read, table by table, and from which backups."""

from collections.abc import Iterator
from dataclasses import dataclass

from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets, is_intact, kept_sets
from keyrotation_pipeline.backups.remaining_copies import replaced_dumps
from keyrotation_pipeline.errors import BackupError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.backups import is_dump
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class ReadableValues:
    """Values of one table under one version: where their key is; without one they cannot be read.

    Args:
        stored: the key store holds the registered key.
        backups: ``<file> in <place>`` of every intact backup; nothing was decrypted for this.
    """

    table: str
    version: KeyVersion
    values: int
    stored: bool
    backups: tuple[str, ...]

    @property
    def lost(self) -> bool:
        """Whether no key for them is known."""
        return not self.stored and not self.backups


@dataclass(frozen=True, slots=True)
class DumpReadable:
    """A stored database backup, and what of it could be read."""

    name: str
    place: str
    intact: bool
    tables: tuple[ReadableValues, ...]


@dataclass(frozen=True, slots=True)
class LossSurvey:
    """What can and what cannot be read: in the present database, and in each stored backup of it."""

    database: tuple[ReadableValues, ...]
    dumps: tuple[DumpReadable, ...]
    problems: tuple[str, ...]


def survey(site: BackupContext) -> LossSurvey:
    """Survey rows by version, keys by store and backup, and dumps by place, without changing or decrypting anything."""
    keys = _Keys(site)
    counts = site.pipeline.inventory.count(site.pipeline.tables)
    database = tuple(
        keys.readable(str(count.table.name), version, number)
        for count in counts
        for version, number in sorted(count.values_by_version.items())
        if number
    )
    dumps = tuple(dump for kept in keys.kept for dump in _dumps(kept, keys))
    return LossSurvey(database, dumps, tuple(dict.fromkeys(keys.problems)))


class _Keys:
    """Where each version's registered key is; each looked up once."""

    def __init__(self, site: BackupContext) -> None:
        self.problems: list[str] = []
        self.kept = list(self._read(site))
        registered = site.pipeline.ledger.keys()
        self._registered = {record.version: record for record in registered}
        self._store = self._read_store(site.pipeline)
        self._known: dict[KeyVersion, tuple[bool, tuple[str, ...]]] = {}

    def readable(self, table: str, version: KeyVersion, values: int) -> ReadableValues:
        if version not in self._known:
            self._known[version] = (self._stored(version), tuple(self._backups(version)))
        return ReadableValues(table, version, values, *self._known[version])

    def _read(self, site: BackupContext) -> Iterator[KeptSets]:
        for place in site.places:
            try:
                kept = kept_sets(place, site.trust)
            except BackupError as error:
                self.problems.append(str(error))
                continue
            self.problems += map(str, kept.refused.values())
            yield kept

    def _read_store(self, pipeline: Pipeline) -> StoredKeys | None:
        try:
            return pipeline.keys.read()
        except KeyStoreError as error:
            self.problems.append(str(error))
            return None

    def _stored(self, version: KeyVersion) -> bool:
        record = self._registered.get(version)
        if record is None or self._store is None:
            return False
        try:
            self._store.registered(record)
        except KeyStoreError as error:
            self.problems.append(str(error))
            return False
        return True

    def _backups(self, version: KeyVersion) -> Iterator[str]:
        record = self._registered.get(version)
        for kept in self.kept:
            for copy in (copy for made in kept.sets for copy in made.keys if copy.version == version):
                if (record is None or record.fingerprint == copy.fingerprint) and is_intact(kept.place, copy.file):
                    yield f"{copy.file.name} in {kept.place.description}"


def _dumps(kept: KeptSets, keys: _Keys) -> Iterator[DumpReadable]:
    place = kept.place
    for made in kept.sets:
        if made.dump is not None:
            tables = tuple(
                keys.readable(
                    str(content.table.name), version, sum(column.get(version, 0) for column in content.values.values())
                )
                for content in made.dump.tables
                for version in sorted(content.versions)
            )
            yield DumpReadable(made.dump.file.name, place.description, is_intact(place, made.dump.file), tables)


def kept_dumps_that_need(site: BackupContext, version: KeyVersion) -> tuple[str, ...]:
    """Every stored database backup that cannot be read completely without a version: such a key must stay.

    Without those whose rows another set of the same place has under another key.
    """
    replaced = {dump for dump, _ in replaced_dumps(site, version)}
    needing = (
        f"{made.dump.file.name} in {place.description}"
        for place in site.places
        for names in (place.names(),)
        for made in kept_sets(place, site.trust).sets
        if made.dump is not None and version in made.dump.versions and made.dump.file.name in names
    )
    return tuple(dump for dump in needing if dump not in replaced)


def unlisted_dumps(site: BackupContext) -> tuple[str, ...]:
    """Every stored database backup that no intact manifest names, so that it is unknown which keys it needs."""
    unlisted = []
    for place in site.places:
        listed = {made.dump.file.name for made in kept_sets(place, site.trust).sets if made.dump is not None}
        dumps = [name for name in place.names() if is_dump(name)]
        unlisted += [f"{name} in {place.description}" for name in dumps if name not in listed]
    return tuple(unlisted)
