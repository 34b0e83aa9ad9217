"""Each event says who appended it: the signature of the pipeline."""

from alembic import op

revision = "0.2.0_signatures"
down_revision = "0.2.0"


def upgrade() -> None:
    """Adds the column; the events that are there stay unsigned."""
    op.execute("ALTER TABLE keyrotation.audit_events ADD COLUMN signature text")
