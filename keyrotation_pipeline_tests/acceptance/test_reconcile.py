"""The application's database is restored to an earlier state with pg_restore, while the key store is not."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import approve, open_home
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.servers import EMBEDDED_18

CLIENTS = 150
pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[Folder, Settings, Sequence[DemoOfficer]]]:
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.NONE)
    with EmbeddedServer(settings.home / "postgres"):
        yield Folder(tmp_path, []), settings, officers


def test_a_restored_database_is_noticed_reconciled_and_rotated_again(
    home: tuple[Folder, Settings, Sequence[DemoOfficer]],
) -> None:
    folder, settings, officers = home
    dump = folder.path / "clinic.dump"
    with open_home(settings, CLIENTS, lambda _line: None):
        postgres(settings, "pg_dump", "--format=custom", f"--file={dump}")
    rotate(settings, officers)
    restore(settings, dump)

    attention = json.loads(folder.run("status", "--json"))["attention"]
    assert any("this database was restored" in sentence for sentence in attention)
    folder.run("request", "--reason", "too early", expect=1)
    assert "run `keyrotation reconcile`" in folder.printed[-1]

    opened = folder.run("reconcile").strip()
    assert "values are under v1, whose key applications do not get" in folder.printed[-1]
    folder.run("reconcile", expect=1)
    assert "needs 2 more approvals" in folder.printed[-1]
    with open_pipeline(settings, actor="test") as pipeline:
        approve(pipeline, pipeline.ledger.request(opened), officers, lambda _line: None)
    assert "v1 deactivated" in folder.run("reconcile")

    status = json.loads(folder.run("status", "--json", "--count"))
    assert (status["primary"], status["attention"]) == ("v2", [])
    assert {key["version"]: key["state"] for key in status["key_versions"]} == {"v1": "deactivated", "v2": "active"}
    folder.run("verify")
    rotate(settings, officers)
    status = json.loads(folder.run("status", "--json", "--count"))
    assert [table["values_by_version"]["v1"] for table in status["tables"]] == [0, 0]
    assert status["primary"] == "v3"
    folder.run("verify")
    folder.run("audit", "verify")


def rotate(settings: Settings, officers: Sequence[DemoOfficer]) -> Walk:
    with open_home(settings, 0, lambda _line: None) as pipeline:
        rotation = open_request(pipeline, reason="yearly", requested_by="test")
        approve(pipeline, rotation, officers, lambda _line: None)
        for _ in runner.run(pipeline, rotation.id, lambda _progress: None):
            pass
        return rotation


def restore(settings: Settings, dump: Path) -> None:
    with (
        EmbeddedServer(settings.home / "postgres") as server,
        psycopg.connect(server.url("postgres"), autocommit=True) as connection,
    ):
        connection.execute("DROP DATABASE clinic WITH (FORCE)")
        connection.execute("CREATE DATABASE clinic")
    postgres(settings, "pg_restore", "--no-owner", "--exit-on-error", str(dump))


def postgres(settings: Settings, tool: str, *arguments: str) -> None:
    with EmbeddedServer(settings.home / "postgres") as server:
        subprocess.run([EMBEDDED_18 / tool, f"--dbname={server.url()}", *arguments], check=True, capture_output=True)


def test_a_backup_is_restored_next_to_the_database_and_switched_to(
    home: tuple[Folder, Settings, Sequence[DemoOfficer]],
) -> None:
    folder, settings, officers = home
    with open_home(settings, CLIENTS, lambda _line: None):
        folder.run("backup")
    rotate(settings, officers)
    secret = folder.path / "recovery.asc"
    secret.write_bytes(officers[0].gpg("--armor", "--export-secret-keys"))

    done = json.loads(folder.run("restore-database", "--key", str(secret), "--json"))
    assert done["rows"] == {"clients": CLIENTS, "appointments": 2 * CLIENTS}
    assert done["values_decrypted"]["clients"] > CLIENTS
    assert json.loads(folder.run("status", "--json"))["attention"] == []

    with EmbeddedServer(settings.home / "postgres") as server:
        url = server.url(done["database"])
        settings.path.write_text(f'database.url = "{url}"\n{settings.path.read_text()}')
        assert "this database was restored" in json.loads(folder.run("status", "--json"))["attention"][0]
        assert documented("reconcile", folder.run("reconcile", "--json"))["states"] == {
            "v1": "deactivated",
            "v2": "active",
        }
