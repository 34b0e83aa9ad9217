"""What a database does to columns that are being encrypted: nothing is lost, and plaintext is never called encrypted.

Encodings and settings, triggers and partitions of the tables' owner, and a superuser who loads rows as a replica does.
"""

from collections.abc import Iterator, Sequence
from random import Random

import psycopg
import pytest
from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import KeyRotationError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.proof import SnapshotPosition
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    PostgresPorts,
    opened,
    ring_of,
    running,
    sealed,
)
from keyrotation_pipeline_tests.integration.test_session_settings import hostile
from keyrotation_pipeline_tests.servers import Server

V1, V2 = KeyVersion(1), KeyVersion(2)
NOTES = EncryptedTable.of(TableName("public", "notes"), [Place("name"), Place("note", source="plaintext")])
MANY = 1000


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


def texts_like_values(ring: KeyRing, letters: str) -> Iterator[str]:
    """Texts that begin like values of ours, contain them, or nearly are some; none is one."""
    chance = Random(20261203)
    while True:
        value = sealed(ring, chance.choice((1, 2)), "".join(chance.choices(letters, k=chance.randrange(9))))
        head, nonce, body = value.split(":")
        number = chance.choice(("1", "2", "3", "01", "0", "1234567", "2x"))
        yield from (
            f"v{number}:" + "".join(chance.choices(f"{letters}:", k=chance.randrange(30))),
            f"{head}:{nonce}:",
            f"{head}:{nonce}:{body[:-4]}-{body[-3:]}",
            f"{head}:{nonce}:{body}{letters[1]}",
            f" {value}",
            f"{value}\n",
            f"{value} {value}",
            f"{head.upper()}:{nonce}:{body}",
            f"{head}:{nonce}:{letters[1]}{body[1:]}",
            f"{head}:{value}",
        )


def filled(connection: Connection, url: str, ring: KeyRing, letters: str) -> dict[int, tuple[str, str]]:
    """A table of such texts, some encrypted by applications, with their texts by id."""
    connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, name text, note text)")
    source, made = texts_like_values(ring, letters), dict[int, tuple[str, str]]()
    with psycopg.connect(url) as application:
        for row in range(MANY):
            made[row] = f"name {row}", next(source)
            stored = sealed(ring, 1 + row % 2, f"{made[row][1]} ") if row % 10 == 9 else made[row][1]
            if stored != made[row][1]:
                made[row] = made[row][0], f"{made[row][1]} "
            values = row, sealed(ring, 1, made[row][0]), stored
            application.execute("INSERT INTO public.notes VALUES (%s, %s, %s)", values)
    running(connection, "routine")
    return made


def encrypted(url: str, connection: Connection, ring: KeyRing, table: EncryptedTable = NOTES) -> PostgresPorts:
    """Rewrites rows until none is left, and puts the fence up."""
    engine, ports = Engine(url, ring), PostgresPorts(url, connection)
    engine.shard(table)
    while engine.sweep(table, wait=True).rows:
        pass
    ports.fencing.fence(table, [V1])
    return ports


def proven(ports: PostgresPorts, tables: Sequence[EncryptedTable] = (NOTES,)) -> int:
    moment = SnapshotPosition(ports.evidence.current_xid(), ports.evidence.barrier())
    with ports.connection.transaction():
        return ports.evidence.zero_old_rows(list(tables), V1, [V1], moment).values


