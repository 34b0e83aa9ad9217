"""The console of a home, alone on a port, as `keyrotation console` serves it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.test_next_steps import free_port

START_SECONDS = 120


@dataclass(frozen=True)
class ServedConsole:
    """Its address, with the token, and a client that has exchanged the token for the cookie."""

    url: str
    token: str
    client: httpx.Client

    def page(self, path: str = "/") -> str:
        """The HTML of one page."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


@contextmanager
def serving_console(folder: Folder, *options: str) -> Iterator[ServedConsole]:
    """Starts the command, and ends it afterwards."""
    port = free_port()
    process = subprocess.Popen(
        [KEYROTATION, "console", "--port", str(port), *options],
        cwd=folder.path, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = re.search(r"(http://127\.0\.0\.1:\d+)/(?:\?token=(\S+))?", process.stdout.readline())
    assert shown is not None
    url, token = shown[1], shown[2] or ""
    client = httpx.Client(base_url=url, timeout=60, trust_env=False, follow_redirects=True)
    try:
        for _ in attempts(SystemClock(), pause_seconds=0.2, patience_seconds=START_SECONDS):
            assert process.poll() is None
            try:
                client.get("/", params={"token": token} if token else None)
                break
            except httpx.TransportError:
                continue
        yield ServedConsole(url, token, client)
    finally:
        client.close()
        process.terminate()
        process.wait(30)
        process.stdout.close()
