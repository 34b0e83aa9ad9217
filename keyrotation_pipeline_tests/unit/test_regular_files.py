"""What is no regular file in place of one is refused at once, wherever the program opens what others name."""

import ast
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import keyrotation_pipeline
from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG
from keyrotation_pipeline.adapters.openssh import read_ssh_key
from keyrotation_pipeline.encrypted_type import MountedKeyRing
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.backups import StoredFile
from keyrotation_pipeline.regular_files import opened, read_bytes, read_text, read_typed
from keyrotation_pipeline.settings.backups import SecretPlace

HOME = Path(keyrotation_pipeline.__file__).parent


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A FIFO. Whoever waits for it gets its end after five seconds, and so fails instead of hanging."""
    path, ended = tmp_path / "fifo", threading.Event()
    os.mkfifo(path)

    def end_readers() -> None:
        ended.wait(5)
        os.close(os.open(path, os.O_RDWR))

    thread = threading.Thread(target=end_readers)
    thread.start()
    yield path
    ended.set()
    thread.join()


def within_a_second(read: Callable[[], object]) -> OSError | KeyRotationError:
    began = time.monotonic()
    with pytest.raises((OSError, KeyRotationError)) as refused:
        read()
    assert time.monotonic() - began < 2, "waited for it"
    assert isinstance(refused.value, OSError | KeyRotationError)
    return refused.value


@pytest.mark.parametrize("read", [opened, read_bytes, read_text, read_typed])
def test_a_fifo_a_device_and_a_directory_are_refused_at_once(
    read: Callable[[Path], object], fifo: Path, tmp_path: Path
) -> None:
    (link := tmp_path / "link").symlink_to(fifo)
    for path in (
        fifo,
        link,
        Path("/dev/zero"),
        tmp_path,
        *([] if read is read_typed else [Path("/proc/self/environ")]),
    ):
        assert "not a regular file" in str(within_a_second(lambda path=path: read(path)))  # type: ignore[misc]


def test_a_link_to_a_file_and_a_pipe_of_the_shell_are_read(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"a\r\n\xc3\xb6")
    (link := tmp_path / "link").symlink_to(file)
    assert (read_bytes(link), read_text(link)) == (b"a\r\n\xc3\xb6", "a\nö")
    code = "import sys; from keyrotation_pipeline.regular_files import read_typed; print(read_typed(sys.argv[1]))"
    done = subprocess.run(
        ["/bin/bash", "-c", 'exec "$1" -c "$2" <(sleep 0.2; echo typed)', "bash", os.sys.executable, code],  # type: ignore[attr-defined]
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"b'typed\\n'\n"


def _configured(fifo: Path, text: str) -> None:
    (file := fifo.parent / "keyrotation.toml").write_text(text.replace("FIFO", str(fifo)))
    settings.load(file)


_OF_BACKUP = StoredFile("fifo", "0" * 64, 3, ("A" * 40,))


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(settings.load, id="--config"),
        pytest.param(lambda fifo: _configured(fifo, 'database.url = { file = "FIFO" }'), id="a secret"),
        pytest.param(lambda fifo: SecretPlace(file=fifo).read("[recovery] secret_key"), id="a recovery key"),
        pytest.param(
            lambda fifo: GnuPG(fifo.parent, SystemClock()).read_certificate(fifo), id="an OpenPGP certificate"
        ),
        pytest.param(read_ssh_key, id="an SSH key"),
        pytest.param(lambda fifo: SigningKey(fifo).sign(b""), id="the key that signs manifests"),
        pytest.param(lambda fifo: MountedKeyRing(fifo)(), id="an application's keys"),
        pytest.param(lambda fifo: BackupDirectory(fifo.parent).read("fifo"), id="a manifest"),
        pytest.param(lambda fifo: BackupDirectory(fifo.parent).fetch(_OF_BACKUP, fifo), id="a file of a backup"),
        pytest.param(lambda fifo: BackupDirectory(fifo.parent).digest(_OF_BACKUP), id="its digest"),
    ],
)
def test_a_fifo_in_place_of_it_is_refused_in_one_sentence(read: Callable[[Path], object], fifo: Path) -> None:
    refused = within_a_second(lambda: read(fifo))
    assert isinstance(refused, KeyRotationError)
    assert "\n" not in str(refused)
    assert str(fifo) in str(refused) or "fifo" in str(refused)


# What we have made ourselves just before, or what the system has: no one else names it.
_OWN = {
    "adapters/child_processes.py", "adapters/postgres/server/embedded.py", "adapters/postgres/server/scratch.py",
    "adapters/postgres/preflight/server.py", "adapters/process.py",
    "adapters/postgres/engine/processor_waits.py", "backups/catalog.py", "cli/docs.py",
    "cli/compare.py", "cli/__init__.py", "demo/fernet_application.py", "reporting/bundle.py", "reporting/pack.py",
    "adapters/web_console.py", "fieldcrypto/formats/registry.py",  # of installed packages
    "reporting/verify_pack.py",  # asks for regular files itself
    "regular_files.py",
}  # fmt: skip


def test_whatever_opens_a_file_that_others_name_does_it_here() -> None:
    found = set()
    for file in HOME.rglob("*.py"):
        source = file.read_text()
        for node in ast.walk(ast.parse(source if re.search(r"\.(open|read_bytes|read_text)\(", source) else "")):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_open = node.func.attr == "open" and any(
                    isinstance(each, ast.Constant) and str(each.value) in {"rb", "r"} for each in node.args
                )
                if is_open or node.func.attr in {"read_bytes", "read_text"}:
                    found.add(str(file.relative_to(HOME)))
    assert found - _OWN == set()
