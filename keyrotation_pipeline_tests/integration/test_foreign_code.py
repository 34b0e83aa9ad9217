"""A table's owner cannot run code as the pipeline's role: it is refused before the first row is written."""

import re
from collections.abc import Iterator
from contextlib import closing, suppress

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.inventory import contents, relations
from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover
from keyrotation_pipeline.adapters.postgres.inventory.listing import listed
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.preflight.postgres_environment import PostgresEnvironment
from keyrotation_pipeline.adapters.postgres.preflight.writes import never_fires_for_us, watches_others
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.members import Listing, MemberRule
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import PostgresPorts

NOTES = EncryptedTable(TableName("public", "notes"), ("c",))
OURS = "current_setting('keyrotation.engine', true) IS DISTINCT FROM 'on'"
# What the owner of the table would have us run.
TAKES = """
    CREATE FUNCTION public.takes(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql
        AS 'BEGIN RAISE NOTICE ''as %'', current_user; RETURN true; END';
    CREATE FUNCTION public.rewrites() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""


def problems(connection: Connection, *, fatal: bool) -> list[str]:
    return [each.message for each in preflight(connection, [NOTES], KeyVersion(2)) if each.fatal is fatal]


@pytest.fixture
def roles(connection: psycopg.Connection[tuple[object, ...]], database_url: str) -> Iterator[tuple[str, str, str]]:
    """A role that owns the table, the pipeline's role as the runbook makes it, and a URL for that."""
    name = connection.info.dbname
    owner, ours = f"owner_{name}", f"pipeline_{name}"
    connection.execute(f"CREATE ROLE {owner}; CREATE ROLE {ours} LOGIN IN ROLE {owner}")
    connection.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {owner}; GRANT pg_read_all_stats TO {ours}")
    yield owner, ours, make_conninfo(database_url, user=ours)
    connection.execute(f"DROP OWNED BY {owner}, {ours} CASCADE; DROP ROLE {ours}; DROP ROLE {owner}")


def owned(connection: psycopg.Connection[tuple[object, ...]], owner: str, script: str) -> None:
    with connection.transaction():
        connection.execute(f"SET LOCAL ROLE {owner}; SET LOCAL search_path = public")
        connection.execute(script)


FOREIGN = [
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text, CHECK (takes(c)))",
        r"constraint notes_c_check of public\.notes calls public\.takes\(text\)", id="CHECK",
    ),
    pytest.param(
        f"{TAKES} CREATE DOMAIN sealed AS text CHECK (takes(VALUE)); CREATE TABLE notes (id int, c sealed)",
        r"constraint sealed_check of .*notes calls public\.takes\(text\)", id="CHECK of a domain",
    ),
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text, g boolean GENERATED ALWAYS AS (takes(c)) STORED)",
        r"generated column g of public\.notes calls public\.takes\(text\)", id="generated column",
    ),
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text); CREATE INDEX ours ON notes (takes(c))",
        r"index ours of public\.notes calls public\.takes\(text\)", id="expression index",
    ),
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text); CREATE INDEX ours ON notes (id) WHERE takes(c)",
        r"index ours of public\.notes calls public\.takes\(text\)", id="partial index",
    ),
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text); CREATE POLICY mine ON notes USING (takes(c))",
        r"policy mine of public\.notes calls public\.takes\(text\)", id="policy",
    ),
    pytest.param(
        f"{TAKES} CREATE FUNCTION public.like_it(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';"
        "CREATE OPERATOR public.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = public.like_it);"
        "CREATE TABLE notes (id int, c text, CHECK (c === 'x'))",
        r"constraint notes_c_check of public\.notes calls public\.like_it\(text,text\)", id="operator in a CHECK",
    ),
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text); CREATE TRIGGER t BEFORE UPDATE ON notes FOR EACH ROW"
        f" WHEN ({OURS} AND takes(NEW.c)) EXECUTE FUNCTION rewrites()",
        r"trigger t of public\.notes calls public\.takes\(text\)", id="condition next to our clause",
    ),
    pytest.param(
        f"{TAKES} CREATE TABLE notes (id int, c text) PARTITION BY LIST (takes(id::text));"
        "CREATE TABLE part PARTITION OF notes FOR VALUES IN (true)",
        r"partition key of public\.notes calls public\.takes\(text\)", id="partition key",
    ),
    pytest.param(
        "CREATE TYPE kind AS ENUM ('a'); CREATE FUNCTION says(kind) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';"
        "CREATE CAST (kind AS text) WITH FUNCTION says(kind); CREATE TABLE notes (id kind PRIMARY KEY, c text)",
        r"cast from public\.kind to text of public\.notes calls public\.says\(public\.kind\)", id="cast of a key",
    ),
    pytest.param(
        f"{TAKES} CREATE DOMAIN odd AS text CHECK (takes(VALUE));"
        "CREATE TABLE notes (id int, c text, CHECK ((c::odd) IS NOT NULL))",
        r"constraint odd_check of public\.notes calls public\.takes\(text\)", id="CHECK of a domain in a CHECK",
    ),
    pytest.param(
        f"{TAKES} CREATE DOMAIN odd AS text CHECK (takes(VALUE)); CREATE TYPE pair AS (a odd, b int);"
        "CREATE TABLE notes (id pair, c text)",
        r"constraint odd_check of public\.notes calls public\.takes\(text\)", id="CHECK of a domain in a composite",
    ),
    pytest.param(
        f"{TAKES} CREATE DOMAIN odd AS text CHECK (takes(VALUE)); CREATE TABLE notes (id odd[], c text)",
        r"constraint odd_check of public\.notes calls public\.takes\(text\)", id="CHECK of a domain in an array",
    ),
    pytest.param(
        "CREATE FUNCTION apart(text, text) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 0.0::float8';"
        "CREATE TYPE span AS RANGE (subtype = text, subtype_diff = apart); CREATE TABLE notes (id int, c text, s span)",
        r"type of column s of public\.notes calls public\.apart\(text,text\)", id="distance of a range",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("script", "sentence"), FOREIGN)
