"""Instances report whether the version that they write was named as the primary; no such report is not a yes."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE keyrotation.application_instances ADD COLUMN names_primary boolean NOT NULL DEFAULT false")
