"""The generated `verify.py`: this package's own modules, byte for byte, and nothing but Python's library."""

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.reporting.bundle import ENTRY, bundle, closure
from keyrotation_pipeline_tests.packs import PYTHON, verified


def test_its_sources_are_the_modules_byte_for_byte(tmp_path: Path) -> None:
    program = tmp_path / "verify.py"
    program.write_bytes(bundle())
    sources = runpy.run_path(str(program), run_name="verify")["SOURCES"]
    assert sources == dict(sorted(closure(ENTRY).items()))
    for name, text in sources.items():
        spec = find_spec(name)
        assert spec is not None
        assert Path(spec.origin or "").read_bytes() == text.encode()
    judging = {"audit.history", "audit.rules", "adapters.openpgp.signatures", "reporting.verify_pack"}
    assert {f"keyrotation_pipeline.{name}" for name in judging} <= sources.keys()
    acting = {"adapters.secret_directories", "adapters.openpgp.officer_keys"}  # wipe directories, make keys
    assert {f"keyrotation_pipeline.{name}" for name in acting}.isdisjoint(sources)


def test_the_same_release_gives_the_same_bytes_to_compare_with() -> None:
    command = [sys.executable, "-m", "keyrotation_pipeline.reporting.bundle"]
    assert subprocess.run(command, capture_output=True, check=True, env={"PYTHONHASHSEED": "7"}).stdout == bundle()


def test_it_runs_alone_and_refuses_a_directory_that_is_no_pack(tmp_path: Path) -> None:
    (tmp_path / "verify.py").write_bytes(bundle())
    code, said = verified(tmp_path)
    assert (code, "DIFFERENT    audit.jsonl has no event" in said) == (1, True)


def test_it_imports_nothing_that_lies_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "verify.py").write_bytes(bundle())
    for name in ("json", "importlib", "keyrotation_pipeline"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(0)\n")
    assert verified(tmp_path)[0] == 1
    done = subprocess.run([PYTHON, tmp_path / "verify.py"], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, "run it as python3 -I verify.py" in done.stderr) == (1, True)


def test_what_needs_more_than_the_standard_library_is_not_bundled() -> None:
    with pytest.raises(KeyRotationError, match="imports pydantic, which"):
        bundle("keyrotation_pipeline.settings.loading")
