"""An index of the audit by kind of event and by request, beside the bodies, which stay the truth."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    "ALTER TABLE keyrotation.audit_events ADD COLUMN event text, ADD COLUMN request text",
    # No UPDATE, which the append-only trigger refuses. The keys of a body are sorted: `event` is before `facts`, and
    # `request` comes after it, just before `seq`; so nothing inside the facts is taken for either.
    r"""
    ALTER TABLE keyrotation.audit_events
        ALTER COLUMN event TYPE text USING coalesce(substring(body FROM '"event":"([^"]*)","facts":'), ''),
        ALTER COLUMN request TYPE text USING substring(body FROM '"request":"([^"]*)","seq":[0-9]+}$')
    """,
    "ALTER TABLE keyrotation.audit_events ALTER COLUMN event SET NOT NULL",
    "CREATE INDEX audit_events_by_kind ON keyrotation.audit_events (event, seq)",
)


def upgrade() -> None:
    """File the events that are there."""
    for statement in STATEMENTS:
        op.execute(statement)
