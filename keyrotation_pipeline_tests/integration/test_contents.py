"""What is counted of a database for its backup: everything that pg_dump takes, and without running anybody's code."""

from collections.abc import Iterator

import pytest

from keyrotation_pipeline.adapters.postgres.inventory import contents
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError

OWNER = "kr_table_owner"
TABLES = f"""
CREATE ROLE {OWNER}; GRANT CREATE ON SCHEMA public TO {OWNER}; SET ROLE {OWNER};
CREATE FUNCTION public.spy(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RAISE WARNING ''it ran as %'', current_user; RETURN 1; END';
CREATE TABLE public.by_index (name text, id int);
CREATE TABLE public.by_predicate (id int);
CREATE TABLE public.by_statistics (id int);
CREATE TABLE public.plain (name text);
CREATE TABLE public.without_columns ();
INSERT INTO public.by_index VALUES (E'a\\nb', 1), (NULL, NULL), ('', 3);
INSERT INTO public.by_predicate VALUES (1), (2);
INSERT INTO public.by_statistics VALUES (1), (2);
INSERT INTO public.plain VALUES ('x');
INSERT INTO public.without_columns DEFAULT VALUES;
CREATE INDEX ON public.by_index ((id + public.spy(1)));
CREATE INDEX ON public.by_predicate (id) WHERE id > public.spy(1);
CREATE STATISTICS public.spied ON (id + public.spy(1)), (id + 1) FROM public.by_statistics;
RESET ROLE
"""


@pytest.fixture
def spied(either: Connection) -> Iterator[Connection]:
    either.execute(TABLES.encode())
    yield either
    either.execute(f"DROP OWNED BY {OWNER}; DROP ROLE {OWNER}".encode())


def test_no_function_of_a_tables_owner_runs_as_our_role_while_rows_are_counted(spied: Connection) -> None:
    ran: list[object] = []
    spied.add_notice_handler(lambda reported: ran.append(reported.message_primary))
    spied.execute("SELECT count(*) FROM public.by_index")
    assert len(ran) == 1, "a query that is planned runs it: so this test can fail"
    ran.clear()
    counted = {str(each.name): each.rows for each in contents.count(spied).relations}
    assert ran == []
    assert counted == {"by_index": 3, "by_predicate": 2, "by_statistics": 2, "plain": 1, "without_columns": 1}


def test_a_table_in_a_schema_that_our_role_may_not_use_is_named_with_what_to_grant(spied: Connection) -> None:
    spied.execute("CREATE SCHEMA closed; CREATE TABLE closed.hidden (id int)")
    spied.execute(f"DROP TABLE public.by_index, public.by_predicate, public.by_statistics; SET ROLE {OWNER}".encode())
    try:
        with pytest.raises(PreflightError, match=r"table closed\.hidden cannot be read .*GRANT USAGE on its schema"):
            contents.count(spied)
    finally:
        spied.execute("RESET ROLE")
