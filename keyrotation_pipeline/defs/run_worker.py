"""The process of a run on Kubernetes: executes a run that Dagster has stored, with this package's code and no other.

``dagster api execute_run`` takes from its argument which code to load and which instance to use, so that whoever may
create a Job with one of our accounts executes anything with it. Here the argument is the id of a run; an admission
policy of the cluster can compare the rest of the command word by word (`deploy/kubernetes/dagster/jobs-policy.yaml`).
"""

import sys
from collections.abc import Sequence

import dagster as dg
from dagster._cli.api import _execute_run_command_body  # what `dagster api execute_run` does with its argument
from dagster._core.code_pointer import ModuleCodePointer
from dagster._utils.interrupts import capture_interrupts

from keyrotation_pipeline.errors import LaunchError

CODE = "keyrotation_pipeline.definitions"
# Isolated: neither PYTHONPATH nor the working directory, a volume that all runs share, has code to import. Dagster
# would add the directory that a run names, so such a run is refused.
COMMAND = ("python", "-I", "-m", "keyrotation_pipeline.defs.run_worker")


def execute(instance: dg.DagsterInstance, run_id: str) -> int:
    """Executes a run to its end, and returns the exit code of the process.

    Raises:
        LaunchError: there is no such run, another Pod has begun it, or it names other code or a directory to import
            from; then it has failed.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise LaunchError(f"there is no run {run_id!r}; start runs in Dagster's UI")
    if (refusal := _refusal(run)) is not None:
        if not run.is_finished:  # else it would count as starting for ten minutes, and its page say no reason
            instance.report_run_failed(run, refusal)
        raise LaunchError(refusal)
    if run.status is dg.DagsterRunStatus.STARTED:
        # Kubernetes may start a second Pod for one Job. A success of this one would be that of the Job: Dagster would
        # believe in a worker, and nothing end the run. So the Job fails, run monitoring ends the run, and the conductor
        # starts another. Where the first still works, the lock of its step keeps that one out.
        raise LaunchError(f"run {run_id} was begun by another Pod; nothing is to be done, another run continues it")
    return _execute_run_command_body(run_id, instance, lambda _event: None, set_exit_code_on_failure=True)


def _refusal(run: dg.DagsterRun) -> str | None:
    """Why the code that a run names is not executed here."""
    origin = run.job_code_origin
    pointer = origin.repository_origin.code_pointer if origin is not None else None
    if not isinstance(pointer, ModuleCodePointer) or pointer.module != CODE:
        return f"run {run.run_id} names other code than {CODE}, and nothing else runs here; start it elsewhere"
    if pointer.working_directory is not None:
        # Dagster would import from there first: whoever writes a file into it, or names it in Dagster's storage, has
        # the account of the run.
        return (
            f"run {run.run_id} would import code from {pointer.working_directory}; start the code server with "
            "`dagster api grpc --empty-working-directory`, as deploy/kubernetes does, and launch it again"
        )
    return None


def main(arguments: Sequence[str]) -> int:
    """Executes the run whose id is the only argument."""
    [run_id] = arguments
    with capture_interrupts(), dg.DagsterInstance.get() as instance:
        return execute(instance, run_id)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
