"""Requests that supersede another: they wait beside it for their signatures, and end it when they start."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    "ALTER TABLE keyrotation.rotations ADD COLUMN supersedes text REFERENCES keyrotation.rotations",
    "DROP INDEX keyrotation.one_unfinished_rotation",
    # At work, or waiting to begin: one rotation or rollback.
    """
    CREATE UNIQUE INDEX one_unfinished_rotation ON keyrotation.rotations ((true))
        WHERE status NOT IN ('cancelled', 'finished') AND action IN ('rotate', 'rollback')
          AND NOT (status = 'requested' AND supersedes IS NOT NULL)
    """,
    # Beside it: one that waits to undo it, or to take it over.
    """
    CREATE UNIQUE INDEX one_waiting_successor ON keyrotation.rotations ((true))
        WHERE status = 'requested' AND supersedes IS NOT NULL AND action IN ('rotate', 'rollback')
    """,
    """
    CREATE UNIQUE INDEX one_unfinished_policy ON keyrotation.rotations ((true))
        WHERE status NOT IN ('cancelled', 'finished') AND action = 'policy'
    """,
)


def upgrade() -> None:
    """Let requests name the one that they supersede."""
    for statement in STATEMENTS:
        op.execute(statement)
