"""When which pages of an encrypted table were last decrypted, so that all of them are within a set time."""

from alembic import op

revision = "0012"
down_revision = "0011"

STATEMENT = """
    CREATE TABLE keyrotation.page_readings (
        table_name text NOT NULL,
        relation text NOT NULL,
        file text NOT NULL,
        first_page bigint NOT NULL,
        end_page bigint NOT NULL CHECK (end_page > first_page),
        since timestamptz NOT NULL,
        read_at timestamptz,
        PRIMARY KEY (table_name, relation, first_page)
    )
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(STATEMENT)
