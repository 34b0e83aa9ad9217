"""Flags of incidents, which any tool may raise; an emergency may wait beside a routine request."""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = (
    # Nothing is refused here: a flag that is malformed is put aside with its reason, and not lost.
    """
    CREATE TABLE keyrotation.incident_flag (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        source text,
        type text,
        description text,
        discovered_at timestamptz,
        scope text,
        impact text,
        key_versions text[],
        raised_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "DROP INDEX keyrotation.one_waiting_successor",
    """
    CREATE UNIQUE INDEX one_waiting_successor ON keyrotation.rotations (type)
        WHERE status = 'requested' AND supersedes IS NOT NULL AND action IN ('rotate', 'rollback')
    """,
)


def upgrade() -> None:
    """Make room for flags."""
    for statement in STATEMENTS:
        op.execute(statement)
