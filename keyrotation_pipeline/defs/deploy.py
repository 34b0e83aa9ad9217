"""The two rollouts: first every instance reads the new key, and only then do writes move to it."""

import dagster as dg

from keyrotation_pipeline.defs.names import step_key
from keyrotation_pipeline.defs.owners import SITE_RELIABILITY
from keyrotation_pipeline.defs.partitions import KEY_VERSIONS
from keyrotation_pipeline.defs.performing import actor_of, perform
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.cryptoperiod import rotation_due
from keyrotation_pipeline.model.request import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.keys import declared_activations


@dg.asset(
    partitions_def=KEY_VERSIONS,
    group_name="new_key",
    kinds={"application"},
    owners=[SITE_RELIABILITY],
    deps=[step_key(Step.KEY_VERSION)],
)
def dual_key_rollout(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
    """2. Every application instance is seen to read the new key beside the old one; nothing writes under it yet."""
    return perform(context, pipeline, Step.DUAL_KEY_ROLLOUT)


@dg.asset(
    partitions_def=KEY_VERSIONS,
    group_name="new_key",
    kinds={"application"},
    owners=[SITE_RELIABILITY],
    deps=[step_key(Step.DUAL_KEY_ROLLOUT)],
)
def primary_key_rollout(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
    """3. The new key is the primary, and every instance is seen to write under it."""
    return perform(context, pipeline, Step.PRIMARY_KEY_ROLLOUT)


@dg.asset_check(asset=step_key(Step.PRIMARY_KEY_ROLLOUT))
def rotation_not_overdue(context: dg.AssetCheckExecutionContext, pipeline: PipelineParameter) -> dg.AssetCheckResult:
    """The primary is younger than 12 months, and no emergency rotation is older than 24 hours; warns 60 days ahead."""
    with refusals(), pipeline.open(actor_of(context)) as opened:
        return not_overdue(opened)


def not_overdue(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `rotation_not_overdue`."""
    primary, now = pipeline.keys.read().primary, pipeline.clock.now()
    declared, requests = declared_activations(pipeline), pipeline.ledger.requests()
    due = rotation_due(primary, pipeline.ledger.keys(), requests, declared) if primary else None
    if due is None:
        return dg.AssetCheckResult(passed=False, description="no key is the primary; run `keyrotation init`")
    overdue = due.overdue(now)
    return dg.AssetCheckResult(
        passed=not due.soon(now),
        severity=dg.AssetCheckSeverity.ERROR if overdue else dg.AssetCheckSeverity.WARN,
        description=f"{'was' if overdue else 'is'} due by {due.at:%Y-%m-%d %H:%M} UTC: {due.rule}"
        + ("; request one with `keyrotation request --reason TEXT`" if due.soon(now) else ""),
        metadata={"due_at": dg.MetadataValue.timestamp(due.at), "key_version": str(primary)},
    )
