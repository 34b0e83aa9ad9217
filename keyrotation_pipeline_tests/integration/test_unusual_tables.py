"""Tables at the limits: each is rotated to its end, or refused by a sentence before a row of it is written."""

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values
from keyrotation_pipeline.adapters.postgres.preflight import values
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.proof import SnapshotPosition
from keyrotation_pipeline.model.tables import EncryptedTable, Shard, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import PostgresPorts, insert, opened, ring_of, sealed
from keyrotation_pipeline_tests.integration.test_engine_interleaving import application, between_read_and_write

V1, V2 = KeyVersion(1), KeyVersion(2)
REQUEST = "0e" * 16
CASES = EncryptedTable(TableName("public", "cases"), ("a",))


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def ports(migrated: Connection, database_url: str) -> PostgresPorts:
    return PostgresPorts(database_url, migrated)


def rotate(ports: PostgresPorts, table: EncryptedTable, ring: KeyRing, retired: list[KeyVersion]) -> int:
    """Everything from the pre-flight to the evidence; gives the number of values."""
    assert [each.message for each in ports.environment.preflight([table], V2) if each.fatal] == []
    ports.rewriting.reencrypt_shard(REQUEST, Shard(table, 0, 1), ring, V2, lambda _: None)
    ports.rewriting.sweep(REQUEST, table, ring, V2, wait=True)
    ports.rewriting.decrypt_all(table, ring, lambda _: None)
    ports.fencing.fence(table, retired)
    moment = SnapshotPosition(ports.evidence.current_xid(), ports.evidence.barrier())
    with ports.connection.transaction():
        return ports.evidence.zero_old_rows([table], V1, retired, moment).values


@pytest.mark.parametrize(("columns", "versions"), [(150, 1), (300, 1), (120, 40)])
def test_more_columns_and_retired_versions_than_one_call_or_select_takes(
    ports: PostgresPorts, ring: KeyRing, columns: int, versions: int
) -> None:
    names = tuple(f"c{number}" for number in range(columns))
    table = EncryptedTable(TableName("public", "wide"), names)
    ports.connection.execute(f"CREATE TABLE public.wide ({', '.join(f'{name} text' for name in names)})".encode())
    value = sealed(ring, 1, "x")
    insert(ports.connection, "public.wide", [[value] * 60 + [None] * (columns - 60)] * 3)
    retired = [V1, *(KeyVersion(number) for number in range(3, versions + 2))]

    assert rotate(ports, table, ring, retired) == 180
    assert ports.inventory.count([table])[0].values_by_version == {V2: 180}
    assert ports.fencing.old_rows(table, retired, None).rows == 0
    assert count_old_values(ports.connection, table, retired).values == 180


@pytest.mark.parametrize("column", ["50%", "%s", "%(a)s", 'a"b%%', "{}"])
def test_names_with_percent_signs_and_braces(ports: PostgresPorts, ring: KeyRing, column: str) -> None:
    table = EncryptedTable(TableName("public", f"t {column}"), (column,))
    quoted = column.replace('"', '""')
    create = f'CREATE TABLE public."t {quoted}" ("{quoted}" text, "key {quoted}" int PRIMARY KEY)'
    ports.connection.execute(create.encode())
    add = f"INSERT INTO public.\"t {quoted}\" VALUES ('{sealed(ring, 1, 'x')}', 1), ('plain', 2)"
    ports.connection.execute(add.encode())
    assert [each.column for each in ports.inventory.decrypt_sample(table, ring, 5, {}).columns] == [column]
    ports.rewriting.sweep(REQUEST, table, ring, V2, wait=True)
    assert [entry.column for entry in ports.inventory.quarantine([table])] == [column]
    ports.connection.execute(f'DELETE FROM public."t {quoted}" WHERE "{quoted}" = \'plain\''.encode())
    assert rotate(ports, table, ring, [V1]) == 1


def test_a_table_declared_through_its_parent_and_by_itself_is_refused(ports: PostgresPorts) -> None:
    ports.connection.execute("CREATE TABLE public.cases (id int, a text) PARTITION BY LIST (id)")
    ports.connection.execute("CREATE TABLE public.part PARTITION OF public.cases DEFAULT")
    part = EncryptedTable(TableName("public", "part"), ("a",))
    fatal = [each.message for each in ports.environment.preflight([CASES, part], V2) if each.fatal]
    assert fatal == ["part belongs to two declared tables, cases and part; declare the parent alone in [[tables]]"]


