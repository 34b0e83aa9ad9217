"""The command as users type it, in a folder of its own."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline_tests.acceptance import warm

KEYROTATION = warm.KEYROTATION
# Only a failure takes so long: a demo takes half a minute, and has taken ten times that on a busy machine.
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class Folder:
    """A folder in which commands run; whatever they print is kept in `printed`, for scans."""

    path: Path
    printed: list[str]

    def run(self, *arguments: str, text: str | None = None, expect: int = 0, **variables: str) -> str:
        """Run one command to its end; gives back its standard output."""
        done = warm.run(arguments, cwd=self.path, env=environment(**variables), text=text, timeout=PATIENCE_SECONDS)
        self.printed.extend([done.stdout, done.stderr])
        assert done.returncode == expect, (
            f"{arguments}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
        return done.stdout

    def kill_after(self, seconds: float, *arguments: str) -> bool:
        """Start one command and `kill -9` its whole process group after so many seconds; False if it ended before."""
        with (self.path / "killed.log").open("ab") as log:
            process = subprocess.Popen(
                [KEYROTATION, *arguments],
                cwd=self.path,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
        return False


def environment(**variables: str) -> dict[str, str]:
    """The test's environment without anything of ours, and `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KEYROTATION", "ENCRYPTION", "DAGSTER"))
    }
    return {**kept, "COLUMNS": "160", **variables}


def imports(*arguments: str, cwd: Path | None = None) -> set[str]:
    """Names of all modules that a command, typed again, imports until its end, which is a good one."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", KEYROTATION, *arguments],
        cwd=cwd,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
