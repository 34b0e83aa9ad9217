"""`kill -9` of the whole process group at random moments, `rotate` again each time: the end is right."""

import json
from pathlib import Path
from random import Random

import pytest

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.demo.clinic import ENCRYPTED_COLUMNS
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import approve, open_home
from keyrotation_pipeline.fieldcrypto.cipher import decrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import Folder

CLIENTS = 4000
KILLS = 10
Everything = dict[tuple[str, object], tuple[str | None, ...]]


@pytest.mark.slow
def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.NONE)
    # Slow enough that ten kills find it at work, at ever later points.
    text = settings.path.read_text().replace("shards = 4", "shards = 4\nmax_rows_per_second = 2000")
    settings.path.write_text(text)
    with open_home(settings, CLIENTS, lambda _line: None) as pipeline:
        before = everything(settings.home, pipeline.keys.read().ring())
        rotation = open_request(pipeline, reason="killed ten times", requested_by="test")
        approve(pipeline, rotation, officers, lambda _line: None)

    dice = Random(20261124)
    killed = sum(folder.kill_after(dice.uniform(0.6, 2.2), "rotate", rotation.id) for _ in range(KILLS))
    folder.run("rotate", rotation.id)

    status = json.loads(folder.run("status", "--json", "--count"))
    assert {key["version"]: key["state"] for key in status["key_versions"]} == {"v1": "archived", "v2": "active"}
    assert [table["values_by_version"]["v1"] for table in status["tables"]] == [0, 0]
    with open_home(settings, 0, lambda _line: None) as pipeline:
        assert tuple(pipeline.keys.read().live) == (rotation.target,)
        assert everything(settings.home, pipeline.keys.read().ring()) == before
    folder.run("verify")
    folder.run("audit", "verify")
    assert killed >= KILLS // 2, "the kills came too late to mean anything"


def everything(home: Path, ring: KeyRing) -> Everything:
    """Every row's plaintexts."""
    found: Everything = {}
    with EmbeddedServer(home / "postgres") as server, connect(server.url()) as connection:
        for table, columns in ENCRYPTED_COLUMNS.items():
            for key, *values in connection.execute(f"SELECT id, {', '.join(columns)} FROM public.{table}"):
                found[table, key] = tuple(None if value is None else decrypt(ring, str(value)) for value in values)
    return found
