"""Every page of the reference, by its name."""

from collections.abc import Callable

from keyrotation_pipeline_tests.pages import TOP
from keyrotation_pipeline_tests.reference import (
    commands,
    dagster,
    events,
    exits,
    formats,
    guards,
    json,
    metrics,
    settings,
)

FOLDER = TOP / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "commands": commands.page,
    "settings": settings.page,
    "json": json.page,
    "exit-codes": exits.page,
    "metrics": metrics.page,
    "events": events.page,
    "dagster": dagster.page,
    "formats": formats.page,
    "guards": guards.page,
}
