"""Checks of the pipeline as it is now, one row each, and the metadata of a check that is under way."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

import dagster as dg

from keyrotation_pipeline.defs.partitions import Naming
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.step_runner import actor_of, progress_to, step_failures
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import FIRST
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.page_reading import Reach
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.due import due_rotation
from keyrotation_pipeline.monitoring.rolling import DECRYPT, how_far, read_what_is_due
from keyrotation_pipeline.monitoring.scheduler_health import stalled
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation.fences import fences, values_of_gone_keys
from keyrotation_pipeline.rotation.key_checks import usage_of_primary
from keyrotation_pipeline.rotation.keys import require_stored_and_backed_up

UNDER_WAY = "under_way"
NO_PRIMARY = dg.AssetCheckResult(passed=False, description="no key is the primary; run `keyrotation init`")


class Check(NamedTuple):
    """A check as Dagster shows it, without the prefix; `evaluate` also reports its progress."""

    name: str
    asset: str
    description: str
    evaluate: Callable[[Pipeline, Report], dg.AssetCheckResult]


def checks(naming: Naming) -> Iterator[dg.AssetChecksDefinition]:
    """The check of each row at the end of this file."""
    return (_check(naming, row) for row in CHECKS)


def _check(naming: Naming, row: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=naming.asset(row.asset), name=row.name, description=row.description)
    def check(context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter) -> dg.AssetCheckResult:
        with step_failures(), keyrotation.open(actor_of(context)) as opened:
            return row.evaluate(opened, progress_to(context.log))

    return check


def progress_metadata(*, under_way: bool) -> Mapping[str, bool]:
    """The metadata by which `is_failure` recognizes a check that has not passed yet; empty for any other."""
    return {UNDER_WAY: True} if under_way else {}


def is_failure(evaluation: dg.AssetCheckEvaluation) -> bool:
    """Whether people are alerted: not of a check that is under way, but always at severity `ERROR`."""
    if evaluation.passed:
        return False
    return evaluation.severity is dg.AssetCheckSeverity.ERROR or UNDER_WAY not in evaluation.metadata


def reads_back(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `key_reads_back`, from each key and its backup."""
    registered = pipeline.ledger.keys()
    kept = [each for each in registered if each.state is not KeyState.DESTROYED]
    stored = pipeline.keys.read()
    wrong = {str(each.version): reason for each in kept if (reason := _wrong_with(pipeline.vault, stored, each))}
    return dg.AssetCheckResult(
        passed=not wrong and bool(kept),
        description="; ".join(wrong.values())
        or (f"{len(kept)} keys read back" if kept else "no key is registered; run `keyrotation init`"),
        metadata={"keys": len(kept), "wrong": len(wrong)},
    )


def _wrong_with(vault: BackupVault, stored: StoredKeys, record: KeyRecord) -> str | None:
    try:
        require_stored_and_backed_up(vault, stored, record)
    except KeyRotationError as error:
        return str(error)
    return None


