"""What an auditor asks for: the row of key_rotation_audit, and the report."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import COMPLIANCE_OFFICERS
from keyrotation_pipeline.defs.partitions import key_versions
from keyrotation_pipeline.defs.performing import perform
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.requests import Step

GROUP = "evidence"


def key_rotation_audit_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `key_rotation_audit`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name(GROUP),
        kinds={"postgres"},
        owners=[COMPLIANCE_OFFICERS],
        deps=[naming.step(Step.ARCHIVED_KEY)],
    )
    def key_rotation_audit(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """8. The completed row of key_rotation_audit: versions, kind, who asked, when, how many records."""
        return perform(context, keyrotation, Step.KEY_ROTATION_AUDIT)

    return key_rotation_audit


def compliance_report_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `compliance_report`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name(GROUP),
        kinds={"report"},
        owners=[COMPLIANCE_OFFICERS],
        deps=[naming.step(Step.KEY_ROTATION_AUDIT)],
    )
    def compliance_report(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """9. The report, anchored in the audit chain: who approved, what was done when, and the proof."""
        return perform(context, keyrotation, Step.COMPLIANCE_REPORT)

    return compliance_report
