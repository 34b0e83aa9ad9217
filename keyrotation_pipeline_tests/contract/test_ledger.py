"""The fake ledger and the real one pass the same suite."""

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline_tests.contract.ledger_suite import LedgerSuite
from keyrotation_pipeline_tests.fakes import FakeLedger


class TestFakeLedger(LedgerSuite):
    @pytest.fixture
    def ledger(self) -> FakeLedger:
        return FakeLedger()


class TestPostgresLedger(LedgerSuite):
    @pytest.fixture
    def ledger(self, migrated: Connection) -> PostgresLedger:
        return PostgresLedger(migrated, SystemClock(), "tester", "clinic@localhost, system identifier 7")
