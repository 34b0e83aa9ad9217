"""Copies of a key that a destruction leaves, and the stored backups that a key decrypts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keyrotation_pipeline.backups.catalog import BackupContext, is_intact, kept_sets
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.backups import BackupSet, StoredVersion, is_dump, is_key_file
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.ports.backup_places import BackupPlace

# The most non-current versions in the signed text, which is one line for people to read.
MOST_NAMED = 40
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """An encrypted copy of the key outside the local directory.

    Args:
        locked_until: None: not locked.
        superseded: id of its version, where it is not the current one of its name.
    """

    name: str
    place: str
    locked_until: datetime | None
    superseded: str | None = None

    def __str__(self) -> str:
        version = "" if self.superseded is None else f" (non-current version {self.superseded})"
        return f"{self.name}{version} in {self.place}, {self.lock}"

    @property
    def lock(self) -> str:
        """Until when it cannot be removed."""
        return "not locked" if self.locked_until is None else f"locked until {_minutes(self.locked_until)}"


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
                f"{len(old)} non-current version(s) there, which anybody who may read versions can read "
                f"({_last_lock(old)}): {named}{more}"
            )
    return f"copies that stay: {', '.join(parts)}"


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
    return f"the last lock until {_minutes(max(locks))}" if locks else "not locked"


def _minutes(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


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
    for place in site.places:
        sets, names = kept_sets(place, site.trust).sets, frozenset(place.names())
        replaced = replacements(sets, names)
        for made in sets:
            kept = made.dump is not None and made.dump.file.name in names
            needed = made.dump.versions if made.dump is not None and kept else ()
            if compromised.intersection(needed) and made.name not in replaced:
                found.setdefault(made.name, made)
    return tuple(sorted(found.values(), key=site.trust.order, reverse=True))


def replacements(sets: Sequence[BackupSet], names: frozenset[str]) -> Mapping[str, BackupSet]:
    """By manifest: the set that was made from it, if that has its dump and keys among the files of the same place."""
    return {
        each.made_from.manifest: each
        for each in sets
        if each.made_from is not None and names.issuperset(file.name for file in each.files)
    }


def replaced_dumps(site: BackupContext, version: KeyVersion) -> tuple[tuple[str, str], ...]:
    """Dumps that need a version, each with the set that replaces it: in the same place, as its manifest says.

    Returns:
        Pairs: ``<dump> in <place>``, and the manifest of the other set.

    Raises:
        BackupError: a place does not answer.
    """
    found = []
    for place in site.places:
        sets, names = kept_sets(place, site.trust).sets, frozenset(place.names())
        replaced = replacements(sets, names)
        for made in sets:
            if made.dump is None or made.dump.file.name not in names or version not in made.dump.versions:
                continue
            other = replaced.get(made.name)
            if (
                other is not None
                and _is_free_of(other, version)
                and all(is_intact(place, each) for each in other.files)
            ):
                found.append((f"{made.dump.file.name} in {place.description}", other.name))
    return tuple(found)


def _is_free_of(made: BackupSet, version: KeyVersion) -> bool:
    return made.dump is not None and version not in made.dump.versions


def _in_place(site: BackupContext, place: BackupPlace, versions: Sequence[KeyVersion]) -> Iterator[ExposedCopy]:
    sets, names = kept_sets(place, site.trust).sets, frozenset(place.names())
    replaced, dumps = replacements(sets, names), {made.dump.file.name: made for made in sets if made.dump is not None}
    for file in place.versions("database-"):
        if not is_dump(file.name):
            continue
        made = dumps.get(file.name)
        needed = [] if made is None or made.dump is None else [each for each in made.dump.versions if each in versions]
        if made is None:
            yield ExposedCopy(place.description, file, "no intact manifest says which keys it needs")
        elif needed:
            other = replaced.get(made.name)
            why = f"holds values under {', '.join(map(str, needed))}"
            yield ExposedCopy(place.description, file, why, other.name if other else None)
    for version in versions:
        for file in place.versions(f"encryption-key-{version}-"):
            if is_key_file(file.name, version):
                yield ExposedCopy(place.description, file, f"holds the key {version}, encrypted to the recipients")


def _day(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}"
