"""`keyrotation exec`: a program gets opened keys, and nothing else does; and how a store stops delivering a list."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.adapters.keystores.file import APPLICATION_FILE, FileKeyStore
from keyrotation_pipeline.assembly.opened_keys import environment_with, key_ring
from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError, KeyStoreError
from keyrotation_pipeline.fieldcrypto import seal as sealing
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import as_list
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.seal import Seal
from keyrotation_pipeline.fieldcrypto.wrapping_keys.aws_kms import AwsKmsKey
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.settings.application import load_format
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, key, set_primary
from keyrotation_pipeline_tests.wrapping_keys import Kms

HOME = "0123456789abcdef" * 2
SEES = """
import json, os, sys
ignored = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("SigIgn"))
print(json.dumps([os.getpid(), sys.stdin.read(), int(ignored, 16), sys.argv[1:], dict(os.environ)]))
sys.exit(7)
"""


@pytest.fixture
def seal(kms: Kms) -> Seal:
    sealing.forget_opened()
    return Seal(AwsKmsKey(kms.key(), endpoint_url=kms.url), home=lambda: HOME)


@pytest.fixture
def folder(tmp_path: Path, seal: Seal, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An application's host: `[format]`, and sealed keys in a directory; the database that is named is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keyrotation.toml").write_text(
        '[database]\nurl = { env = "NOT_SET" }\n[format]\nname = "fernet"\nkeys = { env = "FERNET_KEYS" }\n'
    )
    FileKeyStore.create(tmp_path / "keys")
    store = FileKeyStore(tmp_path / "keys", "FERNET_KEYS", seal=seal)
    for version, number in ((V1, 1), (V2, 2)):
        add(store, version, key(number))
    set_primary(store, V2)
    store.offer_canary(key(9), store.read().revision)
    return tmp_path


def program() -> subprocess.Popen[str]:
    command = ["keyrotation", "exec", "--mounted", "keys", "--", sys.executable, "-c", SEES, "--json", "a b", "$HOME"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def files_with(form: bytes, folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and form in each.read_bytes()]


def test_a_program_gets_the_list_its_own_input_and_signals_and_nothing_to_open_keys_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCRYPTION_PKCS11_PIN", "123456")
    monkeypatch.setenv("TMPDIR", str(folder))
    started = program()
    output, errors = started.communicate("to the program")
    assert (started.returncode, errors) == (7, "")
    pid, read, ignored, arguments, environment = json.loads(output)
    assert (pid, read, arguments) == (started.pid, "to the program", ["--json", "a b", "$HOME"])
    # Python itself ignores these again, as any program may; others come from whoever started the tests.
    own = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "SigIgn")
    assert ignored & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | int(own, 16)) == 0
    listed = as_list([key(2), key(1)])
    assert environment["FERNET_KEYS"] == listed
    assert [name for name in environment if name.startswith("ENCRYPTION")] == ["ENCRYPTION_CANARY"]
    assert environment["ENCRYPTION_CANARY"] == base64_of(key(9))
    # LINES and COLUMNS are set by readline, which pytest loads, unknown to os.environ.
    given = {name for name in environment if name not in os.environ} - {"LINES", "COLUMNS"}
    assert given == {"FERNET_KEYS", "ENCRYPTION_CANARY"}
    assert files_with(listed.encode(), folder) == []


@pytest.mark.extended
def test_a_program_dies_by_a_signal_and_ends_quietly_behind_a_closed_pipe(folder: Path) -> None:
    command = ["keyrotation", "exec", "--mounted", "keys", "--"]
    sleeping = subprocess.Popen([*command, "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert sleeping.stdout is not None
    assert sleeping.stdout.readline()
    sleeping.send_signal(signal.SIGTERM)
    assert sleeping.wait(10) == -signal.SIGTERM
    sleeping.stdout.close()
    yes = subprocess.Popen([*command, "yes"], stdout=subprocess.PIPE)
    assert yes.stdout is not None
    assert yes.stdout.readline()
    yes.stdout.close()
    assert yes.wait(10) == -signal.SIGPIPE


def denied(kms: Kms, folder: Path) -> str:
    sealing.forget_opened()
    kms.refuses["Decrypt"] = "AccessDeniedException"
    return "keys"


def native(_: Kms, folder: Path) -> str:
    (folder / "keyrotation.toml").write_text("")
    return "keys"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        pytest.param(denied, "refuses Decrypt with arn", id="no right"),
        pytest.param(lambda *_: "none", "the keys in none cannot be read", id="no keys"),
        pytest.param(native, "is for libraries that read a list", id="our own format"),
    ],
)
def test_no_program_starts_where_keys_cannot_be_opened(
    folder: Path, kms: Kms, wrong: Callable[[Kms, Path], str], sentence: str
) -> None:
    mounted = wrong(kms, folder)
    with pytest.raises((InvalidKeyError, ConfigurationError), match=sentence):
        environment_with(key_ring(Path(mounted), None), load_format())


@dataclass(frozen=True)
class ListPlace:
    """A store that delivers a list, without and under a seal, and the list in it.

    Args:
        change: overwrites the list.
    """

    open: Callable[[Seal], KeyStore]
    listed: Callable[[], str | None]
    change: Callable[[str], Any]


@pytest.fixture(params=["file", "aws-secrets-manager", "kubernetes-secret"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> ListPlace:
    name = "FERNET_KEYS"
    if request.param == "file":
        file = tmp_path / "listed" / APPLICATION_FILE
        FileKeyStore.create(file.parent, name)
        return ListPlace(
            lambda seal: FileKeyStore(file.parent, name, seal=seal),
            lambda: file.read_text().strip().removeprefix(f"{name}=") if file.exists() else None,
            lambda _: pytest.skip("the file is written by us alone"),
        )
    made: Any = request.getfixturevalue({"aws": "new_secret", "kub": "new_key_secrets"}[request.param[:3]])()
    made = replace(made, variable=name)
    return ListPlace(lambda seal: made.sealed(seal) if seal.wrapping else made.open(), made.listed, made.change_list)


def test_a_list_stays_until_its_keys_are_sealed_and_goes_with_that(place: ListPlace, seal: Seal) -> None:
    plain = place.open(Seal())
    for version, number in ((V1, 1), (V2, 2)):
        add(plain, version, key(number))
    set_primary(plain, V2)
    listed = as_list([key(2), key(1)])
    store = place.open(seal)
    store.offer_canary(key(9), store.read().revision)
    assert (place.listed(), store.read().unsealed, store.read().undelivered) == (listed, (V1, V2), None)
    after = store.reseal(store.read().revision)
    assert (place.listed(), after.unsealed, after.undelivered) == (None, (), None)
    assert dict(after.live) == {V1: key(1), V2: key(2)}
    set_primary(store, V1)
    assert place.listed() is None


def test_a_list_with_a_key_of_somebody_else_or_put_back_is_not_taken_for_sealed(place: ListPlace, seal: Seal) -> None:
    add(place.open(Seal()), V1, key(1))
    set_primary(place.open(Seal()), V1)
    place.change(as_list([key(1), key(7)]))
    store = place.open(seal)
    with pytest.raises(
        KeyStoreError, match=r"holds 1 key that the key store does not have, and a seal delivers no list"
    ):
        store.reseal(store.read().revision)
    assert base64.urlsafe_b64decode(str(place.listed()).split(",")[1])
    place.change(as_list([key(1)]))
    assert store.reseal(store.read().revision).unsealed == ()
    place.change(as_list([key(1)]))
    assert store.read().unsealed == (V1,)
