"""A fleet in Dagster: an asset per table, a partition per database, and runs that take the databases of one server."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from keyrotation_pipeline.model.members import member_line, servers_among
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.conducting import sentences_of
from keyrotation_pipeline_tests.defs.conftest import Dagster, failure_of, opened, sentences
from keyrotation_pipeline_tests.fakes import fake_pipeline
from keyrotation_pipeline_tests.web_server import serving

# `own_database` is a member; west is on the server of north, whatever host its URL names; south on the home's own.
SERVERS = {"north": "1", "own_database": "2", "south": "7", "west": "1"}
ROWS: dict[str, list[dict[str, str | None]]] = {
    name: [{"first_name": "v1:Ada", "email": "v1:a"}, {"first_name": "v1:Ben", "email": None}]
    for name in ("clients", *(f"{member}:clients" for member in SERVERS), "north:visits")
}
CLIENTS, VISITS = dg.AssetKey(["rows", "clients"]), dg.AssetKey(["rows", "visits"])


@pytest.fixture
def dagster(tmp_path: Path, now: datetime) -> Iterator[Dagster]:
    """The same, with four members."""
    world = fake_pipeline(ROWS)
    hosts = tuple(member_line(name, f"clinic, system identifier {server}") for name, server in SERVERS.items())
    world.pipeline = replace(world.pipeline, hosts=hosts, run_minutes=30)
    with opened(world, tmp_path, now) as made:
        yield made


@pytest.fixture
def promoted(dagster: Dagster, approved: Walk) -> Walk:
    """A rotation whose rows are due."""
    world = dagster.world
    list(runner.run(world.pipeline, approved.id, world.report, Step.PRIMARY_KEY_ROLLOUT))
    return world.ledger.walk(approved.id)


def wanted(dagster: Dagster) -> list[dg.RunRequest]:
    result = dagster.tick()
    assert isinstance(result, dg.SensorResult), result.skip_message
    return list(result.run_requests or ())


def shown(dagster: Dagster, key: dg.AssetKey = CLIENTS) -> set[str]:
    """The databases whose partitions of v2 are materialized."""
    return {each.partition("|")[0] for each in dagster.instance.get_materialized_partitions(key)}


def test_each_table_is_one_asset_with_a_partition_for_each_database_that_has_it(dagster: Dagster) -> None:
    graph = dagster.definitions.resolve_asset_graph()
    rows = {key: graph.get(key).partitions_def for key in graph.toposorted_asset_keys if key.path[0] == "rows"}
    databases = {}
    for key, partitions in rows.items():
        assert isinstance(partitions, dg.MultiPartitionsDefinition)
        second = partitions.get_partitions_def_for_dimension("database")
        databases[key] = second.get_partition_keys()
    assert databases == {CLIENTS: ["own-database", *SERVERS], VISITS: ["north"]}


def test_each_server_gets_runs_of_its_own_which_show_each_database_once(dagster: Dagster, promoted: Walk) -> None:
    runs = wanted(dagster)
    by_server = [each.tags["keyrotation/server"] for each in runs]
    assert by_server == ["7", "7", "1", "1", "2", "2"]
    assert {each.job_name for each in runs} == {"reencrypt_rows"}
    expected = {"7": {"own-database", "south"}, "1": {"north", "west"}, "2": {"own_database"}}
    done = set[str]()
    for run in (runs[0], runs[2], runs[4]):
        result = dagster.run(run)
        assert result.success, sentences_of(result)
        done |= expected[run.tags["keyrotation/server"]]
        assert shown(dagster) == done
        names = [str(each.asset_key and each.partition) for each in result.get_asset_materialization_events()]
        assert len(names) == len(set(names)) + (run is runs[2]), "north has two tables"
    assert shown(dagster, VISITS) == {"north"}
    assert all(dagster.run(run).success for run in (runs[1], runs[3], runs[5])), "others had all that was due"
    [last] = wanted(dagster)
    assert last.job_name == "retire_key"


def test_a_run_begins_nothing_further_after_its_time_and_the_next_one_goes_on(dagster: Dagster, promoted: Walk) -> None:
    world, first = dagster.world, wanted(dagster)[2]

    def slow(name: str) -> None:
        world.clock.at += timedelta(minutes=31)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.journal, "note", slow)
        assert dagster.run(first).success
    done = world.ledger.walk(promoted.id).steps
    assert [(each.table, each.shard) for each in done if each.table] == [("north:clients", 0)]
    assert shown(dagster) == set()
    world.clock.at += timedelta(minutes=1)
    again = [each for each in wanted(dagster) if each.tags["keyrotation/attempt"] == "2"]
    assert [each.tags["keyrotation/server"] for each in again] == ["1"]
    assert dagster.run(again[0]).success
    assert shown(dagster) == {"north", "west"}


def test_a_person_materializes_a_table_in_one_database(dagster: Dagster, promoted: Walk) -> None:
    partition = dg.MultiPartitionKey({"key_version": "v2", "database": "west"})
    result = dagster.materialize("rows", "clients", partition=partition)
    assert result.success, sentences_of(result)
    done = dagster.world.ledger.walk(promoted.id).steps
    assert [(each.table, each.shard) for each in done if each.table] == [("west:clients", 0), ("west:clients", 1)]
    [event] = result.get_asset_materialization_events()
    assert sentences(event.materialization.metadata["summary"]).startswith("In west: 2 rows rewritten.")


def test_a_run_with_the_tag_of_no_server_takes_the_first_that_is_due(dagster: Dagster, promoted: Walk) -> None:
    job = dagster.definitions.resolve_job_def("reencrypt_rows")
    assert job.execute_in_process(instance=dagster.instance, tags={"keyrotation/server": "x|y"}).success
    assert shown(dagster) == {"own-database", "south"}


def test_what_the_command_line_did_is_shown_when_all_shards_of_a_table_are_done(
    dagster: Dagster, promoted: Walk
) -> None:
    steps = runner.run_shards(dagster.world.pipeline, promoted.id, dagster.world.report, databases={"west"})
    next(steps)
    dagster.tick("ledger_mirror")
    assert shown(dagster) == set()
    next(steps)
    dagster.tick("ledger_mirror")
    assert shown(dagster) == {"west"}


def test_a_member_that_was_removed_meanwhile_stops_every_run_with_the_reason(dagster: Dagster, promoted: Walk) -> None:
    """What officers signed names its columns: nothing goes on without it, whatever page a run was launched from."""
    world, before = dagster.world, wanted(dagster)
    tables = tuple(each for each in world.pipeline.tables if each.name.database != "own_database")
    world.pipeline = replace(world.pipeline, tables=tables)
    partition = dg.MultiPartitionKey({"key_version": "v2", "database": "own_database"})
    assert "is not due" in failure_of(dagster.materialize("rows", "clients", partition=partition))
    assert "is no longer what its text for signing says (Columns)" in failure_of(dagster.run(before[0]))
    assert shown(dagster) == set()


@pytest.mark.parametrize(
    ("place", "server"),
    [
        pytest.param("clinic, system identifier 7", "7", id="plain"),
        pytest.param("clinic, system identifier 7, schema other", "7", id="with a schema"),
        pytest.param("a, system identifier 8, system identifier 7", "7", id="a database with such a name"),
        pytest.param("clinic, system identifier unknown", None, id="not told"),
    ],
)
def test_the_server_of_a_member_is_what_officers_signed(place: str, server: str | None) -> None:
    assert servers_among([member_line("north", place)]).get("north") == server


GRAPH = """{ assetNodes { id assetKey { path } groupName dependencyKeys { path } partitionDefinition { name }
  partitionStats { numMaterialized numPartitions numFailed numMaterializing }
  assetMaterializations(limit: 1) { timestamp } assetChecksOrError { ... on AssetChecks { checks { name } } } } }"""


@pytest.mark.extended
@pytest.mark.parametrize("members", [200, 1000])
def test_the_graph_of_a_large_fleet_takes_less_than_three_seconds(tmp_path: Path, members: int) -> None:
    """Of a real web server: 10 tables in each member, two key versions, every table of one member materialized."""
    names = [f"m{number}" for number in range(members)]
    file = tmp_path / "keyrotation.toml"
    file.write_text(
        "".join(f'[[databases]]\nname = "{name}"\nurl = {{ env = "URL" }}\n' for name in names)
        + "".join(f'[[tables]]\nname = "t{number}"\ncolumns = ["note"]\ndatabases = "*"\n' for number in range(10))
    )
    home, variables = tmp_path / "ui", {"KEYROTATION_CONFIG": str(file), "URL": "postgresql://nowhere/none"}
    with serving(home, **variables) as server, dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("key_version", ["v2", "v3"])
        for number in range(10):
            for name in ("v2", "v3"):
                partition = dg.MultiPartitionKey({"key_version": name, "database": "m0"})
                event = dg.AssetMaterialization(["rows", f"t{number}"], partition=partition)
                instance.report_runless_asset_event(event)
        seconds = list[float]()
        for _ in range(4):
            began = time.monotonic()
            nodes = server.with_token(GRAPH)["data"]["assetNodes"]
            seconds.append(time.monotonic() - began)
    print(f"{members} members: {seconds}")  # noqa: T201
    rows = [each["partitionStats"] for each in nodes if each["assetKey"]["path"][0] == "rows"]
    assert [(each["numMaterialized"], each["numPartitions"]) for each in rows] == [(2, 2 * members)] * 10
    assert min(seconds) < 3
