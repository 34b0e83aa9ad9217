"""Launches runs as Kubernetes Jobs: each gets what its job needs, and nothing that was requested at launch.

Dagster's own launcher gives every run the same secrets, and takes a Pod's image, volumes and account from tags of its
run. Here secrets that only one job needs are listed under that job, and no tag decides anything but the resources.

This module is separate because it imports the Kubernetes client, which only such deployments need.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_job_name_from_run_id
from dagster_k8s.launcher import K8sRunLauncher
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from keyrotation_pipeline.defs.run_requests import MODE_TAG
from keyrotation_pipeline.defs.run_worker import COMMAND
from keyrotation_pipeline.defs.schedules import ASSET_JOBS, INTRODUCE_KEY, REENCRYPT_ROWS, RETIRE_KEY
from keyrotation_pipeline.model.requests import RotationType

# The API server's refusal, a broken connection, and what dagster-k8s makes of either after its own attempts.
_NO_ANSWER = (ApiException, HTTPError, OSError, DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError)
# Dagster's own name of the run that materializes assets on their pages.
MATERIALIZED = "__ASSET_JOB"


def jobs_of(run: dg.DagsterRun) -> Sequence[str]:
    """Returns the jobs whose configuration a run gets: its own; on an asset's page, those that make the same assets.

    Such a run needs the account and the Secrets of what it does, and no others.
    """
    if run.job_name != MATERIALIZED:
        return (run.job_name,)
    makers = {str(asset): job for job, assets, _ in ASSET_JOBS for asset in assets}
    jobs = [
        REENCRYPT_ROWS if key.path[0] == "rows" else makers.get(key.path[-1], MATERIALIZED)
        for key in sorted(run.asset_selection or ())
    ]
    # The least of them first: an account that a later one names replaces that of an earlier one.
    return sorted({*jobs} or {MATERIALIZED}, key=lambda job: job in {INTRODUCE_KEY, RETIRE_KEY, MATERIALIZED})


class JobwiseK8sRunLauncher(K8sRunLauncher):
    """`run_launcher` of the `dagster.yaml` for Kubernetes.

    Args:
        jobs: `run_k8s_config` of single jobs by name, added to that of every run.
        emergency: `run_k8s_config` added for the shards of an emergency rotation.
        of_every_run: the fields of `K8sRunLauncher`.
    """

    def __init__(
        self,
        jobs: Mapping[str, Mapping[str, Any]] | None = None,
        emergency: Mapping[str, Any] | None = None,
        **of_every_run: Any,  # noqa: ANN401  Dagster's
    ) -> None:
        super().__init__(**of_every_run)
        self._jobs = jobs or {}
        self._emergency = emergency or {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The fields of Dagster's launcher, `jobs` and `emergency`."""
        inherited = K8sRunLauncher.config_type()  # type: ignore[no-untyped-call]
        raw = inherited["run_k8s_config"].config_type
        return {
            **inherited,
            "jobs": dg.Field(dg.Map(str, raw), is_required=False),  # type: ignore[no-untyped-call]
            "emergency": dg.Field(raw, is_required=False),
        }

    def get_container_context_for_run(self, dagster_run: dg.DagsterRun) -> K8sContainerContext:
        """The configuration of the Pod of a run; its `dagster-k8s/` tags are ignored."""
        context = K8sContainerContext.create_for_run(dagster_run, self, include_run_tags=False)
        added = [self._jobs.get(job, {}) for job in jobs_of(dagster_run)]
        if dagster_run.tags.get(MODE_TAG) == RotationType.EMERGENCY:
            added.append(self._emergency)
        for config in added:
            raw = UserDefinedDagsterK8sConfig.from_dict(config)  # type: ignore[no-untyped-call]
            context = context.merge(K8sContainerContext(run_k8s_config=raw))
        return context

    def launch_run(self, context: LaunchRunContext) -> None:
        """Creates the Job of a run, whose command has the id of the run and nothing else that it brings."""
        run = context.dagster_run
        name = get_job_name_from_run_id(run.run_id)  # type: ignore[no-untyped-call]
        self._launch_k8s_job_with_args(name, [*COMMAND, run.run_id], run)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Returns what the API server knows of the Job of a run; while it does not answer, the Job counts as running.

        Dagster's own launcher calls a worker unknown then, and run monitoring fails a run whose Pod works on.
        """
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status is not WorkerStatus.UNKNOWN:
            return found
        name = get_job_name_from_run_id(run.run_id)  # type: ignore[no-untyped-call]
        namespace = self.get_container_context_for_run(run).namespace
        try:
            is_there = self._api_client.get_job_status(job_name=name, namespace=namespace) is not None
        except _NO_ANSWER as error:
            kind = type(error).__name__
            logging.getLogger(__name__).warning("the API server does not say whether %s runs (%s)", name, kind)
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the API server does not answer")
        return CheckRunHealthResult(WorkerStatus.RUNNING) if is_there else found
