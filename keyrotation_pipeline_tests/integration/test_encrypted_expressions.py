"""SQL expressions on encrypted columns, tried as an enemy would: what was stored, and what was sent, on PostgreSQL."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam, case, cast, func, insert, literal, literal_column, null, select, type_coerce, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, array
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, column_property, mapped_column, synonym
from sqlalchemy.types import Text, TypeDecorator

from keyrotation_pipeline.encrypted_type import EncryptedType, KeyRing
from keyrotation_pipeline.errors import EncryptedComparisonError, EncryptedExpressionError, PlaintextTypeError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.servers import Server

V1 = KeyVersion(1)
RING = KeyRing({V1: KeyMaterial.generate()}, V1)
OTHER_RING = KeyRing({V1: KeyMaterial.generate()}, V1)
SECRET = "Anna Schmidt"


class Wrapped(TypeDecorator[str]):
    """An application's own type around ours."""

    impl = EncryptedType(RING)
    cache_ok = True


class Base(DeclarativeBase):
    pass


class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str | None]
    n: Mapped[str | None] = mapped_column(EncryptedType(RING))
    same: Mapped[str | None] = mapped_column(EncryptedType(RING))
    other: Mapped[str | None] = mapped_column(EncryptedType(OTHER_RING))
    renamed: Mapped[str | None] = mapped_column("stored_name", EncryptedType(RING))
    variant: Mapped[str | None] = mapped_column(Text().with_variant(EncryptedType(RING), "postgresql"))
    wrapped: Mapped[str | None] = mapped_column(Wrapped)
    alias = synonym("n")

    @hybrid_property
    def shouted(self) -> str:
        return (self.n or "").upper()

    @shouted.inplace.expression
    @classmethod
    def _shouted(cls) -> Any:  # noqa: ANN401
        return func.upper(cls.n)

    @shouted.inplace.update_expression
    @classmethod
    def _shout(cls, value: object) -> list[tuple[Any, Any]]:
        return [(cls.n, func.upper(value))]


class Loud(Base):
    """The same table with an expression as a mapped property."""

    __table__ = sa.Table(
        "clients", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", EncryptedType(RING))
    )
    upper = column_property(func.upper(__table__.c.n))


class Defaulted(Base):
    __tablename__ = "defaulted"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str | None]
    n: Mapped[str | None] = mapped_column(EncryptedType(RING), default=func.upper("anna schmidt"))


class DefaultedOnUpdate(Base):
    __tablename__ = "defaulted_on_update"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str | None]
    n: Mapped[str | None] = mapped_column(EncryptedType(RING), onupdate=func.upper("anna schmidt"))


class DefaultedByServer(Base):
    __tablename__ = "defaulted_by_server"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str | None]
    n: Mapped[str | None] = mapped_column(EncryptedType(RING), server_default=SECRET)


C: Any = Client.__table__.c
T: Any = Client.__table__
STORED = (C.n, C.same, C.other, C.stored_name, C.variant, C.wrapped)
Sent = list[tuple[str, object]]


@pytest.fixture(scope="module")
def tables(server: Server) -> Iterator[str]:
    """URL of a database with the tables."""
    name = f"expressions_{os.getpid()}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        url = server.url(name).replace("postgresql://", "postgresql+psycopg://")
        made = sa.create_engine(url)
        Base.metadata.create_all(made)
        made.dispose()
        yield url
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(tables: str) -> Iterator[sa.Engine]:
    """An engine on one row, whose id is 1."""
    made = sa.create_engine(tables)
    with made.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")
        connection.execute(insert(T), {"kind": "client", "n": "Bert", "same": "Cara", "other": "Dora"})
    yield made
    made.dispose()


@pytest.fixture
def sent(engine: sa.Engine) -> Sent:
    """Every statement and its parameters, as they reach the driver."""
    seen: Sent = []

    def remember(cursor: object, statement: str, parameters: object, context: object) -> None:
        seen.append((statement, parameters))

    for name in ("do_execute", "do_executemany"):
        sa.event.listen(engine, name, remember)
    return seen


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as opened:
        yield opened


def stored_values(engine: sa.Engine) -> list[str]:
    """Every value of every encrypted column of every table, as it is stored."""
    with engine.connect() as connection:
        rows = [
            row
            for table in Base.metadata.tables
            for row in connection.exec_driver_sql(f"SELECT to_json(t)::text FROM {table} t")
        ]
    return [str(row[0]) for row in rows]


