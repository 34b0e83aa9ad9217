"""Everything in a random database but tables: types, functions, settings, publications …"""

from keyrotation_pipeline_tests.random_schemas.maker import Maker, text
from keyrotation_pipeline_tests.random_schemas.tables import trigger_function


def schemas(maker: Maker) -> None:
    for _ in range(maker.rng.randint(1, 3)):
        name, owner = maker.name("s"), maker.role()
        maker.run(f"CREATE SCHEMA {name} AUTHORIZATION {owner}")
        maker.schemas.append(name)
        maker.grant("SCHEMA", name, maker.rng.choice(("USAGE", "USAGE, CREATE")), owner)
    for schema in maker.schemas:
        # Or they could not grant anything there.
        maker.run(f"GRANT USAGE ON SCHEMA {schema} TO {', '.join(maker.roles)}")
    if maker.chance(0.5):
        maker.run(f"ALTER SCHEMA public OWNER TO {maker.role()}", f"GRANT CREATE ON SCHEMA public TO {maker.role()}")
    if maker.chance(0.3):
        maker.run("REVOKE USAGE ON SCHEMA public FROM PUBLIC")


def default_privileges(maker: Maker) -> None:
    for _ in range(maker.rng.randint(1, 4)):
        where = maker.rng.choice(("", f"IN SCHEMA {maker.rng.choice(maker.schemas)}"))
        beginning = f"ALTER DEFAULT PRIVILEGES FOR ROLE {maker.role()} {where}"
        what = maker.rng.choice(("SELECT ON TABLES", "USAGE ON SEQUENCES", "EXECUTE ON FUNCTIONS", "USAGE ON TYPES"))
        maker.run(f"{beginning} GRANT {what} TO {maker.role()}{maker.rng.choice(('', ' WITH GRANT OPTION'))}")
        if not where:
            maker.run(f"{beginning} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")


def extensions(maker: Maker) -> None:
    if not maker.features.contrib:
        return
    schema = maker.name("ext")
    maker.run(f"CREATE SCHEMA {schema}")
    for name in maker.rng.sample(("pgcrypto", "btree_gist", "ltree", "unaccent", '"uuid-ossp"', "tablefunc"), 3):
        maker.run(f"CREATE EXTENSION {name} SCHEMA {schema}")
    if maker.chance(0.5):
        maker.run("CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public")
        maker.run("REVOKE EXECUTE ON FUNCTION public.akeys(public.hstore) FROM PUBLIC")


def collations(maker: Maker) -> None:
    if not maker.features.icu or maker.encoding == "SQL_ASCII":
        return
    first, second, table = maker.within("folded"), maker.within("natural"), maker.within("collated")
    maker.run(
        f"CREATE COLLATION {first} (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        f"CREATE COLLATION {second} (provider = icu, locale = 'en-u-kn-true')",
        f"CREATE TABLE {table} (id int PRIMARY KEY, v varchar(20) COLLATE {first} UNIQUE, w text COLLATE {second})",
        f"INSERT INTO {table} VALUES (1, 'Abc', 'a10'), (2, 'b', 'a9')",
        f'CREATE INDEX ON {table} (w, v COLLATE "C")',
    )
    maker.made("COLLATION", first)
    maker.made("COLLATION", second)
    maker.made("TABLE", table)


def types(maker: Maker) -> None:
    enum, composite, domain, range_ = (maker.within(base) for base in ("enum", "composite", "domain", "range"))
    table = maker.within("typed")
    labels = ", ".join(text(label) for label in ("a", "it's", "; --", "B \\ c"))
    maker.run(
        f"CREATE TYPE {enum} AS ENUM ({labels})",
        f"ALTER TYPE {enum} ADD VALUE 'between' BEFORE 'a'",
        f"CREATE TYPE {composite} AS (a int, {maker.name('b')} {enum}[])",
        f"CREATE DOMAIN {domain} AS varchar(20) DEFAULT 'a' NOT NULL CONSTRAINT {maker.name('valid')}"
        " CHECK (VALUE IN ('a', 'b') OR length(VALUE) BETWEEN 1 AND 3 AND VALUE <> 'q')",
        f"CREATE TYPE {range_} AS RANGE (subtype = float8, subtype_diff = float8mi)",
        f"CREATE TABLE {table} (id int PRIMARY KEY, e {enum} DEFAULT 'a', c {composite}, d {domain}, r {range_},"
        f" da {domain}[], CHECK (d IN ('a', 'b') AND (c).a IS DISTINCT FROM 1))",
        f"ALTER DOMAIN {domain} ADD CONSTRAINT {maker.name('later')} CHECK (VALUE <> 'zz') NOT VALID",
        f"INSERT INTO {table} VALUES (1, 'it''s', NULL, 'b', '[1,2)', ARRAY['a', 'b'])",
    )
    for kind, name in (("TYPE", enum), ("TYPE", composite), ("DOMAIN", domain), ("TYPE", range_)):
        maker.grant("TYPE", name, "USAGE", maker.made(kind, name))
    maker.made("TABLE", table)


