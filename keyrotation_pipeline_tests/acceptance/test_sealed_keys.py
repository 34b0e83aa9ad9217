"""Whole rotations of the demo, beside its application, with keys that AWS KMS seals."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import run_demo
from keyrotation_pipeline.fieldcrypto import seal
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.wrapping_keys import Kms

CLIENTS = 300


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with that of temporary files inside."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(seal, "_OPENED", seal._Opened())  # noqa: SLF001  as a process begins
    return tmp_path


def sealed_demo(folder: Path, kms: Kms) -> Path:
    """The configuration of a demo under a seal."""
    prepare(None)
    path = folder / "keyrotation.toml"
    path.write_text(
        f'{path.read_text()}\n[keys.seal]\nkind = "aws-kms"\nkey_id = "{kms.key()}"\nendpoint_url = "{kms.url}"\n'
    )
    return path


def files_with(keys: list[KeyMaterial], folder: Path) -> Iterator[Path]:
    """Every file that holds one of the keys, as bytes, base64 or hexadecimal."""
    wanted = [
        form
        for raw in map(raw_of, keys)
        for form in (raw, base64.b64encode(raw)[:42], base64.urlsafe_b64encode(raw)[:42], raw.hex().encode())
    ]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if any(form in content or form.upper() in content for form in wanted):
                yield path


def test_a_rotation_leaves_no_key_in_any_file_and_calls_the_kms_a_few_times(folder: Path, kms: Kms) -> None:
    sealed_demo(folder, kms)
    outcome = run_demo(None, CLIENTS, lambda *_: None, lambda _: None, lambda *_: None)

    assert outcome.holds
    assert max(kms.calls_by_process().values()) <= 10
    opened = seal._OPENED._keys.values()  # noqa: SLF001  what this process holds in memory
    made = [each for each in opened if isinstance(each, KeyMaterial)]
    assert {each.fingerprint for each in made} == {each.fingerprint for each in outcome.keys}
    assert not list(files_with(made, folder))
    planted = folder / "temporary" / "planted"
    planted.write_bytes(b"x" + raw_of(made[0]))
    assert list(files_with(made, folder)) == [planted]