def excluded_of(statement: Any) -> Any:  # noqa: ANN401
    return statement.on_conflict_do_update(index_elements=["id"], set_={"n": func.upper(statement.excluded.n)})


def upsert(**set_: object) -> Any:  # noqa: ANN401
    return postgres_insert(T).values(id=1).on_conflict_do_update(index_elements=["id"], set_=set_)


def moved() -> Any:  # noqa: ANN401
    return sa.values(sa.column("i", sa.Integer), sa.column("v", EncryptedType(RING)), name="v").data(
        [(1, func.upper(SECRET))]
    )


WRITES = {
    "coalesce": lambda: update(T).values(n=func.coalesce(C.n, SECRET)),
    "case": lambda: update(T).values(n=case((C.id == 1, SECRET), else_=None)),
    "case of the column": lambda: update(T).values(n=case((C.id == 1, C.n), else_=SECRET)),
    "literal": lambda: update(T).values(n=literal(SECRET)),
    "a parameter that takes its type from its value": lambda: update(T).values(n=bindparam("x", SECRET)),
    "typed bindparam": lambda: update(T).values(n=bindparam(None, SECRET, type_=sa.String)),
    "upper": lambda: update(T).values(n=func.upper(SECRET)),
    "cast": lambda: update(T).values(n=cast(SECRET, Text)),
    "type_coerce to text": lambda: update(T).values(n=type_coerce(SECRET, Text)),
    "type_coerce hides a function": lambda: update(T).values(n=type_coerce(func.upper(SECRET), EncryptedType(RING))),
    "cast hides a function": lambda: update(T).values(n=cast(func.upper(SECRET), EncryptedType(RING))),
    "a function that claims the type": lambda: update(T).values(n=func.upper(SECRET, type_=EncryptedType(RING))),
    "text": lambda: update(T).values(n=sa.text(f"'{SECRET}'")),
    "literal_column": lambda: update(T).values(n=literal_column(f"'{SECRET}'")),
    "literal_column that claims the type": lambda: update(T).values(
        n=literal_column(f"'{SECRET}'", EncryptedType(RING))
    ),
    "an unencrypted column": lambda: update(T).values(n=C.kind),
    "a column under another key": lambda: update(T).values(n=C.other),
    "a column that claims the type": lambda: update(T).values(n=sa.column("kind", EncryptedType(RING))),
    "concatenation": lambda: update(T).values(n=C.kind + SECRET),
    "a label": lambda: update(T).values(n=func.upper(SECRET).label("x")),
    "a labelled parameter": lambda: update(T).values(n=bindparam("x", SECRET, type_=sa.types.NullType()).label("y")),
    "a parameter in brackets": lambda: update(T).values(
        n=sa.sql.elements.Grouping(bindparam("x", SECRET, type_=sa.types.NullType()))
    ),
    "a subquery": lambda: update(T).values(n=select(literal(SECRET)).scalar_subquery()),
    "a subquery of a parameter": lambda: update(T).values(n=select(bindparam("x", SECRET)).scalar_subquery()),
    "by column": lambda: update(T).values({C.n: func.upper(SECRET)}),
    "in order": lambda: update(T).ordered_values((C.kind, "x"), (C.n, func.upper(SECRET))),
    "an aliased table": lambda: update(T.alias()).values(n=func.upper(SECRET)),
    "a column of another name": lambda: update(T).values(stored_name=func.upper(SECRET)),
    "a variant": lambda: update(T).values(variant=func.upper(SECRET)),
    "a wrapped type": lambda: update(T).values(wrapped=func.upper(SECRET)),
    "insert": lambda: insert(T).values(n=func.upper(SECRET)),
    "insert, second row": lambda: insert(T).values([{"n": "x"}, {"n": func.upper(SECRET)}]),
    "insert, second row, an untyped parameter": lambda: insert(T).values([{"n": "x"}, {"n": bindparam("x", SECRET)}]),
    "insert by position": lambda: insert(T).values((7, "x", func.upper(SECRET))),
    "insert from literals": lambda: insert(T).from_select(["n"], select(literal(SECRET))),
    "insert from an untyped parameter": lambda: insert(T).from_select(["n"], select(bindparam("x", SECRET))),
    "insert from a function": lambda: insert(T).from_select(["kind", "n"], select(C.kind, func.upper(SECRET))),
    "insert from another column": lambda: insert(T).from_select(["n"], select(C.kind)),
    "insert from a claimed type": lambda: insert(T).from_select(
        ["n"], select(type_coerce(C.kind, EncryptedType(RING)))
    ),
    "insert from a claimed type in a subquery": lambda: insert(T).from_select(
        ["n"], select(select(type_coerce(literal(SECRET), EncryptedType(RING)).label("x")).subquery().c.x)
    ),
    "insert from a union": lambda: insert(T).from_select(["n"], sa.union_all(select(C.n), select(literal(SECRET)))),
    "insert from a union in a subquery": lambda: insert(T).from_select(
        ["n"], select(sa.union_all(select(C.n), select(literal(SECRET))).subquery().c.n)
    ),
    "insert from text": lambda: insert(T).from_select(["n"], sa.text(f"SELECT '{SECRET}'").columns(C.n)),
    "insert from text in a subquery": lambda: insert(T).from_select(
        ["n"], select(sa.text(f"SELECT '{SECRET}' AS n").columns(C.n).subquery().c.n)
    ),
    "insert from VALUES": lambda: insert(T).from_select(["n"], select(moved().c.v)),
    "upsert": lambda: upsert(n=func.upper(SECRET)),
    "upsert of a literal": lambda: upsert(n=literal(SECRET)),
    "upsert of what was refused": lambda: excluded_of(postgres_insert(T).values(id=1, n=SECRET)),
    "upsert by column": lambda: postgres_insert(T)
    .values(id=1)
    .on_conflict_do_update(index_elements=["id"], set_={C.n: func.upper(SECRET)}),
    "a CTE": lambda: select(
        update(T).values(n=func.upper(SECRET)).returning(C.id).cte("changed").c.id
    ),
    "a CTE, added": lambda: select(C.id).add_cte(insert(T).values(n=func.upper(SECRET)).cte("changed")),
    "a CTE of the ORM": lambda: select(
        update(Client).values(renamed=func.upper(SECRET)).returning(Client.id).cte("changed").c.id
    ),
    "a default": lambda: insert(Defaulted).values(kind="x"),
    "a default on update": lambda: update(DefaultedOnUpdate).values(kind="x"),
    "a default of the server": lambda: insert(DefaultedByServer).values(kind="x"),
    "a server's default, unless there is the row": lambda: (
        postgres_insert(DefaultedByServer).values(id=1).on_conflict_do_update(index_elements=["id"], set_={"n": "x"})
    ),
    "ORM update": lambda: update(Client).values(n=func.trim(SECRET)),
    "ORM update of a renamed column": lambda: update(Client).values(renamed=func.trim(SECRET)),
    "ORM update by attribute": lambda: update(Client).values({Client.renamed: func.trim(SECRET)}),
    "ORM update of a synonym": lambda: update(Client).values({"alias": func.trim(SECRET)}),
    "ORM update of a hybrid": lambda: update(Client).values({Client.shouted: SECRET}),
    "ORM update of an alias": lambda: update(aliased(Client)).values(n=func.trim(SECRET)),
    "ORM insert": lambda: insert(Client).values(renamed=func.trim(SECRET)),
    "ORM insert, second row": lambda: insert(Client).values([{"renamed": "x"}, {"renamed": func.trim(SECRET)}]),
    "ORM upsert": lambda: postgres_insert(Client)
    .values(id=1)
    .on_conflict_do_update(index_elements=["id"], set_={"n": func.trim(SECRET)}),
}  # fmt: skip


