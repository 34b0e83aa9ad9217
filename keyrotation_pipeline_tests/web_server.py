"""Dagster's real web server behind our door, with a code server of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import uvicorn

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.dagster_services import INSTANCE_FILES
from keyrotation_pipeline.adapters.web_console import console_app
from keyrotation_pipeline.assembly.console import private_socket
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline_tests.waiting import PATIENCE_SECONDS

TOKEN, METRICS_TOKEN = "a-token-of-this-test", "one-for-metrics-alone"
BEARER = {"authorization": f"Bearer {TOKEN}"}
BROWSER = {"accept": "text/html"}
START_SECONDS = 180
WORKSPACE = Path(__file__).parent.parent / "workspace.yaml"  # with a code server of its own
SHOW = "{ runsOrError { ... on Runs { results { tags { key value } } } } }"


@dataclass(frozen=True)
class Server:
    """A running web server, and its standard output."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        """Without a token, unless `options` has one."""
        return self.client.request(method, f"{self.url}{path}", **options)

    def with_token(self, query: str, variables: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        """The answer to a GraphQL query."""
        answer = self.ask("POST", "/graphql", json={"query": query, "variables": variables}, headers=BEARER)
        return answer.json()

    def cookie(self) -> dict[str, str]:
        answer = self.ask("GET", "/", params={"token": TOKEN}, headers=BROWSER)
        self.client.cookies.clear()  # a test says itself what it shows
        return {"cookie": answer.headers["set-cookie"].partition(";")[0]}

    def has_launched(self, mark: str) -> bool:
        """Whether there is a run with this value of a tag."""
        return mark in json.dumps(self.with_token(SHOW))


@dataclass
class Pages:
    """What the console would show, without a database."""

    text: str | None = "# TYPE a gauge\na 1\n# EOF\n"

    def front(self) -> bytes:
        return b"<!doctype html><h1>the console</h1>"

    def request(self, request_id: str) -> bytes | None:
        return f"<h1>request {request_id}</h1>".encode() if request_id == "known" else None

    def incident(self, incident_id: str) -> bytes | None:
        return None if incident_id else b""

    def databases(self) -> bytes | None:
        return b"<h1>each database</h1>"

    def metrics(self) -> str | None:
        return self.text


@contextmanager
def console_at(path: Path, pages: Pages) -> Iterator[None]:
    """The real application of the console on a Unix socket."""
    with private_socket(path) as listening:
        server = uvicorn.Server(uvicorn.Config(console_app(pages), log_level="warning", lifespan="off"))
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(home: Path, *options: str, **variables: str) -> Iterator[Server]:
    """The server in a Dagster home that is made for it, once it answers."""
    home.mkdir()
    shutil.copyfile(INSTANCE_FILES / "dagster.yaml", home / "dagster.yaml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KEYROTATION", "DAGSTER"))}
    arguments = ["--port", str(port), "--workspace", str(WORKSPACE), *options]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "keyrotation_pipeline.defs.webserver", *arguments],
            cwd=home, env={**kept, "DAGSTER_HOME": str(home), **variables},
            stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(f"{TOKEN}\n{METRICS_TOKEN}\n".encode())
    process.stdin.close()
    client = httpx.Client(timeout=60, trust_env=False, verify=False)  # noqa: S501  HTTP; loading them is slow
    server = Server(port, process, home / "log", client)
    try:
        for _ in attempts(SystemClock(), pause_seconds=0.3, patience_seconds=START_SECONDS):
            assert process.poll() is None, server.log.read_text()
            try:
                server.ask("GET", "/server_info")
                break
            except httpx.TransportError:
                continue
        yield server
    finally:
        client.close()
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Pages]]:
    """The socket of a console, and what it shows."""
    path, shown = tmp_path_factory.mktemp("console") / "sock", Pages()
    with console_at(path, shown):
        yield path, shown


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, pages: tuple[Path, Pages]) -> Iterator[Server]:
    """As `keyrotation up`, without a configuration; one worker has the tests of all files that ask for it."""
    with serving(tmp_path_factory.mktemp("ui") / "home", "--console", str(pages[0])) as server:
        yield server
