"""What an auditor asks for: the row of key_rotation_audit, and the report."""

import dagster as dg

from keyrotation_pipeline.defs.names import step_key
from keyrotation_pipeline.defs.owners import COMPLIANCE_OFFICERS
from keyrotation_pipeline.defs.partitions import KEY_VERSIONS
from keyrotation_pipeline.defs.performing import perform
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.request import Step


@dg.asset(
    partitions_def=KEY_VERSIONS,
    group_name="evidence",
    kinds={"postgres"},
    owners=[COMPLIANCE_OFFICERS],
    deps=[step_key(Step.ARCHIVED_KEY)],
)
def key_rotation_audit(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
    """8. The completed row of key_rotation_audit: versions, kind, who asked, when, how many records."""
    return perform(context, pipeline, Step.KEY_ROTATION_AUDIT)


@dg.asset(
    partitions_def=KEY_VERSIONS,
    group_name="evidence",
    kinds={"report"},
    owners=[COMPLIANCE_OFFICERS],
    deps=[step_key(Step.KEY_ROTATION_AUDIT)],
)
def compliance_report(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
    """9. The report, anchored in the audit chain: who approved, what was done when, and the proof."""
    return perform(context, pipeline, Step.COMPLIANCE_REPORT)
