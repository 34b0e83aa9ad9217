"""A dump's text is split where the server would split it, and nothing is selected that could evaluate an expression."""

import pytest

from keyrotation_pipeline.adapters.postgres.server.dump_comparison import compare
from keyrotation_pipeline.adapters.postgres.server.dump_text import (
    Part,
    decoded,
    for_database,
    part_of,
    setting_of,
    statements,
)


def split(text: str) -> list[str]:
    return [statement.text for statement in statements(text)]


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("COMMENT ON TABLE t IS 'it''s; -- \\';", id="semicolon, comment and backslash in a text"),
        pytest.param("COMMENT ON TABLE t IS E'a\\';''b\\\\';", id="escaped quotes"),
        pytest.param('CREATE TABLE "a;""\n--\n-- Name: b; Type: TABLE; Schema: c; Owner: d\n" ();', id="quoted name"),
        pytest.param("CREATE FUNCTION f() AS $$ BEGIN; 'x END $_$ $$;", id="dollar quotes"),
        pytest.param("CREATE FUNCTION f() AS $fn$ $$;$f$;$fn $ $fn$;", id="dollar quotes with a tag"),
        pytest.param("SELECT a$b$ + c$b$;", id="dollars in names"),
        pytest.param("SELECT 1 /* ; /* ' */ ; */ + 2;", id="nested comments"),
        pytest.param("SELECT 1 -- ; ' /*\n + 2;", id="a comment to the end of a line"),
        pytest.param("SELECT 2 - -1 <> 3 */ 4;", id="operators"),
        pytest.param("CREATE RULE r AS ON INSERT TO t DO ALSO ( DELETE FROM a; NOTIFY b;);", id="actions of a rule"),
        pytest.param(
            'CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN "case" THEN "end" ELSE begin END; SELECT atomic; END;',
            id="SQL body",
        ),
    ],
)
def test_a_statement_ends_at_its_own_semicolon(statement: str) -> None:
    assert split(f"{statement}\n\n{statement}\n") == [statement, statement]


def test_lines_for_psql_and_session_settings_are_no_statements() -> None:
    text = "\\restrict x'y\nSET row_security = off;\nSELECT pg_catalog.set_config('search_path', '', false);\nSELECT 1;"
    assert split(text) == ["SELECT 1;"]


@pytest.mark.parametrize(
    "text", ["SELECT 'a", 'SELECT "a', "SELECT /* /* */ 1;", "SELECT E'a\\'", "SELECT 1", "SELECT $a$ $b$ ';"]
)
def test_text_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no end"):
        split(text)


def test_backslashes_are_as_the_dump_says_and_texts_mean_the_same_afterwards() -> None:
    text = "SET standard_conforming_strings = off;\nCOMMENT ON TABLE t IS 'a\\'; \\\\';\nCOMMENT ON TABLE u IS 'b';"
    assert split(text) == ["COMMENT ON TABLE t IS E'a\\'; \\\\';", "COMMENT ON TABLE u IS 'b';"]


def header(kind: str, name: str, schema: str = "public", owner: str = "o") -> str:
    return f"\n--\n-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: {owner}\n--\n\n"


def test_a_statement_knows_its_entry_its_role_and_where_it_is_stored() -> None:
    text = (
        f"SET default_tablespace = fast;\nSET default_table_access_method = heap;\n{header('TABLE', 'a; Type: b')}"
        "CREATE TABLE t ();\nSET default_tablespace = '';\n"
        f'{header("ACL", "TABLE t")}SET SESSION AUTHORIZATION "x ""y";\nGRANT SELECT ON TABLE t TO z;\n'
        "RESET SESSION AUTHORIZATION;\nGRANT UPDATE ON TABLE t TO z;\n"
    )
    table, first, second = statements(text)
    assert table.entry is not None
    assert (table.entry.kind, table.entry.schema, table.entry.name) == ("TABLE", "public", "a; Type: b")
    assert (table.tablespace, table.access_method, first.tablespace) == ("fast", "heap", "")
    assert (first.session_role, second.session_role) == ('"x ""y"', None)


ODD = "x; Type: TABLE; Schema: public; Owner: y"