def test_a_function_of_the_tables_owner_that_our_writes_would_run_is_refused(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], script: str, sentence: str
) -> None:
    owner, ours, url = roles
    owned(connection, owner, script)
    with connect(url) as mine:
        found = problems(mine, fatal=True)
    assert len(found) == 1
    assert re.search(sentence, found[0])
    assert f"of role {owner}, which would run as {ours}" in found[0]


def test_the_statement_in_the_refusal_is_the_way_on(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str]
) -> None:
    owner, _, url = roles
    unaccent = "CREATE FUNCTION f_unaccent(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)'"
    owned(connection, owner, f"{unaccent}; CREATE TABLE notes (id int, c text); CREATE INDEX ON notes (f_unaccent(c))")
    with connect(url) as mine:
        (sentence,) = problems(mine, fatal=True)
        statement = re.search(r"run (ALTER FUNCTION .*) as a superuser", sentence)
        assert statement
        connection.execute(statement[1].encode())
        assert problems(mine, fatal=True) == []
    with connection.transaction():
        connection.execute(f"SET LOCAL ROLE {owner}")
        assert connection.execute("SELECT public.f_unaccent('É')").fetchone()  # the application continues to use it


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("current_setting('keyrotation.engine', true) = 'on'", id="fires for us alone"),
        pytest.param(f"{OURS} OR true", id="or anything"),
        pytest.param(f"NOT ({OURS})", id="the reverse"),
        pytest.param(f"({OURS} AND NEW.id > 0) OR NEW.c <> ''", id="our clause in a branch"),
        pytest.param(f"({OURS} AND NEW.id > 0) IS NOT TRUE", id="our clause denied"),
        pytest.param(
            "NEW.c <> 'current_setting(''keyrotation.engine'', true) IS DISTINCT FROM ''on'''", id="as a text"
        ),
        pytest.param(
            "current_setting('keyrotation.engine', true) IS DISTINCT FROM 'off'", id="compared with something else"
        ),
    ],
)
def test_a_trigger_that_names_our_setting_and_fires_for_us_is_refused(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], condition: str
) -> None:
    owner, _, url = roles
    owned(
        connection, owner, f"{TAKES} CREATE TABLE notes (id int, c text); CREATE TRIGGER t BEFORE UPDATE ON notes "
        f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION rewrites()",
    )  # fmt: skip
    with connect(url) as mine:
        (found,) = problems(mine, fatal=True)
    assert "trigger t of notes would fire for every re-encrypted row" in found


