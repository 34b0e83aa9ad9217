"""To reconcile is an action of its own, and `policy` a signed change of officers, threshold or recipients."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    "ALTER TABLE keyrotation.rotations DROP CONSTRAINT rotations_action_check",
    # Until now every request of the action `policy` was one to reconcile.
    "UPDATE keyrotation.rotations SET action = 'reconcile' WHERE action = 'policy'",
    """
    ALTER TABLE keyrotation.rotations ADD CONSTRAINT rotations_action_check
        CHECK (action IN ('rotate', 'rollback', 'reconcile', 'destroy', 'policy'))
    """,
    "DROP INDEX keyrotation.one_unfinished_policy",
    """
    CREATE UNIQUE INDEX one_unfinished_of_its_action ON keyrotation.rotations (action)
        WHERE status NOT IN ('cancelled', 'finished') AND action IN ('reconcile', 'policy')
    """,
)


def upgrade() -> None:
    """Tell requests to reconcile from changes of the rules."""
    for statement in STATEMENTS:
        op.execute(statement)
