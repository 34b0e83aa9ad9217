"""A foreign database, rotated by what the README says and nothing else, while its application reads and writes."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from keyrotation_pipeline.demo.officers import DemoOfficer, short_path
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance.command import environment
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import TOP, block

ROWS = 200
README = (TOP / "README.md").read_text()


def commands() -> list[str]:
    """What the README has people type for a database of their own, without its remarks."""
    lines = f"{block('own')}{block('confirm')}".splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def command(beginning: str) -> str:
    """The first that begins so."""
    return next(line for line in commands() if line.startswith(beginning))


@dataclass
class Application:
    """One instance at work: each request reads one client and writes it back. The code is the README's."""

    url: str
    keys: Path
    change: Callable[[str], str]
    names: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        class Base(DeclarativeBase):
            id: Mapped[int] = mapped_column(primary_key=True)

        engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)
        code = README.partition("## What applications import")[2].partition("```python\n")[2].partition("```")[0]
        self.names.update(engine=engine, Base=Base)
        exec(self.change(code.replace("/run/keys", str(self.keys))), self.names)  # noqa: S102

    def work(self, stop: threading.Event) -> None:
        """Until `stop`; a failure is noted by its kind, and the next request follows."""
        while not stop.wait(0.01):
            self.requests += 1
            try:
                self._request(self.requests % ROWS)
            except Exception as error:  # noqa: BLE001
                self.failures.append(type(error).__name__)

    def _request(self, key: int) -> None:
        client = self.names["Client"]
        with Session(self.names["engine"]) as session, session.begin():
            name = session.scalars(select(client.first_name).where(client.id == key)).one()
            session.execute(update(client).where(client.id == key).values(first_name=name))


