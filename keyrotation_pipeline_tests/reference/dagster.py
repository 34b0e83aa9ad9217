"""What Dagster shows: assets, checks, jobs, schedules and sensors."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.reference.markdown import code, in_markdown, listing, page_of

_INTRODUCTION = """
As of one declared table, `clients`, with `[recovery] rehearse_nightly`, `[audit] timestamp_url` and `witness`, without
which `nightly_rehearsal`, `audit_timestamp` and `audit_witness` are not there. In
[a project of your own](../guides/dagster-project.md) every name has your prefix. Nothing here decides anything: each
step verifies the officers' signatures again, and is refused where it is not due.
"""
CLIENTS = EncryptedTable(TableName.parse("clients"), ("email",))


def page() -> str:
    """The page."""
    definitions = build_definitions(
        [CLIENTS], 2, PipelineResource(), "UTC", datetime(2026, 1, 1, tzinfo=UTC),
        rehearse_nightly=True, timestamps=True, witnesses=True,
    )  # fmt: skip
    return page_of("In Dagster", _parts(definitions.get_repository_def()))


def _parts(repository: dg.RepositoryDefinition) -> Iterator[str]:
    graph = repository.asset_graph
    yield _INTRODUCTION
    yield "## Assets"
    nodes = [graph.get(key) for key in graph.toposorted_asset_keys]
    yield listing((code(each.key.to_user_string()), _first(each.description)) for each in nodes)
    yield "## Checks"
    specs = [graph.get_check_spec(key) for key in sorted(graph.asset_check_keys, key=lambda key: key.name)]
    yield listing(
        (f"{code(each.name)} of {code(each.asset_key.to_user_string())}", _first(each.description)) for each in specs
    )
    yield "## Jobs"
    jobs = [each for each in repository.get_all_jobs() if not each.name.startswith("__")]
    yield ", ".join(code(each.name) for each in sorted(jobs, key=_name)) + "."
    yield "## Schedules"
    yield listing(
        (code(each.name), f"starts {code(each.job_name)} at {code(str(each.cron_schedule))}.")
        for each in sorted(repository.schedule_defs, key=_name)
    )
    yield "## Sensors"
    yield listing(
        (f"{code(each.name)} (every {each.minimum_interval_seconds} s)", _first(each.description))
        for each in sorted(repository.sensor_defs, key=_name)
    )


def _name(thing: dg.JobDefinition | dg.ScheduleDefinition | dg.SensorDefinition) -> str:
    return thing.name


def _first(description: str | None) -> str:
    """The first sentence; of the steps with its number."""
    assert description, "everything that a person sees in Dagster says what it does"
    return re.split(r"(?<!\d)\. ", in_markdown(description).partition("\n\n")[0])[0].rstrip(".") + "."
