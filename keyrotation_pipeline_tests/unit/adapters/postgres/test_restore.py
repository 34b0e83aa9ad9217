"""What pg_restore says of failures becomes phrases without content; what is left out is decided by kind alone."""

import pytest

from keyrotation_pipeline.adapters.postgres.server.archive import ArchiveEntry
from keyrotation_pipeline.adapters.postgres.server.restore import failures_in
from keyrotation_pipeline.adapters.postgres.server.restore_plan import BY_SUPERUSER, Extension, ServerRules, plan
from keyrotation_pipeline.errors import IncompleteRestoreError
from keyrotation_pipeline.model.backups import DatabaseContent, DatabaseCopy, StoredFile
from keyrotation_pipeline_tests.fakes.backups import DEFINITION

TOLD = """pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 2; 3079 16390 EXTENSION citext\x20
pg_restore: error: could not execute query: ERROR:  extension "citext" is not available
Command was: CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;
pg_restore: from TOC entry 9; 0 16391 TABLE DATA clients postgres
pg_restore: error: COPY failed for table "clients": ERROR:  invalid input syntax for type integer: "secret"
CONTEXT:  COPY clients, line 1, column id: "secret"
pg_restore: warning: errors ignored on restore: 3
"""


def test_each_failure_is_a_phrase_that_quotes_no_row_and_none_is_forgotten() -> None:
    assert failures_in(1, TOLD) == (
        'EXTENSION citext (extension "citext" is not available)',
        "TABLE DATA clients postgres",
        "1 more",
    )


@pytest.mark.parametrize(
    ("code", "reported", "failures"),
    [
        pytest.param(0, "", (), id="all restored"),
        pytest.param(1, "", ("1 more",), id="a bad end without a word"),
        pytest.param(0, "pg_restore: warning: errors ignored on restore: 1\n", ("1 more",), id="an error not named"),
    ],
)
def test_a_bad_end_is_a_failure_whatever_is_said(code: int, reported: str, failures: tuple[str, ...]) -> None:
    assert failures_in(code, reported) == failures


def test_what_a_newer_server_wrote_into_the_dump_is_named() -> None:
    reported = """pg_restore: from TOC entry 3; 1259 16408 TABLE Termine owner
pg_restore: error: could not execute query: ERROR:  unrecognized parameter "pg_attver"
"""
    assert failures_in(1, reported) == ('TABLE Termine owner (unrecognized parameter "pg_attver")',)


def test_many_failures_are_shown_in_part_and_counted() -> None:
    failures = failures_in(1, "pg_restore: error: x\n" * 1500)
    assert failures[-1] == "500 more"
    assert len(failures) == 1001


DUMP = DatabaseCopy(StoredFile("database-x.dump.gpg", "", 1, ()), (), 18, DatabaseContent((), 0), DEFINITION)
THERE = ServerRules(
    {"citext": True, "pg_stat_statements": False, "pageinspect": False}, BY_SUPERUSER, frozenset({"work_mem"})
)


def entries(*texts: str) -> list[ArchiveEntry]:
    """Entries that each depend on the first."""
    return [ArchiveEntry(number, text, (1,) if number > 1 else ()) for number, text in enumerate(texts, 1)]


def header(text: str) -> str:
    kind, schema, name, owner = text.split(" ")
    return f"--\n-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: {owner or '-'}\n--\n\n"


@pytest.mark.parametrize(
    ("text", "sql", "left_out"),
    [
        ("TABLE public clients postgres", "", False),
        ("SCHEMA - public postgres", "", False),
        ("COMMENT public TABLE clients postgres", "", False),
        ("EXTENSION - citext ", "", False),
        ("EXTENSION - postgres_fdw ", "", True),
        ("EXTENSION - pageinspect ", "", True),
        ("EVENT TRIGGER - spy postgres", "", True),
        ("PUBLICATION - some postgres", "CREATE PUBLICATION some WITH (publish = 'insert');", False),
        ("PUBLICATION - all postgres", "CREATE PUBLICATION \"all\" FOR ALL TABLES WITH (publish = 'insert');", True),
        ("PUBLICATION TABLE public some clients postgres", "", False),
        ("PUBLICATION TABLES IN SCHEMA public some public postgres", "", True),
        ("FOREIGN TABLE public remote postgres", "", True),
        ("USER MAPPING - USER MAPPING postgres SERVER other postgres", "", True),
        ("FUNCTION public f() postgres", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS ' LANGUAGE c ';", False),
        ("FUNCTION public f() postgres", "CREATE FUNCTION f() RETURNS int LANGUAGE c STRICT AS 'x', 'y';", True),
        ("CAST - c postgres", "CREATE CAST (public.a AS text) WITHOUT FUNCTION ;", True),
        ("CAST - c postgres", "CREATE CAST (public.a AS text) WITH FUNCTION public.f(public.a);", False),
        ("CAST - c postgres", "CREATE CAST (text AS numeric(3,1)[]) WITH FUNCTION public.f(text);", True),
        ("TRANSFORM - TRANSFORM FOR public.a LANGUAGE sql", "", True),
        ("FUNCTION public f() postgres", "CREATE FUNCTION f() RETURNS int LANGUAGE sql SUPPORT g AS 'x';", True),
        ("FUNCTION public f() postgres", "CREATE FUNCTION f() LANGUAGE sql SET work_mem TO '1MB' AS 'x';", False),
        ("FUNCTION public f() postgres", "CREATE FUNCTION f() LANGUAGE sql SET log_statement TO 'x' AS 'x';", True),
    ],
)
def test_what_only_a_superuser_may_create_is_left_out_with_all_that_depends_on_it(
    text: str, sql: str, *, left_out: bool
) -> None:
    listed = entries(text, f"ACL {text}", "VIEW public v postgres")
    planned = plan(listed, header(text) + sql if sql else "", THERE, DUMP, "the server")
    assert planned.left_out == (tuple(listed) if left_out else ())
    assert planned.restored == (() if left_out else tuple(listed))


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("EXTENSION - pageinspect ", r"name it in \[recovery\] superuser_extensions$"),
        ("ACCESS METHOD - own ", r"have a superuser restore this dump: `gpg -d database-x.dump.gpg \| pg_restore"),
        ("TRANSFORM - TRANSFORM FOR t LANGUAGE sql", "make the rows independent of that and back up again"),
    ],
)
def test_rows_are_never_left_out_and_the_advice_is_of_use(cause: str, advice: str) -> None:
    listed = entries(cause, "TABLE public pages postgres", "TABLE DATA public pages postgres")
    with pytest.raises(IncompleteRestoreError, match=rf"rows of public pages .*\({cause.strip()}\).*{advice}"):
        plan(listed, "", THERE, DUMP, "the server")


def test_extensions_for_a_superuser_are_created_in_the_schemas_that_the_dump_names() -> None:
    text = header("EXTENSION - pg_stat_statements ") + (
        'CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA "Odd ""tools";'
    )
    listed = entries("EXTENSION - pg_stat_statements ", 'SCHEMA - Odd "tools postgres', "VIEW public v postgres")
    planned = plan(listed, text, THERE, DUMP, "the server")
    assert planned.extensions == (Extension("pg_stat_statements", 'Odd "tools'),)
    assert [each.text for each in planned.restored] == ["VIEW public v postgres"]
