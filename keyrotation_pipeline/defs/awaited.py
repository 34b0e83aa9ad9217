"""What the conductor waits for, where a person sees it without a click: on its own page, and with the current step."""

from collections.abc import Iterator

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.pages import duration
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.monitoring.progress import TableProgress, tables_progress
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.rotation import runner

Told = dg.SensorResult | dg.SkipReason


def show_what_is_awaited(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, result: Told, before: str
) -> str:
    """The sentence for the conductor's page; where it is another than before, also an observation of the current step.

    Of the rows it has whole percents, so that it changes at most a hundred times a table.
    """
    rotation = takeover.current_or_next(pipeline)
    sentence = _sentence(result)
    if rotation is None:
        return sentence
    phase = phase_of(rotation)
    if phase == Step.ROWS:
        tables = list(zip(pipeline.tables, tables_progress(pipeline, rotation, pipeline.tables), strict=True))
        for observation in _of_rows(naming, rotation, sentence, tables, before):
            instance.report_runless_asset_event(observation)
        return "; ".join((*(_far(far) for _, far in tables), sentence))
    waits = runner.pending_reason(pipeline, rotation) if phase in set(Step) else None
    if waits and waits not in sentence:
        sentence = f"{sentence}; waiting for {waits}"
    if sentence != before and not rotation.is_over:
        step = Step(phase) if phase in set(Step) else Step.KEY_VERSION
        instance.report_runless_asset_event(
            dg.AssetObservation(naming.step(step), description=sentence, metadata=_metadata(rotation, sentence))
        )
    return sentence


def _of_rows(
    naming: Naming, rotation: Walk, sentence: str, tables: list[tuple[EncryptedTable, TableProgress]], before: str
) -> Iterator[dg.AssetObservation]:
    for table, far in tables:
        if _far(far) not in before:
            numbers: dict[str, float] = {"table_percent": round(100 * far.share, 1), "table_rows": far.rows}
            if far.rows_per_second is not None:
                numbers["table_rows_per_second"] = far.rows_per_second
            if far.eta_seconds is not None:
                numbers["table_eta_seconds"] = far.eta_seconds
            told = {
                **_metadata(rotation, sentence),
                **{name: dg.MetadataValue.float(float(number)) for name, number in numbers.items()},
            }
            yield dg.AssetObservation(naming.rows(table.name), description=_far(far), metadata=told)


def _far(far: TableProgress) -> str:
    eta = "" if far.eta_seconds is None else f", about {duration(far.eta_seconds)} to go"
    return f"{far.table} {far.share:.0%}{eta}"


def _metadata(rotation: Walk, sentence: str) -> dict[str, dg.MetadataValue]:
    return {
        "waiting_for": dg.MetadataValue.text(sentence),
        "rotation": dg.MetadataValue.text(rotation.id),
    }


def _sentence(result: Told) -> str:
    if isinstance(result, dg.SkipReason):
        return str(result.skip_message)
    return f"started {', '.join(str(request.job_name) for request in result.run_requests or ())}"
