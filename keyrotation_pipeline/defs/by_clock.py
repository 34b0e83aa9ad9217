"""Whether a run is one of every day, or somebody wants to know: then everything is counted and searched anew."""

import dagster as dg
from dagster._core.storage.tags import SCHEDULE_NAME_TAG

from keyrotation_pipeline.defs.run_coordinator import BY_HAND_TAG


def is_by_clock(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> bool:
    """Whether a schedule launched it. What the conductor starts after a rotation, and a person, is no such run."""
    tags = context.run.tags
    return SCHEDULE_NAME_TAG in tags and BY_HAND_TAG not in tags
