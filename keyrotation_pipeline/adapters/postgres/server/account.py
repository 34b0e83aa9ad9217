"""Chooses the account that runs a PostgreSQL server, and lets it reach directories that it cannot enter by path."""

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypedDict

from keyrotation_pipeline.adapters.postgres.server.programs import Installation
from keyrotation_pipeline.errors import HomeError

SERVER_USER = "pgserver"
PRIVATE = 0o700
# Copies of programs that the account cannot reach: readable by all, writable by root.
PROGRAMS = Path("/var/lib/keyrotation")
# Where Debian and its like install libraries, by architecture.
LIBRARIES = Path("/usr/lib")


class _RunAs(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The account of the server: the current one, or as root a system user, since PostgreSQL refuses root."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def of_server(cls) -> Self:
        """Returns the current account; as root the system user `pgserver`, creating it if it is missing.

        Raises:
            HomeError: it cannot be created.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        # Another process may be creating the user: until `useradd` has ended, the user may appear and disappear.
        with _alone():
            if SERVER_USER not in {entry.pw_name for entry in pwd.getpwall()}:
                _create_user()
        entry = pwd.getpwnam(SERVER_USER)
        return cls(entry.pw_uid, entry.pw_gid, switch=True)

    def as_arguments(self) -> _RunAs:
        """Returns arguments of `subprocess.run` that run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def named(self, directory: Path) -> dict[str, str]:
        """Returns an environment in which the account has a name, without which `initdb` refuses to run.

        A cluster may start a Pod under a user id that no file of its image names, as OpenShift does by default.

        Args:
            directory: of the account, for the file that names it.

        Raises:
            HomeError: the system has no name for the account, and the library that can give it one is not installed.
        """
        if _is_named(self.uid):
            return {}
        library = next(LIBRARIES.glob("*/libnss_wrapper.so"), None)
        if library is None:
            raise HomeError(
                f"initdb refuses user id {self.uid}, which has no name here; run this as one that has (in our image "
                "`runAsUser: 10001`), or install libnss-wrapper"
            )
        users, groups = directory / "passwd", directory / "group"
        users.write_text(f"{SERVER_USER}:x:{self.uid}:{self.gid}::/:/bin/false\n")
        groups.write_text(f"{SERVER_USER}:x:{self.gid}:\n")
        return {"LD_PRELOAD": str(library), "NSS_WRAPPER_PASSWD": str(users), "NSS_WRAPPER_GROUP": str(groups)}

    def own(self, path: Path) -> None:
        """Gives one file or directory to the account."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    @contextmanager
    def reaching(self, directory: Path) -> Iterator[tuple[Path, Sequence[int]]]:
        """Yields a path by which the account's processes reach their directory, and the descriptors to pass to them.

        As root the directory may be where the account cannot go, such as in `/root`. An inherited descriptor leads
        there all the same, so no parent directory has to be opened to anybody.
        """
        if not self.switch:
            yield directory, ()
            return
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield Path(f"/proc/self/fd/{descriptor}"), (descriptor,)
        finally:
            os.close(descriptor)

    def runnable(self, installation: Installation) -> Installation:
        """Returns programs that the account can run: the originals, or a copy, since PostgreSQL resolves its own path.

        Raises:
            HomeError: no copy can be made.
        """
        trees = installation.trees
        if not self.switch or all(_is_open(tree) and all(map(_is_passable, tree.resolve().parents)) for tree in trees):
            return installation
        try:
            copy = _copy_of(installation)
        except OSError as error:
            raise HomeError(
                f"PostgreSQL's user {SERVER_USER} cannot reach {installation.root}, and no copy can be made in "
                f"{PROGRAMS} ({error.strerror}); do not run as root, or name a database in [database] url"
            ) from None
        return replace(installation, binaries=copy / installation.binaries.relative_to(installation.root))

    def short_directory(self, of: Path) -> Path:
        """Returns a private directory with a short path that belongs to one long path.

        Raises:
            HomeError: the name is taken by somebody else.
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


def _is_named(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _is_passable(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _is_open(tree: Path) -> bool:
    """Returns whether everybody can read a whole tree, and run its programs; an installer's umask may forbid it."""
    # Two thousand files, in every command on the embedded server: pathlib would be too slow.
    for directory, folders, files in os.walk(tree):
        for name in (".", *folders, *files):
            mode = os.stat(f"{directory}/{name}").st_mode  # noqa: PTH116
            if not mode & stat.S_IROTH or (mode & stat.S_IXUSR and not mode & stat.S_IXOTH):
                return False
    return True


def _copy_of(installation: Installation) -> Path:
    """Returns a copy of an installation's trees as they are now, made once and atomically."""
    files = sorted(each for tree in installation.trees for each in tree.rglob("*") if each.is_file())
    found = [(str(each.relative_to(installation.root)), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    target = PROGRAMS / f"postgresql-{installation.major}-{hashlib.sha256(repr(found).encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    PROGRAMS.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=PROGRAMS, prefix=".unfinished-") as directory:
        copy = Path(directory) / target.name
        for tree in installation.trees:
            shutil.copytree(tree, copy / tree.relative_to(installation.root), symlinks=True)
        for each in (copy, *copy.rglob("*")):
            if not each.is_symlink():
                each.chmod(0o755 if each.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            copy.rename(target)
        except OSError:
            if not target.is_dir():  # else another process has made the same one meanwhile
                raise
    return target


@contextmanager
def _alone() -> Iterator[None]:
    """Allows one process at a time; without a lock if root cannot even write to `PROGRAMS`."""
    try:
        PROGRAMS.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(PROGRAMS, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create_user() -> None:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    made = program and subprocess.run(  # noqa: S603  no shell, fixed arguments
        [program, "--system", "--no-create-home", "--shell", "/bin/false", SERVER_USER],
        check=False,
        capture_output=True,
        env={"LC_ALL": "C", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
    )
    if not made or made.returncode != 0:
        raise HomeError(
            f"PostgreSQL does not run as root, and the system user {SERVER_USER} cannot be created; "
            "run as another user, or name a database in [database] url"
        )