@pytest.mark.parametrize("statement", [pytest.param(make, id=name) for name, make in WRITES.items()])
def test_no_expression_writes_plaintext(
    engine: sa.Engine, session: Session, sent: Sent, statement: Callable[[], Any]
) -> None:
    before = stored_values(engine)
    with pytest.raises(EncryptedExpressionError, match=r"is encrypted.*; .*compute") as caught:  # noqa: PT012
        session.execute(statement())
        session.commit()
    session.rollback()
    assert SECRET.lower() not in (str(caught.value) + str(sent)).lower()
    assert stored_values(engine) == before


def test_a_key_of_an_upsert_that_names_no_column_key_writes_no_plaintext(engine: sa.Engine, sent: Sent) -> None:
    named = sa.Table("clients", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
                     sa.Column("n", EncryptedType(RING), key="name"))  # fmt: skip
    statement = postgres_insert(named).values(id=1).on_conflict_do_update(index_elements=["id"], set_={"n": SECRET})
    with (
        pytest.raises(EncryptedExpressionError),
        pytest.warns(sa.exc.SAWarning, match="Additional column names"),
        engine.begin() as connection,
    ):
        connection.execute(statement)
    assert SECRET not in str(sent)


@pytest.mark.parametrize("statement", [
    pytest.param(lambda: update(T).values(n=bindparam("x")).where(C.kind != bindparam("x")), id="read last"),
    pytest.param(lambda: update(T).values(n=bindparam("x"), kind=bindparam("x")), id="written twice"),
    pytest.param(lambda: update(T).values(n=bindparam("x"), other=bindparam("x")), id="under two keys"),
])  # fmt: skip
def test_one_parameter_for_two_columns_sends_no_plaintext(
    engine: sa.Engine, session: Session, sent: Sent, statement: Callable[[], Any]
) -> None:
    before = stored_values(engine)
    with pytest.raises(EncryptedExpressionError, match="parameter x is encrypted"):
        session.execute(statement(), {"x": SECRET})
    session.rollback()
    assert SECRET not in str(sent)
    assert stored_values(engine) == before


