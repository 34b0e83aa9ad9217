"""One row of the tables of assets, the function that turns it into a Dagster asset, and the table of the steps.

The rows of the other assets stand next to what they do; the rows of the database's tables are in `reencrypt`.
"""

import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg

from keyrotation_pipeline.defs.partitions import (
    COMPLIANCE_OFFICERS,
    DATABASE_ADMINISTRATORS,
    SECURITY_OFFICERS,
    SITE_RELIABILITY,
    Naming,
    RunPartition,
    key_versions,
)
from keyrotation_pipeline.defs.resources import PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.step_runner import actor_of, rotation_of, run_step, step_failures
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.reporting.retirement_certificate import certify, in_words
from keyrotation_pipeline.requests.inventory import is_small


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset as Dagster shows it, without the prefix.

    Args:
        materialize: does the work, and returns the metadata.
        deps: names of the assets that it reads.
    """

    name: str
    group: str
    kinds: Set[str]
    owner: str
    description: str
    materialize: Callable[[dg.AssetExecutionContext, PipelineResource], Mapping[str, Any]]
    deps: Sequence[str] = ()
    freshness: dg.FreshnessPolicy | None = None


def build_asset(
    naming: Naming,
    row: Asset,
    deps: Sequence[dg.AssetKey] | None = None,
    partitions: dg.PartitionsDefinition[str] | None = None,
) -> dg.AssetsDefinition:
    """The asset of a row; a failure shows as one sentence.

    Args:
        deps: instead of those that the row names.
    """

    @dg.asset(
        key=naming.asset(row.name),
        deps=[naming.asset(name) for name in row.deps] if deps is None else deps,
        partitions_def=partitions,
        group_name=naming.name(row.group),
        kinds=set(row.kinds),
        owners=[row.owner],
        description=row.description,
        freshness_policy=row.freshness,
        metadata=_code_reference(row.materialize),
    )
    def asset(context: dg.AssetExecutionContext, keyrotation: PipelineParameter) -> dg.MaterializeResult[None]:
        with step_failures():
            return dg.MaterializeResult(metadata=row.materialize(context, keyrotation))

    return asset


def with_code_references(assets: Sequence[dg.AssetsDefinition]) -> Sequence[dg.AssetsDefinition]:
    """Adds to assets without a row what the UI links to; each load would warn that these references are beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [each for each in dg.with_source_code_references(assets) if isinstance(each, dg.AssetsDefinition)]


def _code_reference(function: Callable[..., object]) -> Mapping[str, dg.CodeReferencesMetadataValue]:
    """The same for a row: the function that does its work, and not the one above that all rows share."""
    file, (_, line) = inspect.getsourcefile(function), inspect.getsourcelines(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(file_path=str(file), line_number=line)
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


Metadata = Mapping[str, Any]


def step_assets(naming: Naming, tables: Sequence[EncryptedTable]) -> Iterator[dg.AssetsDefinition]:
    """The asset of each row below, after that of the step before it."""
    for row in STEP_ASSETS:
        yield build_asset(naming, row, _before(naming, Step(row.name), tables), key_versions(naming))


def _before(naming: Naming, step: Step, tables: Sequence[EncryptedTable]) -> Sequence[dg.AssetKey]:
    earlier = WALK[: WALK.index(step)]
    if earlier and earlier[-1] is Step.ROWS:
        return list(dict.fromkeys(naming.rows(table.name) for table in tables)) or [naming.step(earlier[-2])]
    return [naming.step(each) for each in earlier[-1:]]


def _row(
    step: Step, group: str, kinds: Set[str], owner: str, description: str, *, closing: Step | None = None
) -> Asset:
    return Asset(step, group, kinds, owner, description, _runs(step, closing))


def _runs(step: Step, closing: Step | None = None) -> Callable[[dg.AssetExecutionContext, PipelineResource], Metadata]:
    return lambda context, resource: run_step(context, resource, step, closing=closing)


def _retire(context: dg.AssetExecutionContext, resource: PipelineResource) -> Metadata:
    return {**run_step(context, resource, Step.RETIRED_KEY), **_certificate(context, resource)}


def _certificate(context: dg.AssetExecutionContext, resource: PipelineResource) -> Metadata:
    """The certificate of the key's retirement as of now; the key is retired even if none can be issued."""
    partition = RunPartition.of(context).walk
    try:
        with resource.open_backups(actor_of(context)) as site:
            if not is_small(site.pipeline):
                return {"certificate": dg.MetadataValue.text(_TOO_LARGE)}
            made = certify(site, rotation_of(site.pipeline, partition).id)
    except KeyRotationError as error:
        return {"certificate": dg.MetadataValue.text(f"none: {error}")}
    return {
        "certificate": dg.MetadataValue.md(in_words(made.statement)),
        "certificate_signed": dg.MetadataValue.json(json.loads(made.envelope)),
    }


_TOO_LARGE = (
    "none yet, since it counts all tables again, which takes longer than this step should; "
    "run `keyrotation report --format certificate`"
)

STEP_ASSETS = (
    _row(
        Step.KEY_VERSION, "new_key", {"key", "gpg"}, SECURITY_OFFICERS,
        "1. The new key: generated, stored, read back, compared and backed up, before anything uses it.",
    ),
    _row(
        Step.DUAL_KEY_ROLLOUT, "new_key", {"application"}, SITE_RELIABILITY,
        "2. Every application instance is seen to read the new key in addition to the old one; nothing writes it yet.",
    ),
    _row(
        Step.PRIMARY_KEY_ROLLOUT, "new_key", {"application"}, SITE_RELIABILITY,
        "3. The new key is the primary, and every instance is seen to write under it.",
    ),
    _row(
        Step.ZERO_OLD_ROWS_PROOF, "old_key", {"postgres"}, DATABASE_ADMINISTRATORS,
        "5. Sweeps find nothing, every value decrypts, and the database itself refuses the old version from now on.",
        closing=Step.ROWS,
    ),
    Asset(
        Step.RETIRED_KEY, "old_key", {"postgres", "application"}, SECURITY_OFFICERS,
        "6. Evidence and approvals checked again, in one transaction; then the old key leaves the applications.",
        _retire,
    ),
    _row(
        Step.ARCHIVED_KEY, "old_key", {"key"}, SECURITY_OFFICERS,
        "7. The old key in the archive, for as long as a database backup may need it: archived, never deleted.",
    ),
    _row(
        Step.KEY_ROTATION_AUDIT, "evidence", {"postgres"}, COMPLIANCE_OFFICERS,
        "8. The completed row of key_rotation_audit: versions, kind, who asked, when, how many records.",
    ),
    _row(
        Step.COMPLIANCE_REPORT, "evidence", {"report"}, COMPLIANCE_OFFICERS,
        "9. The report, anchored in the audit chain: who approved, what was done when, and the proof.",
    ),
)  # fmt: skip
