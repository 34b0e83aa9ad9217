"""Copies of a key that a destruction leaves, and the stored backups that a key decrypts."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets, is_intact, kept_sets
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.backups import (
    BackupSet,
    DatabaseCopy,
    StoredVersion,
    is_dump,
    is_key_file,
    manifest_name,
    pipeline_in,
    stamp_in,
)
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.ports.backup_places import BackupPlace

# The most non-current versions in the signed text, which is one line for people to read.
MOST_NAMED = 40
_UNKNOWN = "no intact manifest says which keys it needs"
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """An encrypted copy of the key outside the local directory.

    Args:
        locked_until: None: not locked.
        superseded: id of its version, where it is not the current one of its name.
        sealed_by: kind and name of the wrapping key that opens it for a recipient; empty: none is needed, or known.
    """

    name: str
    place: str
    locked_until: datetime | None
    superseded: str | None = None
    sealed_by: str = ""

    def __str__(self) -> str:
        version = "" if self.superseded is None else f" (non-current version {self.superseded})"
        sealed = f", sealed by {self.sealed_by}" if self.sealed_by else ""
        return f"{self.name}{version} in {self.place}, {self.lock}{sealed}"

    @property
    def lock(self) -> str:
        """Until when it cannot be removed."""
        return "not locked" if self.locked_until is None else f"locked until {utc_minute(self.locked_until)}"


def described_copies(version: KeyVersion, held: tuple[HeldCopy, ...]) -> str:
    """What stays, as officers sign it: how many copies where, each non-current one by itself, the locks."""
    if not held:
        return "no copy is kept elsewhere"
    parts = []
    for place in dict.fromkeys(copy.place for copy in held):
        here = [copy for copy in held if copy.place == place]
        current, old = ([copy for copy in here if (copy.superseded is None) is latest] for latest in (True, False))
        parts.append(f"{len(current)} in {place} ({_last_lock(current)})")
        if old:
            named = "; ".join(_named(version, copy) for copy in old[:MOST_NAMED])
            more = f"; and {len(old) - MOST_NAMED} more" if len(old) > MOST_NAMED else ""
            parts.append(
                f"{counted(len(old), 'non-current version')} there, which anybody who may read versions can read "
                f"({_last_lock(old)}): {named}{more}"
            )
    sealed = [copy.sealed_by for copy in held if copy.sealed_by]
    keys = " or ".join(dict.fromkeys(sealed))
    opened = f"; {len(sealed)} open for a recipient who may use {keys}, the others for any recipient" if sealed else ""
    return f"copies that stay: {', '.join(parts)}{opened}"


def described_replaced(pairs: Sequence[tuple[str, str]]) -> str:
    """Which dumps can no longer be read, and what has their rows; empty: none.

    Args:
        pairs: ``<dump> in <place>``, and the manifest of the set that replaces it.
    """
    if not pairs:
        return ""
    named = "; ".join(f"{dump} ({manifest} replaces it)" for dump, manifest in pairs[:MOST_NAMED])
    more = f"; and {len(pairs) - MOST_NAMED} more" if len(pairs) > MOST_NAMED else ""
    return f"; database backups that cannot be read whole any more: {named}{more}"


def _named(version: KeyVersion, copy: HeldCopy) -> str:
    """A copy in a signed text: foreign objects in the bucket may have any name, which is not repeated."""
    name = copy.name if is_key_file(copy.name, version) else "an object of another name"
    number = copy.superseded if _VERSION_ID.fullmatch(copy.superseded or "") else "?"
    return f"{name} version {number} {copy.lock}"


def _last_lock(copies: Sequence[HeldCopy]) -> str:
    locks = [copy.locked_until for copy in copies if copy.locked_until is not None]
    return f"the last lock until {utc_minute(max(locks))}" if locks else "not locked"


@dataclass(frozen=True, slots=True)
class ExposedCopy:
    """One stored file.

    Args:
        why: what somebody who has the key can do with it.
        replaced_by: manifest of the set in the same place that has its rows under another key; None: there is none.
    """

    place: str
    file: StoredVersion
    why: str
    replaced_by: str | None = None

    def __str__(self) -> str:
        version = "" if self.file.superseded is None else f" (non-current version {self.file.superseded})"
        locked = self.file.locked_until
        lock = "" if locked is None else f", locked until {_day(locked)}"
        replaced = f"; {self.replaced_by} replaces it" if self.replaced_by else ""
        return f"{self.file.name}{version} in {self.place}{lock}: {self.why}{replaced}"


def exposed_copies(site: BackupContext, versions: Sequence[KeyVersion]) -> tuple[str, ...]:
    """A line for each stored file that one of these keys decrypts or that holds one, by place; non-current ones too.

    A place that does not answer, and a dump without an intact manifest, are lines as well.
    """
    lines: list[str] = []
    for place in site.places:
        try:
            lines += map(str, _in_place(site, place, versions))
        except BackupError as error:
            lines.append(f"not checked: {error}")
    return tuple(lines) or ("no stored backup is decrypted by these keys, or holds them",)


def sets_to_rekey(site: BackupContext) -> tuple[BackupSet, ...]:
    """Sets that a compromised key decrypts and nothing replaces, newest first; each once, in whatever places.

    Raises:
        BackupError: a place does not answer.
    """
    records = site.pipeline.ledger.keys()
    compromised = {each.version for each in records if each.state is KeyState.COMPROMISED}
    found: dict[str, BackupSet] = {}
    for kept in site.kept():
        replaced = replacements(kept)
        for made, dump in kept.dumps:
            if compromised.intersection(dump.versions) and (made.name, dump.member) not in replaced:
                found.setdefault(made.name, made)
    return tuple(sorted(found.values(), key=site.trust.order, reverse=True))


def replacements(kept: KeptSets) -> Mapping[tuple[str, str], tuple[BackupSet, DatabaseCopy]]:
    """By manifest and database: the set that was made from it, and the dump there, if all of it is in the same place.

    The name of the database is that of a fleet's member; "": the home's own.
    """
    return {
        (made.made_from.manifest, dump.member): (made, dump)
        for made, dump in kept.dumps
        if made.made_from is not None and kept.names.issuperset(file.name for file in made.files)
    }


def replaced_dumps(places: Iterable[KeptSets], version: KeyVersion) -> tuple[tuple[str, str], ...]:
    """Dumps that need a version, each with the set that replaces it: in the same place, as its manifest says.

    Returns:
        Pairs: ``<dump> in <place>``, and the manifest of the other set.
    """
    found = []
    for kept in places:
        replaced = replacements(kept)
        for made, dump in kept.dumps:
            if version not in dump.versions or (made.name, dump.member) not in replaced:
                continue
            other, free = replaced[made.name, dump.member]
            if version not in free.versions and all(is_intact(kept.place, each) for each in other.files):
                found.append((f"{dump.file.name} in {kept.place.description}", other.name))
    return tuple(found)


def kept_dumps_that_need(places: Iterable[KeptSets], version: KeyVersion) -> tuple[str, ...]:
    """Every stored database backup that cannot be read completely without a version: such a key must stay.

    Without those whose rows another set of the same place has under another key.
    """
    replaced = {dump for dump, _ in replaced_dumps(places, version)}
    needing = (
        f"{dump.file.name} in {kept.place.description}"
        for kept in places
        for _, dump in kept.dumps
        if version in dump.versions
    )
    return tuple(dump for dump in needing if dump not in replaced)


def dumps_from_before(places: Iterable[KeptSets], seq: int) -> tuple[str, ...]:
    """Every stored database backup whose rows are from before an event of the audit."""
    return tuple(
        f"{dump.file.name} in {kept.place.description}"
        for kept in places
        for made, dump in kept.dumps
        if made.rows_seq(dump) < seq
    )


def unlisted_dumps(places: Iterable[KeptSets], trust: ManifestTrust) -> Mapping[str, str | None]:
    """Every stored database backup that no intact manifest of ours names, so that it is unknown which keys it needs.

    Returns:
        By ``<dump> in <place>``: the pipeline that it names, where that is unknown here.
    """
    return {
        f"{name} in {kept.place.description}": _unknown_pipeline(name, trust)
        for kept in places
        for name in sorted(kept.names - {dump.file.name for _, dump in kept.dumps})
        if is_dump(name)
    }


def _unknown_pipeline(dump: str, trust: ManifestTrust) -> str | None:
    """The id of the pipeline that a dump's name has, if that is unknown here."""
    stamp = stamp_in(dump) or ""
    return None if trust.knows(manifest_name(stamp)) else pipeline_in(stamp)


def _in_place(site: BackupContext, place: BackupPlace, versions: Sequence[KeyVersion]) -> Iterator[ExposedCopy]:
    kept = kept_sets(place, site.trust)
    # Of those that are gone there may be non-current versions.
    replaced, dumps = replacements(kept), {dump.file.name: (each, dump) for each in kept.sets for dump in each.dumps}
    for file in place.versions("database-"):
        if not is_dump(file.name):
            continue
        if file.name not in dumps:
            whose = _unknown_pipeline(file.name, site.trust)
            why = f"it is of the pipeline {whose}, which is unknown here" if whose else _UNKNOWN
            yield ExposedCopy(place.description, file, why)
            continue
        made, dump = dumps[file.name]
        if needed := [each for each in dump.versions if each in versions]:
            other, _ = replaced.get((made.name, dump.member), (None, None))
            why = f"holds values under {', '.join(map(str, needed))}"
            yield ExposedCopy(place.description, file, why, other.name if other else None)
    for version in versions:
        for file in place.versions(f"encryption-key-{version}-"):
            if is_key_file(file.name, version):
                yield ExposedCopy(place.description, file, f"holds the key {version}, encrypted to the recipients")


def _day(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}"
