"""Values that other columns of their row belong to: their nonce, or what they are authenticated with."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.adapters.postgres.engine import speed
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys, held_in_snapshot
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import quarantine, samples
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, none_is_generated, types_hold_text
from keyrotation_pipeline.adapters.postgres.preflight.values import checks_accept_target, values_fit
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchDump
from keyrotation_pipeline.backups.table_comparison import TableComparison
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.model.comparison import DifferenceKind
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of
from keyrotation_pipeline_tests.integration.test_engine_interleaving import between_read_and_write
from keyrotation_pipeline_tests.servers import Server

V1, V2 = KeyVersion(1), KeyVersion(2)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "aes_gcm.json").read_text())
UNKNOWN = Defect(DefectKind.UNKNOWN_KEY)
ROWS = 30


def sealed(key: KeyMaterial, text: str, data: str) -> str:
    nonce = os.urandom(12)
    body = AESGCM(raw_of(key)).encrypt(nonce, text.encode(), data.encode())
    return f"{nonce.hex()}:{body.hex()}"


def opened(key: KeyMaterial, stored: str, data: str) -> str:
    nonce, body = map(bytes.fromhex, stored.split(":"))
    return AESGCM(raw_of(key)).decrypt(nonce, body, data.encode()).decode()


class Visits:
    """A partitioned table with odd names, each value bound to table, column, a text and both halves of its key."""

    template = "{table}/{column}/{cl'inic %s}/{No}/{part}\\n'%s"

    def __init__(self, url: str, connection: Connection) -> None:
        self.url, self.connection = url, connection
        self.ring: KeyRing = ring_of(1, 2)
        declared = replace(AES_GCM, layout="hex(nonce12):hex(ct tag16)", aad=self.template, logins=((V1, "app"),))
        places = [Place("Text %"), Place("doc", ("a.b", "c"))]
        self.table = EncryptedTable.of(TableName("S 1", 'Vi"sits'), places, declared)
        connection.execute(
            """
            CREATE SCHEMA "S 1";
            CREATE TABLE "S 1"."Vi""sits" ("No" bigint, part uuid, "cl'inic %s" varchar(9), "Text %" varchar(400),
                doc jsonb, n int DEFAULT 0, PRIMARY KEY ("No", part)) PARTITION BY RANGE ("No");
            CREATE TABLE "S 1".low (n int DEFAULT 0, doc jsonb, "Text %" varchar(400), "cl'inic %s" varchar(9),
                part uuid NOT NULL, "No" bigint NOT NULL);
            ALTER TABLE "S 1"."Vi""sits" ATTACH PARTITION "S 1".low FOR VALUES FROM (0) TO (10);
            CREATE TABLE "S 1".high PARTITION OF "S 1"."Vi""sits" DEFAULT
            """
        )
        for row in range(ROWS):
            values = self.value(V1, row, "Text %", f"text {row}"), self.value(V1, row, "doc", f"doc {row}")
            connection.execute(
                """INSERT INTO "S 1"."Vi""sits" VALUES (%s, %s, %s, %s, jsonb_build_object('a.b',
                jsonb_build_object('c', %s::text)))""",
                (row, self.uuid(row), self.clinic(row), *values),
            )
        self.engine = Engine(url, self.ring)

    def uuid(self, row: int) -> str:
        return f"ABCDEF00-0000-0000-0000-{row:012x}".lower()

    def clinic(self, row: int) -> str:
        return f"é:;{row}"

    def data(self, row: int, column: str) -> str:
        return f"Vi\"sits/{column}/{self.clinic(row)}/{row}/{self.uuid(row)}\\n'%s"

    def value(self, version: KeyVersion, row: int, column: str, text: str) -> str:
        return sealed(self.ring.material(version), text, self.data(row, column))

    def run(self, statement: LiteralString, *parameters: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as application:
            application.execute(statement, parameters or None)

    def read(self, row: int) -> tuple[str, str]:
        query = """SELECT "Text %%", doc #>> '{a.b,c}' FROM "S 1"."Vi""sits" WHERE "No" = %s"""
        ((text, doc),) = self.connection.execute(query, (row,)).fetchall()
        key = self.ring.material(V2)
        return opened(key, str(text), self.data(row, "Text %")), opened(key, str(doc), self.data(row, "doc"))

    def quarantined(self) -> dict[tuple[str, str], Defect]:
        return {(each.key, each.column): each.defect for each in quarantine.load(self.connection, [self.table])}


