"""Definitions as text, one line per thing, in a stable order: a rename is seen where the change is reviewed."""

from collections.abc import Iterable, Iterator

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph


def snapshot_of(definitions: dg.Definitions) -> str:
    """Assets, checks, jobs, schedules, sensors, and names that a whole instance shares."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    jobs = [each for each in repository.get_all_jobs() if not each.name.startswith("__")]
    lines = [
        *sorted(_asset(graph, key) for key in graph.toposorted_asset_keys),
        *sorted(f"check {key.to_user_string()}{_blocking(graph, key)}" for key in graph.asset_check_keys),
        *sorted(_job(job) for job in jobs),
        *sorted(_schedule(each) for each in repository.schedule_defs),
        *sorted(_sensor(each) for each in repository.sensor_defs),
        *sorted(f"pool {pool}" for pool in {each for job in jobs for each in _pools(job)}),
        *sorted(f"resource {name}" for name in repository.get_top_level_resources()),
    ]
    return "".join(f"{line}\n" for line in lines)


def _asset(graph: AssetGraph, key: dg.AssetKey) -> str:
    node = graph.get(key)
    facts = {
        "group": node.group_name,
        "kinds": _list(node.kinds),
        "owners": _list(node.owners or ()),
        "partitions": _partitions(node.partitions_def),
        "after": _list(each.to_user_string() for each in node.parent_keys),
    }
    return f"asset {key.to_user_string()} | " + " | ".join(f"{name}: {reported}" for name, reported in facts.items())


def _partitions(definition: dg.PartitionsDefinition | None) -> str:
    match definition:
        case None:
            return "none"
        case dg.MultiPartitionsDefinition():
            by_name = sorted((each.name, each.partitions_def) for each in definition.partitions_defs)
            return " × ".join(f"{name} ({_partitions(each)})" for name, each in by_name)
        case dg.DynamicPartitionsDefinition():
            return f"dynamic {definition.name}"
        case dg.StaticPartitionsDefinition():
            return f"static {_list(definition.get_partition_keys())}"
        case dg.TimeWindowPartitionsDefinition():
            return f"{definition.cron_schedule} {definition.timezone}"
        case _:
            return str(definition)


def _blocking(graph: AssetGraph, key: dg.AssetCheckKey) -> str:
    return " | blocking" if graph.get_check_spec(key).blocking else ""


def _job(job: dg.JobDefinition) -> str:
    layer = job.asset_layer
    checks = [each.to_user_string() for each in layer.asset_graph.asset_check_keys]
    keys = [*(each.to_user_string() for each in layer.selected_asset_keys), *checks]
    return f"job {job.name} | executor: {job.executor_def.name} | {_list(keys or _ops(job))}"


def _ops(job: dg.JobDefinition) -> Iterator[str]:
    return (f"op {node.name}" for node in job.all_node_defs)


def _pools(job: dg.JobDefinition) -> Iterator[str]:
    return (pool for node in job.all_node_defs for pool in getattr(node, "pools", ()))


def _schedule(each: dg.ScheduleDefinition) -> str:
    facts = f"{each.cron_schedule} {each.execution_timezone} | {each.default_status.value} | job: {each.job_name}"
    return f"schedule {each.name} | {facts}"


def _sensor(each: dg.SensorDefinition) -> str:
    jobs = _list(job.name for job in each.jobs) if each.targets else "none"
    return f"sensor {each.name} | every {each.minimum_interval_seconds} s | {each.default_status.value} | jobs: {jobs}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
