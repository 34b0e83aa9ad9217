"""Instances say how often stored values could not be decrypted."""

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENT = """
    ALTER TABLE keyrotation.application_instances
        ADD COLUMN failed jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(failed) = 'object')
"""


def upgrade() -> None:
    """By version: {"v1": {"values": 12, "last_at": "2026-03-01T12:00:31+00:00", "minutes": {"2026-…T12:00…": 7}}}."""
    op.execute(STATEMENT)