def assign(client: Client, value: object) -> None:
    client.n = value  # type: ignore[assignment]


FLUSHES: dict[str, Callable[[Session], object]] = {
    "a new object": lambda session: session.add(Client(n=func.trim(SECRET))),
    "a renamed column": lambda session: session.add(Client(renamed=func.trim(SECRET))),
    "a changed object": lambda session: assign(session.get_one(Client, 1), func.trim(SECRET)),
    "a literal": lambda session: assign(session.get_one(Client, 1), literal(SECRET)),
    "an unencrypted column": lambda session: assign(session.get_one(Client, 1), Client.kind),
    "a query's update": lambda session: session.query(Client).update({"n": func.trim(SECRET)}),
    "a default": lambda session: session.add(Defaulted(kind="x")),
    "a default of the server": lambda session: session.add(DefaultedByServer(kind="x")),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in FLUSHES.items()])
def test_no_flushed_object_writes_plaintext(
    engine: sa.Engine, session: Session, sent: Sent, change: Callable[[Session], object]
) -> None:
    before = stored_values(engine)
    with pytest.raises(EncryptedExpressionError):  # noqa: PT012
        change(session)
        session.commit()
    session.rollback()
    assert SECRET.lower() not in str(sent).lower()
    assert stored_values(engine) == before


@pytest.mark.parametrize("bulk", [
    pytest.param(lambda session, row: session.bulk_update_mappings(Client, [row]), id="bulk_update"),
    pytest.param(lambda session, row: session.bulk_insert_mappings(Client, [row | {"id": 2}]), id="bulk_insert"),
    pytest.param(lambda session, row: session.execute(update(Client), [row]), id="update by primary key"),
    pytest.param(lambda session, row: session.execute(insert(Client), [row | {"id": 2}]), id="insert of many"),
    pytest.param(lambda session, row: session.execute(insert(T), row | {"id": 2}), id="a parameter"),
])  # fmt: skip
def test_no_bulk_change_writes_plaintext(
    engine: sa.Engine, session: Session, sent: Sent, bulk: Callable[[Session, dict[str, object]], object]
) -> None:
    before = stored_values(engine)
    with pytest.raises((EncryptedExpressionError, PlaintextTypeError)):  # noqa: PT012
        bulk(session, {"id": 1, "n": func.trim(SECRET)})
        session.commit()
    session.rollback()
    assert SECRET not in str(sent)
    assert stored_values(engine) == before


def folder() -> Any:  # noqa: ANN401
    return select(func.upper(C.n).label("u")).subquery()


