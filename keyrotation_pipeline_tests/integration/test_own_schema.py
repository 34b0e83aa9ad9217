"""SQL of ours names the schema of the home whose connection executes it, and nothing that others have named changes."""

import ast
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.own_schema import own, schema_in, schema_of, with_schema, written
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline_tests.pages import TOP

ADAPTERS = TOP / "keyrotation_pipeline" / "adapters"
# A name of an own table or, in a comparison, of the schema; the others are settings of the session and a file.
OWN = re.compile(r"\bkeyrotation\.(?!engine\b|lock_timeout\b|toml\b)[a-z_]+|nspname (=|<>) 'keyrotation'")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        pytest.param("SELECT FROM keyrotation.waits", 'SELECT FROM "order".waits', id="table"),
        pytest.param("to_regclass('keyrotation.waits')", "to_regclass('\"order\".waits')", id="name in a text"),
        pytest.param("nspname = 'keyrotation'", "nspname = 'order'", id="schema"),
        pytest.param("keyrotation_retired_keys_insert", "order_retired_keys_insert", id="name of a fence"),
        pytest.param("current_setting('keyrotation.engine')", "current_setting('keyrotation.engine')", id="setting"),
        pytest.param("'keyrotation: key version'", "'keyrotation: key version'", id="message"),
    ],
)
def test_statements_name_the_schema(statement: str, expected: str) -> None:
    assert written(statement, "order") == expected
    assert written(statement, "keyrotation") == statement


@pytest.mark.parametrize(
    ("url", "schema", "expected"),
    [
        pytest.param("postgresql://u@h/d", "keyrotation", "keyrotation", id="default"),
        pytest.param("postgresql://u@h/d", "shop_keys", "shop_keys", id="another"),
        pytest.param("host=h options='-c work_mem=1MB'", "shop_keys", "shop_keys", id="beside other options"),
        pytest.param("host=h options='-c keyrotation.schema=x'", "keyrotation", "keyrotation", id="not of the string"),
        pytest.param("host=h options='-ckeyrotation.schema=x'", "shop_keys", "shop_keys", id="without a space"),
    ],
)
def test_a_connection_string_carries_the_schema(url: str, schema: str, expected: str) -> None:
    carrying = with_schema(url, schema)
    assert schema_in(carrying) == expected
    assert with_schema(carrying, schema) == carrying
    assert ("work_mem=1MB" in carrying) is ("work_mem" in url)


@pytest.mark.parametrize("schema", ["keyrotation", "shop_keys"])
@pytest.mark.parametrize("variable", ["", "-c work_mem=1MB", "-c keyrotation.schema=x"])
@pytest.mark.parametrize("options", ["", "-c lock_timeout=1s"])
def test_the_environment_does_not_change_the_schema(
    database_url: str, monkeypatch: pytest.MonkeyPatch, schema: str, variable: str, options: str
) -> None:
    monkeypatch.setenv("PGOPTIONS", variable)
    url = with_schema(make_conninfo(database_url, options=options) if options else database_url, schema, variable)
    with psycopg.connect(url) as connection:
        assert schema_of(connection) == schema
        assert connection.execute("SHOW work_mem").fetchone() == (
            "1MB" if "1MB" in variable and not options else "4MB",
        )


def test_each_connection_gets_its_own_schema(database_url: str) -> None:
    statement = own("SELECT 'keyrotation.waits', '{{}}', {}").format(sql.Literal("keyrotation.waits"))
    for schema in ("keyrotation", "shop_keys", "order"):
        with connect(with_schema(database_url, schema)) as connection:
            quoted = "keyrotation" if schema == "keyrotation" else f'"{schema}"'
            assert schema_of(connection) == schema
            assert connection.execute(statement).fetchone() == (f"{quoted}.waits", "{}", "keyrotation.waits")
            assert statement.as_string(connection).endswith("'keyrotation.waits'")


def test_a_column_that_is_named_like_ours_is_read_under_its_name(database_url: str) -> None:
    column, other = "keyrotation.waits", '"shop_keys".waits'
    with psycopg.connect(with_schema(database_url, "shop_keys"), autocommit=True) as connection:
        create = sql.SQL("CREATE TABLE public.t ({} int, {} int)")
        connection.execute(create.format(sql.Identifier(column), sql.Identifier(other)))
        connection.execute("INSERT INTO public.t VALUES (1, 2)")
        read = own("SELECT {column} FROM public.t").format(column=sql.Identifier(column))
        assert connection.execute(read).fetchone() == (1,)


def test_no_statement_names_an_own_table_but_through_own() -> None:
    unmarked = [
        f"{file.relative_to(ADAPTERS)}:{text.lineno}"
        for file in ADAPTERS.rglob("*.py")
        # The ledger's one way to the server marks what it is given.
        if file.parent.name not in {"ledger", "versions"} and file.name != "own_schema.py"
        for text in _unmarked(ast.parse(file.read_text()))
    ]
    assert unmarked == []


def _unmarked(node: ast.AST) -> Iterator[ast.Constant]:
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"own", "written"}:
        return
    if isinstance(node, ast.Expr):  # a docstring
        node = ast.Module([], [])
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and OWN.search(each.value):
            yield each
        yield from _unmarked(each)
