"""`init` counts what is counted within seconds, and no terabyte."""

import pytest

from keyrotation_pipeline.requests import inventory
from keyrotation_pipeline_tests.fakes import fake_pipeline


@pytest.mark.parametrize(("most", "counted"), [pytest.param(8192, 1, id="small"), pytest.param(8191, 0, id="large")])
def test_tables_are_counted_only_if_that_is_quick(monkeypatch: pytest.MonkeyPatch, most: int, counted: int) -> None:
    pipeline = fake_pipeline({"clients": [{"first_name": "v1:Ada", "email": None}]}).pipeline
    monkeypatch.setattr(inventory, "COUNTED_BYTES", most)
    inventory.count_if_small(pipeline)

    assert len(pipeline.ledger.counts(pipeline.tables)) == counted