def below_gcm_limit(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `key_usage_below_gcm_limit`, from PostgreSQL's statistics."""
    declared = pipeline.tables[0].format
    if not declared.encrypts_by_gcm:
        return dg.AssetCheckResult(passed=True, description=f"a key of the format {declared.name} has no such limit")
    usage = usage_of_primary(pipeline)
    if usage is None:
        return NO_PRIMARY
    return dg.AssetCheckResult(
        passed=not usage.half_used,
        severity=dg.AssetCheckSeverity.ERROR if usage.exhausted else dg.AssetCheckSeverity.WARN,
        description=usage.message + ("; request a rotation" if usage.half_used else ""),
        metadata={
            "key_version": str(usage.version),
            "encryptions_at_most": usage.encryptions,
            "by_applications": usage.by_applications,
            "by_rotations": usage.by_rotations,
            "limit": usage.limit if usage.version.generation == FIRST else usage.limit_name,
        },
    )


def not_overdue(pipeline: Pipeline) -> dg.AssetCheckResult:
    """The result of `rotation_not_overdue`."""
    primary = pipeline.keys.read().primary
    found = due_rotation(Situation(pipeline), primary)
    if found is None:
        return NO_PRIMARY
    due, needs_people = found.due, found.needs_people
    return dg.AssetCheckResult(
        passed=found.in_time,
        severity=dg.AssetCheckSeverity.ERROR if needs_people else dg.AssetCheckSeverity.WARN,
        description=f"{'was' if found.overdue else 'is'} due by {utc_minute(due.at)}: {due.rule}"
        + (f"; {found.message}" if found.walk is not None or due.soon(found.now) else ""),
        metadata={
            "due_at": dg.MetadataValue.timestamp(due.at),
            "key_version": str(primary),
            **progress_metadata(under_way=found.under_way),
        },
    )


def _nothing_stands_still(pipeline: Pipeline) -> dg.AssetCheckResult:
    messages = list(stalled(pipeline.heartbeats.last(), pipeline.clock.now()))
    return dg.AssetCheckResult(
        passed=not messages,
        description="; ".join(messages) or "the sensors that watch this home run, and nothing is switched off",
        metadata={"standing_still": len(messages)},
    )


def _retired_versions_are_refused(pipeline: Pipeline) -> dg.AssetCheckResult:
    seen, records, counts = fences(pipeline), pipeline.ledger.keys(), pipeline.ledger.counts(pipeline.tables)
    messages = [*seen.attention(), *(each for count in counts for each in values_of_gone_keys(count, records))]
    refused = [f"{name} refuses {', '.join(map(str, versions))}" for name, versions in seen.retired.items()]
    return dg.AssetCheckResult(
        passed=not messages,
        description="; ".join(messages or [*refused, *seen.warnings()]) or "nothing is retired yet",
        metadata={"wrong": len(messages), "tables_not_counted": len(pipeline.tables) - len(counts)},
    )


def _every_value_decrypts(pipeline: Pipeline, report: Report) -> dg.AssetCheckResult:
    values = read_what_is_due(pipeline, DECRYPT, report)
    reach, days = how_far(pipeline, DECRYPT), pipeline.verification.every_days
    failures = Counter(str(each.table) for each in pipeline.inventory.quarantine(pipeline.tables))
    return dg.AssetCheckResult(
        passed=reach.complete and not failures,
        severity=dg.AssetCheckSeverity.ERROR if failures else dg.AssetCheckSeverity.WARN,
        description=_do_not_decrypt(failures) if failures else _decrypted(reach, days),
        metadata={
            "values_read_now": values,
            "failures": failures.total(),
            "percent": reach.percent,
            "pages": reach.pages,
            "pages_read": reach.read_pages,
            "key_versions": ", ".join(map(str, pipeline.keys.read().versions)),
            **progress_metadata(under_way=not failures and not reach.late),
        },
    )


def _do_not_decrypt(failures: Mapping[str, int]) -> str:
    named = (f"{table}: {number:,} values do not decrypt" for table, number in failures.items())
    return f"{'; '.join(named)}; run `keyrotation inventory` to find them"


def _decrypted(reach: Reach, days: int) -> str:
    """How much was read, and since when."""
    if reach.oldest is None:
        return "there is nothing to decrypt"
    since = utc_minute(reach.oldest)
    if reach.complete:
        return f"each of {reach.pages:,} pages was read within {days} days, and all they held decrypts; since {since}"
    read = f"{reach.percent:g} % of {reach.pages:,} pages were read within {days} days, and all they held decrypts"
    if reach.late:
        return (
            f"behind: {read}; {', '.join(reach.late)} not since {since}: give `rolling_decrypt` more [reencryption] "
            "hours, duty_cycle or workers, or run `keyrotation verify`"
        )
    return f"under way: {read}; the rest is read by {reach.oldest + timedelta(days=days):%Y-%m-%d}"


CHECKS = (
    Check(
        "key_reads_back", Step.KEY_VERSION,
        "Every key that is not destroyed reads back from the store as the key that was registered; it has a backup.",
        lambda pipeline, _: reads_back(pipeline),
    ),
    Check(
        "key_usage_below_gcm_limit", Step.KEY_VERSION,
        "The primary has encrypted fewer than 2^32 values (NIST SP 800-38D; second generation: 2^80), by the server's "
        "statistics, which a reset empties; warns at half.",
        lambda pipeline, _: below_gcm_limit(pipeline),
    ),
    Check(
        "rotation_not_overdue", Step.PRIMARY_KEY_ROLLOUT,
        "The primary is younger than 12 months, no emergency rotation older than 24 hours; warns 60 days ahead.",
        lambda pipeline, _: not_overdue(pipeline),
    ),
    Check(
        "sensors_and_schedules_run", "encrypted_columns",
        "The daemon, the conductor and every schedule run; `keyrotation status` says the same without Dagster.",
        lambda pipeline, _: _nothing_stands_still(pipeline),
    ),
    Check(
        "retired_versions_are_refused", "encrypted_columns",
        "Every table still refuses its retired versions, and the last count found no value under an archived key.",
        lambda pipeline, _: _retired_versions_are_refused(pipeline),
    ),
    Check(
        "every_value_decrypts", Step.RETIRED_KEY,
        "Every value decrypts with the keys that applications have, and was read within `every_days`.",
        _every_value_decrypts,
    ),
)  # fmt: skip
