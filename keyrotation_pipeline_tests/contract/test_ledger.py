"""The fake ledger and the real one pass the same suite."""

from collections.abc import Iterator

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline_tests.contract.ledger_suite import LedgerSuite
from keyrotation_pipeline_tests.fakes import FakeLedger
from keyrotation_pipeline_tests.fakes.chain import good_at_start


class TestFakeLedger(LedgerSuite):
    @pytest.fixture
    def ledger(self) -> FakeLedger:
        return FakeLedger()

    @pytest.fixture
    def other(self, ledger: FakeLedger) -> FakeLedger:
        return FakeLedger(ledger.clock, ledger.journal, ledger.state, locks=ledger.locks)


class TestPostgresLedger(LedgerSuite):
    @pytest.fixture
    def ledger(self, migrated: Connection) -> PostgresLedger:
        return PostgresLedger(migrated, SystemClock(), "tester", "clinic@localhost, system identifier 7", good_at_start)

    @pytest.fixture
    def other(self, ledger: PostgresLedger, database_url: str) -> Iterator[PostgresLedger]:
        with connect(database_url) as connection:
            yield PostgresLedger(connection, ledger.clock, ledger.actor, ledger.database, good_at_start)
