"""A home of the pipeline, whose commands are typed as users type them."""

import json
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance import warm
from keyrotation_pipeline_tests.acceptance.command import environment
from keyrotation_pipeline_tests.fuzzing.formats import Format
from keyrotation_pipeline_tests.fuzzing.tables import Table
from keyrotation_pipeline_tests.officers import roster_in_toml

PATIENCE_SECONDS = 300.0


class RefusedError(Exception):
    """A command ended with 1; the message is its sentence."""


@dataclass
class Home:
    """A folder with a configuration, and the officers who sign.

    Args:
        said: what commands that ended with 1 printed, and how often.
        kills: how often `rotate` was killed.
    """

    folder: Path
    officers: tuple[DemoOfficer, ...]
    said: Counter[str] = field(default_factory=Counter)
    kills: int = 0

    @property
    def path(self) -> Path:
        return self.folder / ".keyrotation"

    def configure(
        self, url: str, form: Format, tables: tuple[Table, ...], logins: dict[str, str], further: str
    ) -> None:
        """Writes `keyrotation.toml`."""
        named = roster_in_toml(self.officers)
        versions = ", ".join(f'{version} = "{login}"' for version, login in logins.items())
        declared_logins = f"logins = {{ {versions} }}\n" if form.logins else ""
        (self.folder / "keyrotation.toml").write_text(
            f'database.url = "{url}"\nrollout = {{ mode = "none", timeout_seconds = 1 }}\n'
            f"[approvals]\nrequired = 2\n{named}"
            f"[reencryption]\nduty_cycle = 1.0\n{further}"
            f"{form.configured()}{declared_logins}" + "".join(table.declared(form) for table in tables)
        )

    def typed(self, *arguments: str, text: str | None = None, **variables: str) -> str:
        """Types one command; returns what it printed.

        Raises:
            RefusedError: it ended with 1.
        """
        done = warm.run(arguments, cwd=self.folder, env=environment(**variables), text=text, timeout=PATIENCE_SECONDS)
        if done.returncode == 0:
            return done.stdout
        assert done.returncode == 1, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{arguments}: {done.stderr}"
        raise self._refused(done)

    def _refused(self, done: subprocess.CompletedProcess[str]) -> RefusedError:
        assert "psycopg" not in done.stderr, done.stderr
        sentence = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        self.said[re.sub(r"[0-9a-f]{16,}", "…", sentence)] += 1
        return RefusedError(sentence)

    def shown(self, *arguments: str) -> Any:  # noqa: ANN401
        return json.loads(self.typed(*arguments, "--json"))

    def approve(self, request: str, seconds: float) -> None:
        """Both officers sign, each until that is stored; the answer to the first try may have been lost.

        Raises:
            RefusedError: a signature is not stored after so many seconds.
        """
        deadline = time.monotonic() + seconds
        for officer in self.officers:
            while not self._signed(request, officer, deadline):
                time.sleep(0.3)

    def _signed(self, request: str, officer: DemoOfficer, deadline: float) -> bool:
        try:
            text = self.typed("approve", request, "--text")
            self.typed("approve", request, "--signature", "-", text=officer.sign(text.encode()).decode())
        except RefusedError as error:
            if time.monotonic() > deadline:
                raise
            return "has signed this request already" in str(error)
        return True

    def rotate_until_killed(self, request: str, seconds: float) -> bool:
        """Types `rotate` and kills it after so many seconds; says whether it ended before, well.

        Raises:
            RefusedError: it ended with 1.
        """
        done = None
        try:
            done = warm.run(("rotate", request), cwd=self.folder, env=environment(), text=None, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kills += 1
            return False
        if done.returncode == 0:
            return True
        assert done.returncode == 1, f"rotate: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        raise self._refused(done)
