"""The schema `keyrotation`: the audit chain, which is the ledger; progress, findings, counts, the rotation audit."""

from alembic import op

revision = "0.1.0"
down_revision = None

STATEMENTS = (
    # The progress of each walk; workers share a shard by its slices.
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
        found_at timestamptz NOT NULL,
        kind text NOT NULL CHECK (
            kind IN ('not-a-value', 'unknown-version', 'not-authentic', 'unknown-key', 'encrypted-twice')
        ),
        key_version integer,
        PRIMARY KEY (relation, row_key, column_name),
        CHECK ((kind IN ('not-a-value', 'unknown-key')) = (key_version IS NULL))
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
        hash text NOT NULL UNIQUE,
        event text NOT NULL,
        request text
    )
    """,
    # `event` and `request` are an index of the bodies, which remain authoritative.
    "CREATE INDEX audit_events_by_kind ON keyrotation.audit_events (event, seq)",
    "CREATE INDEX audit_events_by_request ON keyrotation.audit_events (request, event, seq) WHERE request IS NOT NULL",
    # The end of the chain. The next event is chained to this row, not to the last one found, so that a truncated chain
    # has a gap for ever instead of being silently continued.
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
    # What application instances report: which versions each reads and writes, with proof that it holds them
    # (`adapters/rollouts/reports.py`). Applications may insert rows and nothing else. Every encoding can send ASCII.
    r"""
    CREATE TABLE keyrotation.instance_reports (
        id bigint PRIMARY KEY CHECK (id > 0),
        instance text NOT NULL CHECK (instance ~ '^[\x21-\x7e]{1,255}$'),
        report text NOT NULL CHECK (octet_length(report) <= 100000 AND report !~ '[^\x01-\x7f]'),
        proofs text NOT NULL CHECK (octet_length(proofs) <= 20000 AND proofs !~ '[^\x01-\x7f]'),
        reported_at timestamptz NOT NULL CHECK (reported_at BETWEEN '2000-01-01' AND '9000-01-01')
    )
    """,
    "CREATE INDEX instance_reports_by_instance ON keyrotation.instance_reports (instance, id)",
    "CREATE SEQUENCE keyrotation.instance_report_number OWNED BY keyrotation.instance_reports.id",
    # Number and time are the database's. Of each instance the last three reports are kept: a name never disappears by
    # what an application inserts. Rows that somebody else has locked are left to the next report.
    """
    CREATE FUNCTION keyrotation.take_report() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        NEW.id := nextval('keyrotation.instance_report_number');
        NEW.reported_at := clock_timestamp();
        DELETE FROM keyrotation.instance_reports WHERE id IN (
            SELECT id FROM keyrotation.instance_reports
            WHERE instance = NEW.instance AND id <= (
                SELECT id FROM keyrotation.instance_reports
                WHERE instance = NEW.instance ORDER BY id DESC OFFSET 2 LIMIT 1)
            FOR UPDATE SKIP LOCKED);
        RETURN NEW;
    END $$
    """,
    "REVOKE EXECUTE ON FUNCTION keyrotation.take_report FROM PUBLIC",
    """
    CREATE TRIGGER taken BEFORE INSERT ON keyrotation.instance_reports
        FOR EACH ROW EXECUTE FUNCTION keyrotation.take_report()
    """,
    # What a report names, so that it was not made before: the newest event that opened a request or followed a change
    # of the key store (`rotation/rollout.NAMED_IN_REPORTS`), and the time by the database's clock.
    """
    CREATE VIEW keyrotation.report_nonce AS
    SELECT coalesce((SELECT hash FROM keyrotation.audit_events WHERE seq = greatest(
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'request_opened'),
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'primary_changed'),
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'key_retired'))), '') AS nonce,
           to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
    """,
    # Pods of our own cluster in which an instance was seen: only one of these can be seen to have ended.
    """
    CREATE TABLE keyrotation.seen_pods (
        namespace text NOT NULL,
        uid text NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (namespace, uid)
    )
    """,
    # The catalog digest of a table when its pre-flight checks last passed, so that they need not run each time.
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
    # Standbys and subscribers that were seen: one that drops out is still known.
    """
    CREATE TABLE keyrotation.replicas (
        name text PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('standby', 'subscriber', 'slot')),
        connections integer NOT NULL CHECK (connections > 0),
        first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # The beginning of a text that others wrote, such that no query fails on it. A database of UTF8 or LATIN1 can send
    # all of its texts as UTF-8; others may hold bytes that are none, which become question marks.
    r"""
    CREATE FUNCTION keyrotation.readable(given text, characters integer) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN getdatabaseencoding() IN ('UTF8', 'LATIN1') THEN left(given, characters)
               ELSE regexp_replace(left(given, characters), '[^\x01-\x7f]', '?', 'g') END
    $$
    """,
    # Flags of incidents, which any tool may raise. Nothing is refused here: a malformed flag is rejected later with a
    # reason, and not lost.
    """
    CREATE TABLE keyrotation.incident_flag (
        id bigint PRIMARY KEY CHECK (id > 0),
        source text,
        type text,
        description text,
        discovered_at timestamptz,
        scope text,
        impact text,
        key_versions text[],
        raised_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Nobody chooses an id, as COPY and OVERRIDING SYSTEM VALUE would choose that of an identity column: flags are taken
    # in their order.
    "CREATE SEQUENCE keyrotation.incident_flag_number OWNED BY keyrotation.incident_flag.id",
    """
    CREATE FUNCTION keyrotation.number_flag() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        NEW.id := nextval('keyrotation.incident_flag_number');
        RETURN NEW;
    END $$
    """,
    "REVOKE EXECUTE ON FUNCTION keyrotation.number_flag FROM PUBLIC",
    """
    CREATE TRIGGER numbered BEFORE INSERT ON keyrotation.incident_flag
        FOR EACH ROW EXECUTE FUNCTION keyrotation.number_flag()
    """,
    # Why a step waits now. An entry lasts no longer than the session that wrote it, which is identified by its process
    # id and its start.
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
    # What a session is at, so that no other begins the same. Like a wait, a lock lasts no longer than its session.
    """
    CREATE TABLE keyrotation.session_locks (
        name text PRIMARY KEY,
        pid integer NOT NULL,
        session_began_at timestamptz NOT NULL
    )
    """,
    # When which pages of an encrypted table were last decrypted, and what was found in pages that were searched for
    # undeclared values, until a later search finds none.
    """
    CREATE TABLE keyrotation.page_readings (
        table_name text NOT NULL,
        relation text NOT NULL,
        file text NOT NULL,
        first_page bigint NOT NULL,
        end_page bigint NOT NULL CHECK (end_page > first_page),
        since timestamptz NOT NULL,
        read_at timestamptz,
        found jsonb NOT NULL DEFAULT '{}',
        PRIMARY KEY (table_name, relation, first_page)
    )
    """,
    # The source procedure's table (section 8.2), column for column, and the request of each row.
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
        request text UNIQUE
    )
    """,
    # The newest events: for people, and for the engine, which polls every second whether it must pause. Whatever
    # destroys or decides replays the chain instead, and counts only events that were possible and signed. `facts`
    # returns the facts of an event. An encoding that lacks some characters shows them as \u{2019}.
    r"""
    CREATE FUNCTION keyrotation.facts(body text) RETURNS jsonb LANGUAGE sql STABLE AS $$
        SELECT (CASE getdatabaseencoding() WHEN 'UTF8' THEN body ELSE regexp_replace(
            replace(body, '\u{5c}', '\'), '(?<!\\)\\u([0-9a-f]{4})', '\\\\u{\1}', 'g'
        ) END)::jsonb -> 'facts'
    $$
    """,
    """
    CREATE VIEW keyrotation.rotations AS
    SELECT id, facts ->> 'type' AS type, facts ->> 'action' AS action,
           substring(facts ->> 'from' FROM '^v([1-9][0-9]{0,5})$')::integer AS source_version,
           facts ->> 'fingerprint' AS source_fingerprint,
           substring(facts ->> 'to' FROM '^v([1-9][0-9]{0,5})$')::integer AS target_version,
           facts ->> 'reason' AS reason, facts ->> 'incident' AS incident, facts ->> 'requested_by' AS requested_by,
           (facts ->> 'requested_at')::timestamptz AS requested_at, (facts ->> 'start_by')::timestamptz AS start_by,
           (facts ->> 'finish_by')::timestamptz AS finish_by, (facts #>> '{audit_head,seq}')::bigint AS audit_seq,
           facts #>> '{audit_head,hash}' AS audit_hash, facts ->> 'approval_text' AS approval_text,
           coalesce(moved ->> 'to', 'requested') AS status,
           (SELECT (keyrotation.facts(body) ->> 'at')::timestamptz FROM keyrotation.audit_events
            WHERE request = id AND event = 'status_changed' AND keyrotation.facts(body) ->> 'to' = 'running'
            ORDER BY seq LIMIT 1) AS started_at,
           CASE WHEN moved ->> 'to' IN ('cancelled', 'finished') THEN (moved ->> 'at')::timestamptz END AS finished_at,
           (SELECT (keyrotation.facts(body) ->> 'xid')::bigint FROM keyrotation.audit_events
            WHERE request = id AND event = 'promotion_recorded' ORDER BY seq LIMIT 1) AS promotion_xid,
           (SELECT keyrotation.facts(body) ->> 'sentence' FROM keyrotation.audit_events
            WHERE request = id AND event IN ('blocked', 'unblocked') ORDER BY seq DESC LIMIT 1) AS blocked_by,
           facts ->> 'supersedes' AS supersedes, (facts ->> 'not_before')::timestamptz AS not_before
    FROM (SELECT DISTINCT ON (request) request AS id, keyrotation.facts(body) AS facts FROM keyrotation.audit_events
          WHERE event = 'request_opened' AND request IS NOT NULL ORDER BY request, seq) AS opened
    LEFT JOIN LATERAL (
        SELECT keyrotation.facts(body) AS moved FROM keyrotation.audit_events
        WHERE request = id AND event = 'status_changed' ORDER BY seq DESC LIMIT 1) AS newest ON true
    """,
    # Never the key. A version number stays registered for ever, so that it is never reused.
    """
    CREATE VIEW keyrotation.key_versions AS
    WITH changes AS (
        SELECT seq, event, (body::json ->> 'at')::timestamptz AS at, keyrotation.facts(body) AS facts,
               substring(keyrotation.facts(body) ->> 'version' FROM '^v([1-9][0-9]{0,5})$')::integer AS version
        FROM keyrotation.audit_events WHERE event IN ('key_registered', 'key_state_changed', 'key_replaced')
    )
    SELECT version, coalesce(moved.facts ->> 'to', first.facts ->> 'state') AS state,
           coalesce(replaced.facts ->> 'after', first.facts ->> 'fingerprint') AS fingerprint,
           (first.facts ->> 'created_at')::timestamptz AS created_at, coalesce(moved.at, first.at) AS state_changed_at
    FROM (SELECT DISTINCT ON (version) * FROM changes WHERE event = 'key_registered' AND version IS NOT NULL
          ORDER BY version, seq) AS first
    LEFT JOIN LATERAL (SELECT * FROM changes WHERE changes.version = first.version AND event = 'key_state_changed'
                       ORDER BY seq DESC LIMIT 1) AS moved USING (version)
    LEFT JOIN LATERAL (SELECT * FROM changes WHERE changes.version = first.version AND event = 'key_replaced'
                       ORDER BY seq DESC LIMIT 1) AS replaced USING (version)
    """,
)


def upgrade() -> None:
    """Creates every object of the schema; `env.py` has created the schema itself."""
    for statement in STATEMENTS:
        op.execute(statement)
