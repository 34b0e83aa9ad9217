"""A column of another library at 200 000 rows, beside a writer in that library: nothing lost, nothing wrong."""

import base64
import json
import os
import threading
import time
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine  # type: ignore[import-untyped]

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import quarantine, samples
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.formats.sources import parsed
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.fieldcrypto.source_keys import CheckedSource, source_of
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    insert,
    opened,
    read_back,
    ring_of,
    running,
    sealed,
)

AES, GCM = "sqlalchemy-utils-aes, padding naive", "sqlalchemy-utils-aesgcm"
NOTES = EncryptedTable.of(
    TableName("public", "notes"),
    [Place("token", source=AES, source_key="OLD_KEY"), Place("note", source=GCM, source_key="OLD_KEY")],
)
SECRET = "the application's secret"
STRANGE = ["v2: final version", "", "100 %", "Zürich 😀", "x" * 20_000, "a" * 16]
aes, gcm = AesEngine(), AesGcmEngine()
for each in (aes, gcm):
    each._update_key(SECRET)  # noqa: SLF001
aes._set_padding_mechanism()  # noqa: SLF001


@pytest.fixture
def ring() -> KeyRing:
    return ring_with(SourceKey(SECRET.encode(), "OLD_KEY"))


def ring_with(key: SourceKey) -> KeyRing:
    first = ring_of(1, 2)
    keys: dict[KeyVersion, KeyMaterial] = {version: first.material(version) for version in first.versions}
    return KeyRing({**keys, KeyVersion(3): key}, first.primary)


Texts = dict[int, tuple[str, str]]


def filled(connection: Connection, rows: int) -> Texts:
    """A table of the library's values; returns the texts by id."""
    connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, token text, note varchar)")
    made = {n: (f"token {n}", STRANGE[n] if n < len(STRANGE) else f"note {n}") for n in range(rows)}
    stored = [(n, aes.encrypt(token), gcm.encrypt(note)) for n, (token, note) in made.items()]
    insert(connection, "public.notes (id, token, note)", stored)
    running(connection, "routine")
    return made


def under(version: str, texts: Texts) -> dict[object, tuple[object, ...]]:
    return {n: tuple((version, text) for text in row) for n, row in texts.items()}


@pytest.mark.parametrize("rows", [2000, pytest.param(200_000, marks=pytest.mark.extended)])
def test_what_the_library_writes_meanwhile_is_kept_and_swept(
    migrated: Connection, database_url: str, ring: KeyRing, rows: int
) -> None:
    written = filled(migrated, rows)
    insert(migrated, "public.notes (id, token, note)", [(-1, "", ""), (-2, None, None)])
    stopped, changes = threading.Event(), 0

    def write() -> None:
        nonlocal changes
        chance = Random(7)
        with connect(database_url) as application:
            while not stopped.is_set():
                row, changes = chance.randrange(rows), changes + 1
                texts = f"written {changes}", f"v2: written {changes}"
                stored = (aes.encrypt(texts[0]), gcm.encrypt(texts[1]))
                if changes % 2:
                    stored = (sealed(ring, 2, texts[0]), sealed(ring, 2, texts[1]))
                application.execute("UPDATE public.notes SET token = %s, note = %s WHERE id = %s", (*stored, row))
                written[row] = texts

    writer = threading.Thread(target=write)
    writer.start()
    began = time.perf_counter()
    try:
        engine = Engine(database_url, ring)
        engine.shard(NOTES)
    finally:
        seconds = time.perf_counter() - began
        stopped.set()
        writer.join()
    while engine.sweep(NOTES, wait=True).rows:
        pass
    expected = {**under("v2", written), -1: (("", ""), ("", "")), -2: (None, None)}
    assert read_back(migrated, ring, NOTES, "id") == expected
    assert quarantine.load(migrated, [NOTES]) == ()
    print(f"{rows:,} rows, {changes:,} writes meanwhile, {rows / seconds:,.0f} rows/s")  # noqa: T201


