"""Members of other encodings and with odd settings, whose names have to be quoted, next to ordinary ones."""

import json
from collections.abc import Mapping

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline_tests.acceptance.test_fleet import Fleet, fleet, second  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import recovery_key
from keyrotation_pipeline_tests.servers import Server

pytestmark = pytest.mark.extended
LATIN, BYTES, BESIDE = "latin", "bytes", "beside"
ODD = {
    LATIN: "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    BYTES: "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    BESIDE: "",
}
SETTINGS = (
    "statement_timeout = '50ms'", "lock_timeout = '1ms'", "idle_in_transaction_session_timeout = '50ms'",
    "search_path = 'nowhere'", "bytea_output = 'escape'", "DateStyle = 'German'", "TimeZone = 'Asia/Kathmandu'",
    "IntervalStyle = 'iso_8601'", "default_transaction_isolation = 'serializable'", "quote_all_identifiers = on",
    "standard_conforming_strings = off", "synchronous_commit = off", "session_replication_role = replica",
    "client_encoding = 'LATIN1'",
)  # fmt: skip
TABLES = (('we"ird', "a:b"), ("Big", "Name"), ("public", "x-y z"), ("ünï", "täb"))
COLUMNS, ROWS = ('na"me', "no.te"), 20
READ_ONLY = "is read-only; give the primary's address as [[databases]] latin url, or set default_transaction_read_only"


def made(fleet: Fleet, servers: Mapping[str, Server]) -> None:  # noqa: F811
    """The databases with their tables, and the configuration that names them."""
    entries = "".join(f'[[databases]]\nname = "{each}"\nurl = {{ env = "{each.upper()}" }}\n' for each in ODD)
    tables = "".join(
        f"\n[[tables]]\nname = '{schema}.{table}'\ncolumns = {json.dumps(COLUMNS)}\ndatabases = {json.dumps([*ODD])}\n"
        for schema, table in TABLES
    )
    file = fleet.folder.path / "keyrotation.toml"
    text = file.read_text().replace("[approvals]", f"{entries}[approvals]")
    file.write_text(text.replace('databases = "*"', 'databases = ["north", "south"]') + tables)
    value = encrypt(fleet.ring, "Ada")
    for name, how in ODD.items():
        with psycopg.connect(servers[name].url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name}".encode())
            admin.execute(f"CREATE DATABASE {name} {how}".encode())
        fleet.urls[name] = servers[name].url(name)
        with psycopg.connect(fleet.urls[name], autocommit=True) as owner:
            owner.execute("SET client_encoding = 'UTF8'")
            for schema, table in TABLES:
                names = {"schema": schema, "first": COLUMNS[0], "second": COLUMNS[1]}
                quoted = {each: sql.Identifier(called) for each, called in names.items()}
                quoted["table"] = sql.Identifier(schema, table)
                owner.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}").format(**quoted))
                create = "CREATE TABLE {table} (id int, {first} text, {second} text)"
                owner.execute(sql.SQL(create).format(**quoted))
                fill = "INSERT INTO {table} SELECT n, %(value)s, %(value)s FROM generate_series(1, %(rows)s) AS n"
                owner.execute(sql.SQL(fill).format(**quoted), {"value": value, "rows": ROWS})
            for setting in SETTINGS:
                owner.execute(f"ALTER DATABASE {name} SET {setting}".encode())


def test_they_are_rotated_backed_up_and_restored(
    fleet: Fleet,  # noqa: F811
    server: Server,
    second: Server,  # noqa: F811
) -> None:
    made(fleet, {LATIN: second, BYTES: second, BESIDE: server})
    fleet.signed(fleet.typed("policy", "--reason", "東京 opens").split()[-1])
    fleet.typed("policy")
    fleet.typed("init")
    request = fleet.typed("request", "--reason", "yearly, 東京 → Größe").split()[-1]
    fleet.signed(request)
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    with psycopg.connect(second.url(), autocommit=True) as admin:
        admin.execute("ALTER DATABASE latin SET default_transaction_read_only = on")
        assert f"database latin: it {READ_ONLY}" in fleet.refused("rotate", request)
        fleet.typed("status")
        admin.execute("ALTER DATABASE latin RESET default_transaction_read_only")
    fleet.typed("rotate", request)
    counted = {name: count for name, count in fleet.status("--count").items() if name.partition(":")[0] in ODD}
    assert list(counted.values()) == [{"v1": 0, "v2": 2 * ROWS}] * len(TABLES) * len(ODD)
    ring = fleet.ring
    for name in ODD:
        with psycopg.connect(fleet.urls[name]) as connection:
            connection.execute("SET client_encoding = 'UTF8'")
            for place in TABLES:
                rows = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(*place))).fetchall()
                assert {decrypt(ring, value) for row in rows for value in row[1:]} == {"Ada"}
    fleet.typed("backup")
    fleet.typed("recovery-test", "--key", recovery_key(fleet))
    fleet.typed("verify")
    fleet.typed("audit", "verify")
    assert (fleet.live(), len(fleet.events("member_proven"))) == ({"v2"}, 2 + len(ODD))