@pytest.mark.parametrize(
    "trigger",
    [
        pytest.param(f"t BEFORE UPDATE ON notes FOR EACH ROW WHEN ({OURS})", id="our clause"),
        pytest.param(f"t AFTER UPDATE ON notes FOR EACH ROW WHEN ({OURS} AND NEW.id > 3)", id="ours first"),
        pytest.param(
            f"t AFTER UPDATE ON notes FOR EACH ROW WHEN (NEW.id > 3 AND OLD.c <> NEW.c AND {OURS})", id="ours last"
        ),
        pytest.param("t BEFORE INSERT ON notes FOR EACH ROW", id="another event"),
    ],
)
def test_a_trigger_that_never_fires_for_us_may_run_whatever_its_owner_likes(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], trigger: str
) -> None:
    owner, _, url = roles
    owned(
        connection, owner,
        f"{TAKES} CREATE TABLE notes (id int, c text); CREATE TRIGGER {trigger} EXECUTE FUNCTION rewrites()",
    )  # fmt: skip
    with connect(url) as mine:
        assert problems(mine, fatal=True) == []


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            "CREATE FUNCTION new_id() RETURNS text LANGUAGE sql AS 'SELECT ''x''';"
            "CREATE DOMAIN uid AS text DEFAULT new_id(); CREATE TABLE notes (id uid, n text DEFAULT new_id(), c text)",
            id="a default, which no UPDATE evaluates",
        ),
        pytest.param(
            "CREATE TYPE kind AS ENUM ('a'); CREATE FUNCTION says(kind) RETURNS text LANGUAGE sql AS 'SELECT ''x''';"
            "CREATE CAST (kind AS text) WITH FUNCTION says(kind); CREATE TABLE notes (id int, c text)",
            id="a cast from a type that the table does not have",
        ),
    ],
)
def test_what_our_writes_do_not_run_is_no_danger(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], script: str
) -> None:
    owner, _, url = roles
    owned(connection, owner, script)
    with connect(url) as mine:
        assert problems(mine, fatal=True) == []


def test_the_operator_class_of_an_index_is_looked_into(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str]
) -> None:
    owner, _, url = roles
    owned(connection, owner, "CREATE TABLE notes (id int, c text, n text)")
    connection.execute(
        f"""CREATE FUNCTION public.compare(text, text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0';
        CREATE OPERATOR CLASS public.odd FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
            OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 public.compare(text, text);
        CREATE INDEX sorted ON public.notes (n public.odd);
        ALTER FUNCTION public.compare(text, text) OWNER TO {owner}"""
    )
    with connect(url) as mine:
        [found] = problems(mine, fatal=True)
    assert "index sorted of public.notes calls public.compare(text,text) of role" in found


def test_an_event_trigger_and_what_stands_on_our_own_tables_must_be_of_a_trusted_role(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str]
) -> None:
    owner, ours, url = roles
    owned(connection, owner, f"{TAKES} CREATE TABLE notes (id int, c text)")
    connection.execute(
        f"""CREATE FUNCTION public.looks() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER looking ON ddl_command_end EXECUTE FUNCTION public.looks();
        ALTER FUNCTION public.looks() OWNER TO {owner};
        CREATE SCHEMA keyrotation AUTHORIZATION {ours}; CREATE TABLE keyrotation.audit_events (id int);
        CREATE TABLE keyrotation.rotations (id int); ALTER TABLE keyrotation.rotations OWNER TO {ours};
        ALTER TABLE keyrotation.audit_events OWNER TO {owner};
        CREATE TRIGGER t BEFORE UPDATE ON keyrotation.rotations FOR EACH ROW EXECUTE FUNCTION public.rewrites()"""
    )
    try:
        with connect(url) as mine:
            found = problems(mine, fatal=True)
    finally:
        connection.execute("DROP EVENT TRIGGER looking")
    assert [sentence.partition(",")[0] for sentence in found] == [
        f"event trigger looking calls public.looks() of role {owner}",
        f"table keyrotation.audit_events belongs to role {owner}",
        f"the function of trigger t of keyrotation.rotations belongs to role {owner}",
    ]