def sequences(maker: Maker) -> None:
    first, second, owned, table = (maker.within(base) for base in ("seq", "seq", "owned", "numbered"))
    schema = owned.rpartition(".")[0] if '"' not in owned else None
    maker.run(
        f"CREATE SEQUENCE {first} AS smallint INCREMENT -2 MINVALUE -50 MAXVALUE 10 START 3 CACHE 5 CYCLE",
        f"SELECT nextval({text(first)}), nextval({text(first)})",
        f"CREATE SEQUENCE {second} START 100",
        f"SELECT setval({text(second)}, 4711, {maker.rng.choice(('true', 'false'))})",
        f"CREATE TABLE {table} (id int PRIMARY KEY, v varchar(20))",
    )
    if schema is not None and table.startswith(f"{schema}."):
        maker.run(f"CREATE SEQUENCE {owned}", f"ALTER SEQUENCE {owned} OWNED BY {table}.id")
        maker.run(f"ALTER TABLE {table} ALTER id SET DEFAULT nextval({text(owned)})")
    maker.made("TABLE", table)
    for name in (first, second):
        maker.grant("SEQUENCE", name, maker.rng.choice(("USAGE", "SELECT", "ALL")), maker.made("SEQUENCE", name))


def functions(maker: Maker) -> None:
    sql, atomic, plain, procedure = (maker.within(base) for base in ("sql", "atomic", "plain", "procedure"))
    table = maker.within("called")
    maker.run(
        f'CREATE TABLE {table} (id int, "case" int, "begin" varchar(5), "end" bool)',
        f"CREATE FUNCTION {sql}(a int, VARIADIC b text[] DEFAULT ARRAY['x;y']) RETURNS int LANGUAGE sql"
        f" IMMUTABLE STRICT"
        " PARALLEL SAFE COST 7 AS $fn$ SELECT a /* ; */ -- '\n $fn$",
        f"CREATE FUNCTION {atomic}(a int, b varchar DEFAULT 'b') RETURNS int LANGUAGE sql BEGIN ATOMIC"
        f' SELECT CASE WHEN "case" IN (1, a, 2) AND "begin" IN (\'a\', \'b\') THEN CASE WHEN "end" THEN 1 END END'
        f" FROM {table}; INSERT INTO {table} (id) VALUES (a) RETURNING id; END",
        f"CREATE FUNCTION {plain}(INOUT a numeric, OUT b text) LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = public, pg_temp SET work_mem = '8MB' AS $_$ BEGIN b := $q$'; -- $q$; END $_$",
        f"CREATE PROCEDURE {procedure}(INOUT a int) LANGUAGE plpgsql AS 'BEGIN a := 1; COMMIT; END'",
        f"CREATE FUNCTION {maker.within('listed')}() RETURNS TABLE (x int, y text) LANGUAGE sql ROWS 5"
        " AS 'SELECT 1, NULL::text'",
    )
    maker.made("TABLE", table)
    for kind, name in (
        ("FUNCTION", f"{sql}(int, text[])"), ("FUNCTION", f"{atomic}(int, varchar)"), ("FUNCTION", f"{plain}(numeric)"),
        ("PROCEDURE", f"{procedure}(int)"),
    ):  # fmt: skip
        maker.grant(kind, name, "EXECUTE", maker.made(kind, name))
    if maker.chance(0.7):
        maker.run(f"REVOKE EXECUTE ON FUNCTION {plain}(numeric) FROM PUBLIC")


