"""The old key is kept, out of reach of the applications."""

import dagster as dg

from keyrotation_pipeline.defs.names import step_key
from keyrotation_pipeline.defs.owners import SECURITY_OFFICERS
from keyrotation_pipeline.defs.partitions import KEY_VERSIONS
from keyrotation_pipeline.defs.performing import perform
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.request import Step


@dg.asset(
    partitions_def=KEY_VERSIONS,
    group_name="old_key",
    kinds={"key"},
    owners=[SECURITY_OFFICERS],
    deps=[step_key(Step.RETIRED_KEY)],
)
def archived_key(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
    """7. The old key in the archive, for as long as a database backup may need it: archived, never deleted."""
    return perform(context, pipeline, Step.ARCHIVED_KEY)
