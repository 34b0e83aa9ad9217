"""Where plaintext stays after its columns are encrypted: what we say agrees with the bytes of the server's files."""

import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresEvidence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.plaintext_outside_rows import EncryptedColumn, PlaintextOutsideRows
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert, ring_of, running

NOTES = EncryptedTable.of(TableName("public", "notes"), [Place("note", source="plaintext")])
NEW = (EncryptedColumn("notes", "note", datetime(2026, 12, 1, tzinfo=UTC)),)
NOTHING = PlaintextOutsideRows(())
NEEDLE = "needle-of-plaintext"
ROWS = 600
PAGE_BYTES = 8192


@pytest.fixture
def encrypted(migrated: Connection, database_url: str) -> Connection:
    """A table whose plaintext was sampled for the planner, in statistics of several columns, too; now encrypted."""
    migrated.execute("CREATE TABLE public.notes (id int PRIMARY KEY, kind text, note text)")
    migrated.execute("CREATE INDEX notes_note ON public.notes (note)")
    migrated.execute("CREATE STATISTICS notes_both (mcv) ON kind, note FROM public.notes")
    insert(migrated, "public.notes (id, kind, note)", [(n, "ab"[n % 2], f"{NEEDLE} {n % 40}") for n in range(ROWS)])
    migrated.execute("ANALYZE public.notes")
    running(migrated, "routine")
    migrated.execute("CHECKPOINT")
    Engine(database_url, ring_of(1, 2)).shard(NOTES)
    return migrated


def seen(connection: Connection, before: PlaintextOutsideRows, *, new: bool = False) -> PlaintextOutsideRows:
    found = PostgresEvidence(connection).plaintext_outside_rows([NOTES], before.oids)
    return before.seen(found, NEW if new else ())


def sampled(connection: Connection) -> int:
    ((number,),) = connection.execute(
        "SELECT (SELECT count(*) FROM pg_stats WHERE most_common_vals::text LIKE %(needle)s) + "
        "(SELECT count(*) FROM pg_stats_ext WHERE most_common_vals::text LIKE %(needle)s)",
        {"needle": f"%{NEEDLE}%"},
    ).fetchall()
    return int(str(number))


def files_with_it(connection: Connection) -> set[str]:
    """The file nodes of the database whose files have the needle."""
    connection.execute("CHECKPOINT")
    ((directory, path),) = connection.execute(
        "SELECT current_setting('data_directory'), pg_relation_filepath('pg_class')"
    ).fetchall()
    files = (Path(str(directory)) / str(path)).parent.iterdir()
    return {each.name.partition(".")[0].partition("_")[0] for each in files if NEEDLE.encode() in each.read_bytes()}


def wal_pages_with_it(connection: Connection, since: str) -> tuple[int, int]:
    """How many pages of the WAL have the needle: from before a position, and from it on."""
    ((directory,),) = connection.execute("SELECT current_setting('data_directory')").fetchall()
    high, _, low = since.partition("/")
    limit, before, after = (int(high, 16) << 32) + int(low, 16), 0, 0
    for segment in (Path(str(directory)) / "pg_wal").glob("[0-9A-F]*"):
        content = segment.read_bytes() if len(segment.name) == 24 else b""
        for at in range(0, len(content), PAGE_BYTES):
            if NEEDLE.encode() in content[at : at + PAGE_BYTES]:
                (address,) = struct.unpack_from("<Q", content, at + 8)
                before, after = before + (address < limit), after + (address >= limit)
    return before, after


def nodes(known: PlaintextOutsideRows) -> set[str]:
    return {node.partition("/")[2] for each in known.files for node in each.files.values()}


def rewrite(connection: Connection, known: PlaintextOutsideRows) -> None:
    """Types what the lines say."""
    for each in known.files:
        connection.execute(sql.SQL(each.command))


