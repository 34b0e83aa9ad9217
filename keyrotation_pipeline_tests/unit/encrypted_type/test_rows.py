"""Values bound to their row: what names a row, and what cannot; `integration/` has the rest on PostgreSQL."""

import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

from keyrotation_pipeline.encrypted_type import EncryptedType, KeyRing
from keyrotation_pipeline.encrypted_type.row_writes import key_text
from keyrotation_pipeline.encrypted_type.rows import divided
from keyrotation_pipeline.errors import InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import Row
from keyrotation_pipeline.fieldcrypto.cipher import decrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V3X = KeyVersion(3, 2)
RING = KeyRing({V3X: KeyMaterial.generate()}, V3X)
KEY = uuid.UUID("ABCDEF00-0000-4000-8000-000000000001")


class Hexadecimal(TypeDecorator[uuid.UUID]):
    """A UUID as text without hyphens."""

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:  # noqa: ANN401, ARG002
        return value.hex  # type: ignore[no-any-return]

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> uuid.UUID:  # noqa: ANN401, ARG002
        return uuid.UUID(value)


def table(key: sa.Column[Any]) -> sa.Table:
    body: sa.Column[Any] = sa.Column("body", EncryptedType(RING, row="id", row_from=3), key="text")
    return sa.Table("notes", sa.MetaData(), body, key)


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


@pytest.mark.parametrize(
    ("type_", "key", "text"),
    [
        (sa.Integer(), 7, "7"),
        (sa.BigInteger(), -(2**62), str(-(2**62))),
        (sa.String(20), "a:b \u00fc 7", "a:b \u00fc 7"),
        (sa.Uuid(), KEY, KEY.hex),  # as SQLite has it
        (Hexadecimal(), KEY, KEY.hex),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_row_is_named_by_the_text_that_the_database_has(
    connection: sa.Connection, type_: TypeEngine[Any], key: object, text: str
) -> None:
    notes = table(sa.Column("id", type_, key="number", primary_key=True, autoincrement=False))
    notes.create(connection)
    connection.execute(notes.insert(), [{"number": key, "text": "Ada"}])
    assert connection.execute(sa.select(notes.c.text)).scalar() == "Ada"
    stored = str(connection.exec_driver_sql("SELECT body FROM notes").scalar())
    assert decrypt(RING, stored, "notes.body", Row(3, text.encode())) == "Ada"
    connection.execute(notes.update().where(notes.c.number == key).values(text="Bo"))
    assert connection.execute(sa.select(notes)).one().text == "Bo"


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        (sa.Uuid(), KEY, str(KEY)),
        (sa.Uuid(as_uuid=False), str(KEY).upper(), str(KEY)),
        (sa.Integer(), "007", "7"),
        (sa.Integer(), Decimal(7), "7"),
        (sa.Text(), "007", "007"),
    ],
)
def test_a_key_is_written_as_postgresql_writes_it(type_: TypeEngine[Any], value: object, text: str) -> None:
    assert key_text(value, type_, postgresql.dialect()) == text  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.Integer(), True),
        (sa.Integer(), 7.0),
        (sa.Integer(), "seven"),
        (sa.Numeric(), Decimal("7.0")),
        (sa.Text(), ""),
        (sa.String(3), "a  "),
        (sa.CHAR(3), "abc"),
        (sa.Text(), "\ud800"),
        (sa.LargeBinary(), b"7"),
        (sa.Uuid(as_uuid=False), "no"),
    ],
)
def test_what_has_several_texts_names_no_row(type_: TypeEngine[Any], value: object) -> None:
    with pytest.raises(InvalidBindingError, match="binds no values; use whole numbers, UUIDs, or texts"):
        key_text(value, type_, postgresql.dialect())  # type: ignore[no-untyped-call]


def test_a_declaration_is_whole_and_its_column_is_there_and_never_null(connection: sa.Connection) -> None:
    for given in ({"row": "id", "row_from": None}, {"row": None, "row_from": 3}, {"row": "id", "row_from": 0}):
        with pytest.raises(InvalidBindingError, match=r'such as row="id", row_from=3'):
            EncryptedType(RING, **given)
    for column, wrong in ((sa.Column("id", sa.Integer), "may be NULL"), (sa.Column("no", sa.Integer), "is not in it")):
        with pytest.raises(InvalidBindingError, match=f"bound to their row by its id, which {wrong}; name a column"):
            connection.execute(sa.select(table(column)))


def test_a_text_is_not_written_into_the_statement(connection: sa.Connection) -> None:
    notes = table(sa.Column("id", sa.Integer, primary_key=True))
    statement = notes.insert().values(id=1, text="secret")
    for dialect in (connection.dialect, postgresql.dialect()):  # type: ignore[no-untyped-call]
        written = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        assert written.endswith("VALUES (CAST('a value of notes.body is no literal' AS INTEGER), 1)")
    empty = notes.insert().values(id=1, text=None).compile(connection, compile_kwargs={"literal_binds": True})
    assert "VALUES (NULL, 1)" in str(empty)


def test_what_waits_shows_no_content_and_no_driver_takes_it(connection: sa.Connection) -> None:
    notes = table(sa.Column("id", sa.Integer, primary_key=True))
    processor = notes.c.text.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)
    assert processor is not None
    waiting = processor("secret")
    assert (repr(waiting), str(waiting)) == ("a value of notes.body", "a value of notes.body")
    with pytest.raises(sa.exc.DBAPIError) as refusal:
        connection.exec_driver_sql("SELECT ?", (waiting,))
    assert "secret" not in str(refusal.value)


def test_what_was_read_with_a_key_is_taken_apart_by_its_length() -> None:
    assert divided("3:a:bv3x:x") == ("a:b", "v3x:x")
    assert divided("0:v3x:x") == ("", "v3x:x")
    assert divided("1:7") == ("7", "")
    assert divided("-:v3x:x") == (None, "v3x:x")
