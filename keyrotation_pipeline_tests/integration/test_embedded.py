"""The embedded server: one a home, private, there when needed, gone when the last user leaves, whoever is killed."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server import account
from keyrotation_pipeline.adapters.postgres.server.connection import display_name
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.programs import Installation
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline_tests.programs import needs_nss_wrapper
from keyrotation_pipeline_tests.waiting import eventually

HOLD = """
import sys, time
from pathlib import Path
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])):
    print("running", flush=True)
    time.sleep(60)
"""


# In an /etc of its own, on which no user of the server exists yet, many processes ask for that user at once.
MANY_ASK = """
set -e
cp -a /etc "$1/etc"; rm -f "$1"/etc/*.lock
sed -i /^pgserver:/d "$1"/etc/passwd "$1"/etc/shadow "$1"/etc/group "$1"/etc/gshadow
mount --bind "$1/etc" /etc
for n in 1 2 3 4 5 6; do "$2" -c "$3" & started="$started $!"; done
for each in $started; do wait "$each"; done
"""
ASK = """
import pwd, time
from keyrotation_pipeline.adapters.postgres.server.account import Account
account = Account.of_server()
for _ in range(200):
    assert pwd.getpwuid(account.uid).pw_name == "pgserver"
    time.sleep(0.002)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    if postmaster(home) is not None:
        with EmbeddedServer(home / "postgres"):
            pass  # the last user stops it


def postmaster(home: Path) -> int | None:
    """Process id of the home's server, if it runs."""
    try:
        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def hold(home: Path) -> subprocess.Popen[str]:
    """Another process, with a process group of its own, that uses the server until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home / "postgres")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def one(url: str, statement: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def test_it_starts_at_the_first_attempt_without_a_pause_has_both_databases_and_stops_when_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(home / "postgres") as server:
        assert str(one(server.url(), "SHOW server_version")).startswith("18.")
        assert one(server.url("dagster"), "SELECT current_database()") == "dagster"
        assert display_name(server.url()) == "clinic@localhost"
    assert postmaster(home) is None
    # No time is lost in addition to what initdb and pg_ctl take.
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it slept for {seconds} s"))
    with EmbeddedServer(home / "postgres"):
        pass


def test_the_home_is_private_and_the_server_listens_on_no_port(home: Path) -> None:
    with EmbeddedServer(home / "postgres") as server:
        for directory in (home, home / "postgres", home / "postgres" / "data"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert one(server.url(), "SHOW listen_addresses") == ""
        assert stat.S_IMODE((home / "postgres" / ".s.PGSQL.5432").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run the server")
def test_as_root_it_runs_as_another_user_and_opens_no_directory_on_the_way_to_its_home(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    home = closed / "deeper" / "home"
    home.parent.mkdir(mode=0o700, parents=True)
    closed.chmod(0o700)
    ways = [tmp_path, *tmp_path.parents, closed, home.parent]
    before = {way: (way.stat().st_mode, way.stat().st_uid) for way in ways}
    for _ in range(2):  # made, then found
        with EmbeddedServer(home / "postgres") as server:
            assert Path(f"/proc/{postmaster(home)}").stat().st_uid != 0
            assert one(server.url(), "SELECT count(*) FROM pg_catalog.pg_timezone_names") != 0
    assert {way: (way.stat().st_mode, way.stat().st_uid) for way in ways} == before
    assert (stat.S_IMODE(home.stat().st_mode), home.stat().st_uid) == (0o700, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run the server")
@pytest.mark.parametrize("closed", ["a directory on the way", "a file in it"])
def test_as_root_programs_that_another_user_cannot_reach_are_run_from_a_copy_and_stay_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    wheel, root = Installation.of_wheel(), tmp_path / "venv"
    trees = tuple(root / tree.relative_to(wheel.root) for tree in wheel.trees)
    for tree, copied in zip(wheel.trees, trees, strict=True):
        shutil.copytree(tree, copied)
    barred = root if closed == "a directory on the way" else trees[0] / "share/postgresql/postgres.bki"
    barred.chmod(0o700)
    here = Installation(trees[0] / "bin", wheel.major, root, trees)
    with tempfile.TemporaryDirectory(prefix="kr-", dir="/tmp") as directory:
        programs = Path(directory)
        programs.chmod(0o755)
        monkeypatch.setattr(account, "PROGRAMS", programs)
        monkeypatch.setattr(Installation, "of_wheel", lambda: here)
        for _ in range(2):
            with EmbeddedServer(tmp_path / "home" / "postgres") as server:
                assert one(server.url(), "SELECT 1") == 1
        (copy,) = programs.iterdir()
        assert copy.stat().st_uid == 0
        assert not any(each.stat().st_mode & 0o022 for each in (copy, *copy.rglob("*")))
    assert stat.S_IMODE(barred.stat().st_mode) == 0o700


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="only root makes a user, and an /etc of its own needs mount namespaces",
)
def test_as_root_processes_that_start_together_on_a_new_machine_find_one_user(tmp_path: Path) -> None:
    script = ["unshare", "-m", "sh", "-c", MANY_ASK, "sh", str(tmp_path), sys.executable, ASK]
    asked = subprocess.run(script, capture_output=True, text=True, check=False, timeout=120)
    assert asked.returncode == 0, asked.stderr


def start_as(uid: int, home: Path) -> str:
    """What becomes of a start in a process of that user, as a cluster starts a Pod under a user id that it chose."""
    home.mkdir(mode=0o700)
    os.chown(home, uid, 0)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        try:
            os.setgroups([])
            os.setgid(0)
            os.setuid(uid)
            with EmbeddedServer(home / "postgres"):
                said = "started"
        except HomeError as error:
            said = str(error)
        except BaseException as error:  # noqa: BLE001  this process must end here
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("installed", [pytest.param(True, marks=needs_nss_wrapper), False])
def test_a_user_id_without_a_name_has_a_server_or_is_told_why_not(
    monkeypatch: pytest.MonkeyPatch, *, installed: bool
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        if not installed:
            monkeypatch.setattr(account, "LIBRARIES", Path(directory))
        said = start_as(1_000_770_000, Path(directory, "home"))
    assert said == "started" if installed else "initdb refuses user id 1000770000" in said
    assert "disk" not in said


def test_no_variable_of_ours_reaches_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", "planted")
    with EmbeddedServer(home / "postgres"):
        environment = Path(f"/proc/{postmaster(home)}/environ").read_bytes()
    assert b"LC_ALL" in environment
    assert b"ENCRYPTION" not in environment


def test_a_failing_statement_leaves_neither_its_text_nor_the_row_in_the_log(home: Path) -> None:
    with EmbeddedServer(home / "postgres") as server, psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a text CHECK (a <> 'secret-value'))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO t VALUES ('secret-value')")
    log = (home / "postgres" / "log").read_text()
    assert "violates check constraint" in log
    assert "secret-value" not in log


def test_the_server_outlives_a_killed_user_and_the_next_one_finds_it_with_its_data(home: Path) -> None:
    user = hold(home)
    with EmbeddedServer(home / "postgres") as server, psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    running = postmaster(home)
    assert running is not None, "the other user still needs it"
    kill_group(user)
    with EmbeddedServer(home / "postgres") as server:
        assert postmaster(home) == running
        assert one(server.url(), "SELECT one FROM kept") == 1
    assert postmaster(home) is None


def test_a_killed_server_is_started_again_over_what_it_left(home: Path) -> None:
    user = hold(home)
    killed = postmaster(home)
    assert killed is not None
    kill_group(user)
    os.kill(killed, signal.SIGKILL)
    with EmbeddedServer(home / "postgres") as server:
        assert one(server.url(), "SELECT 1") == 1
        assert postmaster(home) != killed


def test_a_server_that_is_used_for_long_is_started_again_when_it_was_killed(home: Path) -> None:
    with EmbeddedServer(home / "postgres") as server:
        running = postmaster(home)
        assert running is not None
        server.keep_running()
        assert postmaster(home) == running
        os.kill(running, signal.SIGKILL)

        def is_another() -> bool:
            server.keep_running()
            return postmaster(home) != running

        assert eventually(is_another)
        assert one(server.url(), "SELECT 1") == 1
    assert postmaster(home) is None


def test_a_pid_file_that_names_a_process_of_somebody_else_is_stale(home: Path) -> None:
    with EmbeddedServer(home / "postgres"):
        written = (home / "postgres" / "data" / "postmaster.pid").read_text()
    (home / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{written.partition(chr(10))[2]}")
    with EmbeddedServer(home / "postgres") as server:
        assert one(server.url(), "SELECT 1") == 1


def test_a_process_that_died_while_making_the_cluster_is_no_obstacle(home: Path) -> None:
    (home / "postgres" / "data.unfinished").mkdir(parents=True)
    (home / "postgres" / "data.unfinished" / "PG_VERSION").write_text("18\n")
    with EmbeddedServer(home / "postgres") as server:
        assert one(server.url(), "SELECT 1") == 1


def test_a_path_too_long_for_a_socket_gets_a_short_private_directory(tmp_path: Path) -> None:
    home = tmp_path / ("long name, 'quoted' " + "x" * 90)
    with EmbeddedServer(home / "postgres") as server:
        sockets = Path(str(one(server.url(), "SHOW unix_socket_directories")).strip('"'))
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert len(str(sockets)) < 80
    sockets.rmdir()


@pytest.mark.parametrize(
    ("mode", "is_link"), [pytest.param(0o755, False, id="open"), pytest.param(0o700, True, id="link")]
)
def test_a_short_directory_that_is_not_private_is_refused(tmp_path: Path, mode: int, is_link: bool) -> None:
    home = tmp_path / ("x" * 110)
    with EmbeddedServer(home / "postgres") as server:
        sockets = Path(str(one(server.url(), "SHOW unix_socket_directories")).strip('"'))
    sockets.rmdir()
    if is_link:
        sockets.symlink_to(tmp_path)
    else:
        sockets.mkdir()
        sockets.chmod(mode)
    try:
        with pytest.raises(HomeError, match="is not a private directory of ours"), EmbeddedServer(home / "postgres"):
            pass
    finally:
        sockets.unlink() if is_link else sockets.rmdir()


def test_a_cluster_of_another_major_version_is_refused_by_name(home: Path) -> None:
    with EmbeddedServer(home / "postgres"):
        pass
    (home / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(HomeError, match="was made by PostgreSQL 16"), EmbeddedServer(home / "postgres"):
        pass