@pytest.fixture
def visits(database_url: str, migrated: Connection) -> Visits:
    return Visits(database_url, migrated)


def test_values_bound_to_their_row_are_rewritten_for_it_whatever_their_names_are(visits: Visits) -> None:
    done = visits.engine.shard(visits.table)
    assert (done.rows, done.values, done.quarantined) == (ROWS, 2 * ROWS, 0)
    for row in range(ROWS):
        assert visits.read(row) == (f"text {row}", f"doc {row}")
    again = visits.engine.sweep(visits.table, wait=True)
    assert (again.rows, again.skipped) == (0, 0)


def test_every_count_and_sample_reads_the_columns_that_values_are_bound_to(visits: Visits) -> None:
    visits.run("""UPDATE "S 1"."Vi""sits" SET "Text %" = '' WHERE "No" = 3""")
    visits.run("""UPDATE "S 1"."Vi""sits" SET doc = NULL WHERE "No" = 4""")
    keys = CurrentKeys(lambda: connect(visits.url), lambda: visits.ring, Limits())
    (counted,) = PostgresInventory(visits.connection, keys=keys).count([visits.table])
    assert counted.by_column == {"Text %": {V1: ROWS - 1}, 'doc."a.b".c': {V1: ROWS - 1}}
    assert (counted.empty, counted.unencrypted, counted.unreadable) == (1, 0, 0)
    assert keys.old_rows(visits.table, [V1], None).rows == ROWS
    assert held_in_snapshot(visits.connection, visits.table, visits.ring)[1] == [
        {V1: ROWS - 1, None: 1},
        {V1: ROWS - 1},
    ]
    trial = samples.decrypt_sample(visits.connection, visits.table, visits.ring, 10, {})
    assert [(each.version, each.opened == each.tried > 0) for each in trial.columns] == [(V1, True)] * 2
    probed = samples.probe(visits.connection, visits.table, visits.ring, 10)
    assert [(each.tried, each.opened) for each in probed] == [(10, 10)] * 2
    other = replace(visits.table, format=replace(visits.table.format, layout="hex(ct tag16):hex(nonce12)"))
    assert {each.fits for each in samples.probe(visits.connection, other, visits.ring, 10)} == {
        "hex(nonce12):hex(ct tag16)"
    }
    (measured,) = speed.measure(lambda: connect(visits.url), [visits.table], visits.ring, V2, Limits())
    assert (measured.sampled_rows, measured.failed_values) == (ROWS - 10, 0)  # of the largest partition
    read = ScratchDump(visits.url, visits.connection, None).read(visits.table, visits.ring)
    assert (read.rows, read.values, read.failures) == (ROWS, 2 * ROWS - 2, 0)


def test_a_value_of_another_row_and_one_that_nothing_binds_are_left_alone(visits: Visits) -> None:
    visits.run("""UPDATE "S 1"."Vi""sits" SET "Text %" = (SELECT "Text %" FROM "S 1"."Vi""sits" WHERE "No" = 6)
                  WHERE "No" = 5""")
    visits.run("""UPDATE "S 1"."Vi""sits" SET "cl'inic %s" = NULL WHERE "No" = 20""")
    forged = f"{visits.data(7, 'Text %').encode().hex()}:{visits.value(V1, 7, 'Text %', 'x')}"
    visits.run("""UPDATE "S 1"."Vi""sits" SET "Text %%" = %s WHERE "No" = 8""", forged)
    assert visits.engine.shard(visits.table).quarantined == 4
    names = {row: json.dumps([str(row), visits.uuid(row)], separators=(", ", ", ")) for row in (5, 8, 20)}
    assert visits.quarantined() == {
        (names[5], "Text %"): UNKNOWN,
        (names[8], "Text %"): NOT_A_VALUE,
        (names[20], "Text %"): UNKNOWN,
        (names[20], 'doc."a.b".c'): UNKNOWN,
    }
    for row in (5, 8):
        visits.run(
            """UPDATE "S 1"."Vi""sits" SET "Text %%" = %s WHERE "No" = %s""", visits.value(V1, row, "Text %", "y"), row
        )
    visits.run("""UPDATE "S 1"."Vi""sits" SET "cl'inic %%s" = %s WHERE "No" = 20""", visits.clinic(20))
    assert visits.engine.sweep(visits.table).values == 4
    assert visits.engine.sweep(visits.table).rows == 0
    CurrentKeys(lambda: connect(visits.url), lambda: visits.ring, Limits()).count(visits.table)
    assert visits.quarantined() == {}


