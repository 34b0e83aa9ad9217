"""One table in two databases, the second a copy from before: what differs, whatever became of keys and partitions."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import pytest

from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.backups.table_comparison import TableComparison
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed
from keyrotation_pipeline_tests.servers import DEBIAN, Server, copy_of

CLIENTS = EncryptedTable(TableName("public", "clients"), ("name", "email"))
VISITS = EncryptedTable(TableName("public", "visits"), ("note",))
PLANTED = "planted by somebody"
TABLE = "CREATE TABLE public.clients (id bigint PRIMARY KEY, name text, email text)"


@dataclass
class Copied:
    """A database, and a copy of it that is made before it is changed."""

    server: Server
    url: str
    stack: ExitStack
    ring: KeyRing = field(default_factory=lambda: ring_of(1, 2))

    def sql(self, statement: str, *values: object) -> None:
        with closing(connect(self.url)) as connection:
            connection.execute(statement.encode(), values or None)

    def seal(self, text: str, version: int = 1) -> str:
        return sealed(self.ring, version, text)

    def clients(self, *rows: tuple[int, str, str | None]) -> None:
        for number, name, email in rows:
            row = number, self.seal(name), email and self.seal(email)
            self.sql("INSERT INTO public.clients VALUES (%s, %s, %s)", *row)

    def copy(self) -> None:
        url = self.stack.enter_context(copy_of(self.server, self.url.rpartition("?")[0].rpartition("/")[2]))
        self.before: Connection = self.stack.enter_context(closing(connect(url)))

    def compared(self, table: EncryptedTable = CLIENTS) -> TableComparison:
        return TableComparison(table, self.ring)

    def named(self, table: EncryptedTable = CLIENTS) -> set[tuple[str, str, str]]:
        with closing(connect(self.url)) as now:
            found = list(self.compared(table).differences(PostgresInventory(self.before), PostgresInventory(now)))
        return {(each.key, each.column, str(each.kind)) for each in found}


@pytest.fixture
def copied(server: Server, database_url: str) -> Iterator[Copied]:
    with ExitStack() as stack:
        yield Copied(server, database_url, stack)


@pytest.fixture
def clients(copied: Copied) -> Copied:
    copied.sql(TABLE)
    copied.clients((1, "Ada", "ada@example.org"), (2, "Ben", None), (3, "Cy", "cy@example.org"))
    copied.copy()
    return copied


def test_what_was_only_re_encrypted_is_no_difference(clients: Copied) -> None:
    clients.sql("UPDATE public.clients SET name = %s WHERE id = 2", clients.seal("Ben", 2))
    clients.sql("UPDATE public.clients SET email = '' WHERE id = 2")
    assert clients.named() == set()


def test_values_in_bytes_documents_and_arrays_are_compared_and_nothing_around_them(copied: Copied) -> None:
    places = (Place("raw"), Place("doc", ("t",)), Place("tags", elements=True))
    notes, row = EncryptedTable.of(TableName("public", "notes"), places), "tags[1] = %s WHERE id = 1"
    copied.sql("CREATE TABLE public.notes (id int PRIMARY KEY, raw bytea, doc jsonb, tags text[])")
    put = (
        "INSERT INTO public.notes VALUES (%s, convert_to(%s, 'UTF8'), jsonb_build_object('t', %s::text), ARRAY[%s, ''])"
    )
    for number in range(1, 4):
        copied.sql(put, number, *(copied.seal(f"{slot} {number}") for slot in ("raw", "token", "tag")))
    copied.copy()
    copied.sql(f"UPDATE public.notes SET {row}", copied.seal("tag 1", 2))
    copied.sql(
        "UPDATE public.notes SET doc = doc || '{\"n\": 1}', raw = convert_to(%s, 'UTF8')", copied.seal("raw 1", 2)
    )
    assert copied.named(notes) == {('["2"]', "raw", "changed"), ('["3"]', "raw", "changed")}
    copied.sql(f"UPDATE public.notes SET {row}", copied.seal("another", 2))
    copied.sql("UPDATE public.notes SET tags[2] = NULL, doc = doc - 't' WHERE id = 2")
    copied.sql("UPDATE public.notes SET tags = ARRAY[tags] WHERE id = 3")
    assert copied.named(notes) >= {
        ('["1"]', "tags[]", "changed"),
        ('["2"]', "doc.t", "gone"),
        ('["3"]', "tags[]", "changed"),
    }


def test_values_that_changed_places_are_named(clients: Copied) -> None:
    clients.sql("UPDATE public.clients c SET name = o.name FROM public.clients o WHERE c.id = 3 - o.id")
    assert clients.named() == {('["1"]', "name", "changed"), ('["2"]', "name", "changed")}


def test_a_dropped_or_changed_key_hides_nothing(clients: Copied) -> None:
    clients.sql("ALTER TABLE public.clients DROP CONSTRAINT clients_pkey, ADD COLUMN other int UNIQUE")
    clients.sql("UPDATE public.clients SET other = id")
    clients.sql("ALTER TABLE public.clients ADD PRIMARY KEY (other)")
    duplicate = "INSERT INTO public.clients VALUES (1, %s, %s, 11)"
    clients.sql(duplicate, clients.seal("Ada"), clients.seal(PLANTED))
    clients.sql("UPDATE public.clients SET id = 20 WHERE id = 3")
    assert clients.named() == {
        ('["1"]', "name", "new"),
        ('["1"]', "email", "new"),
        ('["3"]', "name", "gone"),
        ('["3"]', "email", "gone"),
        ('["20"]', "name", "new"),
        ('["20"]', "email", "new"),
    }


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        pytest.param("ALTER TABLE public.clients RENAME id TO number", r"key \(id\): a column is missing", id="key"),
        pytest.param("DROP TABLE public.clients", "table clients is not in the database", id="dropped"),
        pytest.param(
            "ALTER TABLE public.clients RENAME TO hidden; CREATE VIEW public.clients AS TABLE public.hidden",
            "is not an ordinary table",
            id="view",
        ),
        pytest.param(
            "ALTER TABLE public.clients ALTER COLUMN email TYPE json USING to_json(email)", "of type json", id="type"
        ),
        pytest.param(
            "CREATE ROLE mallory_{pid}; CREATE TYPE public.kind AS ENUM ('1', '2', '3');"
            "ALTER TYPE public.kind OWNER TO mallory_{pid};"
            "ALTER TABLE public.clients ALTER id TYPE public.kind USING id::text::public.kind",
            "of a foreign type|mallory",
            id="type of somebody else's",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(clients: Copied, statement: str, sentence: str) -> None:
    clients.sql(statement.format(pid=os.getpid()))
    with pytest.raises(PreflightError, match=sentence):
        clients.named()


def test_any_number_of_rows_under_a_key_that_exists_are_new(clients: Copied) -> None:
    clients.sql("ALTER TABLE public.clients DROP CONSTRAINT clients_pkey")
    clients.sql("INSERT INTO public.clients SELECT 1, %s, NULL FROM generate_series(1, 250)", clients.seal(PLANTED))
    clients.sql("UPDATE public.clients SET name = %s WHERE id = 3", clients.seal(PLANTED))
    with closing(connect(clients.url)) as now:
        comparison = clients.compared()
        found = list(comparison.differences(PostgresInventory(clients.before), PostgresInventory(now)))
    assert [(each.key, each.column, str(each.kind)) for each in found].count(('["1"]', "name", "new")) == 250
    assert {each.key for each in found} == {'["1"]', '["3"]'}
    assert comparison.rows == 253


def test_without_a_key_then_and_now_nothing_is_compared(copied: Copied) -> None:
    copied.sql("CREATE TABLE public.clients (id bigint, name text, email text)")
    copied.copy()
    with pytest.raises(PreflightError, match="no primary or other unique key identifies its rows"):
        copied.named()
    # A key that came later identifies the rows from before, too.
    copied.sql("ALTER TABLE public.clients ADD PRIMARY KEY (id)")
    copied.clients((1, PLANTED, None))
    assert copied.named() == {('["1"]', "name", "new")}


def test_a_table_and_a_column_that_came_later_are_new(clients: Copied) -> None:
    clients.sql("ALTER TABLE public.clients ADD COLUMN phone text")
    clients.sql("UPDATE public.clients SET phone = %s WHERE id = 1", clients.seal(PLANTED))
    clients.sql("CREATE TABLE public.visits (id int PRIMARY KEY, note text)")
    clients.sql("INSERT INTO public.visits VALUES (7, %s)", clients.seal(PLANTED))
    assert clients.named(EncryptedTable(CLIENTS.name, ("phone", "email"))) == {('["1"]', "phone", "new")}
    assert clients.named(EncryptedTable(CLIENTS.name, ("phone",))) == {('["1"]', "phone", "new")}
    assert clients.named(VISITS) == {('["7"]', "note", "new")}


def test_rows_that_went_to_another_partition_are_the_same_rows(copied: Copied) -> None:
    copied.sql(
        "CREATE TABLE public.visits (day int, note text, who text, PRIMARY KEY (day, who)) PARTITION BY RANGE (day);"
        "CREATE TABLE public.early PARTITION OF public.visits FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE public.late PARTITION OF public.visits FOR VALUES FROM (10) TO (20)"
    )
    for day, who in ((2, "b"), (2, "B"), (11, "ä"), (3, "a b"), (10, 'a"b')):
        copied.sql("INSERT INTO public.visits VALUES (%s, %s, %s)", day, copied.seal(f"note {who}"), who)
    copied.copy()
    copied.sql("CREATE TABLE public.other (LIKE public.late INCLUDING ALL)")
    copied.sql("INSERT INTO public.other TABLE public.late; DROP TABLE public.late")
    copied.sql("ALTER TABLE public.visits ATTACH PARTITION public.other FOR VALUES FROM (10) TO (20)")
    copied.sql("UPDATE public.visits SET note = %s WHERE who = 'ä'", copied.seal(PLANTED, 2))
    assert copied.named(VISITS) == {('["11", "ä"]', "note", "changed")}


@pytest.mark.external_postgres
@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed")
def test_keys_are_merged_in_one_order_whatever_collation_and_encoding_a_server_has(debian_server: Server) -> None:
    """In the backup by ICU and in UTF-8, now by "C" and in EUC_JP, whose order of bytes is another one."""
    with ExitStack() as stack:
        admin = stack.enter_context(closing(connect(debian_server.url())))
        for name, encoding in (("then", "UTF8"), ("now", "EUC_JP")):
            admin.execute(
                f"CREATE DATABASE ordered_{name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode()
            )
            stack.callback(admin.execute, f"DROP DATABASE ordered_{name} WITH (FORCE)".encode())
        then, now = (Copied(debian_server, debian_server.url(f"ordered_{each}"), stack) for each in ("then", "now"))
        now.ring = then.ring
        for each, collation in ((then, 'COLLATE "de-x-icu"'), (now, "")):
            each.sql(f"CREATE TABLE public.visits (who text {collation} PRIMARY KEY, note text)")
            for who in ("a", "B", "z", "ß", "々", "ア", "亜", "黑", "Ω"):
                each.sql("INSERT INTO public.visits VALUES (%s, %s)", who, each.seal(f"note of {who}"))
        now.sql("UPDATE public.visits SET note = %s WHERE who = '亜'", now.seal(PLANTED))
        now.before = stack.enter_context(closing(connect(then.url)))
        assert now.named(VISITS) == {('["亜"]', "note", "changed")}


def test_all_planted_values_are_found_among_many_that_were_re_encrypted(copied: Copied) -> None:
    copied.sql(TABLE)
    rows = "INSERT INTO public.clients SELECT n, %s, %s FROM generate_series(1, 5000) AS n"
    copied.sql(rows, copied.seal("x"), copied.seal("y"))
    copied.copy()
    copied.sql("UPDATE public.clients SET name = %s", copied.seal("x", 2))  # all re-encrypted
    copied.sql("UPDATE public.clients SET email = %s WHERE id %% 50 = 0", copied.seal(PLANTED))
    assert copied.named() == {(f'["{number}"]', "email", "changed") for number in range(50, 5001, 50)}
