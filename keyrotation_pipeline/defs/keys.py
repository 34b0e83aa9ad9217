"""The new key, and the checks on keys."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import SECURITY_OFFICERS
from keyrotation_pipeline.defs.partitions import key_versions
from keyrotation_pipeline.defs.performing import actor_of, perform
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.keys import GCM_LIMIT_ENCRYPTIONS, KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.progress import usage_of_primary
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.keys import require_stored_and_backed_up


def key_version_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `key_version`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name("new_key"),
        kinds={"key", "gpg"},
        owners=[SECURITY_OFFICERS],
    )
    def key_version(context: dg.AssetExecutionContext, keyrotation: PipelineParameter) -> dg.MaterializeResult[None]:
        """1. The new key: generated, stored, read back, compared and backed up, before anything uses it."""
        return perform(context, keyrotation, Step.KEY_VERSION)

    return key_version


def key_reads_back_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `key_reads_back`."""

    @dg.asset_check(asset=naming.step(Step.KEY_VERSION))
    def key_reads_back(context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter) -> dg.AssetCheckResult:
        """Every key that is not destroyed reads back from the store as the key that was registered; it has a backup."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            return reads_back(opened)

    return key_reads_back


def reads_back(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `key_reads_back`: a look at each key and its backup."""
    registered = pipeline.ledger.keys()
    kept = [each for each in registered if each.state is not KeyState.DESTROYED]
    stored = pipeline.keys.read()
    wrong = {str(each.version): reason for each in kept if (reason := _wrong_with(pipeline, stored, each))}
    return dg.AssetCheckResult(
        passed=not wrong and bool(kept),
        description="; ".join(wrong.values())
        or (f"{len(kept)} keys read back" if kept else "no key is registered; run `keyrotation init`"),
        metadata={"keys": len(kept), "wrong": len(wrong)},
    )


def _wrong_with(pipeline: Pipeline, stored: StoredKeys, record: KeyRecord) -> str | None:
    try:
        require_stored_and_backed_up(pipeline, stored, record)
    except KeyRotationError as error:
        return str(error)
    return None


def key_usage_below_gcm_limit_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `key_usage_below_gcm_limit`."""

    @dg.asset_check(asset=naming.step(Step.KEY_VERSION))
    def key_usage_below_gcm_limit(
        context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter
    ) -> dg.AssetCheckResult:
        """The primary encrypted fewer than 2^32 values (NIST SP 800-38D), by an upper bound; warns at half."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            return below_gcm_limit(opened)

    return key_usage_below_gcm_limit


def below_gcm_limit(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `key_usage_below_gcm_limit`: a look at PostgreSQL's statistics."""
    usage = usage_of_primary(pipeline)
    if usage is None:
        return dg.AssetCheckResult(passed=False, description="no key is the primary; run `keyrotation init`")
    return dg.AssetCheckResult(
        passed=not usage.half_used,
        severity=dg.AssetCheckSeverity.ERROR if usage.exhausted else dg.AssetCheckSeverity.WARN,
        description=f"{usage.version} encrypted at most {usage.encryptions:,} values, {usage.share:.2%} of the limit"
        + ("; request a rotation" if usage.half_used else ""),
        metadata={
            "key_version": str(usage.version),
            "encryptions_at_most": usage.encryptions,
            "by_applications": usage.by_applications,
            "by_rotations": usage.by_rotations,
            "limit": GCM_LIMIT_ENCRYPTIONS,
        },
    )
