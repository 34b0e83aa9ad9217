"""`SearchIndex`: what is stored in both columns, what is found, and which statements are refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, make_transient, mapped_column
from sqlalchemy.sql import operators

from keyrotation_pipeline.encrypted_type import EncryptedType, LegacyKey, SearchIndex, matches
from keyrotation_pipeline.errors import (
    EncryptedComparisonError,
    EncryptedExpressionError,
    InvalidBindingError,
    InvalidKeyError,
    KeyRingUnavailableError,
    KeyRotationError,
    PlaintextEncodingError,
    PlaintextTypeError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm, Normalisation

KEYS = {KeyVersion(number): KeyMaterial.generate() for number in (1, 2, 4)}


def ring_of(*numbers: int) -> KeyRing:
    return KeyRing({KeyVersion(each): KEYS[KeyVersion(each)] for each in numbers}, KeyVersion(numbers[-1]))


class Keys:
    """What an application reads its ring from; a rotation changes it."""

    def __init__(self) -> None:
        self.ring = ring_of(1)

    def __call__(self) -> KeyRing:
        return self.ring


keys = Keys()


class Base(DeclarativeBase):
    pass


class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str | None] = mapped_column("email", EncryptedType(keys))
    odd: Mapped[str | None] = mapped_column("email_odd", SearchIndex(keys, "email", odd=True, normalise=["lower"]))
    even: Mapped[str | None] = mapped_column(
        "email_even", SearchIndex(keys, "email", odd=False, normalise=["lower"]), unique=True
    )
    name: Mapped[str | None]


CLIENTS = Base.metadata.tables["clients"]


@pytest.fixture
def session() -> Iterator[Session]:
    keys.ring = ring_of(1)
    engine = sa.create_engine("sqlite://", hide_parameters=True)
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def stored(session: Session, row: int = 1) -> tuple[str | None, str | None]:
    found = session.execute(sa.text("SELECT email_odd, email_even FROM clients WHERE id = :id"), {"id": row}).one()
    return found.email_odd, found.email_even


def index(number: int, text: str) -> str:
    form = IndexForm("clients.email", (Normalisation.LOWER,))
    return Indexer(form, ring_of(number)).under(KeyVersion(number), text.encode())


@pytest.mark.parametrize(
    ("ring", "odd", "even"),
    [
        pytest.param((1,), 1, None, id="one key"),
        pytest.param((1, 2), 1, 2, id="two keys"),
        pytest.param((2,), None, 2, id="the new one alone"),
        pytest.param((1, 2, 4), 1, 4, id="an emergency in the middle of a rotation"),
    ],
)
def test_both_columns_are_written_under_the_keys_that_there_are(
    session: Session, ring: tuple[int, ...], odd: int | None, even: int | None
) -> None:
    keys.ring = ring_of(*ring)
    session.add(Client(id=1, address="ana@example.org"))
    session.commit()
    expected = [None if number is None else index(number, "ana@example.org") for number in (odd, even)]
    assert stored(session) == tuple(expected)


def test_a_row_is_found_under_any_ring_that_shares_a_key_with_its_writer(session: Session) -> None:
    session.add(Client(id=1, address="Ana@example.org"))
    session.commit()
    for ring in ((1,), (1, 2)):
        keys.ring = ring_of(*ring)
        assert session.scalars(sa.select(Client.id).where(matches(Client.address, "aNA@example.org"))).all() == [1]
        other = aliased(Client)
        assert session.scalars(sa.select(other.id).where(matches(other.address, "ana@example.org"))).all() == [1]
        found = session.execute(sa.select(CLIENTS.c.id).where(matches(CLIENTS.c.email, "bob@example.org")))
        assert found.all() == []
    keys.ring = ring_of(2)
    assert session.scalars(sa.select(Client.id).where(matches(Client.address, "ana@example.org"))).all() == []


def test_the_keys_at_the_flush_decide_and_not_those_at_the_assignment(session: Session) -> None:
    client = Client(id=1, address="ana")
    session.add(client)
    keys.ring = ring_of(1, 2)
    session.commit()
    assert stored(session) == (index(1, "ana"), index(2, "ana"))
    client.address = "bob"
    keys.ring = ring_of(2)
    session.commit()
    assert stored(session) == (None, index(2, "bob"))


def test_null_has_no_index_and_other_columns_leave_it_alone(session: Session) -> None:
    session.add(Client(id=1, address="ana"))
    session.commit()
    client = session.get_one(Client, 1)
    client.name = "Ana"
    keys.ring = ring_of(2)
    session.commit()
    assert stored(session) == (index(1, "ana"), None)
    client.address = None
    session.commit()
    assert stored(session) == (None, None)


def test_an_index_outside_of_a_rotation_follows_its_text_to_null_and_back(session: Session) -> None:
    session.add(Client(id=1, address="ana"))
    session.commit()
    for text in (None, "bob", None):
        client = session.get_one(Client, 1)
        assert (client.odd is None) == (client.address is None)  # loaded
        client.address = text
        session.commit()
        assert stored(session) == (None if text is None else index(1, text), None)


@pytest.mark.parametrize("again", ["added", "merged", "merged after another change"])
def test_what_was_loaded_of_an_index_is_never_indexed(session: Session, again: str) -> None:
    session.add(Client(id=1, address="ana"))
    session.commit()
    loaded = session.get_one(Client, 1)
    assert loaded.odd == index(1, loaded.address or "")
    session.expunge(loaded)
    keys.ring = ring_of(1, 2)
    new = "bob" if again == "merged after another change" else "ana"
    session.execute(sa.update(Client).values(address=new, odd=new, even=new))
    if again == "added":
        session.execute(sa.delete(Client))
        make_transient(loaded)
        session.add(loaded)
    else:
        session.merge(loaded)
    session.commit()
    assert session.get_one(Client, 1).address == "ana"
    assert stored(session) == (index(1, "ana"), index(2, "ana"))


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    main: Mapped[str | None] = mapped_column("email", EncryptedType(keys))
    odd: Mapped[str | None] = mapped_column("email_odd", SearchIndex(keys, "email", odd=True))
    even: Mapped[str | None] = mapped_column("email_even", SearchIndex(keys, "email", odd=False))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Doctor(Person):
    __tablename__ = "doctors"
    id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"), primary_key=True)
    work: Mapped[str | None] = mapped_column("email", EncryptedType(keys))
    __mapper_args__ = {"polymorphic_identity": "doctor"}  # noqa: RUF012


def test_a_column_of_the_same_name_in_another_table_has_no_part_in_an_index(session: Session) -> None:
    session.add(Doctor(id=1, main="main", work="work"))
    session.commit()
    session.get_one(Doctor, 1).work = "elsewhere"
    session.commit()
    queries = [sa.select(Person.id).where(matches(Person.main, each)) for each in ("main", "elsewhere")]
    assert [session.scalars(each).all() for each in queries] == [[1], []]


@pytest.mark.parametrize("default", ["unknown", None])
def test_a_text_that_sqlalchemy_fills_in_has_no_index_and_is_refused(default: str | None) -> None:
    table = sa.Table(
        "t", sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", EncryptedType(keys), default=default, onupdate=None if default else "touched"),
        *(sa.Column(f"a_{odd}", SearchIndex(keys, "a", odd=odd)) for odd in (True, False)),
        sa.Column("b", sa.Text),
    )  # fmt: skip
    statement = sa.insert(table) if default else sa.update(table)
    with sa.create_engine("sqlite://").begin() as connection:
        table.create(connection)
        with pytest.raises(EncryptedExpressionError, match=r"t\.a has a search index, and the statement does not set"):
            connection.execute(statement.values(b="x"))
        connection.execute(statement.values(a="x", a_True="x", a_False="x"))


STATEMENTS = [
    pytest.param(sa.insert(CLIENTS).values(id=2, email="x"), id="insert"),
    pytest.param(sa.insert(CLIENTS).values(id=2, email="x", email_odd="x"), id="insert with one of the two"),
    pytest.param(sa.update(CLIENTS).values(email="x"), id="update"),
    pytest.param(sa.update(Client).values(address="x"), id="update of a class"),
    pytest.param(
        upsert(CLIENTS)
        .values(id=1, email="x", email_odd="x", email_even="x")
        .on_conflict_do_update(index_elements=["id"], set_={"email": "x"}),
        id="upsert",
    ),
    pytest.param(
        upsert(CLIENTS)
        .values(id=2, email="x")
        .on_conflict_do_update(index_elements=["id"], set_={"email": "x", "email_odd": "x", "email_even": "x"}),
        id="upsert that inserts without",
    ),
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_that_sets_a_text_without_its_index_is_refused(session: Session, statement: sa.Executable) -> None:
    with pytest.raises(EncryptedExpressionError, match=r"clients.email has a search index, and the statement does not"):
        session.execute(statement)


SAME = {"email": "ana", "email_odd": "ana", "email_even": "ana"}
INSERTED = upsert(CLIENTS).values(id=1, **SAME)
OTHER = CLIENTS.alias()
MIXED = sa.select(OTHER.c.email, CLIENTS.c.email_odd, OTHER.c.email_even).where(OTHER.c.id < CLIENTS.c.id)
Parameters = list[dict[str, Any]] | dict[str, Any] | None
NAMES = ["email", "email_odd", "email_even"]


def copied(*sources: sa.FromClause) -> sa.Insert:
    """INSERT … SELECT of a text and its two indexes, each from a source."""
    columns = [source.c[name] for source, name in zip(sources, NAMES, strict=True)]
    return sa.insert(CLIENTS).from_select(["id", *NAMES], sa.select(sa.literal(2), *columns))


def conflicting(**values: object) -> sa.Insert:
    return INSERTED.on_conflict_do_update(index_elements=["id"], set_=values)


@pytest.mark.parametrize(("statement", "parameters", "said"), [
    pytest.param(sa.update(CLIENTS).values(email_odd="x"), None, "does not set email", id="one index alone"),
    pytest.param(sa.update(Client).values(odd="x"), None, "does not set email", id="of a class"),
    pytest.param(sa.update(CLIENTS).values(email_odd=None), None, "does not set email", id="cleared"),
    pytest.param(sa.update(CLIENTS), {"email_odd": "x", "email_even": "x"}, "does not set email", id="as parameters"),
    pytest.param(sa.update(Client), [{"id": 1, "odd": "x"}], "does not set email", id="in bulk, by the key"),
    pytest.param(conflicting(email_odd="x"), None, "does not set email", id="an upsert that sets an index alone"),
    pytest.param(conflicting(email_odd=sa.null()), None, "does not set email", id="an upsert that clears it"),
    pytest.param(sa.update(CLIENTS).values(**SAME | {"email_odd": None}), None, "different texts", id="no index"),
    pytest.param(sa.update(CLIENTS).values(**SAME | {"email": None}), None, "different texts", id="no text"),
    pytest.param(sa.update(CLIENTS).values(**SAME | {"email_even": "b"}), None, "different texts", id="another text"),
    pytest.param(
        sa.update(Client).where(Client.id == 1).values(address="a", odd="b", even="c"), None, "different texts",
        id="three texts",
    ),
    pytest.param(
        sa.update(CLIENTS).where(CLIENTS.c.id == sa.bindparam("key")).values(
            email=sa.bindparam("text"), email_odd=sa.bindparam("odd"), email_even=sa.bindparam("even")
        ),
        [{"key": 1, "text": "a", "odd": "a", "even": "a"}, {"key": 2, "text": "a", "odd": "b", "even": "a"}],
        "different texts", id="named parameters of the second row",
    ),
    pytest.param(sa.insert(CLIENTS).values(id=2, email_odd="x"), None, "different texts", id="an index without a text"),
    pytest.param(
        sa.insert(CLIENTS), [{"id": n, **SAME, "email_odd": "b" if n == 40 else "ana"} for n in range(2, 42)],
        "different texts", id="the last of many",
    ),
    pytest.param(
        sa.insert(CLIENTS).values([{"id": 2, **SAME}, {"id": 3, **SAME, "email_even": "b"}]), None, "different texts",
        id="of several VALUES the second",
    ),
    pytest.param(
        sa.insert(Client).returning(Client.id), [{"id": 2, "address": "a", "odd": "a", "even": "b"}],
        "different texts", id="in bulk, with RETURNING",
    ),
    pytest.param(conflicting(**SAME | {"email": "x"}), None, "different texts", id="an upsert with another text"),
    pytest.param(
        conflicting(email="x", email_odd=INSERTED.excluded.email_odd, email_even=INSERTED.excluded.email_even), None,
        "from different places", id="an upsert with the index of what was to be inserted",
    ),
    pytest.param(
        sa.update(CLIENTS).values(email=sa.select(OTHER.c.email).scalar_subquery(), email_odd="x", email_even="x"),
        None, "from different places", id="a text that is selected",
    ),
    pytest.param(
        sa.insert(CLIENTS).from_select(NAMES, MIXED), None, "from different places", id="of two rows"
    ),
    pytest.param(
        copied(*[MIXED.subquery()] * 3), None, "from different places", id="of two rows, in a subquery",
    ),
    pytest.param(
        sa.insert(CLIENTS).from_select(["id", "email_odd"], sa.select(sa.literal(2), OTHER.c.email_odd)), None,
        "from different places", id="the index of another row alone",
    ),
    pytest.param(
        sa.insert(CLIENTS).values(id=2, email="x", email_odd=sa.bindparam("t"), email_even=sa.bindparam("t")),
        {"t": "x"}, "parameter t is encrypted or indexed", id="one parameter for both columns",
    ),
    pytest.param(
        sa.select(sa.insert(CLIENTS).values(id=2, **SAME).returning(CLIENTS.c.id).cte().c.id), None,
        "execute that statement on its own", id="within another statement",
    ),
])  # fmt: skip
def test_a_statement_that_leaves_a_row_unfound_by_its_text_is_refused(
    session: Session, statement: sa.Executable, parameters: Parameters, said: str
) -> None:
    session.add_all([Client(id=1, address="ana"), Client(id=50, address="bob")])
    session.commit()
    before = session.execute(sa.text("SELECT * FROM clients ORDER BY id")).all()
    for _ in range(2):  # the second time from SQLAlchemy's cache
        with pytest.raises(EncryptedExpressionError, match=said) as caught:
            session.execute(statement, parameters)
        assert "ana" not in str(caught.value)
    assert session.execute(sa.text("SELECT * FROM clients ORDER BY id")).all() == before


def test_a_statement_that_was_sent_with_one_text_is_compared_again(session: Session) -> None:
    for row, texts in enumerate([("a", "a", "a"), ("b", "b", "B"), ("c", "c", "d")], 1):
        statement = sa.insert(CLIENTS).values(id=row, **dict(zip(NAMES, texts, strict=True)))
        if len(set(texts)) < 3 and texts[2] != "d":
            session.execute(statement)
            continue
        with pytest.raises(EncryptedExpressionError, match="different texts"):
            session.execute(statement)
    assert session.scalars(sa.select(Client.id).where(matches(Client.address, "B"))).all() == [2]


@pytest.mark.parametrize("statement", [
    pytest.param(sa.update(CLIENTS).values(**SAME), id="one text"),
    pytest.param(sa.update(CLIENTS).values(**SAME | {"email": "Ana"}), id="a text that is normalised"),
    pytest.param(sa.update(CLIENTS).values(dict.fromkeys(NAMES)), id="nothing"),
    pytest.param(sa.update(CLIENTS).values(dict.fromkeys(NAMES, sa.null())), id="NULL"),
    pytest.param(sa.update(Client).values(name="x"), id="another column"),
    pytest.param(sa.insert(CLIENTS).values(id=2, name="x"), id="another column of a new row"),
    pytest.param(sa.insert(CLIENTS).values(id=2, email_odd=None), id="a new row without a text"),
    pytest.param(conflicting(**SAME | {"name": "x"}), id="an upsert"),
    pytest.param(conflicting(name="x"), id="an upsert of another column"),
    pytest.param(conflicting(**{name: INSERTED.excluded[name] for name in NAMES}), id="EXCLUDED"),
    pytest.param(copied(OTHER, OTHER, OTHER), id="a copied row"),
    pytest.param(copied(*[sa.select(OTHER).subquery()] * 3), id="a copied row of a subquery"),
    pytest.param(copied(*[sa.select(OTHER).union(sa.select(CLIENTS)).subquery()] * 3), id="a copied row of a union"),
])  # fmt: skip
def test_a_statement_that_gives_all_three_one_text_is_sent(session: Session, statement: sa.Executable) -> None:
    session.add(Client(id=1, address="ana"))
    session.commit()
    session.execute(statement)
    for text in session.scalars(sa.select(Client.address)):
        assert text is None or session.scalars(sa.select(Client.address).where(matches(Client.address, text))).all()


def test_an_object_whose_index_was_changed_gets_that_of_its_text(session: Session) -> None:
    session.add(Client(id=1, address="ana"))
    session.commit()
    session.get_one(Client, 1).odd = "bob"
    session.commit()
    assert stored(session) == (index(1, "ana"), None)
    session.get_one(Client, 1).odd = None
    session.commit()
    assert stored(session) == (index(1, "ana"), None)
    session.add(Client(id=2, odd="bob"))
    with pytest.raises(EncryptedExpressionError, match="different texts"):
        session.commit()
    session.rollback()
    with pytest.raises(EncryptedExpressionError, match="does not set email"):
        session.bulk_update_mappings(Client, [{"id": 1, "odd": "bob"}])
    session.rollback()
    with pytest.raises(EncryptedExpressionError, match="different texts"):
        session.bulk_insert_mappings(Client, [{"id": 2, "address": "a", "odd": "a", "even": "b"}])
    session.rollback()
    loaded = session.get_one(Client, 1)
    session.expunge(loaded)
    loaded.odd = "bob"
    with pytest.raises(EncryptedExpressionError, match="does not set email"):
        session.bulk_save_objects([loaded])
    session.rollback()
    assert stored(session) == (index(1, "ana"), None)


class Amount(sa.types.TypeDecorator[int]):
    """A number that is encrypted as text."""

    impl = EncryptedType
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else str(value)

    def coerce_compared_value(self, op: object, value: object) -> "Amount":  # noqa: ARG002
        return self


def test_a_text_that_a_decorator_makes_is_not_compared_with_what_it_is_made_of() -> None:
    table = sa.Table(
        "t", sa.MetaData(),
        sa.Column("a", Amount(keys, binding="t.a")),
        *(sa.Column(f"a_{odd}", SearchIndex(keys, "a", odd=odd)) for odd in (True, False)),
    )  # fmt: skip
    with sa.create_engine("sqlite://").begin() as connection:
        table.create(connection)
        connection.execute(sa.insert(table).values(a=7, a_True="7", a_False="7"))


def test_an_index_takes_a_text_and_no_expression(session: Session) -> None:
    session.add(Client(id=1, address="ana"))
    session.commit()
    values: list[sa.ColumnElement[str]] = [
        CLIENTS.c.email_odd, CLIENTS.c.email_even, CLIENTS.c.name, sa.func.lower("x")
    ]  # fmt: skip
    for value in values:
        statement = sa.update(CLIENTS).values(email="x", email_odd=value, email_even="x")
        with pytest.raises(EncryptedExpressionError, match=r"email_odd is a search index, and takes no SQL"):
            session.execute(statement)
    new = upsert(CLIENTS).values(id=1, email="bob", email_odd="bob", email_even="bob")
    columns = {name: new.excluded[name] for name in ("email", "email_odd", "email_even")}
    session.execute(new.on_conflict_do_update(index_elements=["id"], set_=columns))
    assert stored(session) == (index(1, "bob"), None)
    session.execute(sa.update(CLIENTS).values(email=None, email_odd=sa.null(), email_even=None))
    assert stored(session) == (None, None)


def test_rows_in_bulk_are_refused_without_their_index_and_stored_with_it(session: Session) -> None:
    with pytest.raises(EncryptedExpressionError, match=r"does not set email_odd and email_even"):
        session.execute(sa.insert(Client), [{"id": 2, "address": "x"}, {"id": 3, "address": "y"}])
    rows = [{"id": row, "address": text, "odd": text, "even": text} for row, text in ((2, "x"), (3, "y"))]
    session.execute(sa.insert(Client), rows)
    assert stored(session, 3) == (index(1, "y"), None)
    session.execute(sa.update(CLIENTS).where(CLIENTS.c.id == 3).values(name="n"))
    session.execute(sa.update(Client).where(Client.id == 3).values(address="z", odd="z", even="z"))
    assert stored(session, 3) == (index(1, "z"), None)


def test_what_an_index_cannot_answer_is_refused() -> None:
    for operator in (operators.like_op, operators.lt, operators.ne):
        with pytest.raises(EncryptedComparisonError, match="only shows which texts are equal; use matches"):
            Client.odd.operate(operator, "a")
    with pytest.raises(EncryptedComparisonError, match=r"clients\.name has no search index"):
        matches(Client.name, "x")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(7, PlaintextTypeError, id="a number"),
        pytest.param(None, PlaintextTypeError, id="NULL"),
        pytest.param("\ud800", PlaintextEncodingError, id="a lone surrogate"),
    ],
)
def test_a_search_takes_a_text(text: str, error: type[KeyRotationError]) -> None:
    with pytest.raises(error):
        matches(Client.address, text)


def test_no_error_of_a_statement_holds_the_text(session: Session) -> None:
    def broken() -> KeyRing:
        raise OSError("secret text")

    table = sa.Table("t", sa.MetaData(), sa.Column("a_odd", SearchIndex(broken, "a", odd=True)))
    with pytest.raises(KeyRingUnavailableError) as raised:
        session.execute(sa.select(table).where(table.c.a_odd == "secret text"))
    assert "secret" not in "".join(map(str, (raised.value, raised.value.__cause__, raised.value.__context__)))


def test_an_index_without_a_label_or_a_ring_is_refused() -> None:
    alone = sa.select(sa.literal("x", SearchIndex(keys, "email", odd=True)))
    with (
        sa.create_engine("sqlite://").connect() as connection,
        pytest.raises(InvalidBindingError, match="bound to its"),
    ):
        connection.execute(alone)
    with pytest.raises(InvalidKeyError, match="SearchIndex takes a KeyRing"):
        SearchIndex("key", "email", odd=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size_bytes"):
        SearchIndex(keys, "email", odd=True, size_bytes=1)


@pytest.mark.parametrize(
    ("stored", "found"),
    [("Ana@Example.org ", True), ("ana@example.org", True), ("v1: ana@example.org", False), ("bob@example.org", False)],
)
def test_what_is_plaintext_yet_is_found_as_it_is(stored: str, found: bool) -> None:
    metadata, keys = sa.MetaData(), ring_of(1)
    table = sa.Table(
        "people",
        metadata,
        sa.Column("email", EncryptedType(keys, encrypted_from=2)),
        sa.Column("odd", SearchIndex(keys, of="email", odd=True, normalise=("strip", "lower", "nfc"))),
        sa.Column("even", SearchIndex(keys, of="email", odd=False, normalise=("strip", "lower", "nfc"))),
    )
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO people (email) VALUES (?)", (stored,))
        query = sa.select(table.c.email).where(matches(table.c.email, "ANA@example.org"))
        assert connection.execute(query).scalars().all() == [stored] * found


def test_a_value_of_a_former_library_is_found_where_equal_texts_have_equal_values() -> None:
    keys = ring_of(1)
    aes, gcm = LegacyKey("sqlalchemy-utils-aes", "k", padding="pkcs5"), LegacyKey("sqlalchemy-utils-aesgcm", "k")
    for former, found in ((aes, 1), (gcm, 0)):
        metadata = sa.MetaData()
        table = sa.Table(
            "people",
            metadata,
            sa.Column("email", EncryptedType(keys, encrypted_from=2, legacy=[former])),
            sa.Column("odd", SearchIndex(keys, of="email", odd=True)),
            sa.Column("even", SearchIndex(keys, of="email", odd=False)),
        )
        engine = sa.create_engine("sqlite://")
        metadata.create_all(engine)
        with engine.begin() as connection:
            stored = former.source.sealed(b"Ana").decode()
            connection.exec_driver_sql("INSERT INTO people (email) VALUES (?)", (stored,))
            assert len(connection.execute(sa.select(table.c.email).where(matches(table.c.email, "Ana"))).all()) == found
