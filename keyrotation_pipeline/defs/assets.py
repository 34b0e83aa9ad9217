"""One row of the tables of assets, and the function that turns it into a Dagster asset."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg

from keyrotation_pipeline.defs.partitions import Naming
from keyrotation_pipeline.defs.resources import PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.step_runner import step_failures


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
