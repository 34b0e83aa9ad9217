"""The quarantine stores what is wrong with a value in columns; the sentence that people read is made from them."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    "ALTER TABLE keyrotation.quarantine ADD COLUMN kind text, ADD COLUMN key_version integer",
    # The sentences of earlier releases named at most one version.
    r"""
    UPDATE keyrotation.quarantine SET
        key_version = substring(reason, '\mv([1-9][0-9]{0,5})\M')::integer,
        kind = CASE WHEN reason !~ '\mv[1-9][0-9]{0,5}\M' THEN 'not-a-value'
                    WHEN reason ~ '^fails authentication' THEN 'not-authentic' ELSE 'unknown-version' END
    """,
    """
    ALTER TABLE keyrotation.quarantine
        ALTER COLUMN kind SET NOT NULL,
        ADD CHECK (kind IN ('not-a-value', 'unknown-version', 'not-authentic')),
        ADD CHECK ((kind = 'not-a-value') = (key_version IS NULL)),
        DROP COLUMN reason
    """,
)


def upgrade() -> None:
    """Replace the sentence by its kind and key version."""
    for statement in STATEMENTS:
        op.execute(statement)
