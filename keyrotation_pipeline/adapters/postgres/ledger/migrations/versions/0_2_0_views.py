"""The views for people name versions of the second generation, too, as everything else does: v2x.

Reports name the newest event after which the key store gives applications a key again, too.
"""

from alembic import op

revision = "0.2.0"
down_revision = "0.1.0"

# What was there stays in its place; a number is used once, in whichever generation.
STATEMENTS = (
    """
    CREATE OR REPLACE VIEW keyrotation.report_nonce AS
    SELECT coalesce((SELECT hash FROM keyrotation.audit_events WHERE seq = greatest(
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'request_opened'),
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'primary_changed'),
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'key_retired'),
               (SELECT max(seq) FROM keyrotation.audit_events WHERE event = 'key_restored'))), '') AS nonce,
           to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
    """,
    """
    CREATE OR REPLACE VIEW keyrotation.rotations AS
    SELECT id, facts ->> 'type' AS type, facts ->> 'action' AS action,
           substring(source FROM '[0-9]+')::integer AS source_version,
           facts ->> 'fingerprint' AS source_fingerprint,
           substring(target FROM '[0-9]+')::integer AS target_version,
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
           facts ->> 'supersedes' AS supersedes, (facts ->> 'not_before')::timestamptz AS not_before,
           source, target
    FROM (SELECT DISTINCT ON (request) request AS id, keyrotation.facts(body) AS facts FROM keyrotation.audit_events
          WHERE event = 'request_opened' AND request IS NOT NULL ORDER BY request, seq) AS opened
    CROSS JOIN LATERAL (
        SELECT substring(facts ->> 'from' FROM '^v[1-9][0-9]{0,5}x?$') AS source,
               substring(facts ->> 'to' FROM '^v[1-9][0-9]{0,5}x?$') AS target) AS named
    LEFT JOIN LATERAL (
        SELECT keyrotation.facts(body) AS moved FROM keyrotation.audit_events
        WHERE request = id AND event = 'status_changed' ORDER BY seq DESC LIMIT 1) AS newest ON true
    """,
    """
    CREATE OR REPLACE VIEW keyrotation.key_versions AS
    WITH changes AS (
        SELECT seq, event, (body::json ->> 'at')::timestamptz AS at, keyrotation.facts(body) AS facts,
               substring(keyrotation.facts(body) ->> 'version' FROM '^v[1-9][0-9]{0,5}x?$') AS name
        FROM keyrotation.audit_events WHERE event IN ('key_registered', 'key_state_changed', 'key_replaced')
    )
    SELECT substring(name FROM '[0-9]+')::integer AS version,
           coalesce(moved.facts ->> 'to', first.facts ->> 'state') AS state,
           coalesce(replaced.facts ->> 'after', first.facts ->> 'fingerprint') AS fingerprint,
           (first.facts ->> 'created_at')::timestamptz AS created_at, coalesce(moved.at, first.at) AS state_changed_at,
           name
    FROM (SELECT DISTINCT ON (name) * FROM changes WHERE event = 'key_registered' AND name IS NOT NULL
          ORDER BY name, seq) AS first
    LEFT JOIN LATERAL (SELECT * FROM changes WHERE changes.name = first.name AND event = 'key_state_changed'
                       ORDER BY seq DESC LIMIT 1) AS moved USING (name)
    LEFT JOIN LATERAL (SELECT * FROM changes WHERE changes.name = first.name AND event = 'key_replaced'
                       ORDER BY seq DESC LIMIT 1) AS replaced USING (name)
    """,
)


def upgrade() -> None:
    """Replaces the views."""
    for statement in STATEMENTS:
        op.execute(statement)
