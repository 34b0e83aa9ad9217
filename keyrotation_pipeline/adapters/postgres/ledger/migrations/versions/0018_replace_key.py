"""To replace an imported key that opens no value is an action of its own."""

from alembic import op

revision = "0018"
down_revision = "0016"

STATEMENTS = (
    "ALTER TABLE keyrotation.rotations DROP CONSTRAINT rotations_action_check",
    """
    ALTER TABLE keyrotation.rotations ADD CONSTRAINT rotations_action_check
        CHECK (action IN ('rotate', 'rollback', 'reconcile', 'destroy', 'policy', 'replace-key'))
    """,
)


def upgrade() -> None:
    """Let requests be of this action."""
    for statement in STATEMENTS:
        op.execute(statement)
