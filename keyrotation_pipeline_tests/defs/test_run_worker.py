"""The process of a run on Kubernetes executes a stored run of our own code, and nothing else."""

import sys

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


def test_the_command_is_isolated_from_the_working_directory_and_the_environment() -> None:
    assert ("python", "-I", "-m", execute.__module__) == COMMAND