def row_types(maker: Maker) -> None:
    """A table whose constraint calls a function of its own row: pg_dump has to break the circle."""
    table, function = maker.within("circle"), maker.within("whole")
    maker.run(
        f"CREATE TABLE {table} (id int PRIMARY KEY, v varchar(20))",
        f"CREATE FUNCTION {function}({table}) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'",
        f"ALTER TABLE {table} ADD CHECK ({function}({table.rpartition('.')[2] if '.' in table else table}.*))"
        if table.count(".") == 1 and '"' not in table
        else f"ALTER TABLE {table} ADD CHECK (id > 0)",
        f"INSERT INTO {table} VALUES (1, 'a')",
    )
    maker.made("TABLE", table)
    maker.made("FUNCTION", f"{function}({table})")


def aggregates_and_operators(maker: Maker) -> None:
    aggregate, function, operator_schema = maker.within("agg"), maker.within("same"), maker.rng.choice(maker.schemas)
    composite = maker.within("pair")
    maker.run(
        f"CREATE AGGREGATE {aggregate}(float8) (SFUNC = float8_accum, STYPE = float8[], FINALFUNC = float8_avg,"
        " INITCOND = '{0,0,0}', COMBINEFUNC = float8_combine, PARALLEL = SAFE)",
        f"CREATE FUNCTION {function}(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2'",
        f"CREATE OPERATOR {operator_schema}.=~= (LEFTARG = int, RIGHTARG = int, FUNCTION = {function},"
        f" COMMUTATOR = OPERATOR({operator_schema}.=~=), RESTRICT = eqsel)",
        f"CREATE TYPE {composite} AS (a int, b text)",
        f"CREATE CAST ({composite} AS text) WITH INOUT AS ASSIGNMENT",
        f"COMMENT ON CAST ({composite} AS text) IS 'c'",
        f"CREATE VIEW {maker.within('using')} AS SELECT 1 OPERATOR({operator_schema}.=~=) 2 AS x,"
        f" {aggregate}(3.0) AS y",
    )
    maker.grant("FUNCTION", f"{aggregate}(float8)", "EXECUTE", maker.made("AGGREGATE", f"{aggregate}(float8)"))
    maker.made("OPERATOR", f"{operator_schema}.=~= (int, int)")
    maker.made("TYPE", composite)
    if maker.features.major < 17:
        maker.run(f"CREATE CONVERSION {maker.within('conv')} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8")


def views(maker: Maker) -> None:
    if not maker.tables:
        return
    table = maker.rng.choice(maker.tables).name
    view, over, recursive, full, empty = (maker.within(base) for base in ("view", "over", "recursive", "mv", "mv"))
    maker.run(
        f'CREATE VIEW {view} (k, "v v", n) WITH (security_barrier) AS SELECT id, v, count(*) OVER'
        f" (PARTITION BY v ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM {table}"
        " WHERE v IN ('a', 'b') AND id BETWEEN 1 AND 3 AND id <> 2 OR id IN (1, id, 3, length(v))",
        f'CREATE VIEW {over} AS SELECT k, "v v" FROM {view} a JOIN {table} b ON a.k = b.id AND b.id BETWEEN 1 AND 2',
        f"CREATE VIEW {maker.within('checked_view')} AS SELECT id, v FROM {table} WHERE id > 0 WITH LOCAL CHECK OPTION",
        f"CREATE VIEW {recursive} AS WITH RECURSIVE r (n, l) AS (VALUES (1, NULL) UNION ALL SELECT n + 1, 'x' FROM r"
        " WHERE n < 5) SELECT * FROM r",
        f"CREATE MATERIALIZED VIEW {full} AS SELECT id, CASE v WHEN 'a' THEN 1 ELSE 2.5 END AS x FROM {table}",
        f"CREATE MATERIALIZED VIEW {empty} AS SELECT v FROM {table} WITH NO DATA",
        f"CREATE INDEX ON {full} (x)",
        f"COMMENT ON COLUMN {view}.k IS 'key'",
    )
    for kind, name in (("VIEW", view), ("VIEW", over), ("MATERIALIZED VIEW", full), ("MATERIALIZED VIEW", empty)):
        maker.grant("TABLE", name, "SELECT", maker.made(kind, name))
    maker.run(
        f"CREATE TRIGGER {maker.name('instead')} INSTEAD OF INSERT ON {over} FOR EACH ROW EXECUTE FUNCTION"
        f" {trigger_function(maker)}()"
    )