def moved(visits: Visits) -> None:
    """The application changes what a value is bound to, and the value, in one transaction."""
    text, doc = (
        sealed(visits.ring.material(V1), "moved", visits.data(5, name).replace("/5/", "/105/"))
        for name in ("Text %", "doc")
    )
    visits.run(
        """UPDATE "S 1"."Vi""sits" SET "No" = 105, "Text %%" = %s, doc = jsonb_set(doc, '{a.b,c}', to_jsonb(%s::text))
           WHERE "No" = 5""",
        text,
        doc,
    )


@pytest.mark.parametrize("wait", [False, True])
def test_what_a_value_is_bound_to_may_change_while_the_engine_works(visits: Visits, wait: bool) -> None:
    with between_read_and_write(lambda batch: moved(visits) if batch == 0 else None):
        first = visits.engine.sweep(visits.table, wait=wait)
    assert first.rows < ROWS or wait
    while visits.engine.sweep(visits.table).rows:
        pass
    assert visits.quarantined() == {}
    rows: list[Any] = visits.connection.execute(
        """SELECT "No", "Text %" FROM "S 1"."Vi""sits" ORDER BY "No" """
    ).fetchall()
    assert len(rows) == ROWS
    key, data = visits.ring.material(V2), visits.data(5, "Text %").replace("/5/", "/105/")
    assert opened(key, str(dict(rows)[105]), data) == "moved"


def test_swapped_names_of_bound_columns_never_bind_a_value_to_another_content(
    visits: Visits, database_url: str, migrated: Connection
) -> None:
    migrated.execute("CREATE TABLE public.pairs (id int PRIMARY KEY, one text, two text, v text)")
    declared = replace(visits.table.format, aad="{one}")
    table = EncryptedTable.of(TableName("public", "pairs"), [Place("v")], declared)
    key = visits.ring.material(V1)
    for row in range(5):
        migrated.execute("INSERT INTO public.pairs VALUES (%s, 'one', 'one', %s)", (row, sealed(key, "x", "one")))
    rename = "ALTER TABLE public.pairs RENAME {} TO {}"

    def swapped(batch: int) -> None:
        for pair in [("one", "three"), ("two", "one"), ("three", "two")] if batch == 0 else []:
            visits.run(rename.format(*pair))

    with between_read_and_write(swapped):
        assert visits.engine.shard(table).rows == 0
    assert visits.engine.sweep(table).rows == 5


def test_a_comparison_finds_no_difference_between_one_value_under_two_keys(
    visits: Visits, database_url: str, migrated: Connection
) -> None:
    before = PostgresInventory(migrated)
    rows = list(before.rows_by_key(visits.table, ("No", "part")))
    visits.engine.shard(visits.table)
    visits.run("""UPDATE "S 1"."Vi""sits" SET "Text %%" = %s WHERE "No" = 9""", visits.value(V2, 9, "Text %", "other"))

    class Backup(PostgresInventory):
        def rows_by_key(self, *_: object) -> Any:  # noqa: ANN401
            return (row for row in rows)

    comparison = TableComparison(visits.table, visits.ring)
    found = list(comparison.differences(Backup(migrated), before))
    assert [(each.column, each.kind) for each in found] == [("Text %", DifferenceKind.CHANGED)]
    assert comparison.values == 2 * ROWS


