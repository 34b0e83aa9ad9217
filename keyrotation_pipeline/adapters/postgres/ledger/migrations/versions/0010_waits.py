"""Why a step of a walk waits at this moment, for `status`."""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = (
    # A wait lasts no longer than the session that noted it, which is known by its process and when that began.
    """
    CREATE TABLE keyrotation.waits (
        request text NOT NULL,
        place text NOT NULL,
        pid integer NOT NULL,
        session_began_at timestamptz NOT NULL,
        waiting_for text NOT NULL,
        since timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (request, place, pid)
    )
    """,
)


def upgrade() -> None:
    """Make room for them."""
    for statement in STATEMENTS:
        op.execute(statement)