@pytest.mark.parametrize(
    ("comment", "statement", "read"),
    [
        (header("INDEX", ODD, "s"), f'CREATE INDEX "{ODD}" ON s.t USING btree (a);', ("INDEX", "s", ODD, "o")),
        (header("INDEX", "i", ODD), f'CREATE INDEX i ON "{ODD}".t USING btree (a);', ("INDEX", ODD, "i", "o")),
        (header("SEQUENCE SET", "i", "s", ODD), "SELECT pg_catalog.setval('s.i', 1);", ("SEQUENCE SET", "s", "i", ODD)),
        (
            header("COMMENT", f'TABLE "{ODD}"'),
            f"COMMENT ON TABLE public.\"{ODD}\" IS 'c';",
            ("COMMENT", "public", f'TABLE "{ODD}"', "o"),
        ),
        (header("SCHEMA", ODD, "-"), f'CREATE SCHEMA "{ODD}";', ("SCHEMA", "-", ODD, "o")),
    ],
)
def test_a_comment_is_read_as_its_statement_says(comment: str, statement: str, read: tuple[str, ...]) -> None:
    (found,) = statements(comment + statement)
    assert found.entry is not None
    assert (found.entry.kind, found.entry.schema, found.entry.name, found.entry.owner) == read


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"\xc3\xa4", "\xe4", id="UTF8"),
        pytest.param(b"SET client_encoding = 'LATIN1';\n\xe4", "\xe4", id="LATIN1"),
        pytest.param(b"SET client_encoding = 'LATIN9';\n\xa4", "\u20ac", id="LATIN9"),
        pytest.param(b"SET client_encoding = 'WIN1251';\n\xe4", "\u0434", id="WIN1251"),
        pytest.param(b"SET client_encoding = 'SQL_ASCII';\n\xe4", "\udce4", id="bytes without meaning"),
        pytest.param(b"SET client_encoding = 'MULE_INTERNAL';\n\xe4", "\udce4", id="an encoding that Python lacks"),
    ],
)
def test_a_dump_is_read_in_its_encoding(raw: bytes, text: str) -> None:
    assert decoded(raw).endswith(text)


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("ALTER TABLE public.t OWNER TO o;", Part.OWNER),
        ('ALTER FUNCTION s."f;"(a integer, VARIADIC b text[]) OWNER TO o;', Part.OWNER),
        ("ALTER OPERATOR s.=== (integer, NONE) OWNER TO o;", Part.OWNER),
        ("ALTER OPERATOR CLASS s.c USING btree OWNER TO o;", Part.OWNER),
        ("ALTER LARGE OBJECT 42 OWNER TO o;", Part.OWNER),
        ("ALTER DATABASE d OWNER TO o;", Part.OWNER),
        ("ALTER TABLE t ALTER c TYPE int USING f(), OWNER TO o;", Part.OTHER),
        ("ALTER TABLE t OWNER TO o, ALTER c SET DEFAULT f();", Part.OTHER),
        ("ALTER FUNCTION f(a integer DEFAULT 'x') OWNER TO o;", Part.OTHER),
        ("ALTER TABLESPACE t OWNER TO o;", Part.OTHER),
        ("GRANT SELECT,INSERT ON TABLE s.t TO PUBLIC;", Part.PRIVILEGE),
        ("GRANT SELECT(c),UPDATE(c) ON TABLE t TO o WITH GRANT OPTION;", Part.PRIVILEGE),
        ("REVOKE GRANT OPTION FOR ALL ON FUNCTION f(integer) FROM o;", Part.PRIVILEGE),
        ("REVOKE CONNECT,TEMPORARY ON DATABASE d FROM PUBLIC;", Part.PRIVILEGE),
        ("GRANT postgres TO o;", Part.OTHER),
        ("GRANT SET ON PARAMETER log_statement TO o;", Part.OTHER),
        ("GRANT CREATE ON TABLESPACE t TO o;", Part.OTHER),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE o IN SCHEMA s GRANT ALL ON TABLES TO p;", Part.DEFAULT_PRIVILEGE),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE o REVOKE ALL ON FUNCTIONS FROM PUBLIC;", Part.DEFAULT_PRIVILEGE),
        ("ALTER DATABASE d SET work_mem TO '8MB';", Part.DATABASE_SETTING),
        ("ALTER DATABASE d SET search_path TO 'a', E'b\\\\';", Part.DATABASE_SETTING),
        ("ALTER ROLE database IN DATABASE d SET \"TimeZone\" TO 'UTC';", Part.ROLE_SETTING),
        ("ALTER ROLE o SUPERUSER;", Part.OTHER),
        ("ALTER ROLE o SET work_mem TO '8MB';", Part.OTHER),
        ("ALTER DATABASE d CONNECTION LIMIT = 7;", Part.DATABASE_OPTION),
        ("COMMENT ON DATABASE d IS 'x;y';", Part.DATABASE_COMMENT),
        ("COMMENT ON TABLE t IS 'x';", Part.OTHER),
        ("CREATE DATABASE d WITH TEMPLATE = template0 ENCODING = 'UTF8';", Part.DATABASE),
    ],
)
def test_only_statements_of_known_forms_are_selected(statement: str, part: Part) -> None:
    (found,) = statements(statement)
    assert part_of(found) is part