@pytest.mark.parametrize(
    "type_sql", ["timestamptz", "numeric", "text[]", "char(4)", "jsonb"], ids=lambda each: each.split("(")[0]
)
def test_values_are_bound_to_no_column_whose_text_others_may_write_in_another_way(
    migrated: Connection, type_sql: LiteralString
) -> None:
    migrated.execute(f"CREATE TABLE public.notes (id {type_sql}, body text)")
    declared = replace(AES_GCM, layout="b64(nonce12 ct tag16)", aad="{id}")
    table = EncryptedTable.of(TableName("public", "notes"), [Place("body")], declared)
    (problem,) = types_hold_text(Subject(migrated, table, tree(migrated, table), V2))
    assert problem.fatal
    assert "column notes.id, which [format] aad names, is of type" in problem.message
    with pytest.raises(PreflightError, match="and only text, varchar, uuid and whole numbers can be bound to"):
        samples.probe(migrated, table, ring_of(1, 2), 1)
    with pytest.raises(PreflightError, match="column tenant is not in table notes"):
        tree(migrated, replace(table, format=replace(declared, aad="{tenant}")))


def test_real_values_with_their_nonces_in_a_second_column_are_rewritten_with_them(
    migrated: Connection, database_url: str
) -> None:
    (entry,) = (each for each in VECTORS if each["library"].startswith("attr_encrypted"))
    key, layout = KeyMaterial(bytes.fromhex(entry["key"])), Layout(entry["layout"])
    ring = KeyRing({V1: key, V2: KeyMaterial.generate()}, V2)
    table = EncryptedTable.of(
        TableName("public", "users"),
        [Place("encrypted_ssn", iv="encrypted_ssn_iv")],
        replace(AES_GCM, layout=layout.text),
    )
    migrated.execute(
        "CREATE TABLE public.users (id int, encrypted_ssn varchar(400) CHECK (encrypted_ssn LIKE '%\n' OR id > 6), "
        "encrypted_ssn_iv char varying(17) UNIQUE NOT NULL DEFAULT gen_random_uuid()::varchar(17))"
    )
    values = {number: each["stored"].split(";") for number, each in enumerate(entry["values"])}
    for number, pair in values.items():
        migrated.execute("INSERT INTO public.users VALUES (%s, %s, %s)", (number, *pair))
    migrated.execute("INSERT INTO public.users VALUES (7, NULL), (8, ''), (9, %s)", (values[1][0],))
    subject = Subject(migrated, table, tree(migrated, table), V2)
    assert [*checks_accept_target(subject), *values_fit(subject), *types_hold_text(subject)] == []
    assert row_key(migrated, subject.relations[0]).columns == ()  # the unique nonces change
    done = Engine(database_url, ring).shard(table)
    assert (done.rows, done.values, done.quarantined) == (3, 3, 1)
    (wrong,) = quarantine.load(migrated, [table])
    assert (wrong.column, wrong.defect) == ("encrypted_ssn+encrypted_ssn_iv", NOT_A_VALUE)
    rows: list[Any] = migrated.execute(
        "SELECT id, encrypted_ssn, encrypted_ssn_iv FROM public.users ORDER BY id"
    ).fetchall()
    for (number, value, nonce), told in zip(rows[:3], entry["values"], strict=True):
        assert value != values[number][0]
        assert nonce != values[number][1]
        sealed_again = layout.split(f"{value};{nonce}".encode())
        assert sealed_again is not None
        text = AESGCM(raw_of(ring.material(V2))).decrypt(sealed_again.nonce, sealed_again.body, None)
        assert text == told["plaintext"].encode()
    assert [row[:2] for row in rows[3:]] == [(7, None), (8, ""), (9, values[1][0])]


