"""The process of a run on Kubernetes executes a stored run of our own code, and nothing else."""

import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import CodePointer, FileCodePointer, ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from keyrotation_pipeline.defs.run_worker import CODE, COMMAND, execute
from keyrotation_pipeline.errors import LaunchError


def stored(instance: dg.DagsterInstance, pointer: CodePointer | None) -> dg.DagsterRun:
    """A run in Dagster's storage whose code is where a pointer says."""
    origin = None
    if pointer is not None:
        origin = JobPythonOrigin("backup", RepositoryPythonOrigin(sys.executable, pointer, entry_point=["dagster"]))
    run = dg.DagsterRun(job_name="backup", job_code_origin=origin)
    instance.add_run(run)
    return run


@pytest.mark.parametrize(
    "pointer",
    [
        pytest.param(ModuleCodePointer("os", "system"), id="another module"),
        pytest.param(FileCodePointer("/home/keyrotation/evil.py", "defs"), id="a file"),
        pytest.param(None, id="no code"),
    ],
)
def test_a_run_that_names_other_code_is_not_executed(pointer: CodePointer | None) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = stored(instance, pointer)
        with pytest.raises(LaunchError, match="names other code than"):
            execute(instance, run.run_id)


def test_a_run_that_names_a_directory_executes_nothing_that_is_in_it(tmp_path: Path) -> None:
    """Dagster puts that directory first on the import path, whatever the process was started with."""
    for name in ("keyrotation_pipeline", "psycopg", "_strptime"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path; Path(__file__).with_name('ran').touch()")
    with dg.DagsterInstance.ephemeral() as instance:
        run = stored(instance, ModuleCodePointer(CODE, "defs", str(tmp_path)))
        with pytest.raises(LaunchError, match=r"would import code from .*; start the code server with") as refused:
            execute(instance, run.run_id)
        assert str(refused.value) in str([each.message for each in instance.all_logs(run.run_id)]), "on its page"
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status is dg.DagsterRunStatus.FAILURE
    assert not (tmp_path / "ran").exists()


def test_a_run_that_is_not_stored_is_not_executed() -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(LaunchError, match="there is no run 'x'"):
        execute(instance, "x")


def test_a_run_that_is_finished_is_not_executed_again() -> None:
    """As a Pod that comes after its run was ended."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = stored(instance, ModuleCodePointer(CODE, "defs"))
        instance.report_run_failed(run)
        assert execute(instance, run.run_id) == 0
        assert "had already finished" in str([each.message for each in instance.all_logs(run.run_id)])


def test_a_second_pod_of_a_run_executes_nothing_and_is_no_success() -> None:
    """As Kubernetes may start it for one Job, after an outage of its API server or of a node."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = stored(instance, ModuleCodePointer(CODE, "defs"))
        instance.report_dagster_event(
            dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name="backup"), run.run_id
        )
        with pytest.raises(LaunchError, match="was begun by another Pod"):
            execute(instance, run.run_id)
        assert [each.status for each in instance.get_runs()] == [dg.DagsterRunStatus.STARTED], "the first one works on"


def test_a_run_that_has_succeeded_is_not_failed_by_a_refusal() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.DagsterRun(job_name="backup", status=dg.DagsterRunStatus.SUCCESS)
        instance.add_run(run)
        with pytest.raises(LaunchError, match="names other code than"):
            execute(instance, run.run_id)
        assert [each.status for each in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]


def test_the_command_is_isolated_from_the_working_directory_and_the_environment() -> None:
    assert ("python", "-I", "-m", execute.__module__) == COMMAND