def text_search(maker: Maker) -> None:
    dictionary, configuration = maker.within("dict"), maker.within("conf")
    maker.run(
        f"CREATE TEXT SEARCH DICTIONARY {dictionary} (TEMPLATE = pg_catalog.simple, Accept = false)",
        f"CREATE TEXT SEARCH CONFIGURATION {configuration} (COPY = pg_catalog.simple)",
        f"ALTER TEXT SEARCH CONFIGURATION {configuration} ALTER MAPPING FOR word, asciiword WITH {dictionary}, simple",
        f"ALTER TEXT SEARCH CONFIGURATION {configuration} DROP MAPPING FOR email",
    )
    maker.made("TEXT SEARCH DICTIONARY", dictionary)
    maker.made("TEXT SEARCH CONFIGURATION", configuration)


def statistics(maker: Maker) -> None:
    if not maker.tables:
        return
    name, table = maker.within("stat"), maker.rng.choice(maker.tables).name
    maker.run(
        f"CREATE STATISTICS {name} (dependencies, mcv) ON id, (lower(v)), (id BETWEEN 1 AND 2 AND id <> 3)"
        f" FROM {table}",
        f"ALTER STATISTICS {name} SET STATISTICS 11",
    )
    maker.made("STATISTICS", name)


def large_objects(maker: Maker) -> None:
    for _ in range(maker.rng.randint(1, 3)):
        number = maker.rng.randint(20_000, 90_000_000)
        owner = maker.role()
        maker.run(
            f"SELECT lo_from_bytea({number}, 'content {number}')",
            f"ALTER LARGE OBJECT {number} OWNER TO {owner}",
        )
        maker.commented.append(("LARGE OBJECT", str(number)))
        maker.grant("LARGE OBJECT", str(number), "SELECT", owner)


def needing_a_superuser(maker: Maker) -> None:
    """What no other role may create."""
    internal, family, base = maker.within("internal"), maker.within("family"), maker.within("opclass")
    leakproof = maker.within("leakproof")
    maker.run(
        f"CREATE FUNCTION {internal}(int, int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4pl'",
        f"CREATE OPERATOR FAMILY {family} USING btree",
        f"CREATE OPERATOR CLASS {base} FOR TYPE int USING btree FAMILY {family} AS OPERATOR 1 <, OPERATOR 3 =,"
        " FUNCTION 1 btint4cmp(int, int)",
        f"CREATE FUNCTION {leakproof}() RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'",
    )
    maker.made("FUNCTION", f"{internal}(int, int)")
    maker.made("FUNCTION", f"{leakproof}()")


def foreign(maker: Maker) -> None:
    wrapper, server, table = maker.name("fdw"), maker.name("srv"), maker.within("foreign")
    maker.run(
        f"CREATE FOREIGN DATA WRAPPER {wrapper} OPTIONS (a ';', {maker.name('b')} 'it''s')",
        f"CREATE SERVER {server} TYPE 't' VERSION '1' FOREIGN DATA WRAPPER {wrapper} OPTIONS (host 'nowhere')",
        f"CREATE USER MAPPING FOR {maker.role()} SERVER {server} OPTIONS (password 'secret')",
        f"CREATE FOREIGN TABLE {table} (id int OPTIONS (c 'd'), v varchar(20) CHECK (v IN ('a', 'b'))) SERVER {server}"
        " OPTIONS (e 'f')",
        f"GRANT USAGE ON FOREIGN SERVER {server} TO {maker.role()}",
        f"GRANT SELECT ON {table} TO {maker.role()}",
    )


