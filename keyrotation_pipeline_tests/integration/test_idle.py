"""What a look of a sensor costs the application's database while there is nothing to do."""

import json
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from keyrotation_pipeline.assembly.pipeline import initialise
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.settings import load
from keyrotation_pipeline_tests.conducting import Conducted
from keyrotation_pipeline_tests.transactions import transactions

# The server's own of a new session, that which sets the session up, and that in which everything is read.
# The look for flags also asks whether the report of an incident has changed; the alerts' look reads the audit under one
# snapshot, and what people were sent.
SENSORS = {"rotation_conductor": 3, "ledger_mirror": 3, "incident_flag": 4, "alert_delivery": 6}
TABLES = 30


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Path:
    """A clinic under v1 with thirty tables."""
    names = [f"clients{number:02d}" for number in range(TABLES)]
    with psycopg.connect(database_url, autocommit=True) as owner:
        for name in names:
            owner.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, first_name text)")
    path = tmp_path / "keyrotation.toml"
    prepare(path)
    tables = "".join(f'[[tables]]\nname = "{name}"\ncolumns = ["first_name"]\n' for name in names)
    rest = path.read_text().partition("[reencryption]")[2]
    path.write_text(f"database.url = {json.dumps(database_url)}\n{tables}[reencryption]{rest}")
    first = KeyVersion(1)
    initialise(load(path), KeyRing({first: KeyMaterial.generate()}, first), actor="test")
    return path


def test_a_look_takes_a_few_transactions_however_many_tables_there_are(config: Path, database_url: str) -> None:
    declared, resource = load(config), PipelineResource(str(config))
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(declared.encrypted_tables, declared.reencryption.shards, resource)
        conducted = Conducted(definitions, instance, resource)
        spent = dict[str, int]()
        for sensor in SENSORS:
            conducted.tick(sensor)
            spent[sensor] = min(cost(conducted, sensor, database_url) for _ in range(2))  # autovacuum may come by
    assert spent == SENSORS


def cost(conducted: Conducted, sensor: str, url: str) -> int:
    before = transactions(url)
    assert isinstance(conducted.tick(sensor), dg.SkipReason)
    return transactions(url) - before
