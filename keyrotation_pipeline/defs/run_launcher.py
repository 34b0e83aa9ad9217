"""Launches runs as Kubernetes Jobs: each gets what its job needs, and nothing that was requested at launch.

Dagster's own launcher gives every run the same secrets, and takes a Pod's image, volumes and account from tags of its
run. Here secrets that only one job needs are listed under that job, and no tag decides anything but the resources.

This module is separate because it imports the Kubernetes client, which only such deployments need.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_job_name_from_run_id
from dagster_k8s.launcher import K8sRunLauncher
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.defs.launch_refusals import ANSWER
from keyrotation_pipeline.defs.run_requests import MODE_TAG
from keyrotation_pipeline.defs.run_worker import COMMAND
from keyrotation_pipeline.defs.schedules import (
    ASSET_JOBS,
    EVIDENCE,
    EVIDENCE_ASSETS,
    INTRODUCE_KEY,
    READY,
    REENCRYPT_ROWS,
    RETIRE_KEY,
)
from keyrotation_pipeline.errors import LaunchError
from keyrotation_pipeline.model.requests import RotationType
from keyrotation_pipeline.model.visible_text import visible

# The API server's refusal, a broken connection, and what dagster-k8s makes of either after its own attempts.
_NO_ANSWER = (ApiException, HTTPError, OSError, DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError)
# What a Role that was changed, or an account that is gone, gets for ever; a server that starts answers so for moments.
_REFUSALS = {401, 403}
# Of a Job: by rights, a quota, a webhook or a policy, without the namespace, or since it is none.
_OF_JOBS = {400, 401, 403, 404, 422}
_MAX_CHARS = 500
REFUSED_FOR = timedelta(minutes=10)
# Dagster's own name of the run that materializes assets on their pages.
MATERIALIZED = "__ASSET_JOB"
WIDEST = {INTRODUCE_KEY, RETIRE_KEY, READY, MATERIALIZED}  # their account may change keys


def _reason(answer: ApiException) -> str:
    """Why the API server took no Job: nothing of a Job is secret, so that what it says may be stored."""
    try:
        said = str(json.loads(answer.body)["message"])
    except (ValueError, TypeError, KeyError):
        said = str(answer.reason)
    return f"{ANSWER} (HTTP {answer.status}): {visible(said[:_MAX_CHARS])}"


def jobs_of(run: dg.DagsterRun) -> Sequence[str]:
    """Returns the jobs whose configuration a run gets: its own; on an asset's page, those that make the same assets.

    Such a run needs the account and the Secrets of what it does, and no others.
    """
    if run.job_name != MATERIALIZED:
        return (run.job_name,)
    makers = {str(asset): job for job, assets, _ in ASSET_JOBS for asset in assets}
    makers |= dict.fromkeys(EVIDENCE_ASSETS, EVIDENCE)
    jobs = [
        REENCRYPT_ROWS if key.path[0] == "rows" else makers.get(key.path[-1], MATERIALIZED)
        for key in sorted(run.asset_selection or ())
    ]
    if any(check.asset_key not in (run.asset_selection or ()) for check in run.asset_check_selection or ()):
        jobs.append(EVIDENCE)  # checks without their asset
    # The least of them first: an account that a later one names replaces that of an earlier one.
    return sorted({*jobs} or {MATERIALIZED}, key=lambda job: job in WIDEST)


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
        self._refusals: tuple[datetime, datetime] | None = None  # the first, and the last so far

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
        """Creates the Job of a run, whose command has the id of the run and nothing else that it brings.

        Raises:
            LaunchError: the API server refuses it, and so it is the reason of the run, which has failed.
        """
        run = context.dagster_run
        name = get_job_name_from_run_id(run.run_id)  # type: ignore[no-untyped-call]
        try:
            self._launch_k8s_job_with_args(name, [*COMMAND, run.run_id], run)
        except (DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError) as error:
            answer = error.__cause__
            if not isinstance(answer, ApiException) or answer.status not in _OF_JOBS:
                raise
            reason = _reason(answer)
        else:
            return
        self._instance.report_run_failed(run, reason)
        raise LaunchError(reason)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Returns what the API server knows of the Job of a run; while it does not answer, the Job counts as running.

        Dagster's own launcher calls a worker unknown then, and run monitoring fails a run whose Pod works on. A server
        that refuses to say it for ten minutes will not say it later: then the run fails, with that as its reason.
        """
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status is not WorkerStatus.UNKNOWN:
            self._refusals = None
            return found
        name = get_job_name_from_run_id(run.run_id)  # type: ignore[no-untyped-call]
        namespace = self.get_container_context_for_run(run).namespace
        try:
            is_there = self._api_client.get_job_status(job_name=name, namespace=namespace) is not None
        except _NO_ANSWER as error:
            if self._is_refused(error):
                return CheckRunHealthResult(
                    WorkerStatus.UNKNOWN,
                    "the API server refuses to say whether its Job runs (401 or 403, for ten minutes); give the "
                    "daemon's account the Role of rights.yaml",
                )
            kind = type(error).__name__
            logging.getLogger(__name__).warning("the API server does not say whether %s runs (%s)", name, kind)
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the API server does not answer")
        self._refusals = None
        return CheckRunHealthResult(WorkerStatus.RUNNING) if is_there else found

    def _is_refused(self, error: Exception) -> bool:
        """Whether the server has answered nothing but refusals for a while, of whatever run it was asked."""
        answer = error.__cause__ if isinstance(error, DagsterK8sUnrecoverableAPIError) else error
        if getattr(answer, "status", None) not in _REFUSALS:
            self._refusals = None
            return False
        now = SystemClock().now()
        first, last = self._refusals or (now, now)
        if now - last >= REFUSED_FOR:  # nothing was asked in between
            first = now
        self._refusals = first, now
        return now - first >= REFUSED_FOR

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = False) -> str | None:  # noqa: ARG002, FBT001, FBT002  Dagster's
        """What the API server knows of the Pod of a run that failed; never its output, which Dagster would store."""
        found: str | None = super().get_run_worker_debug_info(run, include_container_logs=False)
        return found
