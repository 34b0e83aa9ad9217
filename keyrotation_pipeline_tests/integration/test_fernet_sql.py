"""What SQL says of Fernet tokens is what the library and the parser say, on the server itself."""

import base64
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.statements import statements
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory import retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.mac_sql import MacSql
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import ConfigurationError, ProofError
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation
from keyrotation_pipeline.fieldcrypto.formats.derivations import SHA256
from keyrotation_pipeline.fieldcrypto.formats.fernet import DJANGO_FERNET_ENCRYPTED_FIELDS, DJANGO_FERNET_FIELDS, FERNET
from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import parsed
from keyrotation_pipeline.fieldcrypto.formats.marking import mac_of
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import Passphrase
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2, V3, fernet_table, token

SQL = MacSql(mac_of(FERNET.spec))
C = sql.SQL('(c::text COLLATE "C")')


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2, 3, primary=3)


@pytest.fixture
def database(either: Connection) -> Connection:
    """A schema of ours, and a table for values."""
    either.execute("CREATE SCHEMA keyrotation; CREATE TABLE public.held (id serial, c text)")
    return either


def fill(connection: Connection, values: list[str | None]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.held (c) VALUES (%s)", [(value,) for value in values])


def true_for(connection: Connection, condition: sql.Composable) -> list[bool | None]:
    query = sql.SQL("SELECT {} FROM public.held ORDER BY id").format(condition)
    return [row[0] for row in connection.execute(query).fetchall()]  # type: ignore[misc]


def near_misses(ring: KeyRing) -> list[str | None]:
    good = token(ring, V1, "some text")
    raw = base64.urlsafe_b64decode(good)
    urlsafe = base64.urlsafe_b64encode
    last = good.rstrip("=")[-1]
    stray = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    mangled = [
        good.replace(last + "=", stray[(stray.index(last) + 1) % 64] + "="),
        good[:-4],
        good[:-1],
        f"{good}====",
        f" {good}"[:-1],
        f"{good[:50]}\n{good[51:]}",
        f"{good[:50]}+{good[51:]}",
        f"{good[:50]}={good[51:]}",
        f"{good[:50]}ü{good[52:]}",
        f"{good[:50]}$&{good[52:]}",
        "h" + good[1:],
        "gQ" + good[2:],
        "gP" + good[2:],
    ]
    bytes_of = [urlsafe(raw[:57]), urlsafe(raw[:73]), urlsafe(raw[:72]), urlsafe(raw + b"x"), urlsafe(raw + b"x" * 16)]
    return [None, "", "plain", "g", "v1:x", good, *mangled, *(each.decode() for each in bytes_of)]


def test_the_shape_is_the_one_that_the_parser_accepts(database: Connection, ring: KeyRing) -> None:
    texts = [os.urandom(size) for size in (0, 1, 15, 16, 17, 31, 32, 47, 48, 1000)]
    values = [*near_misses(ring), *(token(ring, version, text) for version, text in product((V1, V2), texts))]
    fill(database, values)
    judged = [None if value is None else bool(value) and parsed(value.encode()) is None for value in values]
    assert true_for(database, SQL.unencrypted(C)) == judged
    assert judged.count(False) > len(texts) * 2


def test_a_token_is_under_the_retired_key_that_signed_it(database: Connection, ring: KeyRing) -> None:
    fill(database, [token(ring, version, b"x" * size) for version in (V1, V2, V3) for size in (0, 15, 40, 4000)])
    retired_signing_keys.publish(database, FERNET, ring, V3)
    one, two = [True] * 4 + [False] * 8, [False] * 4 + [True] * 4 + [False] * 4
    assert true_for(database, SQL.under(C, [V1])) == one
    assert true_for(database, SQL.under(C, [V2])) == two
    assert true_for(database, SQL.under(C, [V2, V1])) == [True] * 8 + [False] * 4
    assert true_for(database, SQL.to_be_rewritten(sql.SQL("c::text"), V3)) == [True] * 8 + [False] * 4


def test_damage_of_a_single_bit_anywhere_is_seen(database: Connection, ring: KeyRing) -> None:
    raw = base64.urlsafe_b64decode(token(ring, V1, "text"))
    bits = [
        base64.urlsafe_b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).decode() for at in range(len(raw))
    ]
    fill(database, [token(ring, V1, "text"), *bits])
    retired_signing_keys.publish(database, FERNET, ring, V3)
    assert true_for(database, SQL.under(C, [V1])) == [True] + [False] * len(bits)


def test_what_is_no_token_is_for_the_engine_to_look_at(database: Connection, ring: KeyRing) -> None:
    values = near_misses(ring)
    fill(database, values)
    retired_signing_keys.publish(database, FERNET, ring, V3)
    wanted = true_for(database, SQL.to_be_rewritten(sql.SQL("c::text"), V3))
    opened = true_for(database, SQL.to_be_opened(sql.SQL("c::text"), V3))
    assert opened == [bool(value) for value in values]  # and so without a MAC
    good = [each for each in values if each and parsed(each.encode())]
    assert wanted == [bool(value) and (value not in good or value == good[0]) for value in values]
    assert true_for(database, SQL.under(C, [V1])) == [value is not None and value == good[0] for value in values]


def test_the_walk_computes_no_mac_and_what_it_lists_does(database: Connection) -> None:
    retired_signing_keys.create(database)
    (relation,) = heaps(database, fernet_table("held", "c"))
    made = statements(database, relation, row_key(database, relation), FERNET, V3)
    assert b"sha256" not in made.read_pages
    assert all(b"sha256" in each for each in (made.list_rows, made.read_rows, made.read_row))


