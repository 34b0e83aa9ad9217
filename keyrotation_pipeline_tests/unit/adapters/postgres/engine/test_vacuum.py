"""When a vacuum starts: by the pages that were rewritten, also after others have rewritten the table as a whole."""

import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.vacuum import Vacuum
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import DatabaseUnavailableError

NOTES = Relation(1, "public", "notes", "r", "heap", False, False, False, 1600, ())


@pytest.mark.parametrize(
    ("steps", "vacuums"),
    [
        pytest.param([100] * 4, 4, id="each sixteenth"),
        pytest.param([60] * 4, 2, id="not sooner"),
        pytest.param([1000, -1000, *[100] * 3], 4, id="pages are done again after a VACUUM FULL"),
    ],
)
def test_vacuums_follow_the_pages(steps: list[int], vacuums: int) -> None:
    begun: list[int] = []

    def unavailable() -> Connection:
        begun.append(1)
        raise DatabaseUnavailableError("no server here")

    vacuum = Vacuum(unavailable, NOTES, Limits(vacuum_pages=10), wanted=True)
    for pages in steps:
        vacuum.rewritten(pages)
    vacuum.finish()
    assert len(begun) == vacuums
