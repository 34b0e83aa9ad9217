"""The two rollouts: first every instance reads the new key, and only then do writes move to it."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import SITE_RELIABILITY
from keyrotation_pipeline.defs.partitions import key_versions
from keyrotation_pipeline.defs.performing import actor_of, perform
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.under_way import marked
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.due import due_rotation
from keyrotation_pipeline.ports.pipeline import Pipeline


def dual_key_rollout_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `dual_key_rollout`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name("new_key"),
        kinds={"application"},
        owners=[SITE_RELIABILITY],
        deps=[naming.step(Step.KEY_VERSION)],
    )
    def dual_key_rollout(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """2. Every application instance is seen to read the new key beside the old one; nothing writes under it yet."""
        return perform(context, keyrotation, Step.DUAL_KEY_ROLLOUT)

    return dual_key_rollout


def primary_key_rollout_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `primary_key_rollout`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name("new_key"),
        kinds={"application"},
        owners=[SITE_RELIABILITY],
        deps=[naming.step(Step.DUAL_KEY_ROLLOUT)],
    )
    def primary_key_rollout(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """3. The new key is the primary, and every instance is seen to write under it."""
        return perform(context, keyrotation, Step.PRIMARY_KEY_ROLLOUT)

    return primary_key_rollout


def rotation_not_overdue_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `rotation_not_overdue`."""

    @dg.asset_check(asset=naming.step(Step.PRIMARY_KEY_ROLLOUT))
    def rotation_not_overdue(
        context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter
    ) -> dg.AssetCheckResult:
        """The primary is younger than 12 months, no emergency rotation older than 24 hours; warns 60 days ahead."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            return not_overdue(opened)

    return rotation_not_overdue


def not_overdue(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `rotation_not_overdue`."""
    primary = pipeline.keys.read().primary
    found = due_rotation(pipeline, primary)
    if found is None:
        return dg.AssetCheckResult(passed=False, description="no key is the primary; run `keyrotation init`")
    due, needs_people = found.due, found.needs_people
    told = found.walk is not None or due.soon(found.now)
    return dg.AssetCheckResult(
        passed=found.in_time,
        severity=dg.AssetCheckSeverity.ERROR if needs_people else dg.AssetCheckSeverity.WARN,
        description=f"{'was' if found.overdue else 'is'} due by {due.at:%Y-%m-%d %H:%M} UTC: {due.rule}"
        + (f"; {found.sentence}" if told else ""),
        metadata={
            "due_at": dg.MetadataValue.timestamp(due.at),
            "key_version": str(primary),
            **marked(under_way=found.under_way),
        },
    )