def test_a_row_too_large_to_be_rewritten_at_once_is_refused(
    ports: PostgresPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "LARGEST_ROW_BYTES", 3 * 2**20)
    ports.connection.execute("CREATE TABLE public.cases (a text, b text)")
    two = EncryptedTable(TableName("public", "cases"), ("a", "b"))
    ports.connection.execute("INSERT INTO public.cases VALUES (repeat('x', 2097152), '')")
    assert [each for each in ports.environment.preflight([two], V2) if each.fatal] == []
    ports.connection.execute("UPDATE public.cases SET b = a")
    (fatal,) = [each.message for each in ports.environment.preflight([two], V2) if each.fatal]
    assert fatal.startswith("a row of cases holds 4.0 MiB in its encrypted columns, more than the 3 MiB that can be")


def test_a_row_that_became_too_large_after_the_preflight_stops_the_walk_with_one_sentence(
    ports: PostgresPorts, ring: KeyRing
) -> None:
    ports.connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text)")
    ports.connection.execute("INSERT INTO public.cases VALUES (1, %s)", (sealed(ring, 1, "x"),))
    ports.rewriting.sweep(REQUEST, CASES, ring, V2, wait=False)
    ports.connection.execute("INSERT INTO public.cases VALUES (2, %s)", (sealed(ring, 1, "x" * 4 * 2**20),))
    small = replace(ports.rewriting, limits=Limits(largest_row_bytes=3 * 2**20))
    reported = "a row of cases holds 5.3 MiB in encrypted columns, more than 3 MiB; "
    with pytest.raises(PreflightError, match=reported):
        small.reencrypt_shard(REQUEST, Shard(CASES, 0, 1), ring, V2, lambda _: None)
    with pytest.raises(PreflightError, match=reported):
        small.sweep(REQUEST, CASES, ring, V2, wait=True)
    ports.connection.execute("DELETE FROM public.cases WHERE id = 2")
    small.reencrypt_shard(REQUEST, Shard(CASES, 0, 1), ring, V2, lambda _: None)
    assert ports.inventory.count([CASES])[0].values_by_version == {V2: 1}


def test_a_detach_that_is_not_finished_is_refused(ports: PostgresPorts, database_url: str) -> None:
    ports.connection.execute("CREATE TABLE public.cases (id int, a text) PARTITION BY LIST (id)")
    ports.connection.execute("CREATE TABLE public.part PARTITION OF public.cases FOR VALUES IN (1)")
    with psycopg.connect(database_url) as reader, connect(database_url) as other:
        reader.execute("SELECT count(*) FROM public.cases")
        other.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute("ALTER TABLE public.cases DETACH PARTITION public.part CONCURRENTLY")
    sentence = "partition part is being detached from cases, which is not finished"
    assert any(sentence in each.message for each in ports.environment.preflight([CASES], V2) if each.fatal)
    for refused in (lambda: ports.fencing.fence(CASES, [V1]), lambda: ports.inventory.count([CASES])):
        with pytest.raises(PreflightError, match=sentence):
            refused()


REMADE = (
    "CREATE TABLE kept AS TABLE cases",
    "DROP TABLE cases",
    "ALTER TABLE kept RENAME TO cases",
)


@pytest.mark.parametrize("write", ["shard", "sweep"])
def test_a_table_dropped_and_recreated_in_the_middle_is_reported_and_then_rotated(
    ports: PostgresPorts, database_url: str, ring: KeyRing, write: str
) -> None:
    ports.connection.execute("CREATE TABLE public.cases (id int, a text)")
    insert(ports.connection, "public.cases", [(number, sealed(ring, 1, "x")) for number in range(500)])
    steps: dict[str, Callable[[], object]] = {
        "shard": lambda: ports.rewriting.reencrypt_shard(REQUEST, Shard(CASES, 0, 1), ring, V2, lambda _: None),
        "sweep": lambda: ports.rewriting.sweep(REQUEST, CASES, ring, V2, wait=False),
    }
    remake = between_read_and_write(lambda batch: application(database_url, *REMADE) if batch == 0 else None)
    with remake, pytest.raises(BlockedError, match="cases was dropped, or dropped and recreated"):
        steps[write]()
    steps[write]()
    stored = ports.connection.execute("SELECT a FROM public.cases").fetchall()
    assert {opened(ring, str(a)) for (a,) in stored} == {("v2", "x")}
    assert len(stored) == 500
