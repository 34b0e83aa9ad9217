from keyrotation_pipeline.adapters.postgres.server.connection import Connection


def test_migrated_database_has_the_ledger(migrated: Connection) -> None:
    assert migrated.execute("SELECT count(*) FROM keyrotation.audit_events").fetchone() == (0,)
