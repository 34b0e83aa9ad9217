"""Checks that a database has the required schema `keyrotation`; without Alembic, since every command does this."""

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import PreflightError

# The newest revision in migrations/versions: what `migrate` upgrades a database to.
HEAD = "0001"

# Tables of ours that are not searched for values: people and applications write text there. Everything else in the
# schema keyrotation is searched.
OWN_TABLES = (
    "alembic_version", "audit_events", "audit_head", "checked_tables", "incident_flag", "instance_reports",
    "key_rotation_audit", "page_readings", "quarantine", "replicas", "seen_pods", "session_locks", "shard_walks",
    "table_counts", "waits",
)  # fmt: skip


def require_migrated(connection: Connection) -> None:
    """Refuses to work on a database whose schema `keyrotation` is missing or of another version.

    Raises:
        PreflightError: says to run `keyrotation init`.
    """
    name = display_name(connection.info.dsn)
    if connection.execute("SELECT to_regclass('keyrotation.alembic_version')").fetchone() == (None,):
        raise PreflightError(f"{name} has no schema keyrotation yet; run `keyrotation init`")
    row = connection.execute("SELECT version_num FROM keyrotation.alembic_version").fetchone()
    if row != (HEAD,):
        raise PreflightError(f"the schema keyrotation of {name} is of another version; run `keyrotation init`")