QUERIES = {
    "lower": lambda: select(C.id).where(func.lower(C.n) == SECRET),
    "lower of a label": lambda: select(C.id).where(func.lower(C.n.label("x")) == SECRET),
    "tuple": lambda: select(C.id).where(sa.tuple_(C.id, C.n) == sa.tuple_(1, SECRET)),
    "tuple in": lambda: select(C.id).where(sa.tuple_(C.id, C.n).in_([(1, SECRET)])),
    "literal on the left": lambda: select(C.id).where(literal(SECRET) == C.n),
    "literal in a query": lambda: select(C.id).where(literal(SECRET).in_(select(C.n))),
    "literal in columns": lambda: select(C.id).where(literal(SECRET).in_([C.n, C.same])),
    "another column": lambda: select(C.id).where(C.kind == C.n, C.kind != SECRET),
    "between": lambda: select(C.id).where(sa.between(literal(SECRET), C.n, C.same)),
    "coalesce": lambda: select(func.coalesce(C.n, SECRET)),
    "case": lambda: select(case((C.n.is_(None), SECRET), else_=C.n)),
    "case on the column": lambda: select(C.id).where(case((C.id == 1, C.n), else_="x") == SECRET),
    "concat": lambda: select(func.concat(C.n, SECRET)),
    "any": lambda: select(C.id).where(literal(SECRET) == sa.any_(select(C.n).scalar_subquery())),
    "array": lambda: select(C.id).where(literal(SECRET) == sa.any_(array([C.n]))),
    "a subquery's column": lambda: select((inner := select(C.n).subquery()).c.n).where(func.lower(inner.c.n) == SECRET),
    "a scalar subquery": lambda: select(C.id).where(func.lower(select(C.n).scalar_subquery()) == SECRET),
    "inside a subquery": lambda: select((inner := folder()).c.u).where(inner.c.u == SECRET),
    "inside a CTE": lambda: select(select(C.id).where(func.lower(C.n) == SECRET).cte().c.id),
    "inside EXISTS": lambda: select(C.id).where(sa.exists().where(func.lower(C.n) == SECRET)),
    "inside EXISTS of a class": lambda: select(C.id).where(sa.exists().where(func.lower(Client.n) == SECRET)),
    "inside a union": lambda: sa.union_all(select(C.id), select(C.id).where(func.lower(C.n) == SECRET)),
    "order_by": lambda: select(C.id).order_by(func.lower(C.n)).where(C.kind != SECRET),
    "desc": lambda: select(C.id).order_by(sa.desc(C.n)).where(C.kind != SECRET),
    "group_by": lambda: select(func.count()).group_by(func.lower(C.n)).where(C.kind != SECRET),
    "having": lambda: select(C.id).group_by(C.id).having(func.max(C.n) == literal(SECRET)),
    "max": lambda: select(func.max(C.n)).where(C.kind != SECRET),
    "count distinct": lambda: select(func.count(sa.distinct(C.n))).where(C.kind != SECRET),
    "filter": lambda: select(func.count().filter(func.lower(C.n) == SECRET)),
    "window": lambda: select(func.row_number().over(order_by=func.lower(C.n))).where(C.kind != SECRET),
    "ordered aggregate": lambda: select(func.array_agg(aggregate_order_by(C.id, C.n))).where(C.kind != SECRET),
    "join": lambda: select(C.id).join(T.alias("o"), func.lower(C.n) == SECRET),
    "a parameter that claims the type": lambda: select(C.id).where(C.kind == literal(SECRET, EncryptedType(RING))),
    "a variant": lambda: select(C.id).where(C.variant == SECRET),
    "a wrapped type": lambda: select(C.id).where(C.wrapped == SECRET),
    "update": lambda: update(T).values(kind="x").where(func.lower(C.n) == SECRET),
    "update from a subquery": lambda: update(T)
    .values(kind="x")
    .where(C.id == (inner := select(C.id, func.upper(C.n).label("u")).subquery()).c.id, inner.c.u == SECRET),
    "update of an unencrypted column": lambda: update(T).values(kind=func.concat(C.n, SECRET)),
    "delete": lambda: sa.delete(T).where(func.lower(C.n) == SECRET),
    "returning": lambda: insert(T).values(kind=SECRET).returning(func.lower(C.n)),
    "upsert's where": lambda: postgres_insert(T)
    .values(id=1, kind=SECRET)
    .on_conflict_do_update(index_elements=["id"], set_={"kind": "x"}, where=func.lower(C.n) == "x"),
    "ORM": lambda: select(Client).where(func.lower(Client.n) == SECRET),
    "ORM alias": lambda: select(other := aliased(Client)).where(func.lower(other.n) == SECRET),
    "ORM join": lambda: select(Client).join(other := aliased(Client), func.lower(other.n) == SECRET),
    "ORM hybrid": lambda: select(Client.id).where(Client.shouted == SECRET),
    "ORM column_property": lambda: select(Loud),
    "ORM column_property in a condition": lambda: select(Loud.upper).where(Loud.upper == SECRET),
    "ORM column_property in a subquery": lambda: select(select(Loud).subquery().c.upper),
    "a lambda": lambda: sa.lambda_stmt(lambda: select(C.id)) + (lambda s: s.where(func.lower(C.n) == SECRET)),
    "a lambda as a condition": lambda: select(C.id).where(lambda: func.lower(C.n) == SECRET),
}  # fmt: skip


