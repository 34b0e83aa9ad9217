"""What a database is by its catalogs, read by plain queries: nothing here knows how pg_dump prints it."""

import re
from collections.abc import Mapping
from pathlib import Path

import psycopg

_SETTINGS = (
    "search_path=", "TimeZone=UTC", "DateStyle=ISO", "IntervalStyle=postgres", "row_security=off",
    "extra_float_digits=3", "quote_all_identifiers=off", "standard_conforming_strings=on", "bytea_output=hex",
    "xmloption=content", "array_nulls=on", "transform_null_equals=off", "client_encoding=SQL_ASCII",
    "statement_timeout=0",
)  # fmt: skip
_FUNCTIONS = """
CREATE FUNCTION pg_temp.member(catalog regclass, object oid) RETURNS bool LANGUAGE sql AS
  'SELECT EXISTS (SELECT FROM pg_depend WHERE classid = catalog AND objid = object AND deptype = ''e'')';
CREATE FUNCTION pg_temp.ours(catalog regclass, object oid, schema oid) RETURNS bool LANGUAGE sql AS
  'SELECT object >= 16384 AND NOT pg_temp.member(catalog, object)
   AND coalesce((SELECT nspname !~ ''^(pg_|information_schema$)'' FROM pg_namespace WHERE oid = schema), true)';
CREATE FUNCTION pg_temp.identity(catalog regclass, object oid) RETURNS text LANGUAGE sql AS
  'SELECT type || '' '' || identity FROM pg_identify_object(catalog, object, 0)';
CREATE FUNCTION pg_temp.acl(acl aclitem[], kind text, owner oid) RETURNS jsonb LANGUAGE sql AS
  'SELECT jsonb_agg(x ORDER BY x) FROM (SELECT format(''%s=%s%s/%s'',
     CASE grantee WHEN 0 THEN ''PUBLIC'' ELSE grantee::regrole::text END, privilege_type,
     CASE WHEN is_grantable THEN ''*'' END, grantor::regrole)
     FROM aclexplode(coalesce(acl, acldefault(kind::"char", owner)))) AS y (x)';
CREATE FUNCTION pg_temp.digest(relation oid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
  EXECUTE format('SELECT count(*) || '' '' || coalesce(md5(string_agg(x, '' '' ORDER BY x COLLATE "C")), '''') FROM'
                 ' (SELECT t::text FROM ONLY %s t) AS y (x)', relation::regclass) INTO found;
  RETURN found;
END $$;
"""
_QUERIES = Path(__file__).with_suffix(".sql")


def properties(url: str) -> Mapping[str, str]:
    """Every object of a database with its properties as JSON, and a digest of each table's rows; as a superuser."""
    found: dict[str, str] = {}
    options = " ".join(f"-c {setting}" for setting in _SETTINGS)
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        connection.execute(_FUNCTIONS.encode())
        major = connection.info.server_version // 10_000
        for query in _QUERIES.read_text().split(";\n"):
            since = re.search(r"-- from (\d+)$", query, re.MULTILINE)
            if query.strip() and (since is None or int(since[1]) <= major):
                for identity, value in connection.execute(f"SELECT x, y::text FROM ({query}) AS q (x, y)".encode()):
                    name = f"{_text(identity)} ({query.split('FROM')[-1].split()[0]})"
                    assert name not in found, name
                    found[name] = _text(value)
    return found


def _text(value: object) -> str:
    # Text arrives as bytes, since it is to be compared in whatever encoding it is.
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What differs, by name.

    Expressions are compared without parentheses, brackets, casts and names of columns, since PostgreSQL prints some in
    another way once they were reloaded.
    """
    return {
        name: (wanted.get(name), found.get(name))
        for name in sorted(wanted.keys() | found.keys())
        if name not in wanted or name not in found or _plain(wanted[name]) != _plain(found[name])
    }


def _plain(value: str) -> str:
    return re.sub(r'[()\[\]]|::[a-z ]*[a-z]| AS \\?"?\w+', "", value)