@pytest.mark.parametrize(
    ("statement", "renamed"),
    [
        ("ALTER ROLE database IN DATABASE d SET work_mem TO '1';",
         "ALTER ROLE database IN DATABASE \"n\"\"w\" SET work_mem TO '1';"),
        ("GRANT ALL ON DATABASE other TO o;", 'GRANT ALL ON DATABASE "n""w" TO o;'),
        ('ALTER DATABASE "a b" OWNER TO database;', 'ALTER DATABASE "n""w" OWNER TO database;'),
        ("ALTER TABLE database OWNER TO d;", "ALTER TABLE database OWNER TO d;"),
        ("CREATE TABLE d (database text);", "CREATE TABLE d (database text);"),
    ],
)  # fmt: skip
def test_no_selected_statement_reaches_another_database(statement: str, renamed: str) -> None:
    (found,) = statements(statement)
    assert for_database(found, 'n"w').text == renamed


def test_settings_are_named() -> None:
    text = 'ALTER DATABASE d SET "TimeZone" TO 1; ALTER ROLE r IN DATABASE d SET my.own = 2; ALTER ROLE r SET b = 1;'
    assert [setting_of(each) for each in statements(text)] == ["timezone", "my.own", None]


def dump(*entries: str) -> str:
    return "SET client_encoding = 'UTF8';\n" + "".join(entries)


def table(name: str, definition: str = "(id integer)", owner: str = "o") -> str:
    return (
        header("TABLE", name)
        + f"CREATE TABLE public.{name} {definition};\nALTER TABLE public.{name} OWNER TO {owner};\n"
    )


def grants(*grantees: str) -> str:
    return header("ACL", "TABLE a") + "".join(f"GRANT SELECT ON TABLE public.a TO {each};\n" for each in grantees)


