"""What the catalogue said of a table when its pre-flight checks last passed, so that they need not run each time."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = (
    """
    CREATE TABLE keyrotation.checked_tables (
        request text NOT NULL,
        table_name text NOT NULL,
        target_version integer NOT NULL,
        digest text NOT NULL,
        checked_at timestamptz NOT NULL,
        PRIMARY KEY (request, table_name, target_version)
    )
    """,
)


def upgrade() -> None:
    """Create the table."""
    for statement in STATEMENTS:
        op.execute(statement)
