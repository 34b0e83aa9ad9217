"""The schema `keyrotation`: ledger, audit chain, progress, quarantine, counts, and the seed's key_rotation_audit."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    # Key versions: never the key. A version number stays registered for ever, so that it is never used again.
    """
    CREATE TABLE keyrotation.key_versions (
        version integer PRIMARY KEY CHECK (version BETWEEN 1 AND 999999),
        state text NOT NULL CHECK (state IN
            ('pre-activation', 'active', 'deactivated', 'archived', 'destroyed', 'compromised')),
        fingerprint text NOT NULL,
        created_at timestamptz NOT NULL,
        state_changed_at timestamptz NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX one_active_key ON keyrotation.key_versions ((true)) WHERE state = 'active'",
    """
    CREATE TABLE keyrotation.rosters (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        pinned_at timestamptz NOT NULL,
        required integer NOT NULL CHECK (required >= 1),
        officers jsonb NOT NULL,
        recipients jsonb NOT NULL
    )
    """,
    """
    CREATE TABLE keyrotation.rotations (
        id text PRIMARY KEY,
        type text NOT NULL CHECK (type IN ('routine', 'emergency')),
        action text NOT NULL CHECK (action IN ('rotate', 'rollback', 'destroy', 'policy')),
        source_version integer NOT NULL,
        source_fingerprint text NOT NULL,
        target_version integer NOT NULL,
        reason text NOT NULL,
        incident text,
        requested_by text NOT NULL,
        requested_at timestamptz NOT NULL,
        start_by timestamptz NOT NULL,
        finish_by timestamptz NOT NULL,
        audit_seq bigint NOT NULL,
        audit_hash text NOT NULL,
        approval_text bytea NOT NULL,
        status text NOT NULL CHECK (status IN ('requested', 'running', 'paused', 'cancelled', 'finished')),
        started_at timestamptz,
        finished_at timestamptz,
        promotion_xid bigint,
        blocked_by text
    )
    """,
    """
    CREATE UNIQUE INDEX one_unfinished_rotation ON keyrotation.rotations ((true))
        WHERE status NOT IN ('cancelled', 'finished')
    """,
    """
    CREATE TABLE keyrotation.signatures (
        request text NOT NULL REFERENCES keyrotation.rotations,
        officer text NOT NULL,
        signature bytea NOT NULL,
        signed_at timestamptz NOT NULL,
        PRIMARY KEY (request, officer)
    )
    """,
    """
    CREATE TABLE keyrotation.rotation_steps (
        request text NOT NULL REFERENCES keyrotation.rotations,
        step text NOT NULL,
        table_name text NOT NULL DEFAULT '',
        shard integer NOT NULL DEFAULT -1,
        finished_at timestamptz NOT NULL,
        facts jsonb NOT NULL,
        PRIMARY KEY (request, step, table_name, shard)
    )
    """,
    # Where each walk is; workers share a shard by its slices.
    # A changed filenode (VACUUM FULL, CLUSTER) restarts the walk of that relation.
    """
    CREATE TABLE keyrotation.shard_walks (
        request text NOT NULL,
        table_name text NOT NULL,
        shard integer NOT NULL,
        slice integer NOT NULL DEFAULT 0,
        relation text NOT NULL,
        filenode bigint NOT NULL,
        first_page bigint NOT NULL,
        next_page bigint NOT NULL,
        end_page bigint NOT NULL,
        rows bigint NOT NULL DEFAULT 0,
        "values" bigint NOT NULL DEFAULT 0,
        skipped bigint NOT NULL DEFAULT 0,
        quarantined bigint NOT NULL DEFAULT 0,
        seconds double precision NOT NULL DEFAULT 0,
        updated_at timestamptz NOT NULL,
        PRIMARY KEY (request, table_name, shard, slice, relation)
    )
    """,
    # By table, primary key and column; never content.
    """
    CREATE TABLE keyrotation.quarantine (
        table_name text NOT NULL,
        relation text NOT NULL,
        row_key text NOT NULL,
        column_name text NOT NULL,
        reason text NOT NULL,
        found_at timestamptz NOT NULL,
        PRIMARY KEY (relation, row_key, column_name)
    )
    """,
    """
    CREATE TABLE keyrotation.table_counts (
        table_name text PRIMARY KEY,
        counts jsonb NOT NULL,
        counted_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE keyrotation.audit_events (
        seq bigint PRIMARY KEY CHECK (seq > 0),
        body text NOT NULL,
        previous_hash text NOT NULL,
        hash text NOT NULL UNIQUE
    )
    """,
    # Where the chain ends. The next event is chained to this row, not to the last one found, so that events cut off
    # leave a gap for ever instead of being quietly overgrown.
    """
    CREATE TABLE keyrotation.audit_head (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        seq bigint NOT NULL,
        hash text NOT NULL
    )
    """,
    "INSERT INTO keyrotation.audit_head (seq, hash) VALUES (0, repeat('0', 64))",
    """
    CREATE FUNCTION keyrotation.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'keyrotation: the audit is append-only';
    END $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON keyrotation.audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION keyrotation.refuse_change()
    """,
    """
    CREATE TRIGGER never_removed BEFORE DELETE OR TRUNCATE ON keyrotation.audit_head
        FOR EACH STATEMENT EXECUTE FUNCTION keyrotation.refuse_change()
    """,
    """
    CREATE TRIGGER moves_on_by_one BEFORE UPDATE ON keyrotation.audit_head
        FOR EACH ROW WHEN (NEW.seq <> OLD.seq + 1) EXECUTE FUNCTION keyrotation.refuse_change()
    """,
    # How an application instance says which versions it reads and which it writes.
    """
    CREATE TABLE keyrotation.application_instances (
        instance text PRIMARY KEY,
        reads text[] NOT NULL,
        writes text NOT NULL,
        reported_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The seed's table (section 8.2), column for column, and the request that each row tells of.
    """
    CREATE TABLE keyrotation.key_rotation_audit (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        rotation_date timestamp NOT NULL DEFAULT now(),
        old_key_version varchar(10) NOT NULL,
        new_key_version varchar(10) NOT NULL,
        rotation_type varchar(20) NOT NULL,
        initiated_by varchar(255) NOT NULL,
        completion_date timestamp,
        records_reencrypted bigint,
        notes text,
        request text UNIQUE REFERENCES keyrotation.rotations
    )
    """,
)


def upgrade() -> None:
    """Create every object of the schema; `env.py` has created the schema itself."""
    for statement in STATEMENTS:
        op.execute(statement)