def publications(maker: Maker) -> None:
    ordinary = [table.name for table in maker.tables]
    first = maker.name("pub")
    for table in ordinary[:1]:
        maker.run(f"CREATE PUBLICATION {first} FOR TABLE {table} WITH (publish = 'insert, truncate')")
        maker.made("PUBLICATION", first)
    if maker.features.major >= 15 and ordinary:
        second = maker.name("pub")
        plain = maker.within("published")
        maker.run(
            f"CREATE TABLE {plain} (id int PRIMARY KEY, v varchar(20), w int)",
            f"CREATE PUBLICATION {second} FOR TABLE {plain} (id, v) WHERE (id IN (1, 2) AND id BETWEEN 1 AND 2"
            " AND id <> 3) WITH (publish = 'insert')",
        )
    if maker.chance(0.5):
        maker.run(f"CREATE PUBLICATION {maker.name('pub_all')} FOR ALL TABLES WITH (publish = 'insert')")
    if maker.features.major >= 15 and maker.chance(0.5):
        maker.run(
            f"CREATE PUBLICATION {maker.name('pub_schema')} FOR TABLES IN SCHEMA {maker.schemas[-1]} WITH"
            f" (publish = 'insert')"
        )


def event_triggers(maker: Maker) -> None:
    function, name = maker.within("event"), maker.name("event")
    maker.run(
        f"CREATE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        f"CREATE EVENT TRIGGER {name} ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION {function}()",
        f"ALTER EVENT TRIGGER {name} {maker.rng.choice(('DISABLE', 'ENABLE', 'ENABLE REPLICA'))}",
        f"COMMENT ON EVENT TRIGGER {name} IS 'e'",
    )


_COMMENTS = ("plain", "'", "; -- /*", "$$ \\ ", "a\nb")


def comments(maker: Maker) -> None:
    for kind, name in maker.commented:
        if maker.chance(0.5):
            maker.run(f"COMMENT ON {kind} {name} IS {text(maker.rng.choice(_COMMENTS))}")


def of_database(maker: Maker) -> None:
    """Settings, comment, privileges and owner of the database itself."""
    maker.run(
        "ALTER DATABASE {database} SET work_mem = '5MB'",
        'ALTER DATABASE {database} SET search_path = "$user", public, "a ""b"',
        "ALTER DATABASE {database} SET my.own = 'it''s \\ ; --'",
        f"ALTER DATABASE {{database}} SET timezone ="
        f" '{maker.rng.choice(('Europe/Stockholm', 'UTC', 'Asia/Kathmandu'))}'",
        f"ALTER ROLE {maker.role()} IN DATABASE {{database}} SET statement_timeout = '1h'",
        f"ALTER ROLE {maker.role()} IN DATABASE {{database}} SET search_path = ''",
    )
    for _ in range(2):
        setting = maker.rng.choice((
            "datestyle = 'German'", "intervalstyle = 'iso_8601'", "standard_conforming_strings = off",
            "bytea_output = 'escape'",
            "quote_all_identifiers = on", "array_nulls = off", "extra_float_digits = -5", "xmloption = 'document'",
            "default_transaction_isolation = 'serializable'", "check_function_bodies = off", "row_security = off",
            "default_toast_compression = 'pglz'", "transform_null_equals = on", "lock_timeout = '2s'",
        ))  # fmt: skip
        maker.run(f"ALTER DATABASE {{database}} SET {setting}")
    if maker.chance(0.8):
        maker.run(f"COMMENT ON DATABASE {{database}} IS {text(maker.rng.choice(_COMMENTS))}")
    if maker.chance(0.7):
        maker.run("REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    for role in maker.roles[:2]:
        maker.run(f"GRANT CONNECT, CREATE ON DATABASE {{database}} TO {role}")
    if maker.chance(0.5):
        role, other = maker.roles[0], maker.roles[2]
        maker.run(
            f"GRANT CONNECT ON DATABASE {{database}} TO {role} WITH GRANT OPTION",
            f"SET SESSION AUTHORIZATION {role}",
            f"GRANT CONNECT ON DATABASE {{database}} TO {other}",
            "RESET SESSION AUTHORIZATION",
        )
    if maker.chance(0.5):
        maker.run("ALTER DATABASE {database} CONNECTION LIMIT 47")
    if maker.chance(0.5):
        maker.run(f"ALTER DATABASE {{database}} OWNER TO {maker.role()}")
