"""A request that may be signed at once, and starts no earlier than a date."""

from alembic import op

revision = "0016"
down_revision = "0014"


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE keyrotation.rotations ADD COLUMN not_before timestamptz")
