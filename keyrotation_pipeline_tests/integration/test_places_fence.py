"""The fence of every place reads back to the letter and refuses what is old; a changed one counts for nothing."""

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2, V3
from keyrotation_pipeline_tests.integration.stored_places import FORMATS, seal

ODD = ("a b", "c,d", 'e"f', "g\\h", "i'j", "", "null", "NULL", "ü%s{}", "$1")
PLACES = {
    "bytea": ("bytea", Place("c"), "convert_to(%s, 'UTF8')"),
    "domain over bytea": ("public.bytes", Place("c"), "convert_to(%s, 'UTF8')"),
    "path": ("jsonb", Place("c", ("x",)), "jsonb_build_object('x', %s::text)"),
    "path in a domain": ("public.document", Place("c", ("x",)), "jsonb_build_object('x', %s::text)"),
    "path to an array": ("jsonb", Place("c", ("x", "1")), "jsonb_build_object('x', ARRAY['', %s::text])"),
    "array": ("text[]", Place("c", elements=True), "ARRAY[NULL, '', %s]"),
    "array of varchar": ("varchar(500)[]", Place("c", elements=True), "ARRAY[[%s, NULL]]"),
    "domain over an array": ("public.tags", Place("c", elements=True), "ARRAY['', %s]"),
}


def prepared(connection: Connection, definition: str, ring: KeyRing, table: EncryptedTable) -> None:
    connection.execute(
        "CREATE SCHEMA keyrotation; CREATE DOMAIN public.bytes AS bytea;"
        "CREATE DOMAIN public.document AS jsonb; CREATE DOMAIN public.tags AS varchar[]"
    )
    connection.execute(f"CREATE TABLE public.cases (id int PRIMARY KEY, c {definition}, n int)".encode())
    evidence_of(connection, table).publish(ring, V3)


@pytest.mark.parametrize("values", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_a_fence_reads_back_and_refuses_every_retired_version(either: Connection, values: str, place: str) -> None:
    (definition, where, put), ring = PLACES[place], ring_of(1, 2, 3, primary=3)
    value_format = FORMATS[values]
    table = EncryptedTable.of(TableName("public", "cases"), [where], value_format)
    prepared(either, definition, ring, table)
    evidence = evidence_of(either, table)
    assert evidence.fence([V1, V2])
    assert evidence.fences() == (V1, V2)
    insert = f"INSERT INTO public.cases VALUES (%s, {put}) ON CONFLICT (id) DO UPDATE SET c = excluded.c"
    for version, name in ((1, "v1"), (2, "v2")):
        old = seal(value_format, ring, version, "old")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=f"key version {name} is retired") as refused:
            either.execute(insert.encode(), (1, old))
        assert old[-12:] not in str(refused.value)
    either.execute(insert.encode(), (1, seal(value_format, ring, 3, "new")))
    either.execute(insert.encode(), (2, "v1 and v2: notes"))
    either.execute("INSERT INTO public.cases (id) VALUES (3); UPDATE public.cases SET n = 1")
    old = seal(value_format, ring, 2, "old")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        either.execute(insert.encode(), (1, old))
    _is_lifted(evidence)


def _is_lifted(evidence: Evidence) -> None:
    evidence.lift(V1)
    assert evidence.fences() == (V2,)
    evidence.lift(V2)
    assert evidence.fences() == ()


@pytest.mark.parametrize("values", FORMATS)
def test_keys_of_every_spelling_are_fenced(either: Connection, values: str) -> None:
    ring, value_format = ring_of(1, 2, 3, primary=3), FORMATS[values]
    table = EncryptedTable.of(TableName("public", "cases"), [Place("c", ODD)], value_format)
    prepared(either, "jsonb", ring, table)
    assert evidence_of(either, table).fence([V1])
    assert evidence_of(either, table).fences() == (V1,)
    query = "%s::text"
    for _ in ODD:
        query = f"jsonb_build_object(%s::text, {query})"
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="v1 is retired"):
        either.execute(
            f"INSERT INTO public.cases (id, c) SELECT 1, {query}".encode(), (*ODD, seal(value_format, ring, 1, "old"))
        )


@pytest.mark.parametrize("values", FORMATS)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("ALTER TABLE public.cases DROP COLUMN c CASCADE, ADD c text", id="a column of text"),
        pytest.param("ALTER TABLE public.cases DROP COLUMN c CASCADE, ADD c json", id="json"),
        pytest.param(
            "ALTER TABLE public.cases RENAME c TO d; ALTER TABLE public.cases ADD c jsonb", id="another column"
        ),
    ],
)
def test_a_column_that_became_another_one_is_not_fenced(either: Connection, values: str, change: str) -> None:
    ring, value_format = ring_of(1, 2, 3, primary=3), FORMATS[values]
    table = EncryptedTable.of(TableName("public", "cases"), [Place("c", ("x",))], value_format)
    prepared(either, "jsonb", ring, table)
    assert evidence_of(either, table).fence([V1])
    either.execute(change.encode())
    assert evidence_of(either, table).fences() == ()
    either.execute("INSERT INTO public.cases (id, n) VALUES (1, 1)")


def test_the_triggers_over_a_column_of_text_are_as_they_were(either: Connection) -> None:
    """Those of homes that were fenced before there were places read back, too."""
    table = EncryptedTable.of(TableName("public", "cases"), [Place("c")], FORMATS["fernet"])
    prepared(either, "text", ring_of(1, 2, 3, primary=3), table)
    assert evidence_of(either, table).fence([V1])
    ((body,),) = either.execute("SELECT prosrc FROM pg_proc WHERE proname ~ '^refuse_retired_keys_'").fetchall()
    text = 'c::text COLLATE "C"'
    changed = f"CASE WHEN pg_typeof(NEW.c) = 25::regtype AND NEW.{text} IS DISTINCT FROM OLD.{text} THEN NEW.{text} END"
    handled = f"        changed := ARRAY[{changed}];\n    EXCEPTION WHEN undefined_column THEN\n"
    assert handled in str(body)
    ((when,),) = either.execute(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'keyrotation_retired_keys_update'"
    ).fetchall()
    assert 'WHEN (((old.c COLLATE "C") IS DISTINCT FROM (new.c COLLATE "C")))' in str(when)
