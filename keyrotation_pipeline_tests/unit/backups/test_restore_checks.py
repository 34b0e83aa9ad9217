"""A restore is believed when every relation and row of the snapshot is there, and pg_restore passed nothing over."""

from dataclasses import replace
from typing import Any, cast

import pytest

from keyrotation_pipeline.backups.restore_checks import (
    DecryptedCopy,
    decrypt_all,
    require_all_there,
    require_complete,
    require_no_failure,
)
from keyrotation_pipeline.errors import IncompleteRestoreError, LostRowsError, UndecryptableError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import (
    DatabaseContent,
    DatabaseCopy,
    RelationContent,
    RelationKind,
    StoredFile,
    TableContent,
)
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.ports.backups import RestoredDump
from keyrotation_pipeline_tests.fakes import CLIENTS, V1, V2, FakeWorld, fake_pipeline
from keyrotation_pipeline_tests.fakes.backups import DEFINITION

VISITS = RelationContent(TableName("public", "visits"), RelationKind.TABLE, 7)
EMPTY = RelationContent(TableName("public", "empty"), RelationKind.TABLE, 0)
TOTALS = RelationContent(TableName("billing", "totals"), RelationKind.MATERIALIZED_VIEW)
SNAPSHOT = DatabaseContent((TOTALS, EMPTY, VISITS), large_objects=2)
DUMP = DatabaseCopy(StoredFile("database-x.dump.gpg", "0" * 64, 1, ("F" * 40,)), (), 18, SNAPSHOT, DEFINITION)


def restored(content: DatabaseContent = SNAPSHOT, failures: tuple[str, ...] = ()) -> RestoredDump:
    # No table is declared, so nothing is asked of the database.
    nothing = cast("Any", None)
    return RestoredDump(
        nothing, nothing, content, failures, (), frozenset(), "PostgreSQL 18 (embedded)", None, None, "", nothing
    )


def test_what_is_as_it_was_is_believed_and_so_is_more() -> None:
    more = RelationContent(TableName("public", "more"), RelationKind.TABLE, 1)
    require_all_there(restored(), DUMP)
    require_all_there(restored(replace(SNAPSHOT, relations=(*SNAPSHOT.relations, more))), DUMP)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        pytest.param((EMPTY, VISITS), "no materialized view billing.totals", id="a view is missing"),
        pytest.param((TOTALS, VISITS), "no table empty", id="an empty table is missing"),
        pytest.param((TOTALS, EMPTY, replace(VISITS, rows=0)), "0 rows of 7 in table visits", id="a table is empty"),
        pytest.param((TOTALS, EMPTY, replace(VISITS, rows=8)), "8 rows of 7 in table visits", id="a row too many"),
        pytest.param(
            (replace(TOTALS, kind=RelationKind.UNPOPULATED_VIEW), EMPTY, VISITS),
            "no materialized view billing.totals",
            id="a view has no data",
        ),
    ],
)
def test_every_relation_is_compared(found: tuple[RelationContent, ...], sentence: str) -> None:
    with pytest.raises(LostRowsError, match=f"restores less than was dumped: {sentence}"):
        require_all_there(restored(replace(SNAPSHOT, relations=found)), DUMP)


def test_large_objects_are_counted() -> None:
    with pytest.raises(LostRowsError, match="1 large objects of 2"):
        require_all_there(restored(replace(SNAPSHOT, large_objects=1)), DUMP)


def test_a_failure_is_shown_and_is_one() -> None:
    require_no_failure(restored(), DUMP)
    with pytest.raises(
        IncompleteRestoreError, match=r"does not restore completely into .*: EXTENSION citext; .*postgresql-18"
    ):
        require_no_failure(restored(failures=("EXTENSION citext",)), DUMP)
    lacking = ("CAST CAST (a AS b) (must be owner of type a or type b)", "FUNCTION f() x (permission denied to set x)")
    with pytest.raises(IncompleteRestoreError, match=r"FUNCTION f\(\) x .*restored manually by one: report it"):
        require_no_failure(restored(failures=lacking), DUMP)
    with pytest.raises(IncompleteRestoreError, match=r"CAST CAST .*postgresql-18"):
        require_no_failure(restored(failures=(*lacking, "EXTENSION citext")), DUMP)


ROWS = ({"first_name": "v1:Zoe", "email": "v2:z@example.org"}, {"first_name": "v2:Ada", "email": None})
CONTENT = TableContent(CLIENTS, 2, {"first_name": {V1: 1, V2: 1}, "email": {V2: 1}})
RING = KeyRing({version: KeyMaterial.generate() for version in (V1, V2)}, V2)


def read_completely(world: FakeWorld) -> DecryptedCopy:
    found = replace(restored(), rewriting=world.pipeline.rewriting)
    return decrypt_all(found, replace(DUMP, tables=(CONTENT,)), RING, world.report)


def test_every_value_is_decrypted_in_the_pass_that_counts() -> None:
    world = fake_pipeline({"clients": ROWS})
    assert read_completely(world).by_table() == {"clients": 3}
    assert world.database.decrypted == ["clients"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        pytest.param((), "table clients is empty in what", id="no row"),
        pytest.param(ROWS[:1], "table clients has 1 rows in what", id="a row less"),
        pytest.param(
            ({**ROWS[0], "first_name": "v2:Zoe"}, ROWS[1]), "first_name has 0 values under v1", id="another version"
        ),
        pytest.param(({**ROWS[0], "email": None}, ROWS[1]), "email has 0 values under v2", id="a value less"),
    ],
)
def test_what_is_decrypted_is_compared_with_the_dump(rows: tuple[dict[str, str | None], ...], sentence: str) -> None:
    with pytest.raises(LostRowsError, match=sentence):
        read_completely(fake_pipeline({"clients": rows}))


def test_a_value_that_does_not_decrypt_is_named_by_column_and_version_and_is_an_error_at_the_end() -> None:
    world = fake_pipeline({"clients": ROWS})
    world.database.unreadable.add(("clients", 0, "email"))
    found = read_completely(world)
    assert (found.by_table(), found.unencrypted) == ({"clients": 2}, {})
    assert found.undecryptable == ("1 of 1 values of clients.email under v2",)
    with pytest.raises(UndecryptableError, match=r"is complete, but 1 of 1 values of clients\.email under v2 do not"):
        require_complete("new", (), found.undecryptable)
    with pytest.raises(IncompleteRestoreError, match=r"every row, and 1 of 1 .* differ: TABLE x; add them"):
        require_complete("new", ("TABLE x",), found.undecryptable)


def test_a_value_that_is_not_encrypted_is_counted_and_no_error() -> None:
    rows = ({**ROWS[0], "email": "Ada"}, ROWS[1])
    found = replace(restored(), rewriting=fake_pipeline({"clients": rows}).pipeline.rewriting)
    content = TableContent(CLIENTS, 2, {"first_name": {V1: 1, V2: 1}})
    read = decrypt_all(found, replace(DUMP, tables=(content,)), RING, lambda _progress: None)
    assert (read.undecryptable, read.unencrypted) == ((), {"clients": 1})