@pytest.mark.parametrize(
    ("encoding", "letters", "setting"),
    [
        ("UTF8", "aé😀₿\\'\"%", "standard_conforming_strings = off"),
        ("UTF8", "aé😀₿\\'\"%", "bytea_output = 'escape'"),
        ("LATIN1", "aéÿ\xa0\\'\"%", "client_encoding = 'LATIN1'"),
        ("WIN1252", "aé€…\\'\"%", "standard_conforming_strings = off"),
        ("EUC_JP", "a年次ア\\'\"%", "client_encoding = 'SJIS'"),
    ],
)
def test_a_thousand_texts_that_begin_like_values_are_encrypted_once_in_any_encoding(
    server: Server, ring: KeyRing, encoding: str, letters: str, setting: str
) -> None:
    with hostile(server, "odd_texts", f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'", setting) as url:
        migrate(url)
        utf8 = psycopg.conninfo.make_conninfo(url, client_encoding="UTF8")
        with connect(url) as connection:
            texts = filled(connection, utf8, ring, letters)
            assert [each.message for each in PostgresPorts(url, connection).environment.preflight([NOTES], V2)
                    if each.fatal] == []  # fmt: skip
            ports = encrypted(url, connection, ring)
            assert proven(ports) == 2 * MANY
            assert ports.rewriting.decrypt_all(NOTES, ring, lambda _: None).failures == 0
        with psycopg.connect(utf8) as application:
            rows = application.execute("SELECT id, name, note FROM public.notes").fetchall()
    assert {row: [opened(ring, each) for each in stored] for row, *stored in rows} == {
        row: [("v2", each) for each in both] for row, both in texts.items()
    }


def test_bytes_of_no_encoding_are_refused_before_anybody_signs(server: Server, ring: KeyRing) -> None:
    with hostile(server, "no_encoding", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        migrate(url)
        with connect(url) as connection:
            connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, name text, note text)")
            found = PostgresPorts(url, connection).environment.preflight([NOTES], V2)
            assert [each.message for each in found if each.fatal and "move it to a database in UTF8" in each.message]


REWRITES = {
    "keeps the text that was there": "NEW.note := OLD.note",
    "changes every text": "NEW.note := upper(NEW.note)",
    "makes it look like a value": "NEW.note := 'v2:' || repeat('A', 16) || ':' || repeat('A', 24)",
    "throws it away": "NEW.note := 'redacted'",
}


@pytest.mark.parametrize("body", REWRITES.values(), ids=REWRITES)
def test_what_a_trigger_of_the_owner_makes_of_a_value_is_never_called_encrypted(
    migrated: Connection, database_url: str, ring: KeyRing, body: str
) -> None:
    texts = filled(migrated, database_url, ring, "aé")
    migrated.execute(
        f"CREATE FUNCTION public.rewrites() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$"
        .encode()
    )  # fmt: skip
    migrated.execute(
        "CREATE TRIGGER rewrites BEFORE UPDATE ON public.notes FOR EACH ROW EXECUTE FUNCTION public.rewrites()"
    )
    engine, ports = Engine(database_url, ring), PostgresPorts(database_url, migrated)
    assert [
        each.message
        for each in ports.environment.preflight([NOTES], V2)
        if each.fatal and "trigger rewrites of notes would fire" in each.message
    ]
    engine.shard(NOTES)
    engine.sweep(NOTES)
    checked = ports.rewriting.decrypt_all(NOTES, ring, lambda _: None)
    stored = {row: str(note) for row, note in migrated.execute("SELECT id, note FROM public.notes").fetchall()}
    well = [row for row, (_, text) in texts.items() if is_encrypted(ring, stored[row], text)]
    assert (len(well) < MANY, checked.failures + checked.plaintext) == (True, MANY - len(well))
    if checked.plaintext:
        with pytest.raises(ProofError, match=f"column note: {checked.plaintext} "):
            ports.fencing.fence(NOTES, [V1])


def is_encrypted(ring: KeyRing, stored: str, text: str) -> bool:
    try:
        return opened(ring, stored) == ("v2", text)
    except (ValueError, InvalidTag, KeyRotationError):
        return False


PARTITIONED = """
CREATE TABLE public.notes (id int, name text, note text) PARTITION BY RANGE (id);
CREATE TABLE public.notes_0 PARTITION OF public.notes FOR VALUES FROM (0) TO (1000);
CREATE TABLE public.late (id int, name text, note text);
"""


@pytest.mark.parametrize("when", ["before the sweep", "before the fence", "after it"])
def test_plaintext_of_a_partition_that_is_attached_meanwhile_is_encrypted_or_refused(
    migrated: Connection, database_url: str, ring: KeyRing, when: str
) -> None:
    migrated.execute(PARTITIONED)
    for table, first in (("notes", 0), ("late", 1000)):
        for row in range(first, first + 50):
            values = row, sealed(ring, 1, f"name {row}"), f"v2: note {row}"
            migrated.execute(f"INSERT INTO public.{table} VALUES (%s, %s, %s)".encode(), values)
    running(migrated, "routine")
    attach = "ALTER TABLE public.notes ATTACH PARTITION public.late FOR VALUES FROM (1000) TO (2000)"
    engine, ports = Engine(database_url, ring), PostgresPorts(database_url, migrated)
    engine.shard(NOTES)
    if when == "before the sweep":
        migrated.execute(attach)
    engine.sweep(NOTES)
    if when == "before the fence":
        migrated.execute(attach)
        with pytest.raises(ProofError, match="plaintext"):
            ports.fencing.fence(NOTES, [V1])
        engine.sweep(NOTES)
    ports.fencing.fence(NOTES, [V1])
    if when == "after it":
        with pytest.raises(psycopg.errors.DatatypeMismatch, match="keyrotation_retired_key_versions"):
            migrated.execute(attach)
        migrated.execute("DROP TABLE public.late")
    rows = migrated.execute("SELECT id, note FROM public.notes").fetchall()
    assert proven(ports) == 2 * len(rows) == (100 if when == "after it" else 200)
    assert {row: opened(ring, str(note)) for row, note in rows} == {row: ("v2", f"v2: note {row}") for row, _ in rows}


def test_nobody_loads_plaintext_past_the_fence_as_a_replica_does(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    filled(migrated, database_url, ring, "aé")
    ports = encrypted(database_url, migrated, ring)
    with psycopg.connect(database_url) as superuser:
        for note in ("plain", "v2: plain", sealed(ring, 1, "old")):
            with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=r"keyrotation: .* (refused|retired)"):
                copied_as_a_replica(superuser, ring, note)
            superuser.rollback()
        assert proven(ports) == 2 * MANY
        # The fence looks at the head alone; count and decrypting see the rest.
        copied_as_a_replica(superuser, ring, f"{sealed(ring, 2, 'new')} ")
        superuser.commit()
    with pytest.raises(ProofError, match="column note: 1"):
        proven(ports)
    assert ports.rewriting.decrypt_all(NOTES, ring, lambda _: None).plaintext == 1


def copied_as_a_replica(superuser: psycopg.Connection, ring: KeyRing, note: str) -> None:
    superuser.execute("SET LOCAL session_replication_role = replica")
    with superuser.cursor() as cursor, cursor.copy("COPY public.notes FROM STDIN") as rows:
        rows.write_row((-1, sealed(ring, 2, "name"), note))
