"""PostgreSQL's client programs: which ones, and how they learn where to connect with no password in an argument."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from psycopg.pq import Conninfo

from keyrotation_pipeline.adapters.postgres.server.installation import Installation, packaged
from keyrotation_pipeline.errors import BackupError

_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory with `pg_dump` and `pg_restore`."""

    binaries: Path
    libraries: Path

    @classmethod
    def of(cls, binaries: Path | None) -> Self:
        """Those of a directory, by default of the embedded PostgreSQL."""
        found = Installation.of_wheel().binaries if binaries is None else binaries
        return cls(found, found.parent / "lib")

    @classmethod
    def of_server(cls, binaries: Path | None, major: int) -> Self:
        """Those that fit a server best: the ones named, else of its own version, else of the embedded PostgreSQL.

        A vendor's server may keep what only the vendor's own pg_dump leaves out (seen: a column option of its own,
        without which no other server takes the dump).
        """
        embedded = Installation.of_wheel()
        if binaries is None and embedded.major != str(major):
            binaries = next((place for place in packaged(major) if (place / "pg_dump").is_file()), None)
        return cls.of(binaries or embedded.binaries)

    def command(self, name: str, *arguments: str) -> list[str]:
        """A command line.

        Raises:
            BackupError: there is no such program.
        """
        program = self.binaries / name
        if not program.is_file():
            raise BackupError(f"there is no {name} in {self.binaries}; correct [backup] postgres_binaries")
        return [str(program), *arguments]

    def environment(self, url: str = "") -> dict[str, str]:
        """What a program gets of the environment: nothing of ours, and the connection's parameters."""
        library = {"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries.is_dir() else {}
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", **library, **_parameters(url)}

    def require_not_older(self, server_major: int) -> None:
        """Refuse a `pg_dump` that is older than the server, as it would refuse itself, or miss things.

        Raises:
            BackupError: it is.
        """
        told = subprocess.run(  # noqa: S603  arguments of our own
            self.command("pg_dump", "--version"), capture_output=True, check=False, env=self.environment()
        )
        found = _VERSION.search(told.stdout)
        if found is None or int(found[1]) < server_major:
            version = found[1].decode() if found else "unknown"
            raise BackupError(
                f"pg_dump in {self.binaries} is of PostgreSQL {version}, and the server runs {server_major}; name the "
                f"directory of a pg_dump {server_major} or later in [backup] postgres_binaries"
            )


def _parameters(url: str) -> Mapping[str, str]:
    """The variables (PGHOST, PGPASSWORD, …) that stand for a connection string."""
    return {
        option.envvar.decode(): option.val.decode()
        for option in Conninfo.parse(url.encode())
        if option.val is not None and option.envvar is not None
    }
