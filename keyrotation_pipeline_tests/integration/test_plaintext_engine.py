"""A column that held plaintext: the engine encrypts it once beside a writer, and the counts call nothing else it."""

import threading
from dataclasses import replace

import pytest

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import counts, quarantine
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import DefectKind
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm, Normalisation
from keyrotation_pipeline.model.tables import EncryptedTable, Place, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    insert,
    opened,
    read_back,
    ring_of,
    running,
    sealed,
)

V1 = KeyVersion(1)
NOTES = EncryptedTable.of(TableName("public", "notes"), [Place("name"), Place("note", source="plaintext")])
STRANGE = ["v2: final version", "v1:", " v2:x", "100 %", "O'Neill\\", f"v2:{'A' * 16}:-", "Zürich 😀", "x" * 20_000]
ROWS = 3000


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def texts(migrated: Connection, ring: KeyRing) -> dict[int, tuple[str, str]]:
    """Rows whose names are encrypted under v1, and whose notes are plaintext; by id the texts of both."""
    migrated.execute("CREATE TABLE public.notes (id int PRIMARY KEY, name text, note varchar)")
    made = {n: (f"name {n}", STRANGE[n] if n < len(STRANGE) else f"note {n}") for n in range(ROWS)}
    rows = [(n, sealed(ring, 1, name), note) for n, (name, note) in made.items()]
    insert(migrated, "public.notes (id, name, note)", rows)
    running(migrated, "routine")
    return made


def under(version: str, texts: dict[int, tuple[str, str]]) -> dict[object, tuple[object, ...]]:
    return {n: tuple((version, text) for text in row) for n, row in texts.items()}


def test_plaintext_and_old_values_come_to_the_target_together(
    migrated: Connection, database_url: str, ring: KeyRing, texts: dict[int, tuple[str, str]]
) -> None:
    insert(migrated, "public.notes (id, name, note)", [(-1, "", ""), (-2, None, None)])
    engine = Engine(database_url, ring)
    assert engine.shard(NOTES).rows == ROWS
    assert engine.sweep(NOTES).rows == 0
    expected = {**under("v2", texts), -1: (("", ""), ("", "")), -2: (None, None)}
    assert read_back(migrated, ring, NOTES, "id") == expected