@pytest.mark.parametrize("statement", [pytest.param(make, id=name) for name, make in QUERIES.items()])
def test_no_expression_sends_plaintext_to_be_compared_with_ciphertext(
    session: Session, sent: Sent, statement: Callable[[], Any]
) -> None:
    with pytest.raises((EncryptedExpressionError, EncryptedComparisonError), match=r"encrypted and cannot .*; .*"):
        session.execute(statement()).all()
    assert SECRET not in str(sent)
    session.rollback()


ALLOWED = {
    "NULL": lambda: update(T).values(n=null()),
    "None": lambda: update(T).values(n=None),
    "a column of the same type": lambda: update(T).values(n=C.same),
    "itself": lambda: update(T).values(n=C.n, kind=func.upper(C.kind)),
    "a string": lambda: update(T).values(n=SECRET),
    "a parameter of the same type": lambda: update(T).values(n=literal(SECRET, EncryptedType(RING))),
    "a coerced string": lambda: update(T).values(n=type_coerce(SECRET, EncryptedType(RING))),
    "a subquery of the same type": lambda: update(T).values(n=select(C.same).where(C.id == 1).scalar_subquery()),
    "insert of many": lambda: insert(T).values([{"n": SECRET}, {"n": None}]),
    "insert from the same type": lambda: insert(T).from_select(["n", "kind"], select(C.same, func.upper(C.kind))),
    "insert from NULL": lambda: insert(T).from_select(["n"], select(null())),
    "insert from a subquery": lambda: insert(T).from_select(["n"], select(select(C.same).subquery().c.same)),
    "insert from a union": lambda: insert(T).from_select(["n"], sa.union_all(select(C.n), select(C.same))),
    "insert from what was deleted": lambda: insert(T).from_select(
        ["n"], select(sa.delete(T).where(C.id == 9).returning(C.n).cte("gone").c.n)
    ),
    "upsert": lambda: upsert(n=SECRET),
    "upsert of what was refused": lambda: (s := postgres_insert(T).values(id=1, n=SECRET)).on_conflict_do_update(
        index_elements=["id"], set_={"n": s.excluded.n}
    ),
    "a default that is given": lambda: insert(DefaultedByServer).values(n=SECRET),
    "ORM upsert": lambda: (s := postgres_insert(Client).values(id=1, n=SECRET)).on_conflict_do_update(
        index_elements=["id"], set_={"n": s.excluded.n}, where=Client.n.is_not(None)
    ),
    "ORM update": lambda: update(Client).values(renamed=SECRET, n=Client.same),
    "ORM insert": lambda: insert(Client).values(renamed=SECRET),
    "a variant": lambda: update(T).values(variant=SECRET),
    "a wrapped type": lambda: update(T).values(wrapped=SECRET),
}  # fmt: skip


@pytest.mark.parametrize("statement", [pytest.param(make, id=name) for name, make in ALLOWED.items()])
def test_values_null_and_columns_of_the_same_type_are_written_encrypted(
    engine: sa.Engine, session: Session, sent: Sent, statement: Callable[[], Any]
) -> None:
    session.execute(statement())
    session.commit()
    assert SECRET not in str(sent) + str(stored_values(engine))
    found = session.execute(select(*STORED)).all()
    assert {value for row in found for value in row} <= {None, "Bert", "Cara", "Dora", SECRET}


