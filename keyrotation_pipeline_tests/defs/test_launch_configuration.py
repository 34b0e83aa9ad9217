"""Nothing that decides anything can be given at launch: every job, and every way that the UI's port offers."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.run_coordinator import SubmitRunContext

from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.instance import UnconfiguredRunCoordinator
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.errors import LaunchError
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.web_server import Server

JOBS = ("introduce_key", "reencrypt_rows", "retire_key", "evidence", "backup", "recovery_drill", "__ASSET_JOB")
LOCATION = {"repositoryName": "__repository__", "repositoryLocationName": "keyrotation_pipeline"}
SENTENCE = "nothing of a rotation can be decided at launch"
LAUNCH = """mutation ($selector: JobOrPipelineSelector!, $config: RunConfigData, $tags: [ExecutionTag!]) {
    launchRun(executionParams: {selector: $selector, runConfigData: $config, executionMetadata: {tags: $tags}}) {
        __typename ... on PythonError { message } ... on LaunchRunSuccess { run { runId } } } }"""
LAUNCH_MANY = """mutation ($params: [ExecutionParams!]!) { launchMultipleRuns(executionParamsList: $params) {
    __typename ... on LaunchMultipleRunsResult { launchMultipleRunsResult { __typename } } } }"""
AGAIN = """mutation ($params: ExecutionParams!) { launchRunReexecution(executionParams: $params) { __typename
    ... on PythonError { message } } }"""
BACKFILL = (
    """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) { __typename } }"""
)
END = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
RUNS = "{ runsOrError { ... on Runs { results { runId jobName status runConfigYaml tags { key value } } } } }"


def configurations(attacker: Path) -> dict[str, dict[str, Any]]:
    """What Dagster lets a launch configure, by what it is."""
    return {
        "another keyrotation.toml": {"resources": {"keyrotation": {"config": {"config_file": str(attacker)}}}},
        "a resource's field": {"resources": {"keyrotation": {"config": {}}}},
        "the I/O manager": {"resources": {"io_manager": {"config": {"base_dir": str(attacker.parent)}}}},
        "the executor": {"execution": {"config": {"retries": {"enabled": {}}}}},
        "a logger": {"loggers": {"console": {"config": {"log_level": "DEBUG"}}}},
        "an asset": {"ops": {"encrypted_columns": {"config": {"table": "other"}}}},
    }


@pytest.mark.parametrize("job", JOBS)
def test_a_run_with_any_configuration_fails_before_it_opens_anything(
    dagster: Dagster, tmp_path: Path, job: str
) -> None:
    definitions = build_definitions(dagster.world.pipeline.tables, 2, Unopened())
    resolved = definitions.resolve_job_def(job)
    partition = "v2" if job in {"introduce_key", "retire_key"} else None
    dagster.instance.add_dynamic_partitions("key_version", ["v2"])
    for name, configuration in configurations(tmp_path / "attacker.toml").items():
        try:
            result = resolved.execute_in_process(
                run_config=configuration, instance=dagster.instance, raise_on_error=False, partition_key=partition
            )
        except (dg.DagsterInvalidConfigError, dg.DagsterInvariantViolationError):
            continue  # not even a run
        reported = " ".join(map(repr, dagster.instance.all_logs(result.run_id)))
        assert not result.success, name
        assert SENTENCE in reported, name


@pytest.mark.parametrize(
    ("brings", "named"),
    [
        ({"run_config": {"loggers": {"console": {"config": {"log_level": "DEBUG"}}}}}, "a configuration"),
        ({"tags": {"dagster-k8s/config": "{}"}}, "the tag dagster-k8s/config"),
    ],
)
def test_the_queue_itself_takes_no_run_that_brings_what_decides(brings: dict[str, Any], named: str) -> None:
    """Whatever lets it through before: no instance is needed to refuse."""
    run = dg.DagsterRun(job_name="evidence", **brings)
    with pytest.raises(LaunchError, match=f"brings {named}, and {SENTENCE}"):
        UnconfiguredRunCoordinator().submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]


class Unopened(PipelineResource):
    """Fails the test when something opens it."""

    def open(self, actor: str) -> Any:  # noqa: ANN401
        pytest.fail(f"opened by {actor}")

    def open_backups(self, actor: str) -> Any:  # noqa: ANN401
        pytest.fail(f"opened by {actor}")


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, socket.socket]]:
    """Somebody else's configuration, whose database notices whoever connects."""
    path = tmp_path_factory.mktemp("attacker") / "keyrotation.toml"
    with socket.socket() as database:
        database.bind(("127.0.0.1", 0))
        database.listen()
        database.setblocking(False)
        path.write_text(f'[database]\nurl = "postgresql://x@127.0.0.1:{database.getsockname()[1]}/x"\n')
        yield path, database


