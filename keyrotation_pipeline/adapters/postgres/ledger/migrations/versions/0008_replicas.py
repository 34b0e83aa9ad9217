"""Standbys and subscribers that were seen are written down: one that drops out is not forgotten."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    """
    CREATE TABLE keyrotation.replicas (
        name text PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('standby', 'subscriber', 'slot')),
        connections integer NOT NULL CHECK (connections > 0),
        first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
)


def upgrade() -> None:
    """Make room for them."""
    for statement in STATEMENTS:
        op.execute(statement)