def test_what_stays_closed_is_left_as_it_is_and_quarantined(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    texts = filled(migrated, 100)
    other = AesGcmEngine()
    other._update_key("another secret")  # noqa: SLF001
    strange = {9: "plain", 10: other.encrypt("Ada"), 11: gcm.encrypt(gcm.encrypt("Ada")), 12: texts[12][1]}
    for row, stored in strange.items():
        migrated.execute("UPDATE public.notes SET note = %s WHERE id = %s", (stored, row))
    before = decrypt_all(lambda: connect(database_url), NOTES, ring, lambda _: None, Limits())
    assert (before.failures, before.plaintext, dict(before.unencrypted)) == (4, 196, {"token": 100, "note": 96})
    engine = Engine(database_url, ring)
    engine.shard(NOTES)
    found = quarantine.load(migrated, [NOTES])
    assert {(each.key, each.column) for each in found} == {(f'["{row}"]', "note") for row in strange}
    assert {each.reason[:34] for each in found} == {"neither encrypted under a key vers"}
    for row, stored in strange.items():
        held = migrated.execute("SELECT note FROM public.notes WHERE id = %s", (row,)).fetchall()
        assert held == [(stored,)]


MADE = json.loads((Path(__file__).parents[1] / "vectors" / "sources.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MADE)
def test_values_that_a_library_in_another_language_made_come_to_the_target(
    migrated: Connection, database_url: str, ring: KeyRing, name: str
) -> None:
    made, columns = MADE[name], ["note", *parsed(name).columns]
    texts = {n: text for n, (text, _) in enumerate(made["values"] * 25)}
    create = ", ".join(f"{each} {'bigint' if each == 'number' else 'text'}" for each in columns)
    migrated.execute(f"CREATE TABLE public.notes (id int PRIMARY KEY, {create})".encode())
    values = [stored if isinstance(stored, list) else [stored] for _, stored in made["values"] * 25]
    insert(migrated, f"public.notes (id, {', '.join(columns)})", [(n, *stored) for n, stored in enumerate(values)])
    running(migrated, "routine")
    keys = {version: ring.material(version) for version in ring.versions}
    ring = KeyRing({**keys, KeyVersion(3): SourceKey(made["key"].encode(), "OLD_KEY")}, ring.primary)
    notes = EncryptedTable.of(TableName("public", "notes"), [Place("note", source=name, source_key="OLD_KEY")])
    before = decrypt_all(lambda: connect(database_url), notes, ring, lambda _: None, Limits())
    assert (before.failures, before.plaintext) == (0, len(texts))
    assert Engine(database_url, ring).shard(notes).rows == len(texts)
    assert read_back(migrated, ring, notes, "id") == {n: (("v2", text),) for n, text in texts.items()}
    after = decrypt_all(lambda: connect(database_url), notes, ring, lambda _: None, Limits())
    assert (after.failures, after.plaintext, after.values) == (0, 0, len(texts))


BYTES = {"django-cryptography, key_of SECRET_KEY": "bytea", AES: "bytea", GCM: "text"}


def of_bytes(ring: KeyRing) -> tuple[EncryptedTable, dict[str, CheckedSource]]:
    """A table whose places are of several libraries, most of them in bytea, and what writes the values of each."""
    sources = {name: source_of(parsed(name), ring.sources["OLD_KEY"][1]) for name in BYTES}
    columns = [Place(f"c{n}", source=name, source_key="OLD_KEY") for n, name in enumerate(BYTES)]
    return EncryptedTable.of(TableName("public", "notes"), columns), sources


def test_bytea_of_libraries_becomes_our_values_as_ascii_and_refuses_all_else(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    notes, sources = of_bytes(ring)
    declared = ", ".join(f"c{n} {kind}" for n, kind in enumerate(BYTES.values()))
    migrated.execute(f"CREATE TABLE public.notes (id int PRIMARY KEY, {declared})".encode())
    texts = {n: STRANGE[n] if n < len(STRANGE) else f"note {n}" for n in range(300)}
    for n, text in texts.items():
        stored = [each.sealed(text.encode()) for each in sources.values()]
        migrated.execute("INSERT INTO public.notes VALUES (%s, %s, %s, %s)", (n, *stored[:2], stored[2].decode()))
    migrated.execute("INSERT INTO public.notes VALUES (-1, '', '', ''), (-2, NULL, NULL, NULL), (-3, 'x', NULL, NULL)")
    running(migrated, "routine")
    assert [each.message for each in preflight(migrated, [notes], KeyVersion(2)) if each.fatal] == []
    engine = Engine(database_url, ring)
    engine.shard(notes)
    rows = migrated.execute("SELECT id, c0, c1, c2 FROM public.notes WHERE id >= 0").fetchall()
    found = {n: [opened(ring, as_text(value)) for value in each] for n, *each in rows}
    assert found == {n: [("v2", text)] * 3 for n, text in texts.items()}
    assert migrated.execute("SELECT c0, c1, c2 FROM public.notes WHERE id < 0 ORDER BY id").fetchall() == [
        (b"x", None, None), (None, None, None), (b"", b"", ""),
    ]  # fmt: skip
    assert [(each.key, each.column) for each in quarantine.load(migrated, [notes])] == [('["-3"]', "c0")]


def as_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def test_parts_in_columns_of_bytea_are_read_alike_before_anybody_signs_and_by_the_engine(
    migrated: Connection, database_url: str
) -> None:
    form = "aes-256-gcm, layout b64.ct, kdf none, iv note_iv, tag note_tag"
    notes = EncryptedTable.of(TableName("public", "notes"), [Place("note", source=form, source_key="OLD_KEY")])
    secret = b"k" * 32
    ring = ring_with(SourceKey(secret, "OLD_KEY"))
    migrated.execute("CREATE TABLE public.notes (id int PRIMARY KEY, note text, note_iv bytea, note_tag bytea)")
    texts = {n: f"note {n}" for n in range(50)}
    for n, text in texts.items():
        nonce = os.urandom(12)
        body = AESGCM(secret).encrypt(nonce, text.encode(), None)
        row = n, base64.b64encode(body[:-16]).decode(), nonce, body[-16:]
        migrated.execute("INSERT INTO public.notes VALUES (%s, %s, %s, %s)", row)
    running(migrated, "routine")
    (probed,) = samples.probe(migrated, notes, ring, 10)
    assert (probed.tried, probed.opened) == (10, 10)
    Engine(database_url, ring).shard(notes)
    rows = migrated.execute("SELECT id, note FROM public.notes").fetchall()
    assert {n: opened(ring, str(note)) for n, note in rows} == {n: ("v2", text) for n, text in texts.items()}


def test_where_no_value_opens_the_other_forms_are_tried_that_values_can_have(migrated: Connection) -> None:
    key, salt_of = SourceKey(b"a secret", "OLD_KEY"), "aes-256-gcm, layout b64.salt16.nonce12.tag16.ct, kdf {}, cost 64"
    migrated.execute("CREATE TABLE public.notes (id int PRIMARY KEY, note text)")
    for n in range(10):
        stored = source_of(parsed(salt_of.format("pbkdf2-sha512")), key).sealed(b"Ada")
        migrated.execute("INSERT INTO public.notes VALUES (%s, %s)", (n, stored.decode()))
    place = Place("note", source=salt_of.format("scrypt"), source_key="OLD_KEY")
    notes = EncryptedTable.of(TableName("public", "notes"), [place])
    (probed,) = samples.probe(migrated, notes, ring_with(key), 10)
    assert (probed.opened, probed.fits) == (0, salt_of.format("pbkdf2-sha512"))


def test_a_rollback_leaves_what_the_library_wrote(migrated: Connection, database_url: str, ring: KeyRing) -> None:
    filled(migrated, 50)
    before = migrated.execute("SELECT id, token FROM public.notes WHERE id <> 9 ORDER BY id").fetchall()
    migrated.execute("UPDATE public.notes SET note = %s WHERE id = 9", (sealed(ring, 2, "new"),))
    engine = Engine(database_url, ring, target=KeyVersion(1))
    assert engine.shard(NOTES).rows == 1
    assert migrated.execute("SELECT id, token FROM public.notes WHERE id <> 9 ORDER BY id").fetchall() == before
