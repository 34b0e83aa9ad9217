"""Values of Lockbox, each column under a key of its own: whatever reads them reads each by the right one."""

import base64
import hashlib
import hmac
import os
import re
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.adapters.postgres.engine import speed
from keyrotation_pipeline.adapters.postgres.engine.cleared_indexes import clear_indexes
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import quarantine, samples
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.preflight.indexes import (
    search_index_columns_hold_nothing_else,
    search_indexes_are_declared,
)
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresEvidence, PostgresFencing
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchDump
from keyrotation_pipeline.backups.table_comparison import TableComparison
from keyrotation_pipeline.errors import FenceError, ProofError, StaleWriterError
from keyrotation_pipeline.fieldcrypto import compiled
from keyrotation_pipeline.fieldcrypto.blind_index import Algorithm, BlindIndexer, BlindIndexForm
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import place_ring
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import FOR_EACH_COLUMN
from keyrotation_pipeline.fieldcrypto.formats.lockbox import LOCKBOX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.comparison import DifferenceKind
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import REQUEST, Engine, ring_of, running

V1, V2 = KeyVersion(1), KeyVersion(2)
ROWS = 20
TABLE = EncryptedTable(
    TableName("Front desk", "Cli%ents"),
    ("e'mail_ciphertext", "note_ciphertext"),
    LOCKBOX,
    bindings=(("note_ciphertext", "billing.patients.remark_ciphertext"),),
)
LABELS = ("Front desk.Cli%ents.e'mail_ciphertext", "billing.patients.remark_ciphertext")
RING = ring_of(1, 2)
KEYS = [place_ring(FOR_EACH_COLUMN, RING, label) for label in LABELS]


def sealed(column: int, version: KeyVersion, text: str) -> str:
    nonce = os.urandom(12)
    body = AESGCM(raw_of(KEYS[column].material(version))).encrypt(nonce, text.encode(), None)
    return base64.b64encode(nonce + body).decode()


@pytest.fixture
def clients(migrated: Connection) -> Connection:
    migrated.execute(
        """CREATE SCHEMA "Front desk"; CREATE TABLE "Front desk"."Cli%ents" (id int PRIMARY KEY,
        "e'mail_ciphertext" text, email_bidx text, note_ciphertext varchar(400)) PARTITION BY RANGE (id);
        CREATE TABLE "Front desk".low PARTITION OF "Front desk"."Cli%ents" FOR VALUES FROM (0) TO (20);
        CREATE TABLE "Front desk".high PARTITION OF "Front desk"."Cli%ents" DEFAULT"""
    )
    for row in range(ROWS):
        migrated.execute(
            """INSERT INTO "Front desk"."Cli%%ents" VALUES (%s, %s, NULL, %s)""",
            (row, sealed(0, V1, f"mail {row}"), sealed(1, V1, f"note {row}")),
        )
    return migrated


def update(clients: Connection, what: str, row: int, *parameters: str) -> None:
    clients.execute(f'UPDATE "Front desk"."Cli%%ents" SET {what} WHERE id = {row}'.encode(), parameters)


