"""Log files of CloudTrail in a real bucket of moto's, and the application's audit in a real database."""

import gzip
import json
from contextlib import nullcontext
from datetime import UTC, datetime

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.inventory.audit_events import AuditEvents
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import IncidentError, PreflightError
from keyrotation_pipeline.incidents.access import key_reads
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline_tests.buckets import REGION, TestBucket
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.unit.incidents.test_access import SECRETS, SINCE, UNTIL, record

DAY = "AWSLogs/123456789012/CloudTrail/us-east-1/2026/01"


def put(bucket: TestBucket, key: str, content: bytes) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=content)


def logged(*numbers: int) -> bytes:
    return gzip.compress(json.dumps({"Records": [record(each) for each in numbers]}).encode())


def test_log_files_of_the_days_are_read_and_delivered_twice_counts_once(bucket: TestBucket) -> None:
    from keyrotation_pipeline.adapters.aws_incidents import CloudTrailFiles  # noqa: PLC0415

    put(bucket, f"{DAY}/05/a.json.gz", logged(1, 2))
    put(bucket, f"{DAY}/06/late.json.gz", logged(2, 3))
    put(bucket, f"{DAY}/09/long-after.json.gz", logged(4))
    put(bucket, "AWSLogs/123456789012/CloudTrail-Digest/us-east-1/2026/01/05/d.json.gz", b"no log")
    trail = CloudTrailFiles(bucket.name, region_name=REGION, endpoint_url=bucket.url)
    found = key_reads(trail.records(SINCE, UNTIL), SECRETS, SINCE, UNTIL)
    assert [each.event_id for each in found] == ["id-1", "id-2", "id-3"]
    for content in (gzip.compress(b"[" * 6000), b"not compressed"):
        put(bucket, f"{DAY}/05/b.json.gz", content)
        with pytest.raises(IncidentError, match=r"05/b.json.gz in .* is not a CloudTrail log file"):
            list(trail.records(SINCE, UNTIL))
    missing = CloudTrailFiles("no-such-bucket", region_name=REGION, endpoint_url=bucket.url)
    with pytest.raises(IncidentError, match=r"cannot be read \(NoSuchBucket\)"):
        list(missing.records(SINCE, UNTIL))


TABLE = """
    CREATE TABLE public.audit_events (event_type text, resource_type text, user_id uuid, ip_address inet,
                               created_at timestamp, action text)
"""
ROW = "INSERT INTO public.audit_events VALUES ('view', %s, gen_random_uuid(), %s, %s, %s)"


def test_the_source_procedures_query_over_the_applications_audit(connection: Connection) -> None:
    connection.execute(TABLE)
    for kind, address, at, action in (
        ("Client", "10.0.0.1", datetime(2026, 1, 5, 9), "READ"),  # noqa: DTZ001  as the source procedure has it
        ("Client", "10.0.0.1", datetime(2026, 1, 5, 9), "UPDATE"),  # noqa: DTZ001
        ("Session", "10.0.0.2", datetime(2026, 1, 4, 9), "READ"),  # noqa: DTZ001
    ):
        connection.execute(ROW, (kind, address, at, action))
    (found,) = AuditEvents(connection, TableName.parse("audit_events")).reads(SINCE, UNTIL)
    assert (found.resource_type, found.address, found.reads) == ("Client", "10.0.0.1", 1)
    assert found.first_at == datetime(2026, 1, 5, 9, tzinfo=UTC)


def test_a_row_that_others_wrote_neither_fails_the_question_nor_moves_a_cursor(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE odd_audit ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        try:
            url = server.url("odd_audit")
            with connect(url) as connection, psycopg.connect(url, autocommit=True, client_encoding="SQL_ASCII") as tool:
                connection.execute(TABLE)
                for kind, at in (
                    ("'Client'", "2026-01-05 09:00"),
                    ("'Cl\x9bient'", "2026-01-05 09:00"),
                    ("'\xff'", "infinity"),
                    ("repeat('[', 6000)", "2026-01-05 09:00"),
                    ("'a' || chr(27) || '[2J'", "2026-01-05 09:00"),
                    ("NULL", "-infinity"),
                    ("NULL", "2026-01-05 09:00"),
                ):
                    row = f"INSERT INTO public.audit_events VALUES ({kind}, {kind}, NULL, NULL, '{at}', 'READ')"
                    tool.execute(row.encode("latin-1"))
                found = AuditEvents(connection, TableName.parse("audit_events")).reads(SINCE, UNTIL)
            shown = ["", "Cl?ient", "Client", "[" * 200, r"a\x1b[2J"]
            assert sorted((each.resource_type, each.event_type) for each in found) == [(each, each) for each in shown]
        finally:
            admin.execute("DROP DATABASE odd_audit WITH (FORCE)")


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        pytest.param("SELECT 1", "cannot be queried", id="no such table"),
        pytest.param("CREATE TABLE audit_events (id int)", "no column event_type of a built-in type", id="columns"),
        pytest.param(f"{TABLE.replace('audit_events', 'real')}; CREATE VIEW audit_events AS SELECT * FROM real",
                     "could run code", id="a view"),
        pytest.param(f"{TABLE}; ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY", "could run code",
                     id="row security"),
        pytest.param(
            f"CREATE DOMAIN mine AS text CHECK (VALUE <> ''); {TABLE.replace('action text', 'action mine')}",
            "no column action of a built-in type", id="a type of the owner's",
        ),
    ],
)  # fmt: skip
def test_a_table_that_could_run_code_is_not_asked(
    database_url: str, connection: Connection, statement: str, sentence: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(statement)
    with pytest.raises(IncidentError, match=sentence):
        AuditEvents(connection, TableName.parse("audit_events")).reads(SINCE, UNTIL)


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        pytest.param("CREATE INDEX ON public.child ((action || public.evil('x')))", True, id="index of a child"),
        pytest.param("ALTER TABLE public.child ADD CHECK (public.evil('x') = 'x')", False, id="CHECK of a child"),
    ],
)
def test_to_plan_the_question_runs_no_code_of_the_tables_owner(
    database_url: str, connection: Connection, statement: str, refused: bool
) -> None:
    somebody = f"somebody_{connection.info.dbname}"
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            f"""{TABLE}; CREATE TABLE public.child () INHERITS (public.audit_events); CREATE SEQUENCE public.called;
            CREATE FUNCTION public.evil(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN
                IF current_setting(''keyrotation.engine'', true) = ''on'' THEN PERFORM nextval(''public.called'');
                END IF; RETURN $1; END';
            CREATE ROLE {somebody}; ALTER FUNCTION public.evil(text) OWNER TO {somebody}; {statement}"""
        )
        try:
            with pytest.raises(PreflightError, match=r"public\.evil\(text\) of role") if refused else nullcontext():
                AuditEvents(connection, TableName.parse("audit_events")).reads(SINCE, UNTIL)
            assert owner.execute("SELECT is_called FROM public.called").fetchone() == (False,)
        finally:
            owner.execute(f"DROP FUNCTION public.evil CASCADE; DROP ROLE {somebody}")
