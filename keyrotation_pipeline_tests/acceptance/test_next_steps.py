"""What the demo prints under "Next:", typed as it is printed, from where the demo was typed."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from keyrotation_pipeline import settings
from keyrotation_pipeline.cli import demo
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, environment
from keyrotation_pipeline_tests.acceptance.nights import Night
from keyrotation_pipeline_tests.pages import TOP, block
from keyrotation_pipeline_tests.waiting import eventually

SECONDS = 300


def next_lines(printed: str) -> list[str]:
    """The commands below "Next:"."""
    return [line.strip() for line in printed.partition("\nNext:\n")[2].splitlines() if line.startswith("  ")][::2]


def typed(line: str, folder: Path, **variables: str) -> str:
    """The line in a shell that finds what the user's finds: not what this test's PATH adds."""
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=bare(**variables), capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def bare(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in environment().items() if not name.startswith(("UV", "VIRTUAL_ENV"))}
    paths = [each for each in kept["PATH"].split(os.pathsep) if Path(each) != KEYROTATION.parent]
    return {**kept, "PATH": os.pathsep.join(paths), **variables}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("by_uv", "here", "on_path", "expected"),
    [
        pytest.param(True, Path(sys.prefix).parent, False, "uv run keyrotation", id="uv run in the project"),
        pytest.param(
            True, Path(sys.prefix).parent / "docs", False, "uv run keyrotation", id="uv run in a folder of it"
        ),
        pytest.param(True, Path("/"), True, str(KEYROTATION), id="uv run --project, from elsewhere"),
        pytest.param(False, Path("/"), True, "keyrotation", id="installed"),
        pytest.param(False, Path("/"), False, str(KEYROTATION), id="by its path"),
    ],
)
def test_the_program_is_named_as_the_shell_finds_it(
    by_uv: bool, here: Path, on_path: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "started_by_uv", lambda: by_uv)
    monkeypatch.setattr(Path, "cwd", lambda: here)
    monkeypatch.setattr(sys, "argv", [str(KEYROTATION), "demo"])
    monkeypatch.setattr(shutil, "which", lambda _name: str(KEYROTATION) if on_path else None)
    assert demo._program() == expected  # noqa: SLF001  three shells are as many processes


def test_uv_is_known_by_what_it_gives_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert settings.started_by_uv()
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    assert not settings.started_by_uv()


@pytest.mark.extended
@pytest.mark.skipif(shutil.which("uv") is None, reason="the README's commands are uv's")
def test_up_serves_metrics_and_leaves_no_token_behind(tmp_path: Path) -> None:
    """And the other two lines, as the README has the demo typed."""
    offline = {"UV_NO_SYNC": "1", "UV_OFFLINE": "1"}
    printed = typed(f"uv run keyrotation demo --rows 50 --config {tmp_path}/keyrotation.toml", TOP, **offline)
    status, up, again = next_lines(printed)
    assert status == f"uv run keyrotation status --config {tmp_path}/keyrotation.toml"
    assert "Primary   v2" in typed(status, TOP, **offline)

    port, home = free_port(), tmp_path / ".keyrotation" / "dagster"
    page = f"http://127.0.0.1:{port}/metrics"
    serving = subprocess.Popen(
        ["bash", "-c", f"exec {up} --port {port}"], cwd=TOP, env=bare(**offline), stdout=subprocess.PIPE, text=True
    )
    try:
        token_file = home / "metrics-token"

        texts = list[str]()

        def scraped() -> bool:
            try:
                answer = httpx.get(page, headers={"authorization": f"Bearer {token_file.read_text().strip()}"},
                                   timeout=100, trust_env=False)  # fmt: skip
            except (OSError, httpx.TransportError):
                return False
            texts.append(answer.text)
            return answer.status_code == httpx.codes.OK

        assert eventually(scraped, SECONDS), texts
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert stat.S_ISSOCK((home / "console.sock").stat().st_mode)
        families = text_string_to_metric_families(texts[-1])  # type: ignore[no-untyped-call]
        assert "keyrotation_primary_version" in {each.name for each in families}
        assert httpx.get(page, trust_env=False).status_code == 403
    finally:
        serving.send_signal(signal.SIGINT)
        shown, _ = serving.communicate(timeout=SECONDS)
    assert f"Metrics: {page}  (with the bearer token in {token_file})" in shown
    assert not {"metrics-token", "console.sock", "address"} & {each.name for each in home.iterdir()}
    assert "v2 to v3" in printed
    assert "Every value of these columns is under v3" in typed(again, TOP, **offline)


def test_the_page_types_what_monitoring_reads(night: Night) -> None:
    night.shell("keyrotation backup")
    assert "KEYROTATION OK - " in night.shell(block("monitoring"))
    assert (night.path / "keyrotation.prom").read_text().endswith("# EOF\n")