@pytest.mark.parametrize(
    ("wanted", "found", "differences"),
    [
        pytest.param(dump(table("a"), table("b")), dump(table("b"), table("a")), [], id="another order"),
        pytest.param(dump(table("a"), table("b")), dump(table("b")), ["TABLE public a missing"], id="missing"),
        pytest.param(dump(), dump(table("b")), ["TABLE public b additional"], id="additional"),
        pytest.param(
            dump(header("POLICY", "a p"), "CREATE POLICY p ON public.a TO x, \"y z\", w USING (true);"),
            dump(header("POLICY", "a p"), "CREATE POLICY p ON public.a TO w, x, \"y z\" USING (true);"),
            [], id="roles of a policy in another order",
        ),
        pytest.param(
            dump(header("POLICY", "a p"), "CREATE POLICY p ON public.a TO x, y USING (true);"),
            dump(header("POLICY", "a p"), "CREATE POLICY p ON public.a TO x, z USING (true);"),
            ["POLICY public a p definition"], id="other roles of a policy",
        ),
        pytest.param(dump(table("a")), dump(table("a", owner="x")), ["TABLE public a owner"], id="owner"),
        pytest.param(dump(table("a")), dump(table("a", "(id bigint)")), ["TABLE public a definition"], id="definition"),
        pytest.param(dump(grants("x", "y")), dump(grants("y", "x")), [], id="grants in another order"),
        pytest.param(dump(grants("x", "y")), dump(grants("x")), ["ACL public TABLE a privileges"], id="privileges"),
        pytest.param(
            dump(grants("x")), dump(grants("x").replace("GRANT", "SET SESSION AUTHORIZATION z;\nGRANT")),
            ["ACL public TABLE a privileges"], id="another grantor",
        ),
        pytest.param(
            dump(table('"a b"'), table('"a\nb"', "(x text)").replace("-- Name: \"a\nb", '-- Name: "a b')),
            dump(table('"a\nb"', "(y text)").replace("-- Name: \"a\nb", '-- Name: "a b'), table('"a b"')),
            ['TABLE public "a b" definition'], id="two objects that a comment names alike",
        ),
        pytest.param(
            dump(header("SEQUENCE SET", "s", owner="x; Type: TABLE; Schema: public; Owner: y"),
                 "SELECT pg_catalog.setval('public.s', 1, true);\n", header("BLOB", "1", "-"),
                 "SELECT pg_catalog.lo_create('1');\nALTER LARGE OBJECT 1 OWNER TO x;\n"),
            dump(), [], id="data",
        ),
        pytest.param(
            dump("SET default_tablespace = fast;\n", table("a")), dump(table("a")), ["TABLE public a tablespace"],
            id="tablespace",
        ),
        pytest.param(
            dump(header("DATABASE", "d", "-"), "CREATE DATABASE d WITH ENCODING = 'UTF8';",
                 header("ACL", "DATABASE d", "-"), "GRANT ALL ON DATABASE d TO x;"),
            dump(header("DATABASE", "e f", "-"), "CREATE DATABASE \"e f\" WITH ENCODING = 'UTF8';",
                 header("ACL", "DATABASE e f", "-"), 'GRANT ALL ON DATABASE "e f" TO x;'),
            [], id="the database's own name",
        ),
    ],
)  # fmt: skip
def test_differences_have_names(wanted: str, found: str, differences: list[str]) -> None:
    assert [f"{each.entry.label} {each.what}" for each in compare(wanted, found)] == differences


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("(ARRAY['a'::character varying, 'b'])::text[]",
         "ARRAY[('a'::character varying)::text, ('b')::text]", True),
        ("(ARRAY[ARRAY[a], ARRAY[b, f(c, d)]])::s.\"T\"[]",
         "ARRAY[ARRAY[(a)::s.\"T\"], ARRAY[(b)::s.\"T\", (f(c, d))::s.\"T\"]]", True),
        ("(((x >= 1) AND (x <= 2)) AND (y > 0))", "((x >= 1) AND (x <= 2) AND (y > 0))", True),
        ("((((x = 1) OR (x = 2)) OR (x = 3)) OR (x = 4))", "((x = 1) OR (x = 2) OR (x = 3) OR (x = 4))", True),
        ("SELECT 'x'::text, (1)::integer[], ('y')::character varying",
         "SELECT 'x'::text AS text, (1)::integer[] AS int4, ('y')::character varying AS \"varchar\"", True),
        ("SELECT 'x'::text AS text", "SELECT 'x'::text AS name", False),
        ("SELECT 'x'::text", "SELECT 'x'::text AS name", False),
        ("(ARRAY['a'::character varying])::text[]", "ARRAY['a'::character varying]", False),
        ("(ARRAY['a'::character varying])::text[]", "(ARRAY['a'::character varying])::name[]", False),
        ("(x)::text[]", "x", False),
        ("(((x = 1) OR (x = 2)) AND (y > 0))", "((x = 1) OR (x = 2) AND (y > 0))", False),
        ("((x > 0) AND ((y = 1) AND (z = 1)))", "((x > 0) AND (y = 1) AND (z = 1))", False),
        ("('a b')", "('a  b')", False),
    ],
)  # fmt: skip
def test_only_what_the_parser_itself_simplifies_is_equal(one: str, other: str, equal: bool) -> None:
    wanted, found = (dump(table("a", f"(CHECK ({each}))")) for each in (one, other))
    assert (compare(wanted, found) == ()) is equal