@dataclass
class Site:
    """A folder in which somebody types what the README says."""

    path: Path
    url: str
    key: KeyMaterial
    officers: tuple[DemoOfficer, ...]
    reported: list[str] = field(default_factory=list)
    typed: list[str] = field(default_factory=list)

    @property
    def keys(self) -> Path:
        return self.path / ".keyrotation" / "keys"

    def type(self, line: str, *, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one line of the README in a shell."""
        self.typed.append(line)
        known = {"KEYROTATION_DATABASE_URL": self.url, "ENCRYPTION_MASTER_KEY": base64_of(self.key), **variables}
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-c", f'uv() {{ shift; "$@"; }}; set -o pipefail; {line}'],
            cwd=self.path,
            env=environment(PATH=path, **known),
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == expect, f"{line}: exit {done.returncode}\n{done.stdout[-999:]}{done.stderr[-2000:]}"
        return done

    def sign(self, beginning: str, officer: DemoOfficer, request: str) -> str:
        """A line in which an officer signs with gpg."""
        with short_path(officer.home) as home:
            return self.type(command(beginning), ID=request, GNUPGHOME=str(home)).stdout

    def approved_request(self, **rollout: str | int) -> str:
        """Everything up to the second approval; `[rollout]` as given, the rest as `init` wrote it."""
        self.type(command("uv run keyrotation init"))
        written = self.path / "keyrotation.toml"
        text = written.read_text()
        for name, value in rollout.items():
            text = re.sub(rf"(?m)^{name} = \S+", f"{name} = {json.dumps(value)}", text)
        written.write_text(text + roster_in_toml(self.officers))
        self.type(command("uv run keyrotation init"))
        self.type(command("uv run keyrotation inventory"))
        if rollout.get("mode") == "confirm":
            self.type(command("uv run keyrotation preflight"))
        else:
            reported = self.type(command("uv run keyrotation preflight"), expect=1).stdout
            assert "red    applications name their primary: no application instance reports itself" in reported
        opened = self.type(f"{command('ID=')}; echo $ID")
        self.reported.append(opened.stderr)
        request = opened.stdout.strip()
        guide = self.type(command("uv run keyrotation approve"), ID=request).stdout
        for officer in self.officers[:2]:
            assert officer.name in next(each for each in guide.splitlines() if each.startswith("to sign "))
            self.sign("uv run keyrotation approve $ID --text", officer, request)
        return request

    def rotate(self, request: str, *, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self.type(command("uv run keyrotation rotate"), expect=expect, ID=request)

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.type("uv run keyrotation status --json --count").stdout)
        return content

    @contextmanager
    def application(self, change: Callable[[str], str], **names: object) -> Iterator[Application]:
        """An application at work, which has ended when the context is left."""
        application, stop = Application(self.url, self.keys, change, names), threading.Event()
        thread = threading.Thread(target=application.work, args=(stop,))
        thread.start()
        try:
            yield application
        finally:
            stop.set()
            thread.join()
            if attestation := application.names.get("attestation"):
                attestation.stop()
            application.names["engine"].dispose()


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    key, v1 = KeyMaterial.generate(), KeyVersion(1)
    ring = KeyRing({v1: key}, v1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text)")
        with connection.cursor() as cursor, cursor.copy("COPY clients FROM STDIN") as copy:
            for row in range(ROWS):
                copy.write_row((row, encrypt(ring, f"name {row}")))
    names = ("Security Officer", "Privacy Officer", "Sealed Officer")
    officers = tuple(DemoOfficer.create(tmp_path / "officers", name) for name in names)
    return Site(tmp_path, database_url, key, officers)


def assert_rotated(site: Site) -> None:
    status = site.status()
    assert (status["primary"], status["rotation"], status["attention"]) == ("v2", None, [])
    assert status["tables"][0]["values_by_version"] == {"v1": 0, "v2": ROWS}
    assert {each["version"]: each["state"] for each in status["key_versions"]}["v1"] == "archived"
    site.type(command("uv run keyrotation verify"))


def reports_often(code: str) -> str:
    assert "\nattest(engine, key_ring)" in code
    return code.replace("\nattest(engine, key_ring)", "\nattestation = attest(engine, key_ring, every_seconds=0.2)")


def does_not_report(code: str) -> str:
    return re.sub(r"(?m)^attest\(.*$", "", code)


def keeps_its_old_ring(code: str) -> str:
    """As deployed a year ago: one key, given once."""
    return re.sub(r"(?m)^key_ring = .*$", "key_ring = OLD", does_not_report(code))


def test_by_the_readme_with_an_application_that_reports(site: Site) -> None:
    request = site.approved_request()
    signed = site.type("uv run keyrotation approve $ID --text", ID=request).stdout
    written = (site.path / "keyrotation.toml").read_text()
    with site.application(reports_often) as application:
        site.type(command("uv run keyrotation preflight"))
        planned = site.type(f"{command('uv run keyrotation rotate')} --dry-run", ID=request).stdout
        for reported in (*site.reported, planned, signed, written):
            assert "attest(engine, key_ring)" in reported, "what the application must do, by its line of code"
        reported = site.rotate(request).stdout
        [instance] = json.loads(site.type(f"{command('uv run keyrotation rollout')} --json").stdout)["instances"]
        assert_rotated(site)
    watch = f"timeout --preserve-status --signal INT 5 {command('uv run keyrotation status').removeprefix('uv run ')}"
    assert "No value under v1" in site.type(f"{watch} || test $? = 130 # {command('uv run keyrotation status')}").stdout
    left = [line for line in commands() if not any(line in typed for typed in site.typed)]
    assert [line.split()[:4] for line in left if not line.startswith("export ")] == [
        ["uv", "run", "keyrotation", "confirm"]  # which the next test types
    ]
    assert "finished: nothing is left under v1" in reported
    assert (instance["reads"], instance["writes"], instance["silent"]) == (["v2"], "v2", False)
    assert application.requests > 50
    assert application.failures == []


def test_by_the_readme_with_every_rollout_confirmed_by_an_officer(site: Site) -> None:
    request = site.approved_request(mode="confirm")
    with site.application(does_not_report) as application:
        for rollout in ("reads v2", "writes v2", "is without v1"):
            assert f"no officer has confirmed yet that every application instance {rollout}" in (
                site.rotate(request, expect=1).stderr
            )
            application.names["key_ring"].reload()  # the deployment, which here takes no time
            assert f"every application instance {rollout}" in (
                site.sign("uv run keyrotation confirm", site.officers[1], request)
            )
        site.rotate(request)
        assert_rotated(site)
    assert application.requests > 50
    assert application.failures == []


def test_a_live_application_that_does_not_report_is_waited_for_and_not_one_request_fails(site: Site) -> None:
    request = site.approved_request(timeout_seconds=2)
    with site.application(keeps_its_old_ring, OLD=KeyRing({KeyVersion(1): site.key}, KeyVersion(1))) as application:
        refusal = site.type(f"{command('uv run keyrotation rotate')}; true", ID=request).stderr
        seen = application.requests
        threading.Event().wait(1)
    assert application.failures == []
    assert application.requests > seen > 20
    assert "no application instance reports itself" in refusal
    assert "`keyrotation docs applications`" in refusal
    assert f"`keyrotation confirm {request[:8]}`" in refusal
    status = site.status()
    assert (status["primary"], status["rotation"]["phase"]) == ("v1", "requested")
    assert [key["version"] for key in status["key_versions"]] == ["v1"]
    assert "no application instance reports itself" in status["rotation"]["waiting_for"]