READS = {
    "the column": (lambda: select(C.n), "Bert"),
    "a label": (lambda: select(C.n.label("x")), "Bert"),
    "the stored value": (lambda: select(func.left(cast(C.n, Text), 3)), "v1:"),
    "the stored value, coerced": (lambda: select(func.left(type_coerce(C.n, Text), 3)), "v1:"),
    "a stored value's prefix": (lambda: select(C.id).where(cast(C.n, Text).like("v1:%")), 1),
    "a count": (lambda: select(func.count(C.n)), 1),
    "is NULL": (lambda: select(case((C.n.is_(None), "no"), else_="yes")), "yes"),
    "is not NULL": (lambda: select(C.id).where(sa.not_(C.n.is_(None)), C.n != None), 1),  # noqa: E711
    "exists": (lambda: select(sa.exists(select(C.n))), True),
    "exists in a class": (lambda: select(sa.exists().where(Client.id == 1)), True),
    "grouped": (lambda: select(C.n, func.count()).group_by(C.id, C.n).order_by(C.n), "Bert"),
    "a subquery": (lambda: select(select(C.n).subquery().c.n), "Bert"),
    "a scalar subquery": (lambda: select(select(C.n).scalar_subquery()), "Bert"),
    "a union": (lambda: sa.union_all(select(C.n), select(C.same).where(C.id == 2)), "Bert"),
    "another type of the same form": (lambda: select(type_coerce(cast(C.n, Text), EncryptedType(RING))), "Bert"),
    "for update": (lambda: select(C.n).with_for_update(of=C.id), "Bert"),
    "ORM": (lambda: select(Client.n).where(Client.n.is_not(None)).order_by(Client.id), "Bert"),
}


@pytest.mark.parametrize(
    ("statement", "value"), [pytest.param(*case, id=name) for name, case in READS.items()]
)  # fmt: skip
def test_what_makes_sense_on_ciphertext_keeps_working(
    session: Session, statement: Callable[[], Any], value: object
) -> None:
    assert session.execute(statement()).scalars().all() == [value]


def test_a_parameter_without_a_type_is_encrypted(session: Session, engine: sa.Engine, sent: Sent) -> None:
    session.execute(update(T).values(n=bindparam("x")), {"x": SECRET})
    session.execute(insert(T).values(n=bindparam("x")), [{"x": SECRET}, {"x": None}])
    session.commit()
    assert SECRET not in str(sent) + str(stored_values(engine))
    assert session.scalars(select(C.n).order_by(C.id)).all() == [SECRET, SECRET, None]


def test_a_row_read_can_be_written_back(session: Session, engine: sa.Engine, sent: Sent) -> None:
    row = session.execute(select(T).where(C.id == 1)).mappings().one()
    session.execute(update(T).values(dict(row) | {"n": SECRET}))
    session.execute(update(T).values(dict(row)))
    session.commit()
    assert session.scalar(select(C.n)) == "Bert"
    assert "Bert" not in str(sent) + str(stored_values(engine))


def test_a_refusal_is_given_again_however_often_the_statement_comes(session: Session) -> None:
    for _ in range(3):
        with pytest.raises(EncryptedExpressionError):
            session.execute(update(T).values(n=func.upper(SECRET)))
    for text in ("Anna", "Berta"):
        session.execute(update(T).values(n=text))
        assert session.scalar(select(C.n)) == text


def test_a_statement_is_looked_at_once_and_then_taken_from_the_cache(session: Session) -> None:
    hits = [session.execute(update(T).values(n=name)).context.cache_hit.name for name in ("Anna", "Bert")]  # type: ignore[attr-defined]
    assert hits == ["CACHE_MISS", "CACHE_HIT"]


def test_the_connection_continues_after_a_refusal(session: Session) -> None:
    session.execute(update(T).values(kind="kept"))
    with pytest.raises(EncryptedExpressionError):
        session.execute(update(T).values(n=func.upper(SECRET)))
    assert session.scalar(select(C.kind)) == "kept"


def test_an_asynchronous_engine_refuses_too(engine: sa.Engine) -> None:
    async def walk() -> None:
        asynchronous = create_async_engine(engine.url)
        async with AsyncSession(asynchronous) as session:
            for statement in (update(T).values(n=func.upper(SECRET)), select(C.id).where(func.lower(C.n) == SECRET)):
                with pytest.raises(EncryptedExpressionError):
                    await session.execute(statement)
        await asynchronous.dispose()

    asyncio.run(walk())
