"""The versions that a place keeps of deleted and overwritten files, and in which of them each file is read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

# Whoever may write to a bucket can add versions without end. Theirs come after ours, so the oldest ones are kept.
MOST_VERSIONS = 1000


@dataclass(frozen=True, slots=True)
class OlderVersion:
    """One version of a file that is not the visible one."""

    id: str
    size_bytes: int


@dataclass(slots=True)
class OlderVersions:
    """What a place keeps besides the visible files; nothing where it was not asked for versions, or has none.

    Args:
        by_name: at most `MOST_VERSIONS` of each file, the oldest first.
        visible: the files that are not deleted, in order; None: versions are not known.
        deleted: the files of which no version is visible.
        overwritten: the visible files that have a version with other content.
        unexamined: why versions cannot be listed or read, in a sentence that names the missing right; None: they can.
        used: by file, the version in which it is read.
    """

    by_name: Mapping[str, tuple[OlderVersion, ...]] = field(default_factory=dict)
    visible: tuple[str, ...] | None = None
    deleted: frozenset[str] = frozenset()
    overwritten: frozenset[str] = frozenset()
    unexamined: str | None = None
    used: dict[str, str] = field(default_factory=dict)
    _read: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def of(self, name: str, size_bytes: int | None = None) -> tuple[str | None, ...]:
        """Returns the ids of the versions to try, of this size if it is known; None stands for the visible one."""
        older = (each for each in self.by_name.get(name, ()) if size_bytes in {None, each.size_bytes})
        return (*(() if name in self.deleted else (None,)), *(each.id for each in older))

    @contextmanager
    def reading(self, name: str, version: str | None) -> Iterator[None]:
        """Has a file read in a version (None: the visible one) inside, and afterwards too, unless that fails."""
        self.used.pop(name, None)
        if version is not None:
            self.used[name] = version
        try:
            yield
        except BaseException:
            self.used.pop(name, None)
            raise

    def once(self, name: str, read: Callable[[], bytes]) -> bytes:
        """Reads a small file, in one version only once, since a version never changes."""
        if (version := self.used.get(name)) is None:
            return read()
        if (name, version) not in self._read:
            self._read[name, version] = read()
        return self._read[name, version]

    def used_by(self, names: Iterable[str]) -> Mapping[str, str]:
        """Returns the version of each of these files that is not read in the visible one."""
        return {name: self.used[name] for name in names if name in self.used}

    def where(self, name: str, place: str) -> str:
        """Returns where a file was read: the place, with the file's version if that is not the visible one."""
        return f"{place} (version {self.used[name]})" if name in self.used else place

    @property
    def caveat(self) -> str:
        """`unexamined` in parentheses, to follow a statement about what is not in the place; empty: nothing is."""
        return "" if self.unexamined is None else f" ({self.unexamined})"
