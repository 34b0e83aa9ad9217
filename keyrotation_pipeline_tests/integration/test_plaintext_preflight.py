"""What the pre-flight says of a column that is to be encrypted from plaintext."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.adapters.postgres.inventory.scans import readable_tree
from keyrotation_pipeline.adapters.postgres.preflight import preflight, writes
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, ciphertext_length
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm
from keyrotation_pipeline.model.tables import EncryptedTable, Place, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of, running

V2 = KeyVersion(2)
CASES = EncryptedTable.of(TableName("public", "cases"), [Place("note", source="plaintext")])
ENCRYPTED = EncryptedTable(CASES.name, ("note",))


def said(connection: Connection, script: str, table: EncryptedTable = CASES) -> dict[str, list[tuple[bool, str]]]:
    """What is said by each check that says anything of the table."""
    connection.execute("SET search_path = public")
    connection.execute(script.encode())
    connection.execute("SET search_path = pg_catalog")
    found: dict[str, list[tuple[bool, str]]] = {}
    for each in preflight(connection, [table], V2):
        if "cases" in each.message:
            found.setdefault(each.check, []).append((each.fatal, each.message))
    return found


TABLE = "CREATE TABLE cases (id int PRIMARY KEY, note text, other text);"


def test_a_plain_column_of_text_may_be_encrypted(migrated: Connection) -> None:
    script = f"{TABLE} INSERT INTO cases VALUES (1, 'Ada', 'b'), (2, NULL, ''), (3, '', ''), (4, 'v2: final', '')"
    assert not any(is_fatal for each in said(migrated, script).values() for is_fatal, _ in each)


@pytest.mark.parametrize(
    ("check", "script", "named"),
    [
        pytest.param(
            "plaintext_is_text_in_utf8", TABLE.replace("note text", "note bytea"), "holds bytes", id="bytea"
        ),
        pytest.param(
            "plaintext_columns_have_no_default",
            TABLE.replace("note text", "note text DEFAULT 'secret'"),
            "ALTER COLUMN note DROP DEFAULT",
            id="default",
        ),
        pytest.param(
            "plaintext_is_in_no_unique_index", f"{TABLE} ALTER TABLE cases ADD UNIQUE (other, note)",
            "cases_other_note_key", id="unique",
        ),
        pytest.param(
            "plaintext_is_in_no_unique_index", f"{TABLE} CREATE UNIQUE INDEX low ON cases (lower(note))", "low",
            id="unique expression",
        ),
        pytest.param(
            "plaintext_is_in_no_unique_index", f"{TABLE} ALTER TABLE cases ADD CONSTRAINT ex EXCLUDE (note WITH =)",
            "ex", id="exclusion",
        ),
        pytest.param(
            "plaintext_is_not_searched_by_its_content", f"{TABLE} CREATE INDEX low ON cases (lower(note))", "low",
            id="expression",
        ),
        pytest.param(
            "plaintext_is_not_searched_by_its_content", f"{TABLE} CREATE INDEX part ON cases (id) WHERE note > 'm'",
            "part", id="condition",
        ),
        pytest.param(
            "plaintext_is_not_searched_by_its_content",
            f"{TABLE} CREATE INDEX words ON cases USING gin (to_tsvector('simple', note))", "words", id="full text",
        ),
        pytest.param(
            "plaintext_is_not_searched_by_its_content",
            f"{TABLE} CREATE INDEX parts ON cases USING spgist (note)", "parts", id="by parts, as trigrams",
        ),
        pytest.param(
            "nothing_is_generated_from_plaintext",
            TABLE.replace("other text", "other text GENERATED ALWAYS AS (upper(note)) STORED"), "other", id="generated",
        ),
        pytest.param(
            "none_is_in_a_foreign_key",
            f"{TABLE} CREATE TABLE kinds (name text PRIMARY KEY); ALTER TABLE cases ADD FOREIGN KEY (note) REFERENCES "
            "kinds", "cases_note_fkey", id="foreign key",
        ),
        pytest.param(
            "none_is_in_a_partition_key",
            "CREATE TABLE cases (id int, note text) PARTITION BY LIST (note)", "partition key", id="partition key",
        ),
        pytest.param(
            "values_fit",
            f"{TABLE.replace('note text', 'note varchar(40)')} INSERT INTO cases VALUES (1, 'Zürich', '')",
            f"needs {ciphertext_length(7, bytes_per_character=1, version_digits=1)}", id="varchar",
        ),
        pytest.param(
            "checks_accept_target",
            f"{TABLE} ALTER TABLE cases ADD CONSTRAINT short CHECK (length(note) < 20); INSERT INTO cases VALUES "
            "(1, 'Ada', '')", "short", id="check",
        ),
        pytest.param(
            "domains_accept_target",
            f"CREATE DOMAIN letters AS text CHECK (VALUE ~ '^[a-zA-Z]*$'); {TABLE.replace('note text', 'note letters')}"
            " INSERT INTO cases VALUES (1, 'Ada', '')", "letters", id="domain",
        ),
    ],
)  # fmt: skip
def test_what_works_with_plaintext_alone_is_refused(migrated: Connection, check: str, script: str, named: str) -> None:
    found = said(migrated, script)
    assert [each for each in found.get(check, []) if each[0] and named in each[1]], found
    assert not [message for each in found.values() for _, message in each if "Ada" in message or "secret" in message]


@pytest.mark.parametrize(
    ("script", "named"),
    [
        pytest.param("CREATE VIEW shown AS SELECT note FROM cases", "view public.shown", id="view"),
        pytest.param(
            "CREATE MATERIALIZED VIEW kept AS SELECT note FROM cases",
            "materialized view public.kept",
            id="materialized",
        ),
        pytest.param("CREATE POLICY mine ON cases USING (note <> '')", "policy mine", id="policy"),
        pytest.param(
            "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(note) FROM cases); END'",
            "function public.f()",
            id="function",
        ),
        pytest.param("CREATE STATISTICS st ON note, other FROM cases", "extended statistics st", id="statistics"),
        pytest.param("CREATE PUBLICATION p FOR TABLE cases", "publication p", id="publication"),
        pytest.param("ALTER TABLE cases REPLICA IDENTITY FULL", "REPLICA IDENTITY FULL", id="replica identity"),
    ],
)
def test_what_reads_plaintext_in_the_database_is_named(migrated: Connection, script: str, named: str) -> None:
    found = said(migrated, f"{TABLE} {script}")["readers_of_plaintext_are_known"]
    assert [is_fatal for is_fatal, message in found if message.startswith(f"{named} reads")] == [False]


def subject(connection: Connection, table: EncryptedTable = CASES) -> Subject:
    return Subject(connection, table, readable_tree(connection, table), V2)


def forecast(connection: Connection) -> str:
    return next((each.message for each in writes.disk_has_room(subject(connection))), "")


def table_bytes(connection: Connection) -> int:
    ((size,),) = connection.execute("SELECT pg_table_size('public.cases')").fetchall()
    return int(str(size))


# One that is stored compressed grows most. (Vacuums, which free what random large ones leave, come in larger tables.)
TEXTS = {
    "short": ("left(md5(n::text), 8)", 12_000),
    "of a line": ("repeat(md5(n::text), 2)", 12_000),
    "of a paragraph": ("repeat(md5(n::text), 10)", 12_000),
    "compressed": ("repeat(md5(n::text), 400)", 4_000),
}


@pytest.mark.parametrize(("text", "rows"), TEXTS.values(), ids=TEXTS)
def test_the_forecast_of_room_is_what_encrypting_takes(
    migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, text: str, rows: int
) -> None:
    monkeypatch.setattr(writes, "FORECAST_FROM_BYTES", 8192)
    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, note text)")
    assert writes.added_bytes(subject(migrated)) == 0
    migrated.execute(
        f"INSERT INTO public.cases SELECT n, CASE WHEN n % 4 > 0 THEN {text} END "
        f"FROM generate_series(1, {rows}) AS n".encode()
    )
    before, added = table_bytes(migrated), writes.added_bytes(subject(migrated))
    assert f"about {(before / 10 + 1.3 * added) / 2**30:.1f} GiB larger" in forecast(migrated)
    assert writes.added_bytes(subject(migrated, ENCRYPTED)) == 0
    running(migrated, "routine")
    Engine(database_url, ring_of(1, 2)).shard(CASES)
    assert 0.75 < (1.1 * before + 1.3 * added) / table_bytes(migrated) < 1.35


def test_columns_that_are_encrypted_already_are_not_asked_for_any_of_this(migrated: Connection) -> None:
    script = f"{TABLE.replace('note text', 'note text UNIQUE')} CREATE VIEW shown AS SELECT note FROM cases"
    found = said(migrated, script, ENCRYPTED)
    assert not [check for check in found if "plaintext" in check]


def test_a_unique_column_may_be_encrypted_where_its_search_index_is_unique(migrated: Connection) -> None:
    script = f"{TABLE} ALTER TABLE cases ADD UNIQUE (note), ADD odd text UNIQUE, ADD even text"
    index = SearchIndex("note", "odd", "even", IndexForm("cases.note"))
    table = replace(CASES, indexes=(index,))
    [(is_fatal, message)] = said(migrated, script, table)["plaintext_is_in_no_unique_index"]
    assert (is_fatal, "declare a search index with a unique index on both" in message) == (True, True)
    [(is_fatal, message)] = said(migrated, "CREATE UNIQUE INDEX second ON cases (even)", table)[
        "plaintext_is_in_no_unique_index"
    ]
    assert (is_fatal, "save rows with their search index first" in message) == (False, True)
