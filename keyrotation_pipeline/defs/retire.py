"""The old key leaves the applications."""

import json

import dagster as dg

from keyrotation_pipeline.assurance.key_death import certify, in_words
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import SECURITY_OFFICERS
from keyrotation_pipeline.defs.partitions import key_versions, version_and_shard
from keyrotation_pipeline.defs.performing import actor_of, perform, progress_to, rotation_to
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.request import Step


def retired_key_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `retired_key`."""

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name("old_key"),
        kinds={"postgres", "application"},
        owners=[SECURITY_OFFICERS],
        deps=[naming.step(Step.ZERO_OLD_ROWS_PROOF)],
    )
    def retired_key(context: dg.AssetExecutionContext, keyrotation: PipelineParameter) -> dg.MaterializeResult[None]:
        """6. Evidence and approvals taken once more, in one transaction; then the old key leaves the applications."""
        done = perform(context, keyrotation, Step.RETIRED_KEY)
        return dg.MaterializeResult(metadata={**(done.metadata or {}), **_certified(context, keyrotation)})

    return retired_key


def _certified(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dict[str, dg.MetadataValue]:
    """The certificate of key death as it can be given now; the key is retired, whether it can or not."""
    version, _ = version_and_shard(context)
    try:
        with pipeline.open_backups(actor_of(context)) as site:
            made = certify(site, rotation_to(site.pipeline, version).id)
    except KeyRotationError as error:
        return {"certificate": dg.MetadataValue.text(f"none: {error}")}
    return {
        "certificate": dg.MetadataValue.md(in_words(made.statement)),
        "certificate_signed": dg.MetadataValue.json(json.loads(made.envelope)),
    }


def every_value_decrypts_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `every_value_decrypts`."""

    @dg.asset_check(asset=naming.step(Step.RETIRED_KEY))
    def every_value_decrypts(
        context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter
    ) -> dg.AssetCheckResult:
        """Every value of every declared column decrypts with the keys that applications have now."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            ring = opened.keys.read().ring()
            counts = [opened.database.decrypt_all(table, ring, progress_to(context.log)) for table in opened.tables]
        failures = {count.table: count.failures for count in counts if count.failures}
        values = sum(count.values for count in counts)
        return dg.AssetCheckResult(
            passed=not failures,
            description="; ".join(f"{table}: {number:,} values do not decrypt" for table, number in failures.items())
            + "; run `keyrotation inventory` to find them"
            if failures
            else f"{values:,} values decrypt with {', '.join(map(str, ring.versions))}",
            metadata={
                "values": values,
                "failures": sum(failures.values()),
                "key_versions": ", ".join(map(str, ring.versions)),
            },
        )

    return every_value_decrypts