def test_without_the_half_of_a_version_every_token_counts_as_old(database: Connection, ring: KeyRing) -> None:
    fill(database, [token(ring, V3, "x"), "plain", "", None])
    retired_signing_keys.publish(database, FERNET, ring, V3)
    assert true_for(database, SQL.under(C, [V1, V2])) == [False] * 4
    database.execute("DELETE FROM keyrotation.retired_signing_halves WHERE version = 2")
    assert true_for(database, SQL.under(C, [V1])) == [False] * 4
    assert true_for(database, SQL.under(C, [V1, V2])) == [True, False, False, False]
    assert retired_signing_keys.missing(database, [V1, V2]) == (V2,)


def test_no_half_of_the_target_is_ever_stored(database: Connection, ring: KeyRing) -> None:
    assert retired_signing_keys.missing(database, [V1]) == (V1,)
    evidence_of(database, replace(fernet_table("held", "c"), format=NATIVE)).publish(ring, V3)
    assert database.execute("SELECT to_regclass('keyrotation.retired_signing_halves')").fetchone() == (None,)
    retired_signing_keys.withdraw(database, V1)
    retired_signing_keys.publish(database, FERNET, ring, V3)
    assert retired_signing_keys.missing(database, [V1, V2, V3]) == (V3,)
    retired_signing_keys.publish(database, FERNET, ring, V1)  # a rollback, whose rows become V1's again
    assert retired_signing_keys.missing(database, [V1, V2, V3]) == (V1,)
    retired_signing_keys.withdraw(database, V2)
    assert retired_signing_keys.missing(database, [V1, V2, V3]) == (V1, V2)


def test_shards_that_begin_at_the_same_moment_store_the_same_halves(database: Connection, ring: KeyRing) -> None:
    together = threading.Barrier(6)

    def begin(_: int) -> None:
        with connect(database.info.dsn) as mine:
            together.wait()
            retired_signing_keys.publish(mine, FERNET, ring, V3)

    for _ in range(5):  # PostgreSQL refuses the second table, its type or its index, as it happens
        database.execute("DROP TABLE IF EXISTS keyrotation.retired_signing_halves")
        with ThreadPoolExecutor(6) as shards:
            list(shards.map(begin, range(6)))
        assert retired_signing_keys.missing(database, [V1, V2, V3]) == (V3,)


def test_a_half_that_somebody_has_changed_is_refused(database: Connection, ring: KeyRing) -> None:
    retired_signing_keys.publish(database, FERNET, ring, V3)
    retired_signing_keys.publish(database, FERNET, ring, V3)
    database.execute("UPDATE keyrotation.retired_signing_halves SET inner_block = outer_block WHERE version = 2")
    with pytest.raises(ProofError, match="holds another signing key of v2"):
        retired_signing_keys.publish(database, FERNET, ring, V3)


@pytest.mark.parametrize(
    ("stored_by", "declared"),
    [
        (None, SHA256),
        (SHA256, DJANGO_FERNET_FIELDS),
        (DJANGO_FERNET_ENCRYPTED_FIELDS, SHA256),
    ],
)
def test_a_half_by_another_derivation_than_the_declared_one_is_kept(
    database: Connection, ring: KeyRing, stored_by: Derivation | None, declared: Derivation
) -> None:
    before, now = replace(FERNET, derivation=stored_by), replace(FERNET, derivation=declared)
    if stored_by is not None:
        ring = KeyRing({version: Passphrase(f"secret:salt of {version}".encode()) for version in (V1, V2, V3)}, V3)
    retired_signing_keys.publish(database, before, ring, V3)
    said = f'"{stored_by}"' if stored_by else "none"
    sentence = f"holds what v[12] signs with by the derivation {said}, and .* correct derivation"
    with pytest.raises(ConfigurationError, match=sentence):
        retired_signing_keys.withdraw_wrong(database, now, ring)
    with pytest.raises(ConfigurationError, match=sentence):
        retired_signing_keys.publish(database, now, ring, V3)
    assert retired_signing_keys.missing(database, [V1, V2, V3]) == (V3,)
    database.execute("UPDATE keyrotation.retired_signing_halves SET inner_block = outer_block")
    retired_signing_keys.withdraw_wrong(database, now, ring)
    assert retired_signing_keys.missing(database, [V1, V2, V3]) == (V1, V2, V3)


def test_nobody_else_can_read_the_halves_whatever_default_privileges_say(database: Connection, ring: KeyRing) -> None:
    database.execute("DROP ROLE IF EXISTS curious; CREATE ROLE curious")
    database.execute("GRANT USAGE ON SCHEMA keyrotation TO PUBLIC")
    database.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA keyrotation GRANT ALL ON TABLES TO curious, PUBLIC")
    try:
        retired_signing_keys.publish(database, FERNET, ring, V3)
        assert not retired_signing_keys.others_may_use(database)
        table = "keyrotation.retired_signing_halves"
        mine = database.execute(
            "SELECT has_table_privilege('curious', %s, 'SELECT,INSERT,UPDATE')", (table,)
        ).fetchone()
        assert mine == (False,)
    finally:
        database.execute("DROP OWNED BY curious; DROP ROLE curious")


def test_the_longest_value_and_the_value_under_another_version_are_the_same(
    database: Connection, ring: KeyRing
) -> None:
    fill(database, [token(ring, V1, "x" * 40), "plain", None])
    query = sql.SQL("SELECT {} FROM public.held").format(SQL.longest_under(C, V2))
    (longest,) = database.execute(query).fetchall()[0]
    assert longest == len(token(ring, V1, "x" * 40))
    assert true_for(database, SQL.has_prefix(C)) == [True, False, None]
    assert true_for(database, sql.SQL("{} = c").format(SQL.under_another(C, V2))) == [True, True, None]
