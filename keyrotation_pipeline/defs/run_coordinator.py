"""Runs that bring something that decides are refused, before anything is started for them."""

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from keyrotation_pipeline.errors import LaunchError

# From such a tag Kubernetes would take the image, environment, volumes and service account of the run's pod.
DECIDING_TAGS = ("dagster-k8s/",)
# On runs that a person launched in the UI, or whoever reached its port, whatever tags they brought.
BY_HAND_TAG = "keyrotation/by_hand"


class UnconfiguredRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue, for runs as they are defined: `run_coordinator` of `dagster.yaml`."""

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queue a run; one with a configuration fails with the reason.

        Raises:
            LaunchError: it brings a configuration, or a tag that decides how it runs.
        """
        refuse_configured(context.dagster_run)
        if getattr(context.workspace, "source", None) is not None:  # a request to the web server; the daemon has none
            self._instance.add_run_tags(context.dagster_run.run_id, {BY_HAND_TAG: "true"})
        return super().submit_run(context)


def refuse_configured(run: dg.DagsterRun) -> None:
    """Refuse a run that was launched with more than its name.

    Raises:
        LaunchError: names what it brings.
    """
    tags = [tag for tag in run.tags if tag.startswith(DECIDING_TAGS)]
    if run.run_config or tags:
        brought = "a configuration" if run.run_config else f"the tag {tags[0]}"
        raise LaunchError(
            f"this run brings {brought}, and nothing of a rotation can be decided at launch; launch it without, and "
            "change keyrotation.toml"
        )
