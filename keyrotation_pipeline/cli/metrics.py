"""`metrics`: the status as text for Prometheus."""

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, actor
from keyrotation_pipeline.cli.status import status_now
from keyrotation_pipeline.monitoring.metrics import in_open_metrics


def metrics(*, config: Config = None) -> None:
    """Print the status in OpenMetrics text, for Prometheus.

    It counts and decrypts nothing. `keyrotation up` serves the same under /metrics.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        shown = status_now(pipeline, declared)
    output.content(in_open_metrics(shown))