@pytest.mark.parametrize(
    ("script", "what"),
    [
        pytest.param("CREATE INDEX ours ON {} (id) WHERE evil('x') = 'x'", "index ours", id="predicate of an index"),
        pytest.param("CREATE INDEX ours ON {} ((c || evil('x')))", "index ours", id="expression of an index"),
        pytest.param("CREATE STATISTICS ours ON (c || evil('x')), id FROM {}", "statistics ours", id="statistics"),
    ],
)
@pytest.mark.parametrize("table", ["notes", "other"])
def test_a_table_that_runs_its_owners_code_when_a_query_is_planned_is_not_read(
    connection: psycopg.Connection[tuple[object, ...]],
    roles: tuple[str, str, str],
    script: str,
    what: str,
    table: str,
) -> None:
    """The planner folds what is constant: an index is enough, on any table that stands next to the declared one."""
    owner, _, url = roles
    owned(
        connection,
        owner,
        """CREATE SEQUENCE called; GRANT USAGE ON called TO public; CREATE FUNCTION evil(text) RETURNS text IMMUTABLE
            LANGUAGE plpgsql AS 'BEGIN IF current_user ~ ''^pipeline'' THEN PERFORM nextval(''public.called''); END IF;
            RETURN $1; END';
        CREATE TABLE notes (id int, c text); CREATE TABLE other (id int, c text);"""
        + script.format(table),
    )
    with connect(url) as mine:
        ports = PostgresPorts(url, mine)
        assert any(f"{what} of public.{table} calls public.evil(text) of role {owner}" in each
                   for each in problems(mine, fatal=True))  # fmt: skip
        for read in (lambda: ports.inventory.count([NOTES]), lambda: discover(mine, [NOTES])):
            with suppress(PreflightError):
                read()
        assert {each.rows for each in contents.count(mine).relations if each.name.table == table} == {0}
    assert connection.execute("SELECT is_called FROM public.called").fetchone() == (False,)


def test_a_declared_column_is_not_read_by_a_cast_of_the_tables_owner(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str]
) -> None:
    """A type may be called as one of text; what it is read as is said by its owner, and holds for the fence, too."""
    owner, _, url = roles
    owned(
        connection,
        owner,
        """CREATE SEQUENCE called; GRANT USAGE ON called TO public; CREATE TYPE citext AS (stored text);
        CREATE FUNCTION says(citext) RETURNS text LANGUAGE plpgsql
            AS 'BEGIN PERFORM nextval(''public.called''); RETURN ''v2:''; END';
        CREATE CAST (citext AS text) WITH FUNCTION says(citext); CREATE TABLE notes (id int, c citext);
        INSERT INTO notes VALUES (1, ROW('v1:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA=='))""",
    )
    versions, ring = [KeyVersion(1)], KeyRing({KeyVersion(1): KeyMaterial.generate()}, KeyVersion(1))
    with connect(url) as mine:
        ports = PostgresPorts(url, mine)
        reads = (
            lambda: ports.fencing.fence(NOTES, versions),
            lambda: ports.fencing.old_rows(NOTES, versions, None),
            lambda: ports.inventory.count([NOTES]),
            lambda: ports.inventory.decrypt_sample(NOTES, ring, 1, {}),
        )
        for read in reads:
            with pytest.raises(PreflightError, match=r"column notes\.c is of type public\.citext"):
                read()
        definition = fence.definition(mine, relations.root(relations.tree(mine, NOTES), NOTES), versions)
        owned(connection, owner, f"ALTER TABLE notes ADD CONSTRAINT {fence.NAME} {definition} NOT VALID")
        connection.execute("UPDATE pg_constraint SET convalidated = true WHERE conname = %s", (fence.NAME,))
        assert ports.fencing.fences(NOTES) == ()
    assert connection.execute("SELECT is_called FROM public.called").fetchone() == (False,)


def test_names_that_look_like_our_clause_are_no_clause() -> None:
    condition = "(current_setting('keyrotation.engine'::text, true) IS DISTINCT FROM 'on'::text)"
    clause, head, tail = (
        f"WHEN ({condition})",
        "CREATE TRIGGER t BEFORE UPDATE ON n",
        "FOR EACH ROW EXECUTE FUNCTION f()",
    )
    for definition in (
        f'CREATE TRIGGER "a {clause} EXECUTE FUNCTION b" BEFORE UPDATE ON n {tail}',
        f'CREATE TRIGGER t BEFORE UPDATE ON "n {clause} EXECUTE FUNCTION b" {tail}',
        f"{head} FOR EACH ROW EXECUTE FUNCTION f('{clause.replace(chr(39), chr(39) * 2)}')",
        f"{head} FOR EACH ROW WHEN ({condition.replace('current', 'public.current')}) EXECUTE FUNCTION f()",
    ):
        assert not never_fires_for_us(definition)
    assert never_fires_for_us(f"{head} FOR EACH ROW {clause} EXECUTE FUNCTION f()")


