"""Every metric that `keyrotation metrics` and `/metrics` have."""

from collections.abc import Iterator

from keyrotation_pipeline.monitoring.metrics import PREFIX, Metric, metrics_of
from keyrotation_pipeline_tests.contract.test_prometheus_rules import full
from keyrotation_pipeline_tests.reference.markdown import code, listing, page_of

_INTRODUCTION = """
`keyrotation metrics` and the page `/metrics` of `keyrotation up` have these, each a gauge with the label `database`
and those below; a metric without samples is left out. Moments are seconds since 1970, 0 is never. [How to scrape
them](../guides/monitoring.md), [the rules for alerts](../../deploy/prometheus/keyrotation.rules.yaml).
"""


def page() -> str:
    """The page."""
    return page_of("Metrics", _parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    yield listing((_named(each), each.help) for each in metrics_of(full()))


def _named(metric: Metric) -> str:
    """The name, with the labels."""
    labels = ", ".join(map(code, metric.labels))
    return code(f"{PREFIX}{metric.name}") + (f" ({labels})" if labels else "")