def change_every_page(connection: Connection) -> str:
    """Writes an image of each page of the table to the WAL; returns the position before it."""
    connection.execute("CHECKPOINT")
    ((position,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
    connection.execute("UPDATE public.notes SET kind = 'c' WHERE kind = 'a'")
    return str(position)


def test_each_line_agrees_with_the_bytes_in_files_and_wal(encrypted: Connection) -> None:
    assert sampled(encrypted) == 2
    known = seen(encrypted, NOTHING, new=True)
    assert sampled(encrypted) == 0
    assert (known.statistics, known.not_judged, known.rewritten_at) == ((), (), None)
    assert [each.relation for each in known.files] == [
        "public.notes", "pg_catalog.pg_statistic", "pg_catalog.pg_statistic_ext_data",
    ]  # fmt: skip
    with_it = files_with_it(encrypted)
    assert with_it
    assert with_it <= nodes(known)
    assert wal_pages_with_it(encrypted, change_every_page(encrypted))[1], "images of pages that are not rewritten"
    encrypted.execute("VACUUM public.notes")
    assert seen(encrypted, known) == known
    assert files_with_it(encrypted) <= nodes(known)
    assert "the files above are" in {where: until for where, _, until in known.lines()}["the WAL"]

    rewrite(encrypted, known)
    after = seen(encrypted, known)
    assert (after.files, after.checkpoint) == ((), None)
    assert files_with_it(encrypted) == set()
    last = seen(encrypted, after)
    assert last.rewritten_at == after.rewritten_at
    assert last.checkpoint is not None
    change_every_page(encrypted)
    before, later = wal_pages_with_it(encrypted, str(last.rewritten_at))
    assert (before > 0, later) == (True, 0)
    assert seen(encrypted, last) == last


def test_a_file_that_was_only_moved_is_not_rewritten(encrypted: Connection, tmp_path: Path) -> None:
    known = seen(encrypted, NOTHING, new=True)
    encrypted.execute("SET allow_in_place_tablespaces = on")
    encrypted.execute("CREATE TABLESPACE moved LOCATION ''")
    try:
        encrypted.execute("ALTER TABLE public.notes SET TABLESPACE moved")
        moved = seen(encrypted, known)
        assert [each.relation for each in moved.files] == [each.relation for each in known.files]
        assert moved != known
        encrypted.execute("VACUUM FULL public.notes")
        assert "public.notes" not in {each.relation for each in seen(encrypted, moved).files}
    finally:
        encrypted.execute("DROP TABLE public.notes")
        encrypted.execute("DROP TABLESPACE moved")


def test_that_a_table_moved_twice_between_two_looks_is_not_seen_is_said(encrypted: Connection) -> None:
    known = seen(encrypted, NOTHING, new=True)
    rewrite(encrypted, replace(known, files=known.files[1:]))
    encrypted.execute("SET allow_in_place_tablespaces = on")
    encrypted.execute("CREATE TABLESPACE moved LOCATION ''")
    try:
        for place in ("moved", "pg_default"):
            encrypted.execute(f"ALTER TABLE public.notes SET TABLESPACE {place}".encode())
            encrypted.execute(f"ALTER INDEX public.notes_note SET TABLESPACE {place}".encode())
        pages = {where: (what, until) for where, what, until in seen(encrypted, known).lines()}["pages of the tables"]
        assert files_with_it(encrypted)
        assert pages[0] == "in other files since"
        assert "tables that were moved twice between two looks, are not seen" in pages[1]
    finally:
        encrypted.execute("DROP TABLE public.notes")
        encrypted.execute("DROP TABLESPACE moved")


def test_statistics_that_analyze_does_not_replace_are_named(encrypted: Connection) -> None:
    encrypted.execute("ALTER TABLE public.notes ALTER COLUMN note SET STATISTICS 0")
    known = seen(encrypted, NOTHING, new=True)
    assert known.statistics == ("notes.note",)
    rewrite(encrypted, known)
    still = seen(encrypted, known)
    assert "pg_catalog.pg_statistic" in {each.relation for each in still.files}
    assert still.rewritten_at is None
    encrypted.execute("ALTER TABLE public.notes ALTER COLUMN note SET STATISTICS -1")
    cleared = seen(encrypted, still)
    assert cleared.statistics == ()
    assert "pg_catalog.pg_statistic" in {each.relation for each in cleared.files}, "dead rows of the catalogue"
    rewrite(encrypted, cleared)
    assert seen(encrypted, cleared).files == ()
    assert files_with_it(encrypted) == set()


def test_a_table_that_was_renamed_is_still_looked_at(encrypted: Connection) -> None:
    known = seen(encrypted, NOTHING, new=True)
    encrypted.execute("ALTER TABLE public.notes RENAME TO old_notes")
    after = seen(encrypted, known)
    assert after.not_judged == ("those of notes, which is not there as it was",)
    assert after.files == known.files


def test_statistics_of_an_expression_are_not_judged(encrypted: Connection) -> None:
    encrypted.execute("CREATE STATISTICS notes_length ON length(note) FROM public.notes")
    encrypted.execute("CREATE INDEX notes_lower ON public.notes (lower(note))")
    assert seen(encrypted, NOTHING, new=True).not_judged == ("extended statistics notes_length", "index notes_lower")
