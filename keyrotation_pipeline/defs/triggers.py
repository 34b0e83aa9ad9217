"""How a run was launched: by a schedule or on demand, as it is defined or with settings of its own."""

import dagster as dg
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SENSOR_NAME_TAG

from keyrotation_pipeline.errors import LaunchError

# From such a tag Kubernetes would take the image, environment, volumes and service account of the run's pod.
DECIDING_TAGS = ("dagster-k8s/",)
# On every run launched in the UI, or by anybody who reached its port, whatever other tags it carries.
BY_HAND_TAG = "keyrotation/by_hand"


def is_scheduled(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> bool:
    """Distinguishes scheduled runs from those that a person or the conductor launched.

    A scheduled run does its daily share; every other run recounts and searches everything.
    """
    tags = context.run.tags
    return SCHEDULE_NAME_TAG in tags and BY_HAND_TAG not in tags


def is_launched_by_hand(run: dg.DagsterRun) -> bool:
    """Distinguishes the runs that people launched from those of sensors."""
    return BY_HAND_TAG in run.tags or SENSOR_NAME_TAG not in run.tags


def refuse_configured(run: dg.DagsterRun) -> None:
    """Refuses a run that was launched with a configuration, or with a tag that decides how it runs.

    Raises:
        LaunchError: names the configuration or tag.
    """
    tags = [tag for tag in run.tags if tag.startswith(DECIDING_TAGS)]
    if run.run_config or tags:
        brought = "a configuration" if run.run_config else f"the tag {tags[0]}"
        raise LaunchError(
            f"this run brings {brought}, and nothing of a rotation can be decided at launch; launch it without, and "
            "change keyrotation.toml"
        )