def test_a_search_calls_no_cast_that_the_owner_of_a_type_has_made(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str]
) -> None:
    """What the column holds is found all the same."""
    owner, _, url = roles
    owned(
        connection,
        owner,
        """CREATE SEQUENCE called; CREATE TYPE pair AS (a text, b int);
        CREATE FUNCTION peek(pair) RETURNS text LANGUAGE plpgsql
            AS 'BEGIN PERFORM nextval(''public.called''); RETURN NULL; END';
        CREATE CAST (pair AS text) WITH FUNCTION peek(pair);
        CREATE TABLE other (p pair); CREATE TABLE notes (id int, c text)""",
    )
    value = f"v1:{'A' * 16}:{'A' * 24}"
    connection.execute("INSERT INTO public.other VALUES (ROW(%s, 1)::public.pair), (NULL)", (value,))
    with connect(url) as mine:
        (found,) = discover(mine, [NOTES])
    assert connection.execute("SELECT is_called FROM public.called").fetchone() == (False,)
    assert (found.relation, found.column, found.values) == ("other", "p", 1)


def test_a_sample_names_rows_by_no_key_whose_type_has_casts_of_its_owners(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str]
) -> None:
    owner, _, url = roles
    owned(
        connection,
        owner,
        """CREATE SEQUENCE called; GRANT USAGE ON called TO public; CREATE TYPE mood AS ENUM ('a', 'b');
        CREATE FUNCTION says(mood) RETURNS text LANGUAGE plpgsql
            AS 'BEGIN PERFORM nextval(''public.called''); RETURN ''x''; END';
        CREATE CAST (mood AS text) WITH FUNCTION says(mood);
        CREATE TABLE notes (id mood PRIMARY KEY, c text);
        INSERT INTO notes VALUES ('a', 'v1:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA==')""",
    )
    ring = KeyRing({KeyVersion(1): KeyMaterial.generate()}, KeyVersion(1))
    with connect(url) as mine:
        (tried,) = PostgresPorts(url, mine).inventory.decrypt_sample(NOTES, ring, 9, {}).columns
    assert connection.execute("SELECT is_called FROM public.called").fetchone() == (False,)
    assert (tried.tried, tried.opened, tried.rows) == (1, 0, ("(0,1)",))


def test_a_superuser_is_advised_to_make_a_role_and_officers_sign_that_it_is_one(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], database_url: str
) -> None:
    owner, ours, url = roles
    owned(connection, owner, "CREATE TABLE notes (id int, c text)")
    with connect(database_url) as root, connect(url) as mine:
        assert any("role postgres is a superuser" in each for each in problems(root, fatal=False))
        assert not any("superuser" in each for each in problems(mine, fatal=False))
        identity = PostgresEnvironment(database_url, root).identity()
        assert identity.signed("").endswith(", as superuser postgres")
        assert "superuser" not in PostgresEnvironment(url, mine).identity().signed("")
        assert ours in str(mine.info.user)


HEAD = "CREATE TRIGGER t AFTER UPDATE ON public.users FOR EACH ROW WHEN "
OF_NAME = '((old.name COLLATE "C") IS DISTINCT FROM (new.name COLLATE "C"))'
OF_OTHER = '(((old."E""mail")::text COLLATE "C") IS DISTINCT FROM ((new."E""mail")::text COLLATE "C"))'
OF_PATH, OF_BYTES = (
    f'(({value.format("old")} COLLATE "C") IS DISTINCT FROM ({value.format("new")} COLLATE "C"))'
    for value in ("({}.doc #>> '{{a,\"it''s\"}}'::text[])", "encode({}.raw, 'escape'::text)")
)
CALL = ' EXECUTE FUNCTION "order".f()'
LOOKS_LIKE_A_TRIGGER = f""" "t AFTER UPDATE ON x FOR EACH ROW WHEN ({OF_NAME.replace('"', '""')}){CALL[:22]}f()" """


