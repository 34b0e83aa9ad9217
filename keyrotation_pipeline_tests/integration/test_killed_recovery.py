"""A recovery test is killed while it restores: nothing decrypts afterwards, and nothing of it stays."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.openpgp.decrypt import imported_key
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.adapters.secret_directories import wipe_abandoned_keys
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.backup_sites import Clinic
from keyrotation_pipeline_tests.waiting import eventually

# Restored by our scratch server only, it takes longer than anybody waits.
SLOW = """
CREATE MATERIALIZED VIEW public.slow AS
SELECT count(*) FROM pg_sleep(CASE current_setting('cluster_name') WHEN 'keyrotation' THEN 600 ELSE 0 END)
"""
HOMES = Path("/dev/shm")
SOON_SECONDS = 20
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes as Linux shows them")

# Imports a key, uses it, and waits.
HOLDER = """
import sys
from pathlib import Path
from keyrotation_pipeline.adapters.openpgp.decrypt import imported_key
with imported_key(Path(sys.argv[1]).read_bytes(), None) as key:
    key.decrypt("message", Path(sys.argv[2]).read_bytes())
    print("held", flush=True)
    sys.stdin.read()
"""


def command_line(pid: int) -> str:
    """Of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes(word: str) -> list[int]:
    """Those whose command line holds a word."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if word in command_line(pid)]


def descendants(pid: int) -> dict[int, str]:
    """Command lines of its children and theirs, by process id."""
    found: dict[int, str] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may end between the two.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, path.read_text().split()):
                found |= {child: command_line(child), **descendants(child)}
    return found


def homes_of(pid: int) -> list[Path]:
    return list(HOMES.glob(f"keyrotation-key-{pid}-*"))


@pytest.fixture
def restoring(local_clinic: Clinic) -> Iterator["subprocess.Popen[bytes]"]:
    """A recovery test in a process of its own, in the middle of pg_restore."""
    local_clinic.connection.execute(SLOW)
    back_up(local_clinic.site)
    secret = local_clinic.directory / "recovery.sec"
    secret.write_bytes(local_clinic.secret_key())
    process = subprocess.Popen(
        [KEYROTATION, "recovery-test", "--key", secret],
        cwd=local_clinic.directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: any("REFRESH MATERIALIZED" in line for line in descendants(process.pid).values()))
        yield process
    finally:
        process.kill()
        process.wait()


def test_nothing_of_a_killed_recovery_test_lives_on_or_decrypts(
    local_clinic: Clinic, restoring: "subprocess.Popen[bytes]"
) -> None:
    (home,) = homes_of(restoring.pid)
    scratch = local_clinic.settings.home / "recovery"
    family = descendants(restoring.pid)
    (agent,) = processes(f"gpg-agent --homedir {home}")
    for program in ("pg_restore", "postgres", "REFRESH MATERIALIZED", f"guard {home}"):
        assert any(program in line for line in family.values()), program
    descriptor = os.open(home, os.O_RDONLY)
    restoring.kill()
    restoring.wait()
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that no command of another test wipes it
    try:
        assert eventually(lambda: not home.exists(), SOON_SECONDS)
    finally:
        os.close(descriptor)
    assert eventually(lambda: not any(map(command_line, (*family, agent))), SOON_SECONDS)
    assert scratch.exists()
    Folder(local_clinic.directory, []).run("status")
    assert not scratch.exists()


def test_where_the_guard_is_killed_too_the_next_command_ends_the_agent_and_wipes_the_key(
    tmp_path: Path, recovery_officer: DemoOfficer
) -> None:
    secret, message = tmp_path / "secret", tmp_path / "message"
    secret.write_bytes(recovery_officer.gpg("--export-secret-keys"))
    message.write_bytes(encrypted(recovery_officer))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, secret, message], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        (home,) = homes_of(process.pid)
        (agent,) = processes(f"gpg-agent --homedir {home}")
        for guard in processes(f"guard {home}"):
            os.kill(guard, signal.SIGKILL)
        process.kill()
    assert home.exists()
    assert command_line(agent)
    Folder(tmp_path, []).run("--help")
    assert not home.exists()
    assert eventually(lambda: not command_line(agent), SOON_SECONDS)


def test_a_key_that_is_in_use_is_not_wiped_by_another_command(recovery_officer: DemoOfficer) -> None:
    message = encrypted(recovery_officer)
    with imported_key(recovery_officer.gpg("--export-secret-keys"), None) as key:
        wipe_abandoned_keys()
        assert key.decrypt("message", message) == b"a key"


def encrypted(officer: DemoOfficer) -> bytes:
    return officer.gpg("--trust-model", "always", "--recipient", officer.name, "--encrypt", text=b"a key")


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    command = die_with_parent(["sleep", "600.25"])
    if command[0] == "sleep":
        pytest.skip("there is no setpriv here")
    with subprocess.Popen(["sh", "-c", '"$@"; true', "sh", *command]) as parent:
        assert eventually(lambda: any(line.startswith("sleep") for line in descendants(parent.pid).values()))
        (child,) = descendants(parent.pid)
        parent.kill()
    assert eventually(lambda: not command_line(child), SOON_SECONDS)
