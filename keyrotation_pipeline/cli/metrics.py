"""`metrics`: the status as text for Prometheus."""

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.status import status_now
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.monitoring.metrics import in_open_metrics, metrics_of


def metrics(*, config: Config = None, as_json: Json = False) -> None:
    """Print the status in OpenMetrics text, for Prometheus.

    It counts and decrypts nothing. `keyrotation up` serves the same under /metrics.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        shown = status_now(pipeline, declared)
    if as_json:
        listed = [metric.as_json() for metric in metrics_of(shown)]
        output.document({"database": shown.database, "generated_at": instant(shown.generated_at), "metrics": listed})
    else:
        output.content(in_open_metrics(shown))
