"""The old key is kept, out of reach of the applications."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import SECURITY_OFFICERS
from keyrotation_pipeline.defs.partitions import key_versions
from keyrotation_pipeline.defs.performing import perform
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.requests import Step


def archived_key_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `archived_key`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name("old_key"),
        kinds={"key"},
        owners=[SECURITY_OFFICERS],
        deps=[naming.step(Step.RETIRED_KEY)],
    )
    def archived_key(context: dg.AssetExecutionContext, keyrotation: PipelineParameter) -> dg.MaterializeResult[None]:
        """7. The old key in the archive, for as long as a database backup may need it: archived, never deleted."""
        return perform(context, keyrotation, Step.ARCHIVED_KEY)

    return archived_key
