"""What children get of the environment, and what an object tells of itself."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.engine.worker import Job
from keyrotation_pipeline.adapters.postgres.preflight.postgres_environment import PostgresEnvironment
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.dump import PostgresDump
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.settings.loading import bare_environment, child_environment

CONFIGURATION = """
[database]
url = { env = "URL_OF_THE_CLINIC" }
standbys = [{ env = "URL_OF_A_STANDBY" }]
[recovery]
passphrase = { env = "PASSPHRASE" }
[[alerts.channels]]
password = { env = "OF_THE_MAIL" }
"""
NAMED = {"URL_OF_THE_CLINIC", "URL_OF_A_STANDBY", "PASSPHRASE", "OF_THE_MAIL"}
KEYS = {"ENCRYPTION_MASTER_KEY", "ENCRYPTION_PRIMARY_VERSION", "ENCRYPTION_PEPPER"}
AWS = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
VAULT = {"VAULT_TOKEN", "BAO_TOKEN"}
OTHERS = {"LANG_OF_THE_CLINIC", "DAGSTER_PG_URL"}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMED, *KEYS, *AWS, *VAULT, *OTHERS, "KEYROTATION_DATABASE_URL"):
        monkeypatch.setenv(name, "x")


def test_no_child_gets_a_key() -> None:
    assert not KEYS & set(child_environment())
    assert set(child_environment()) - set(child_environment("HOME")) == {"HOME"}
    assert {*NAMED, *AWS, *OTHERS, "KEYROTATION_DATABASE_URL"} <= set(child_environment())


@pytest.mark.parametrize(
    ("aws", "vault", "kept"), [(False, False, OTHERS), (True, False, OTHERS | AWS), (False, True, OTHERS | VAULT)]
)
def test_a_child_that_looks_no_secret_up_gets_none_that_the_configuration_names(
    tmp_path: Path, aws: bool, vault: bool, kept: set[str]
) -> None:
    path = tmp_path / "keyrotation.toml"
    path.write_text(CONFIGURATION)
    found = set(bare_environment(path, aws=aws, vault=vault))
    assert found & {*NAMED, *KEYS, *AWS, *VAULT, *OTHERS, "KEYROTATION_DATABASE_URL"} == kept


def test_what_a_child_is_given_by_name_it_gets() -> None:
    assert bare_environment(None, {"DAGSTER_PG_URL": "mine"})["DAGSTER_PG_URL"] == "mine"


def test_no_object_shows_the_password_of_its_database() -> None:
    url = "postgresql://keyrotation:geheim@db/clinic"
    opens, nothing = partial(connect, url), cast("Any", None)
    workers = WorkerSettings(nothing, {"KEYROTATION_DATABASE_URL": url})
    for each in (
        PostgresRewriting(nothing, opens, nothing, workers),
        PostgresEnvironment(url, nothing),
        PostgresDump(url, opens, None),
        Job(opens, nothing, "KR-1", (), {}, KeyVersion(2), nothing),
    ):
        assert "geheim" not in repr(each)