@pytest.mark.parametrize(
    ("definition", "quiet"),
    [
        pytest.param(f"{HEAD}({OF_NAME}){CALL}", True, id="another column"),
        pytest.param(f"{HEAD}(({OF_NAME} OR {OF_PATH} OR {OF_BYTES})){CALL}", True, id="other places"),
        pytest.param(f"{HEAD}(({OF_PATH} OR {OF_OTHER})){CALL}", False, id="ours among them"),
        pytest.param(f"{HEAD}({OF_OTHER}){CALL}", False, id="ours"),
        pytest.param(f"{HEAD}(({OF_NAME} OR (new.name IS NULL))){CALL}", False, id="another condition"),
        pytest.param(f"{HEAD}((NOT {OF_NAME})){CALL}", False, id="the contrary"),
        pytest.param(f"{HEAD.replace('AFTER', 'BEFORE')}({OF_NAME}){CALL}", False, id="before"),
        pytest.param(f"{HEAD.replace(' WHEN ', '')}{CALL}", False, id="without a condition"),
        pytest.param(
            f"{HEAD}({OF_NAME.replace('new.name', 'new.nick')}){CALL}", True, id="two columns, neither of them ours"
        ),
        pytest.param(
            f"{HEAD.replace(' t ', LOOKS_LIKE_A_TRIGGER)}({OF_OTHER}){CALL}",
            False,
            id="a name that looks like a trigger",
        ),
    ],
)
def test_a_trigger_that_watches_other_columns_alone_is_recognised(definition: str, quiet: bool) -> None:
    assert watches_others(definition, ['E"mail']) is quiet


def test_the_fence_of_another_home_does_not_stop_a_rotation(database_url: str, already_migrated: str) -> None:
    with connect(database_url) as connection:
        connection.execute("CREATE TABLE public.users (id int, email text, name text)")
        connection.execute("CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        watched = '{head}({old} COLLATE "C" IS DISTINCT FROM {new} COLLATE "C") EXECUTE FUNCTION public.f()'
        connection.execute(watched.format(head=HEAD, old="old.name", new="new.name").encode())
        found = {}
        for column in ("name", "email"):
            table = EncryptedTable(TableName("public", "users"), (column,))
            sentences = [each.message for each in preflight(connection, [table], KeyVersion(2))]
            found[column] = [each for each in sentences if each.startswith("trigger")]
    assert found["email"] == []
    assert "trigger t of users would fire for every re-encrypted row" in found["name"][0]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("CREATE INDEX ours ON tenants ((name || evil('x')))", id="expression of an index"),
        pytest.param(
            "CREATE TYPE kind AS ENUM ('tenant_1'); CREATE FUNCTION says(kind) RETURNS text LANGUAGE plpgsql "
            "AS 'BEGIN RETURN evil(''x''); END'; CREATE CAST (kind AS text) WITH FUNCTION says(kind) AS IMPLICIT; "
            "ALTER TABLE tenants ALTER name TYPE kind USING name::kind",
            id="cast",
        ),
        pytest.param(
            "ALTER TABLE tenants RENAME TO named; CREATE VIEW tenants AS SELECT evil(name) AS name FROM named",
            id="view",
        ),
    ],
)
def test_a_table_that_lists_members_runs_no_code_of_its_owner(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], script: str
) -> None:
    owner, _, url = roles
    owned(
        connection,
        owner,
        """CREATE FUNCTION evil(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
            AS 'BEGIN RAISE WARNING ''ran as %'', current_user; RETURN $1; END';
        CREATE TABLE tenants (name text); INSERT INTO tenants VALUES ('tenant_1');"""
        + script,
    )
    said = list[str]()
    with closing(connect(url)) as reader:
        reader.add_notice_handler(lambda each: said.append(each.message_primary or ""))
        with pytest.raises(PreflightError, match=r"^query of \[\[databases\]\] tenant_\*: "):
            listed(reader, MemberRule("tenant_*"), Listing(TableName("public", "tenants"), "name"))
    assert said == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param("boolean", ("tenant_1",), id="boolean"),
        pytest.param(
            "text",
            r"query of \[\[databases\]\] tenant_\*: column tenants.active is of type text, and only a boolean column "
            "can say when name counts; correct the query",
            id="text",
        ),
    ],
)
def test_members_are_listed_where_a_boolean_column_is_true(
    connection: psycopg.Connection[tuple[object, ...]], roles: tuple[str, str, str], kind: str, expected: object
) -> None:
    owner, _, url = roles
    script = f"CREATE TABLE tenants (name text, active {kind}); INSERT INTO tenants VALUES ('tenant_1', 'true'), "
    owned(connection, owner, f"{script}('tenant_2', 'false'), ('tenant_3', NULL)")
    rule, listing = MemberRule("tenant_*"), Listing(TableName("public", "tenants"), "name", "active")
    with closing(connect(url)) as reader:
        if isinstance(expected, tuple):
            assert listed(reader, rule, listing) == expected
        else:
            with pytest.raises(PreflightError, match=f"^{expected}$"):
                listed(reader, rule, listing)