def test_a_nonce_in_a_generated_column_or_one_that_pads_is_refused(migrated: Connection) -> None:
    migrated.execute(
        "CREATE TABLE public.notes (a text, a_iv char(16), b text, b_iv text GENERATED ALWAYS AS (left(b, 16)) STORED, "
        "c text, c_iv int)"
    )
    places = [Place(each, iv=f"{each}_iv") for each in "ab"]
    declared = replace(AES_GCM, layout="b64(ct tag16); b64(nonce12)")
    table = EncryptedTable.of(TableName("public", "notes"), places, declared)
    subject = Subject(migrated, table, tree(migrated, table), V2)
    found = [problem.message for check in (types_hold_text, none_is_generated) for problem in check(subject)]
    assert [sentence.split(",")[0] for sentence in found] == [
        "column notes.a_iv is of type character",
        "column notes.b_iv is generated",
    ]
    table = replace(table, columns=("c+c_iv",), places=(Place("c", iv="c_iv"),))
    with pytest.raises(PreflightError, match=r"column notes\.c_iv is of type integer"):
        samples.probe(migrated, table, ring_of(1, 2), 1)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_values_are_bound_to_text_as_the_application_encodes_it(server: Server, encoding: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE odd_texts ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0".encode()
        )
        try:
            _rotate_odd_texts(server.url("odd_texts"), b"\xff" if encoding == "SQL_ASCII" else "ÿ".encode())
        finally:
            admin.execute("DROP DATABASE odd_texts WITH (FORCE)")


def _rotate_odd_texts(url: str, strange: bytes) -> None:
    migrate(url)
    ring, key = ring_of(1, 2), "INSERT INTO public.t VALUES (1, convert_from(%s, getdatabaseencoding()), %s)"
    table = EncryptedTable.of(
        TableName("public", "t"), [Place("v")], replace(AES_GCM, layout="hex(nonce12):hex(ct tag16)", aad="é{k}")
    )
    nonce, data = os.urandom(12), "é".encode() + strange
    value = f"{nonce.hex()}:{AESGCM(raw_of(ring.material(V1))).encrypt(nonce, b'text', data).hex()}"
    with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as application:
        application.execute("CREATE TABLE public.t (id int PRIMARY KEY, k text, v text)")
        stored = strange if strange == b"\xff" else "ÿ".encode("latin-1")
        application.execute(key, (stored, value))
        assert Engine(url, ring).shard(table).values == 1
        ((new,),) = application.execute("SELECT v FROM public.t").fetchall()
    nonce, body = map(bytes.fromhex, str(new).split(":"))
    assert AESGCM(raw_of(ring.material(V2))).decrypt(nonce, body, data) == b"text"


def test_bytes_that_are_bound_to_another_row_stay_in_quarantine_until_they_are_fixed(
    migrated: Connection, database_url: str
) -> None:
    ring, layout = ring_of(1, 2), Layout("raw(0x01 nonce12 ct tag16)")
    table = EncryptedTable.of(
        TableName("public", "scans"), [Place("v")], replace(AES_GCM, layout=layout.text, aad="{column}{id}")
    )

    def value(row: int) -> bytes:
        nonce = os.urandom(12)
        return layout.join(nonce, AESGCM(raw_of(ring.material(V1))).encrypt(nonce, b"\xff" * row, f"v{row}".encode()))

    migrated.execute("CREATE TABLE public.scans (id int PRIMARY KEY, v bytea)")
    for row, stored in enumerate([value(0), value(1), value(1), b"\x01plain", b"", None]):
        migrated.execute("INSERT INTO public.scans VALUES (%s, %s)", (row, stored))
    assert Engine(database_url, ring).shard(table).quarantined == 2
    found = {each.key: each.defect for each in quarantine.load(migrated, [table])}
    assert found == {'["2"]': UNKNOWN, '["3"]': NOT_A_VALUE}
    migrated.execute("UPDATE public.scans SET v = NULL WHERE id = 3")
    assert [each.key for each in quarantine.load(migrated, [table])] == ['["2"]']
    migrated.execute("UPDATE public.scans SET v = %s WHERE id = 2", (value(2),))
    assert Engine(database_url, ring).sweep(table).rows == 1
    keys = CurrentKeys(lambda: connect(database_url), lambda: ring, Limits())
    assert (keys.count(table).by_column, keys.count(table).unreadable) == ({"v": {V2: 3}}, 0)
    assert samples.probe(migrated, table, ring, 9)[0].opened == 3
