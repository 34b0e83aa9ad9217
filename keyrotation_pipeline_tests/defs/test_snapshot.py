"""What Dagster shows is what the committed list says: links, alerts and launchers know these names."""

import os
from datetime import UTC, datetime
from pathlib import Path

from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.defs.snapshots import snapshot_of

COMMITTED = Path(__file__).with_name("definitions.txt")
TABLES = [EncryptedTable(TableName.parse(name), ("secret",)) for name in ("clients", "billing.Invoices")]


def test_what_dagster_shows_is_what_the_committed_list_says() -> None:
    definitions = build_definitions(
        TABLES, 2, PipelineResource(), "Europe/Berlin", datetime(2026, 1, 1, tzinfo=UTC),
        rehearse_nightly=True, timestamps=True, witnesses=True,
    )  # fmt: skip
    now = snapshot_of(definitions)
    if os.environ.get("KEYROTATION_TEST_SNAPSHOT"):
        COMMITTED.write_text(now)

    assert now == COMMITTED.read_text(), "if it is meant, run this test with KEYROTATION_TEST_SNAPSHOT=1 and commit"
