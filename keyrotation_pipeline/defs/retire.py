"""The old key leaves the applications."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import SECURITY_OFFICERS
from keyrotation_pipeline.defs.partitions import key_versions, partition_and_shard
from keyrotation_pipeline.defs.performing import actor_of, perform, progress_to, rotation_of
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.under_way import marked
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.page_reading import Reach
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.rolling import DECRYPT, how_far, read_what_is_due
from keyrotation_pipeline.reporting.retirement_certificate import certify, in_words


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
    partition, _ = partition_and_shard(context)
    try:
        with pipeline.open_backups(actor_of(context)) as site:
            made = certify(site, rotation_of(site.pipeline, partition).id)
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
        """Every value decrypts with the keys that applications have, and was read within `every_days`."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            values = read_what_is_due(opened, DECRYPT, progress_to(context.log))
            far, days = how_far(opened, DECRYPT), opened.verification.every_days
            failures = Counter(str(each.table) for each in opened.database.quarantine(opened.tables))
            versions = ", ".join(map(str, opened.keys.read().versions))
        return dg.AssetCheckResult(
            passed=far.complete and not failures,
            severity=dg.AssetCheckSeverity.ERROR if failures else dg.AssetCheckSeverity.WARN,
            description=_do_not_decrypt(failures) if failures else _far(far, days),
            metadata={
                "values_read_now": values,
                "failures": failures.total(),
                "percent": far.percent,
                "pages": far.pages,
                "pages_read": far.read_pages,
                "key_versions": versions,
                **marked(under_way=not failures and not far.late),
            },
        )

    return every_value_decrypts


def _do_not_decrypt(failures: Mapping[str, int]) -> str:
    named = (f"{table}: {number:,} values do not decrypt" for table, number in failures.items())
    return f"{'; '.join(named)}; run `keyrotation inventory` to find them"


def _far(far: Reach, days: int) -> str:
    """How much of it was read, and no more than that."""
    if far.oldest is None:
        return "there is nothing to decrypt"
    since = f"{far.oldest:%Y-%m-%d %H:%M} UTC"
    if far.complete:
        return f"each of {far.pages:,} pages was read within {days} days, and all they held decrypts; since {since}"
    read = f"{far.percent:g} % of {far.pages:,} pages were read within {days} days, and all they held decrypts"
    if far.late:
        return (
            f"behind: {read}; {', '.join(far.late)} not since {since}: give `rolling_decrypt` more [reencryption] "
            "hours, duty_cycle or workers, or run `keyrotation verify`"
        )
    return f"under way: {read}; the rest is read by {far.oldest + timedelta(days=days):%Y-%m-%d}"