def test_what_is_written_meanwhile_is_kept_and_swept(
    migrated: Connection, database_url: str, ring: KeyRing, texts: dict[int, tuple[str, str]]
) -> None:
    stopped, written = threading.Event(), dict(texts)

    def write() -> None:
        with connect(database_url) as application:
            number = 0
            while not stopped.is_set():
                row, number = number * 7919 % ROWS, number + 1
                text = f"v2: written {number}"
                stored = text if number % 2 else sealed(ring, 2, text)
                application.execute("UPDATE public.notes SET note = %s WHERE id = %s", (stored, row))
                written[row] = (written[row][0], text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        engine = Engine(database_url, ring)
        engine.shard(NOTES)
    finally:
        stopped.set()
        writer.join()
    while engine.sweep(NOTES, wait=True).rows:
        pass
    assert read_back(migrated, ring, NOTES, "id") == under("v2", written)


def test_decrypting_everything_counts_plaintext_apart_and_quarantines_what_is_damaged(
    migrated: Connection, database_url: str, ring: KeyRing, texts: dict[int, tuple[str, str]]
) -> None:
    damaged = f"v1:{'A' * 16}:{'A' * 24}"
    migrated.execute("UPDATE public.notes SET note = %s WHERE id = 9", (damaged,))
    found = decrypt_all(lambda: connect(database_url), NOTES, ring, lambda _: None, Limits())
    assert (found.failures, dict(found.unencrypted)) == (1, {"note": ROWS - 1})
    assert (found.values, found.plaintext) == (ROWS + 1, ROWS - 1)
    assert [(each.key, each.column) for each in quarantine.load(migrated, [NOTES])] == [('["9"]', "note")]


def test_a_rollback_leaves_plaintext_where_it_is(
    migrated: Connection, database_url: str, ring: KeyRing, texts: dict[int, tuple[str, str]]
) -> None:
    migrated.execute("UPDATE public.notes SET note = %s WHERE id = 9", (sealed(ring, 2, "new"),))
    engine = Engine(database_url, ring, target=KeyVersion(1))
    assert engine.shard(NOTES).rows == 1
    stored = {n: str(note) for n, note in migrated.execute("SELECT id, note FROM public.notes").fetchall()}
    assert opened(ring, stored.pop(9)) == ("v1", "new")
    assert stored == {n: note for n, (_, note) in texts.items() if n != 9}


def test_a_way_back_to_plaintext_leaves_none_of_ours_and_no_count_or_fence_takes_one_for_it(
    migrated: Connection, database_url: str, ring: KeyRing, texts: dict[int, tuple[str, str]]
) -> None:
    back = NOTES.giving_back(V1)
    insert(migrated, "public.notes (id, name, note)", [(-1, "", sealed(ring, 2, "")), (-2, None, None)])
    for row, text in list(texts.items())[::2]:
        stored = sealed(ring, 1 + row % 4 // 2, text[1])
        migrated.execute("UPDATE public.notes SET note = %s WHERE id = %s", (stored, row))
    engine = Engine(database_url, ring, target=V1)
    # Of an unknown version, and by a writer that has not stopped: each stays an old value until it is gone.
    unknown = sealed(ring_of(9, primary=9), 9, "Ada")
    migrated.execute("UPDATE public.notes SET note = %s WHERE id = 11", (unknown,))
    engine.shard(back)
    now = {int(str(n)): note for n, note in migrated.execute("SELECT id, note FROM public.notes").fetchall()}
    assert (now.pop(-1), now.pop(-2), now.pop(11)) == ("", None, unknown)
    assert now == {n: note for n, (_, note) in texts.items() if n != 11}
    assert counts.old_rows(migrated, back, [KeyVersion(2)], None).rows == 1
    assert [each.reason for each in quarantine.load(migrated, [back])] == [
        "under key version v9, which is not in the key ring"
    ]
    migrated.execute("UPDATE public.notes SET note = %s WHERE id = 11", (sealed(ring, 2, "a\0b"),))
    assert engine.sweep(back).rows == 0
    assert [each.defect.kind for each in quarantine.load(migrated, [back])] == [DefectKind.NO_OLD_FORM]
    migrated.execute("UPDATE public.notes SET note = %s WHERE id = 11", (sealed(ring, 1, texts[11][1]),))
    assert count_old_values(migrated, back, [KeyVersion(2)]).encrypted == {"note": 1}
    assert engine.sweep(back).rows == 1
    assert not count_old_values(migrated, back, [KeyVersion(2)]).encrypted


FORM = IndexForm("notes.note", (Normalisation.LOWER, Normalisation.NFC))
INDEXED = replace(NOTES, indexes=(SearchIndex("note", "odd", "even", FORM),))


def test_plaintext_gets_its_search_index_with_its_first_value(
    migrated: Connection, database_url: str, ring: KeyRing, texts: dict[int, tuple[str, str]]
) -> None:
    migrated.execute("ALTER TABLE public.notes ADD COLUMN odd text, ADD COLUMN even text")
    indexer = Indexer(FORM, ring)
    migrated.execute("UPDATE public.notes SET odd = %s WHERE id = 0", (indexer.under(V1, STRANGE[0].encode()),))

    def missed() -> tuple[int, int]:
        found = decrypt_all(lambda: connect(database_url), INDEXED, ring, lambda _: None, Limits())
        return counts.unindexed_rows(migrated, INDEXED), len(found.missed)

    assert missed() == (0, 0), "plaintext needs none, whatever it begins with"
    assert Engine(database_url, ring).shard(INDEXED).rows == ROWS
    assert missed() == (0, 0)
    rows = migrated.execute("SELECT id, odd, even FROM public.notes").fetchall()
    expected: dict[int, tuple[str | None, str]] = {}
    for n, (_, note) in texts.items():
        expected[n] = (None, indexer.under(KeyVersion(2), note.encode()))
    expected[0] = (indexer.under(V1, STRANGE[0].encode()), expected[0][1])
    assert {n: tuple(both) for n, *both in rows} == expected
    migrated.execute("UPDATE public.notes SET note = 'v2: written again', even = NULL WHERE id = 7")
    assert Engine(database_url, ring, target=V1).shard(INDEXED).rows == ROWS
    assert missed() == (0, 0), "nor does what a rollback leaves"
