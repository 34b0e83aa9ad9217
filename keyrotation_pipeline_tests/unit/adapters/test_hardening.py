"""Each process that holds keys dumps no core and is not dumpable: seen in real processes."""

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
try:
    {}
except (EOFError, SystemExit):
    pass
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) if sys.platform == "linux" else 0
print(resource.getrlimit(resource.RLIMIT_CORE), dumpable, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "begins",
    [
        pytest.param(
            "sys.argv[1:] = ['--version']; from keyrotation_pipeline.cli import main; main()", id="the command"
        ),
        pytest.param("from keyrotation_pipeline.adapters.postgres.engine.worker import main; main()", id="a worker"),
        pytest.param("import keyrotation_pipeline.definitions", id="what loads the code for Dagster"),
    ],
)
def test_a_process_that_holds_keys_is_hardened_as_it_begins(begins: str, tmp_path: object) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(begins)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd=str(tmp_path),
    )  # fmt: skip
    assert told.stdout.splitlines()[-1] == "(0, 0) 0"
