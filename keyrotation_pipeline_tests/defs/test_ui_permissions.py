"""What people may do in the UI, asked of Dagster's real web server: every mutation of the installed release."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from dagster_graphql.schema import create_schema
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from keyrotation_pipeline_tests.web_server import BEARER, Server

pytestmark = pytest.mark.slow

REPOSITORY = 'repositoryName: "__repository__", repositoryLocationName: "keyrotation_pipeline"'
SENSOR = f'{{sensorName: "run_failure_alert", {REPOSITORY}}}'
CONDUCTOR = f'{{sensorName: "rotation_conductor", {REPOSITORY}}}'
SCHEDULE = f'{{scheduleName: "rolling_decrypt", {REPOSITORY}}}'
ASSET = '{path: ["key_version"]}'
FAR = json.dumps(json.dumps({"__class__": "RunStatusSensorCursor", "record_id": 10**15, "update_timestamp": None}))
PEOPLE = {
    "launchPipelineExecution", "launchRun", "launchMultipleRuns", "launchPipelineReexecution", "launchRunReexecution",
    "launchPartitionBackfill", "resumePartitionBackfill", "reexecutePartitionBackfill", "cancelPartitionBackfill",
    "terminatePipelineExecution", "terminateRun", "terminateRuns",
    "startSchedule", "stopRunningSchedule", "resetSchedule", "startSensor", "stopSensor", "resetSensor",
    "reloadRepositoryLocation", "reloadWorkspace",
    "shutdownRepositoryLocation",  # which is refused where it would be possible: `test_up.py`
    "logTelemetry", "setNuxSeen",  # which say nothing to anybody: telemetry and nux are off
}  # fmt: skip
REFUSED = {
    "sensorDryRun": f"(selectorData: {CONDUCTOR}, cursor: {FAR})",
    "scheduleDryRun": f"(selectorData: {SCHEDULE}, timestamp: 1767225600)",
    "setSensorCursor": f"(sensorSelector: {SENSOR}, cursor: {FAR})",
    "deletePipelineRun": '(runId: "x")',
    "deleteRun": '(runId: "x")',
    "wipeAssets": f"(assetPartitionRanges: [{{assetKey: {ASSET}}}])",
    "reportRunlessAssetEvents": f"(eventParams: {{eventType: ASSET_MATERIALIZATION, assetKey: {ASSET}}})",
    "reportAssetCheckEvaluations": f'(eventParams: {{assetKey: {ASSET}, checkName: "key_reads_back", passed: true}})',
    "addDynamicPartition": f'(partitionsDefName: "key_version", partitionKey: "v9", '
    f"repositorySelector: {{{REPOSITORY}}})",
    "deleteDynamicPartitions": f'(partitionsDefName: "key_version", partitionKeys: ["v1"], wipeMaterializations: true, '
    f"repositorySelector: {{{REPOSITORY}}})",
    "setAppManagedComponent": '(componentId: "x", componentType: "x", attributes: "{}", '
    'locationName: "keyrotation_pipeline")',
    "deleteAppManagedComponent": '(componentId: "x", locationName: "keyrotation_pipeline")',
    "refreshComponentState": '(defsStateKey: "x", locationName: "keyrotation_pipeline")',
    "setAutoMaterializePaused": "(paused: true)",
    "setConcurrencyLimit": '(concurrencyKey: "reencrypt", limit: 0)',
    "deleteConcurrencyLimit": '(concurrencyKey: "reencrypt")',
    "freeConcurrencySlotsForRun": '(runId: "x")',
    "freeConcurrencySlots": '(runId: "x")',
}
# What only a sensor or schedule that was evaluated can say: it found no configuration.
EVALUATED = re.compile(r"keyrotation\.toml|ExecutionError")
RESULT = "evaluationResult { skipReason cursor error { message } }"
TICK = f"... on DryRunInstigationTick {{ {RESULT} }}"
DRY = f"sensorDryRun(selectorData: {CONDUCTOR}, cursor: {FAR}) {{ {TICK} }}"
EVALUATIONS = {
    "a sensor": f"mutation {{ {DRY} }}",
    "a sensor, by an alias": f"mutation {{ a: {DRY.replace('evaluationResult', 'b: evaluationResult')} }}",
    "a sensor, by a fragment": "mutation { ...all } fragment all on Mutation { sensorDryRun(selectorData: "
    f"{CONDUCTOR}, cursor: {FAR}) {{ ...tick }} }} fragment tick on DryRunInstigationTick {{ {RESULT} }}",
    "a sensor, next to others": f"mutation {{ first: {DRY} second: {DRY} }}",
    "a schedule": f"mutation {{ scheduleDryRun(selectorData: {SCHEDULE}, timestamp: 1767225600) {{ {TICK} }} }}",
    "the next ticks of a schedule": f"{{ scheduleOrError(scheduleSelector: {SCHEDULE}) {{ ... on Schedule {{ "
    f"futureTicks(limit: 2) {{ results {{ {RESULT} }} }} }} }} }}",
    "one tick of a schedule": f"{{ scheduleOrError(scheduleSelector: {SCHEDULE}) {{ ... on Schedule {{ "
    f"futureTick(tickTimestamp: 1767225600) {{ {RESULT} }} }} }} }}",
}


def test_every_mutation_is_one_that_people_need_or_refused() -> None:
    """After an upgrade of Dagster: decide on which side a new one is, and see that it is there."""
    mutations = create_schema().graphql_schema.mutation_type
    assert mutations is not None
    assert mutations.fields.keys() - REFUSED.keys() <= PEOPLE
    assert not REFUSED.keys() & PEOPLE


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_needs_is_refused(served: Server, name: str) -> None:
    mutations = create_schema().graphql_schema.mutation_type
    assert mutations is not None
    if name not in mutations.fields:
        pytest.skip("this release of Dagster has no such mutation")
    leaf = str(mutations.fields[name].type) == "Boolean!"
    selection = "" if leaf else "{ __typename ... on PythonError { message } }"
    answer = served.with_token(f"mutation {{ {name}{REFUSED[name]} {selection} }}")

    assert "Unauthorized" in json.dumps(answer), answer


def test_the_code_server_is_not_shut_down(served: Server) -> None:
    query = 'mutation { shutdownRepositoryLocation(repositoryLocationName: "keyrotation_pipeline") { __typename } }'

    assert served.with_token(query)["data"]["shutdownRepositoryLocation"]["__typename"] == "PythonError"


@pytest.mark.parametrize("query", [pytest.param(query, id=name) for name, query in EVALUATIONS.items()])
def test_nothing_evaluates_a_sensor_or_schedule(served: Server, query: str) -> None:
    answer = served.with_token(query)

    assert not EVALUATED.search(json.dumps(answer)), answer


def test_no_other_way_to_send_it_evaluates_a_sensor(served: Server) -> None:
    query = EVALUATIONS["a sensor"]
    sent: list[dict[str, Any]] = [
        {"method": "GET", "params": {"query": query}},
        {"method": "GET", "params": {"query": EVALUATIONS["one tick of a schedule"]}},
        {"method": "POST", "json": [{"query": query}, {"query": query}]},
        {"method": "POST", "json": {"query": f"query a {{ version }} {query}", "operationName": "b"}},
        {"method": "POST", "json": {"query": query.replace("mutation", "mutation b", 1), "operationName": "b"}},
        {"method": "POST", "json": {"query": query.replace("sensorDryRun", "sensorDryRun @skip(if: false)")}},
    ]
    alone = BEARER | {"connection": "close"}  # Dagster ends that of a batch, with an error
    for each in sent:
        method = each.pop("method")
        assert not EVALUATED.search(served.ask(method, "/graphql", headers=alone, **each).text), each
    for asked in EVALUATIONS.values():
        with (
            connect(
                f"ws://127.0.0.1:{served.port}/graphql", additional_headers=BEARER, subprotocols=["graphql-ws"]  # type: ignore[list-item]
            ) as opened,
            suppress(ConnectionClosed),  # Dagster's answer to a query there
        ):  # fmt: skip
            opened.send(json.dumps({"type": "start", "id": "1", "payload": {"query": asked}}))
            assert json.loads(opened.recv(timeout=30))["type"] == "error"


def test_what_the_ui_shows_of_sensors_and_schedules_is_shown(served: Server) -> None:
    query = f"""{{ scheduleOrError(scheduleSelector: {SCHEDULE}) {{ ... on Schedule {{
        futureTicks(limit: 2) {{ results {{ timestamp }} }} }} }}
        sensorOrError(sensorSelector: {CONDUCTOR}) {{ ... on Sensor {{ sensorState {{ status }} }} }}
        permissions {{ permission value disabledReason }} }}"""
    shown = served.with_token(query)["data"]
    allowed = {each["permission"] for each in shown["permissions"] if each["value"]}

    assert len(shown["scheduleOrError"]["futureTicks"]["results"]) == 2
    assert shown["sensorOrError"]["sensorState"]["status"] == "RUNNING"
    assert {"launch_pipeline_execution", "terminate_pipeline_execution", "edit_sensor"} <= allowed
    assert not {"sensor_dry_run", "schedule_dry_run", "edit_dynamic_partitions"} & allowed
    assert {each["disabledReason"] for each in shown["permissions"] if not each["value"]} == {
        "Nobody does this by hand here"
    }
