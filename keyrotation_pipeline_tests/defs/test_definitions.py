"""What Dagster shows: loadable with and without a configuration, and reading as the procedure."""

import os
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load_target import WorkspaceFileTarget

from keyrotation_pipeline.adapters.dagster_services import INSTANCE_FILES, LOCATION, SOCKET_VARIABLE
from keyrotation_pipeline.definitions import declared_definitions
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.defs.conftest import Dagster, failure_of

BACKUPS = ("key_backup", "database_backup", "recovery_test", "rotation_rehearsal")
INCIDENTS = ("incident_report", "breach_decision", "access_audit")
TOP = Path(__file__).parents[2]
CONFIGURATION = '[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n[reencryption]\nshards = 3\n'


def definitions_of(*names: str) -> dg.Definitions:
    tables = [EncryptedTable(TableName.parse(name), ("secret",)) for name in names]
    return build_definitions(tables, 2, PipelineResource())


def keys_of(definitions: dg.Definitions) -> list[str]:
    return [key.to_user_string() for key in definitions.resolve_asset_graph().toposorted_asset_keys]


def test_the_graph_is_the_walk_in_its_order(dagster: Dagster) -> None:
    order = keys_of(dagster.definitions)
    positions = [max(order.index(key) for key in order if key.split("/")[0] == step) for step in WALK]

    assert positions == sorted(positions)
    others = {"status", "encrypted_columns", "rotation_readiness", *BACKUPS, *INCIDENTS}
    assert {key.split("/")[0] for key in order} == {*map(str, WALK), *others}


@pytest.mark.parametrize("names", [(), ("clients", "appointments")], ids=["no table", "two tables"])
def test_every_step_depends_on_the_one_before_it(names: tuple[str, ...]) -> None:
    graph = definitions_of(*names).resolve_asset_graph()
    before = {
        key.to_user_string(): {each.path[0] for each in graph.get(key).parent_keys}
        for key in graph.toposorted_asset_keys
    }
    present = [step for step in WALK if step is not Step.ROWS or names]

    for earlier, later in pairwise(present):
        assert all(earlier in parents for key, parents in before.items() if key.split("/")[0] == later)


def test_every_asset_says_what_it_is_who_answers_for_it_and_where_it_stands(dagster: Dagster) -> None:
    graph = dagster.definitions.resolve_asset_graph()
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        assert node.description
        assert node.owners
        assert node.kinds
        assert node.group_name in {"status", "inventory", "new_key", "rows", "old_key", "evidence", "backups"}


def test_the_checks_state_the_truth_wanted(dagster: Dagster) -> None:
    checks = {key.to_user_string() for key in dagster.definitions.resolve_asset_graph().asset_check_keys}

    assert checks == {
        "rows/clients:zero_old_rows",
        "rows/billing.Invoices:zero_old_rows",
        "retired_key:every_value_decrypts",
        "encrypted_columns:no_undeclared_ciphertext",
        "encrypted_columns:sensors_and_schedules_run",
        "encrypted_columns:retired_versions_are_refused",
        "key_version:key_reads_back",
        "key_version:key_usage_below_gcm_limit",
        "primary_key_rollout:rotation_not_overdue",
        "key_backup:backup_decrypts",
    }


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("billing.Invoices", "billing_Invoices"), id="schema and underscore"),
        pytest.param(("patient notes", "patient-notes", "patient_notes"), id="space, hyphen, underscore"),
        pytest.param(("Größe", "Gräße", "a/b|c,d..."), id="letters and signs that Dagster refuses"),
        pytest.param(("clients", "Clients", "CLIENTS"), id="case"),
    ],
)
def test_any_table_name_gives_an_asset_of_its_own(names: tuple[str, ...]) -> None:
    dg.Definitions.validate_loadable(definitions_of(*names))
    tables = [TableName.parse(name) for name in names]

    assert len({OWN.rows(table) for table in tables}) == len(names)
    assert len({OWN.rows_op(table) for table in tables}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", OWN.rows_op(table)) for table in tables)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", OWN.rows(table).path[1]) for table in tables)


@pytest.mark.slow
@pytest.mark.parametrize("configured", [False, True], ids=["without keyrotation.toml", "with keyrotation.toml"])
def test_dg_check_defs_passes(tmp_path: Path, configured: bool) -> None:
    project = tmp_path / "clone"
    project.mkdir()
    for name in ("pyproject.toml", "keyrotation_pipeline", "dagster.yaml", "workspace.yaml"):
        (project / name).symlink_to(TOP / name)
    if configured:
        (project / "keyrotation.toml").write_text(CONFIGURATION)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KEYROTATION", "DAGSTER"))}
    command = [str(Path(sys.executable).parent / "dg"), "check", "defs", "--no-check-yaml"]
    done = subprocess.run(command, check=False, cwd=project, env=kept, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_configuration_decides_tables_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keyrotation.toml").write_text(CONFIGURATION)
    monkeypatch.setenv("KEYROTATION_CONFIG", str(tmp_path / "keyrotation.toml"))
    partitions = declared_definitions().resolve_asset_graph().get(dg.AssetKey(["rows", "clients"])).partitions_def

    assert isinstance(partitions, dg.MultiPartitionsDefinition)
    assert partitions.get_partitions_def_for_dimension("shard").get_partition_keys() == ["00", "01", "02"]


def test_without_a_configuration_materializing_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEYROTATION_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    definitions = build_definitions((), 1, PipelineResource())
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("encrypted_columns")], raise_on_error=False
        )

    assert not result.success
    assert "keyrotation init" in failure_of(result)


def test_workspace_and_dg_name_the_same_location() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    workspace = (TOP / "workspace.yaml").read_text()

    assert re.findall("module_name: (.+)", workspace) == [project["code_location_target_module"]]
    assert re.findall("location_name: (.+)", workspace) == [project["code_location_name"]]


def test_up_uses_the_very_instance_of_the_top_level() -> None:
    assert (INSTANCE_FILES / "dagster.yaml").read_text() == (TOP / "dagster.yaml").read_text()


def test_web_server_and_daemon_of_up_share_one_code_server_of_the_same_location(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The daemon restarts a code server that it manages itself every minute, and leaves one that is given to it."""
    monkeypatch.setenv(SOCKET_VARIABLE, "/run/code.sock")
    [origin] = WorkspaceFileTarget([str(INSTANCE_FILES / "workspace.yaml")]).create_origins()
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["dg"]["project"]

    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    assert (origin.socket, origin.location_name) == ("/run/code.sock", project["code_location_name"])
    assert (
        "--module-name", project["code_location_target_module"], "--location-name", project["code_location_name"]
    ) == LOCATION  # fmt: skip
