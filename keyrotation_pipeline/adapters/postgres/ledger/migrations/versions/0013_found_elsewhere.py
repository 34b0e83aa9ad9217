"""What was found in pages that were searched for undeclared values, until they are seen to be without."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE keyrotation.page_readings ADD COLUMN found jsonb NOT NULL DEFAULT '{}'")
