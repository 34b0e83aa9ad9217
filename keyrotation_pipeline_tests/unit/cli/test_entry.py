"""The command's outermost layer: version, help, Ctrl-C, and an output that nobody reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyrotation_pipeline import cli

KEYROTATION = Path(sys.executable).parent / "keyrotation"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--version"], "keyrotation 0.", id="version"),
        pytest.param(["-h"], "preflight", id="-h"),
        pytest.param(["status", "-h"], "--watch", id="-h of a command"),
    ],
)
def test_version_and_short_help(arguments: list[str], expected: str) -> None:
    done = subprocess.run([KEYROTATION, *arguments], capture_output=True, text=True, check=True)
    assert expected in done.stdout


@pytest.mark.parametrize(
    ("typed", "meant"), [(["statsu"], "status"), (["incident", "lst"], "list"), (["audit", "verfy"], "verify")]
)
def test_a_slip_of_the_fingers_is_guessed_once(typed: list[str], meant: str) -> None:
    done = subprocess.run([KEYROTATION, *typed], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count(f"Did you mean '{meant}'?") == 1


def test_a_warning_of_a_library_is_not_the_users() -> None:
    strict = [sys.executable, "-W", "error::DeprecationWarning", str(KEYROTATION), "--version"]
    done = subprocess.run(strict, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_driver_logs_of_a_lost_connection_is_not_printed() -> None:
    logs = (
        "import logging; from keyrotation_pipeline import cli\n"
        "cli._run = lambda: logging.getLogger('psycopg').warning('error ignored in rollback')\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", logs], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["noticed at the end", "noticed at once"])
def test_a_reader_that_went_away_is_no_traceback(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writes = "import sys; from keyrotation_pipeline import cli; cli._run = lambda: sys.stdout.write('x'); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", writes],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""


def test_a_stdout_that_was_closed_is_no_traceback() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {KEYROTATION} --version >&-"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(130)], ids=["here", "noticed by the command"])
def test_an_interruption_says_how_to_go_on(
    interrupt: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise interrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert (
        capsys.readouterr().err
        == "stopped here; whatever was committed stays, and the same command continues from there\n"
    )