@pytest.mark.parametrize("native", [pytest.param(True, id="C"), pytest.param(False, id="Python")])
def test_each_column_is_rewritten_counted_and_proven_by_its_own_key(
    clients: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    if not native:
        monkeypatch.setattr(compiled, "MODULE", None)
    update(clients, """note_ciphertext = "e'mail_ciphertext" """, 3)  # a value of another column
    keys = CurrentKeys(lambda: connect(database_url), lambda: RING, Limits())
    assert keys.old_rows(TABLE, [V1], None).rows == ROWS
    engine = Engine(database_url, RING)
    done = engine.shard(TABLE)
    assert (done.rows, done.values, done.quarantined) == (ROWS, 2 * ROWS - 1, 1)
    (wrong,) = quarantine.load(clients, [TABLE])
    assert (wrong.column, wrong.defect) == ("note_ciphertext", Defect(DefectKind.UNKNOWN_KEY))
    update(clients, "note_ciphertext = %s", 3, sealed(1, V2, "note 3"))
    assert engine.sweep(TABLE, wait=True).rows == 0
    (counted,) = PostgresInventory(clients, keys=keys).count([TABLE])
    assert counted.by_column == {name: {V2: ROWS} for name in TABLE.columns}
    searched = PostgresEvidence(clients, keys=keys).search([TABLE], V1, [V1], engine.progress.append)
    assert searched.values == {"Front desk.Cli%ents": 2 * ROWS}
    trial = samples.decrypt_sample(clients, TABLE, RING, 10, {})
    assert [(each.version, each.opened == each.tried > 0) for each in trial.columns] == [(V2, True)] * 2
    (measured,) = speed.measure(lambda: connect(database_url), [TABLE], RING, V2, Limits())
    assert (measured.sampled_rows > 0, measured.failed_values) == (True, 0)
    read = ScratchDump(database_url, clients, None).read(TABLE, RING)
    assert (read.rows, read.values, read.failures) == (ROWS, 2 * ROWS, 0)


def test_a_comparison_finds_no_difference_between_one_value_under_two_master_keys(
    clients: Connection, database_url: str
) -> None:
    now = PostgresInventory(clients)
    rows = list(now.rows_by_key(TABLE, ("id",)))
    Engine(database_url, RING).shard(TABLE)
    update(clients, "note_ciphertext = %s", 9, sealed(1, V2, "another"))

    class Backup(PostgresInventory):
        def rows_by_key(self, *_: object) -> Any:  # noqa: ANN401
            return (row for row in rows)

    comparison = TableComparison(TABLE, RING)
    found = list(comparison.differences(Backup(clients), now))
    assert [(each.column, each.kind) for each in found] == [("note_ciphertext", DifferenceKind.CHANGED)]
    assert comparison.values == 2 * ROWS


def test_the_probe_says_of_a_name_by_which_no_key_is_derived_that_nothing_opens(clients: Connection) -> None:
    good = samples.probe(clients, TABLE, RING, 20)
    assert [(each.opened, each.refusal) for each in good] == [(20, None)] * 2
    mail, note = samples.probe(clients, replace(TABLE, bindings=()), RING, 20)
    assert (mail.opened, note.opened) == (20, 0)
    assert "none of 20 values opens with the present keys" in str(note.refusal)
    assert "the name Front desk.Cli%ents.note_ciphertext, by which its key is derived" in str(note.refusal)
    bare, _ = samples.probe(clients, replace(TABLE, format=replace(LOCKBOX, derivation=None)), RING, 20)
    assert 'they open with derivation = "lockbox" and layout = "b64(nonce12 ct tag16)": correct that' in str(
        bare.refusal
    )


def test_columns_that_blind_index_may_have_made_with_the_same_master_key_are_warned_of(clients: Connection) -> None:
    clients.execute(
        """CREATE SCHEMA "Archive"; CREATE TABLE "Archive".before_all
        PARTITION OF "Front desk"."Cli%ents" FOR VALUES FROM (-9) TO (0)"""
    )
    (sentence,) = warned_of(clients, TABLE)
    assert sentence.startswith("column Front desk.Cli%ents.email_bidx is named like a search index, which finds no row")
    assert warned_of(clients, replace(TABLE, format=replace(LOCKBOX, derivation=None))) == []


FORM = BlindIndexForm("Front desk.Cli%ents", "email_bidx", "email_bidx_v2", Algorithm.PBKDF2_SHA256)
INDEXED = replace(TABLE, indexes=(SearchIndex(TABLE.columns[0], "email_bidx", "email_bidx_v2", FORM),))


def index(version: KeyVersion, text: str) -> str:
    """As `BlindIndex.generate_bidx` does it, by another hand than the product's."""
    column = b"email_bidx" if version == V1 else b"email_bidx_v2"
    table, master = b"Front desk.Cli%ents", raw_of(RING.material(version))
    prk = hmac.digest(table, master, "sha384")
    root = hmac.digest(prk, b"\x7e" * 32 + column + b"\1", "sha384")[:32]
    packed = b"".join(
        [(3).to_bytes(4, "little"), *((len(x).to_bytes(8, "little") + x) for x in (table, column, column))]
    )
    key = hmac.digest(root, packed, "sha256")
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", text.encode(), key, 10_000, 32)).decode()


def stored_indexes(clients: Connection) -> dict[int, tuple[Any, Any]]:
    rows: list[Any] = clients.execute(
        """SELECT id, email_bidx, email_bidx_v2 FROM "Front desk"."Cli%ents" """
    ).fetchall()
    return {row: (odd, even) for row, odd, even in rows}


@pytest.fixture
def indexed(clients: Connection) -> Connection:
    clients.execute(
        """ALTER TABLE "Front desk"."Cli%ents" ADD email_bidx_v2 varchar(44);
        CREATE UNIQUE INDEX ON "Front desk".low (email_bidx); CREATE UNIQUE INDEX ON "Front desk".low (email_bidx_v2)"""
    )
    for row in range(ROWS):
        update(clients, "email_bidx = %s", row, index(V1, f"mail {row}"))
    update(clients, """ "e'mail_ciphertext" = %s, email_bidx = %s """, 7, "", index(V1, ""))
    update(clients, """ "e'mail_ciphertext" = NULL, email_bidx = NULL """, 8)
    running(clients, "routine")
    return clients


def test_the_walk_writes_each_value_with_its_blind_index_and_the_old_one_is_cleared_at_the_end(
    indexed: Connection, database_url: str
) -> None:
    keys = CurrentKeys(lambda: connect(database_url), lambda: RING, Limits())
    fencing, evidence = PostgresFencing(indexed, keys), PostgresEvidence(indexed, keys=keys)
    texts = {row: "" if row == 7 else f"mail {row}" for row in range(ROWS) if row != 8}
    # An instance that has both keys has written a value under the new one, and one row has an old index there.
    update(
        indexed,
        """ "e'mail_ciphertext" = %s, email_bidx = %s, email_bidx_v2 = %s """,
        5,
        *(sealed(0, V2, "mail 5"), index(V1, "mail 5"), index(V2, "mail 5")),
    )
    update(indexed, "email_bidx_v2 = %s", 6, index(V2, "another"))
    assert fencing.old_rows(INDEXED, [V1], None).unindexed == ROWS - 3
    engine = Engine(database_url, RING)
    assert engine.shard(INDEXED).rows == ROWS
    assert stored_indexes(indexed) == {
        row: (index(V1, texts[row]), index(V2, texts[row])) if row in texts else (None, None) for row in range(ROWS)
    }
    assert engine.sweep(INDEXED).rows == 0
    update(indexed, "email_bidx_v2 = NULL", 11)
    assert fencing.old_rows(INDEXED, [V1], None) == OldRows(0, 0, 1)
    with pytest.raises(FenceError, match=r"1 row with a value that has no search index under its key"):
        evidence.search([INDEXED], V1, [V1], engine.progress.append)
    assert engine.sweep(INDEXED).rows == 1
    update(indexed, "email_bidx_v2 = %s", 12, index(V2, "mail 99"))
    with pytest.raises(ProofError, match=r"1 value with the search index of another text") as refused:
        evidence.search([INDEXED], V1, [V1], engine.progress.append)
    assert '["12"]' in str(refused.value)
    update(indexed, "email_bidx_v2 = NULL", 12)
    assert engine.sweep(INDEXED).rows == 1
    evidence.search([INDEXED], V1, [V1], engine.progress.append)
    (measured,) = speed.measure(lambda: connect(database_url), [INDEXED], RING, V2, Limits())
    assert (measured.sampled_rows > 0, measured.failed_values) == (True, 0)
    update(indexed, "email_bidx = 'a note'", 13)  # nothing but an index is cleared
    update(indexed, "email_bidx_v2 = NULL", 14)

    def cleared() -> int:
        return clear_indexes(lambda: connect(database_url), REQUEST, INDEXED, V2, lambda _: None, Limits())

    with pytest.raises(StaleWriterError, match=r"1 row with a value that has no search index"):
        cleared()
    assert stored_indexes(indexed)[14] == (index(V1, "mail 14"), None)
    assert engine.sweep(INDEXED).rows == 1
    assert cleared() == 1
    kept = {row: (None, index(V2, text)) for row, text in texts.items()} | {8: (None, None)}
    assert stored_indexes(indexed) == kept | {13: ("a note", kept[13][1])}
    (problem,) = search_index_columns_hold_nothing_else(Subject(indexed, INDEXED, tree(indexed, INDEXED), V2))
    assert "email_bidx is declared for search indexes" in problem.message


def test_the_index_of_an_empty_text_follows_where_an_earlier_key_has_the_same_column(
    indexed: Connection, database_url: str
) -> None:
    # As an emergency in the middle of a rotation finds it, or the rotation after a cancelled one.
    update(indexed, "note_ciphertext = NULL, email_bidx_v2 = %s", 7, index(V2, "under another key"))
    engine = Engine(database_url, RING)
    assert engine.shard(INDEXED).rows == ROWS
    assert stored_indexes(indexed)[7] == (index(V1, ""), index(V2, ""))
    update(indexed, "email_bidx_v2 = %s", 7, index(V2, "under another key"))
    assert [engine.sweep(INDEXED).rows for _ in range(2)] == [1, 0]
    evidence = PostgresEvidence(indexed, keys=CurrentKeys(lambda: connect(database_url), lambda: RING, Limits()))
    evidence.search([INDEXED], V1, [V1], engine.progress.append)


def test_blind_indexes_that_are_made_in_another_way_are_refused_before_anything_begins(indexed: Connection) -> None:
    def refusals(form: BlindIndexForm, table: EncryptedTable = INDEXED) -> list[str]:
        declared = replace(table, indexes=(replace(INDEXED.indexes[0], form=form),))
        return [each.refusal for each in samples.probe(indexed, declared, RING, 5) if each.refusal]

    assert refusals(FORM) == []
    swapped = replace(FORM, odd="email_bidx_v2", even="email_bidx")
    declared = replace(INDEXED, indexes=(SearchIndex(TABLE.columns[0], swapped.odd, swapped.even, swapped),))
    alone = KeyRing({V1: RING.material(V1)}, V1)
    assert [bool(each.refusal) for each in samples.probe(indexed, declared, alone, 5)] == [False, False, True]
    update(indexed, "email_bidx_v2 = %s", 2, index(V2, "of a cancelled rotation"))
    assert [each.opened for each in samples.probe(indexed, INDEXED, alone, 5)][2] == 10
    for other in (
        replace(FORM, algorithm=Algorithm.SCRYPT),
        replace(FORM, table="clients"),
        replace(FORM, odd="email_bidx_v2"),
    ):
        (sentence,) = refusals(other)
        said = r"none of \d+ search indexes in email_bidx and email_bidx_v2 is that of its text by 32 bytes"
        assert re.search(said, sentence)
    assert warned_of(indexed, INDEXED) == []


def test_a_declaration_that_does_not_fit_each_text_is_refused(
    indexed: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_INDEXED", ROWS)
    # As `expression: ->(text) { text.downcase }` has it, which leaves most texts as they are.
    update(indexed, """ "e'mail_ciphertext" = %s """, 3, sealed(0, V1, "Mail 3"))
    *_, indexes = samples.probe(indexed, INDEXED, RING, 5)
    assert f": 1 of {ROWS - 2} search indexes in email_bidx and email_bidx_v2 are not those of their text" in str(
        indexes.refusal
    )


def warned_of(clients: Connection, table: EncryptedTable) -> list[str]:
    subject = Subject(clients, table, tree(clients, table), V2)
    return [each.message for each in search_indexes_are_declared(subject) if not each.fatal]


def test_blind_indexes_are_of_texts_in_bytes_that_are_bound_to_their_row(
    migrated: Connection, database_url: str
) -> None:
    declared = replace(LOCKBOX, layout="raw(nonce12 ct tag16)", aad="client {id}")
    form = replace(FORM, table="t", odd="o", even="e", size_bytes=16)
    table = EncryptedTable(TableName("public", "t"), ("a",), declared, indexes=(SearchIndex("a", "o", "e", form),))
    migrated.execute("CREATE TABLE public.t (id int PRIMARY KEY, a bytea, o text UNIQUE, e varchar(24) UNIQUE)")
    key, nonce, indexer = place_ring(FOR_EACH_COLUMN, RING, "t.a"), bytes(12), BlindIndexer(form, RING)
    sealed_bytes = nonce + AESGCM(raw_of(key.material(V1))).encrypt(nonce, b"text", b"client 1")
    for row, value, text in ((1, sealed_bytes, b"text"), (2, b"", b""), (3, None, None)):
        odd = None if text is None else indexer.under(V1, text)
        migrated.execute("INSERT INTO public.t VALUES (%s, %s, %s)", (row, value, odd))
    running(migrated, "routine")
    place, indexed_place = samples.probe(migrated, table, RING, 5)
    assert (place.opened, indexed_place.opened, indexed_place.refusal) == (1, 1, None)
    engine = Engine(database_url, RING)
    assert (engine.shard(table).rows, engine.sweep(table).rows) == (2, 0)
    rows: list[Any] = migrated.execute("SELECT a, o, e FROM public.t ORDER BY id").fetchall()
    assert AESGCM(raw_of(key.material(V2))).decrypt(rows[0][0][:12], rows[0][0][12:], b"client 1") == b"text"
    assert [row[1:] for row in rows] == [
        *((indexer.under(V1, text), indexer.under(V2, text)) for text in (b"text", b"")),
        (None, None),
    ]