def ask(server: Server, query: str, **variables: Any) -> dict[str, Any]:  # noqa: ANN401
    answer = server.with_token(query, variables)
    assert "errors" not in answer, answer
    [found] = answer["data"].values()
    return dict(found)


def runs(server: Server) -> list[dict[str, Any]]:
    return list(ask(server, RUNS)["results"])


def assert_nothing_runs(server: Server, attacker: tuple[Path, socket.socket]) -> None:
    """Every run so far has failed at once, or was ended by its test, and nobody went to the attacker's database."""
    assert {run["status"] for run in runs(server)} <= {"FAILURE", "CANCELED"}
    with pytest.raises(BlockingIOError):
        attacker[1].accept()


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_no_launch_with_a_configuration_is_taken_over_graphql(
    served: Server, attacker: tuple[Path, socket.socket], job: str
) -> None:
    selector = {
        **LOCATION,
        "pipelineName": job,
        **({"assetSelection": [{"path": ["encrypted_columns"]}]} if job == "__ASSET_JOB" else {}),
    }
    # Dagster takes an object or its JSON: each job gets one of the two, each configuration both.
    for number, (name, configuration) in enumerate(configurations(attacker[0]).items(), JOBS.index(job)):
        config = configuration if number % 2 else json.dumps(configuration)
        reported = ask(served, LAUNCH, selector=selector, config=config, tags=[])
        assert reported["__typename"] == "RunConfigValidationInvalid" or SENTENCE in reported["message"], (
            name,
            reported,
        )
    assert_nothing_runs(served, attacker)


@pytest.mark.slow
def test_no_launch_with_a_tag_that_decides_is_taken(served: Server, attacker: tuple[Path, socket.socket]) -> None:
    pod = {"pod_spec_config": {"service_account_name": "cluster-admin"}, "container_config": {"image": "evil"}}
    tags = [{"key": "dagster-k8s/config", "value": json.dumps(pod)}]
    reported = ask(served, LAUNCH, selector={**LOCATION, "pipelineName": "evidence"}, config={}, tags=tags)

    assert reported["__typename"] == "PythonError"
    assert SENTENCE in reported["message"]
    assert_nothing_runs(served, attacker)


@pytest.mark.slow
def test_no_other_way_to_launch_takes_a_configuration(served: Server, attacker: tuple[Path, socket.socket]) -> None:
    logger = configurations(attacker[0])["a logger"]
    params = {"selector": {**LOCATION, "pipelineName": "evidence"}, "runConfigData": logger}
    ask(served, LAUNCH_MANY, params=[params, params])
    parent = runs(served)[0]
    metadata = {"rootRunId": parent["runId"], "parentRunId": parent["runId"], "tags": []}
    again = ask(served, AGAIN, params={**params, "executionMetadata": metadata})
    assert SENTENCE in again["message"]
    assert_nothing_runs(served, attacker)


@pytest.mark.slow
def test_a_launch_without_a_configuration_is_taken(served: Server) -> None:
    reported = ask(served, LAUNCH, selector={**LOCATION, "pipelineName": "evidence"}, config={}, tags=[])

    assert reported["__typename"] == "LaunchRunSuccess"
    assert {run["runId"]: run["status"] for run in runs(served)}[reported["run"]["runId"]] == "QUEUED"
    ask(served, END, id=reported["run"]["runId"])


@pytest.mark.slow
def test_a_run_from_the_uis_port_is_marked_whatever_tags_it_brings(served: Server) -> None:
    forged = {
        "dagster/sensor_name": "rotation_conductor", "keyrotation/rotation": "f" * 32, "keyrotation/by_hand": "",
        "dagster/priority": "99999",
    }  # fmt: skip
    tags = [{"key": key, "value": value} for key, value in forged.items()]
    reported = ask(served, LAUNCH, selector={**LOCATION, "pipelineName": "evidence"}, config={}, tags=tags)
    [run] = [run for run in runs(served) if run["runId"] == reported["run"]["runId"]]

    assert {"key": "keyrotation/by_hand", "value": "true"} in run["tags"]
    assert {"key": "dagster/priority", "value": "0"} in run["tags"]  # that of an emergency is 10
    ask(served, END, id=run["runId"])
