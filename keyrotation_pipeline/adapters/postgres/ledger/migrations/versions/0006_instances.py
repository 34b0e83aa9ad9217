"""Instances say how often they still decrypted values of older versions; and no report is of a form nobody can read."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    # By version: {"v1": {"values": 12, "last_at": "2026-03-01T12:00:00+00:00"}}.
    "ALTER TABLE keyrotation.application_instances ADD COLUMN decrypted jsonb NOT NULL DEFAULT '{}'",
    # Whoever wrote such a row is an application that does not report: it is to be noticed as that.
    r"""
    DELETE FROM keyrotation.application_instances
    WHERE instance !~ '^[^\x01-\x1f\x7f]{1,255}$' OR writes !~ '^v[1-9][0-9]{0,5}$'
       OR array_to_string(reads, ',', '?') !~ '^(v[1-9][0-9]{0,5},)*v[1-9][0-9]{0,5}$'
    """,
    r"""
    ALTER TABLE keyrotation.application_instances
        ADD CHECK (instance ~ '^[^\x01-\x1f\x7f]{1,255}$'),
        ADD CHECK (writes ~ '^v[1-9][0-9]{0,5}$'),
        ADD CHECK (array_to_string(reads, ',', '?') ~ '^(v[1-9][0-9]{0,5},)*v[1-9][0-9]{0,5}$'),
        ADD CHECK (jsonb_typeof(decrypted) = 'object')
    """,
)


def upgrade() -> None:
    """Give them a place for it, and bounds."""
    for statement in STATEMENTS:
        op.execute(statement)
