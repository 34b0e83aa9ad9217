"""Values bound to their row in an application on real PostgreSQL: all of the ORM's ways of reading and writing."""

import asyncio
import enum
import json
import pickle
import random
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    contains_eager,
    defer,
    joinedload,
    load_only,
    mapped_column,
    relationship,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer,
    with_polymorphic,
)
from sqlalchemy.types import TypeDecorator

from keyrotation_pipeline.encrypted_type import EncryptedType, KeyRing, row_writes
from keyrotation_pipeline.errors import (
    DecryptionError,
    EncryptedExpressionError,
    InvalidBindingError,
    MalformedCiphertextError,
    UnencryptedValueError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V2X, V3X = KeyVersion(1), KeyVersion(2, 2), KeyVersion(3, 2)
KEYS = {version: KeyMaterial.generate() for version in (V1, V2X, V3X)}


class Keys:
    """A provider whose ring a test replaces."""

    ring = KeyRing(KEYS, V3X)

    def __call__(self) -> KeyRing:
        return self.ring


keys = Keys()


def bound(binding: str | None = None) -> EncryptedType:
    return EncryptedType(keys, row="id", row_from=3, binding=binding)


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "persons"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    kind: Mapped[str] = mapped_column(default="person")
    name: Mapped[str | None]
    email: Mapped[str | None] = mapped_column(unique=True)
    ssn: Mapped[str | None] = mapped_column(bound())
    notes: Mapped[str | None] = mapped_column(bound(), deferred=True)
    visits: Mapped[list["Visit"]] = relationship(back_populates="person", order_by="Visit.id")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Doctor(Person):
    __tablename__ = "doctors"
    id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("persons.id"), primary_key=True)
    licence: Mapped[str | None] = mapped_column(bound())
    __mapper_args__ = {"polymorphic_identity": "doctor"}  # noqa: RUF012


class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    person_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("persons.id"))
    finding: Mapped[str | None] = mapped_column(bound())
    person: Mapped[Person] = relationship(back_populates="visits")


class Counted(Base):
    """Its key is counted by the server."""

    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str | None] = mapped_column(bound())


class Country(Base):
    """Its key is a text."""

    __tablename__ = "countries"
    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    motto: Mapped[str | None] = mapped_column(bound())


PERSONS, VISITS = Base.metadata.tables["persons"], Base.metadata.tables["visits"]


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(database_url: str, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    keys.ring = KeyRing(KEYS, V3X)
    made = sa.create_engine(database_url.replace("postgresql://", f"postgresql+{request.param}://"))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as opened:
        yield opened


def stored(session: Session, column: str = "ssn", table: str = "persons") -> list[str]:
    return list(session.execute(sa.text(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")).scalars())


def test_every_way_of_loading_reads_the_value_with_its_row(session: Session) -> None:
    anna = Person(name="Anna", ssn="1-2-3", notes="deep", visits=[Visit(id=1, finding="molar"), Visit(id=2)])
    bert = Doctor(name="Bert", ssn="4-5-6", licence="L7", notes="high")
    session.add_all([anna, bert])
    session.commit()
    assert all(each.startswith("v3x:") for each in stored(session))
    key, other = anna.id, bert.id

    # expired, refreshed, deferred
    assert (anna.ssn, anna.notes, bert.ssn, bert.licence) == ("1-2-3", "deep", "4-5-6", "L7")
    session.refresh(anna)
    session.refresh(anna, ["ssn"])
    assert anna.ssn == "1-2-3"
    session.expire(anna, ["ssn"])
    assert anna.ssn == "1-2-3"
    anna.ssn = "forgotten"
    with session.no_autoflush:
        session.scalars(sa.select(Person).execution_options(populate_existing=True)).all()
    assert anna.ssn == "1-2-3"

    def of_anna(*options: Any, of: Any = Person) -> Any:  # noqa: ANN401
        session.expunge_all()
        return session.scalars(sa.select(of).options(*options).where(of.id == key)).unique().one()

    session.expunge_all()
    assert session.get_one(Person, key).ssn == "1-2-3"
    assert of_anna(undefer(Person.notes)).notes == "deep"
    assert of_anna(load_only(Person.name)).ssn == "1-2-3"
    assert of_anna(defer(Person.ssn)).ssn == "1-2-3"
    for eager in (joinedload, selectinload, subqueryload):
        assert [each.finding for each in of_anna(eager(Person.visits)).visits] == ["molar", None]
    found = session.scalars(sa.select(Visit).options(joinedload(Visit.person)).order_by(Visit.id).limit(1)).one()
    assert (found.finding, found.person.ssn) == ("molar", "1-2-3")
    session.expunge_all()
    statement = sa.select(Person).options(joinedload(Person.visits)).order_by(Person.name).limit(1)
    assert session.scalars(statement).unique().one().visits[0].finding == "molar"  # within a subquery
    session.expunge_all()
    joined = sa.select(Visit).join(Visit.person).options(contains_eager(Visit.person)).where(Visit.id == 1)
    assert session.scalars(joined).one().person.ssn == "1-2-3"

    # inheritance
    session.expunge_all()
    doctor = session.scalars(sa.select(Person).where(Person.id == other)).one()
    assert isinstance(doctor, Doctor)
    assert (doctor.licence, doctor.notes) == ("L7", "high")
    session.expunge_all()
    for flat in (True, False):
        alias = aliased(Doctor, flat=flat)
        doctor = session.scalars(sa.select(alias).options(undefer(alias.notes))).one()
        assert (doctor.ssn, doctor.licence, doctor.notes) == ("4-5-6", "L7", "high")
        session.expunge_all()
    whole = with_polymorphic(Person, "*")
    assert {getattr(each, "licence", None) for each in session.scalars(sa.select(whole))} == {None, "L7"}
    session.expunge_all()
    several = sa.select(Person).options(selectin_polymorphic(Person, [Doctor]))
    assert {getattr(each, "licence", None) for each in session.scalars(several)} == {None, "L7"}
    assert session.scalars(sa.select(Doctor)).one().ssn == "4-5-6"

    # aliases, subqueries, unions, streams
    session.expunge_all()
    second = aliased(Person, name="other")
    both = session.execute(sa.select(Person, second).join(second, Person.id != second.id).where(Person.id == key)).one()
    assert [each.ssn for each in both] == ["1-2-3", "4-5-6"]
    session.expunge_all()
    inner = sa.select(Person).where(Person.name == "Anna").subquery()
    assert session.scalars(sa.select(aliased(Person, inner))).one().ssn == "1-2-3"
    union = sa.union_all(sa.select(Person).where(Person.id == key), sa.select(Person).where(Person.id == other))
    assert {each.ssn for each in session.scalars(sa.select(Person).from_statement(union))} == {"1-2-3", "4-5-6"}
    session.expunge_all()
    assert {each.ssn for each in session.scalars(sa.select(Person).execution_options(yield_per=1))} == {
        "1-2-3",
        "4-5-6",
    }


def test_columns_and_core_statements_read_the_value_with_its_row(session: Session) -> None:
    session.add_all([Person(name="Anna", ssn="1-2-3"), Person(name="Bert", ssn=""), Person(name="Cora")])
    session.add(Country(id="a;b:7 ü", motto="e pluribus"))
    session.flush()
    by_name = sa.select(Person.ssn).order_by(Person.name)
    assert session.scalars(by_name).all() == ["1-2-3", "", None]
    assert session.scalars(sa.select(PERSONS.c.ssn.label("x")).order_by(PERSONS.c.name)).all() == ["1-2-3", "", None]
    assert session.execute(sa.select(PERSONS).order_by(PERSONS.c.name)).mappings().first()["ssn"] == "1-2-3"  # type: ignore[index]
    one, two = PERSONS.alias("one"), PERSONS.alias("two")
    pairs = sa.select(one.c.ssn, two.c.ssn, two.c.id, one.c.id).join(two, one.c.name != two.c.name)
    pairs = pairs.where(one.c.name == "Anna", two.c.name == "Bert")
    assert tuple(session.execute(pairs).one())[:2] == ("1-2-3", "")
    for within in (pairs.subquery(), pairs.cte(), sa.select(pairs.subquery()).subquery()):
        assert tuple(session.execute(sa.select(within)).one())[:2] == ("1-2-3", "")
    named = sa.select(Person.ssn.label("x"), Person.id.label("y"), Person.name).subquery()
    assert session.scalars(sa.select(named.c.x).order_by(named.c.name)).all() == ["1-2-3", "", None]
    changed = sa.update(Person).where(Person.name == "Anna").values(name="Anna").returning(Person.id, Person.ssn).cte()
    assert session.scalars(sa.select(changed.c.ssn)).all() == ["1-2-3"]
    left = sa.select(Person.name, Visit.finding).outerjoin(Visit).order_by(Person.name)
    assert session.execute(left).all() == [("Anna", None), ("Bert", None), ("Cora", None)]
    assert session.scalars(sa.union(by_name.order_by(None), by_name.order_by(None))).all().count("1-2-3") == 1
    assert session.scalar(sa.select(Country.motto)) == "e pluribus"
    assert session.scalar(sa.select(sa.cast(Person.ssn, sa.Text)).where(Person.name == "Anna"))[:4] == "v3x:"  # type: ignore[index]
    assert session.scalar(sa.select(sa.func.count(Person.ssn))) == 2


def test_what_does_not_select_the_key_of_the_row_is_refused_and_never_ciphertext(session: Session) -> None:
    session.add(Person(name="Anna", ssn="1-2-3"))
    session.flush()
    ids = PERSONS.alias()
    without: list[Any] = [
        sa.select(sa.select(PERSONS.c.ssn).subquery()),
        sa.select(sa.select(PERSONS.c.ssn, ids.c.id).where(ids.c.name == PERSONS.c.name).subquery()),
        sa.select(sa.select(PERSONS.c.ssn).scalar_subquery()),
        sa.text("SELECT ssn FROM persons").columns(PERSONS.c.ssn),
        sa.select(sa.type_coerce(sa.literal_column("ssn"), bound("persons.ssn"))).select_from(PERSONS),
    ]
    for statement in without:
        with pytest.raises(InvalidBindingError, match="bound to its row, which is unknown here"):
            session.execute(statement).all()
    with pytest.raises(InvalidBindingError):
        session.scalars(sa.select(Person).from_statement(sa.text("SELECT * FROM persons"))).all()


def test_every_way_of_writing_binds_the_value_to_its_row(session: Session) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    session.execute(sa.insert(PERSONS), [{"id": first, "ssn": "a"}, {"id": uuid.uuid4(), "ssn": "b"}])
    session.execute(sa.insert(PERSONS), {"id": second, "ssn": "c"})
    session.execute(sa.insert(PERSONS).values(ssn="d"))
    session.execute(sa.insert(PERSONS).values([{"id": uuid.uuid4(), "ssn": "e"}, {"id": uuid.uuid4(), "ssn": "f"}]))
    session.execute(sa.insert(PERSONS).values([{"ssn": "g"}, {"ssn": "h"}]))
    session.execute(
        sa.insert(PERSONS).values(id=sa.bindparam("k"), ssn=sa.bindparam("s")), {"k": uuid.uuid4(), "s": "i"}
    )
    returned = session.scalars(sa.insert(Person).returning(Person), [{"ssn": "j"}, {"ssn": "k"}])
    assert {each.ssn for each in returned} == {"j", "k"}
    session.bulk_insert_mappings(Person, [{"ssn": "l"}])
    session.bulk_save_objects([Person(ssn="m")])
    session.add_all([Person(ssn="n"), Person(ssn="o"), Doctor(ssn="p", licence="q")])
    session.merge(Person(id=uuid.uuid4(), ssn="r"))
    session.add(pickle.loads(pickle.dumps(Person(id=uuid.uuid4(), ssn="s"))))  # noqa: S301
    session.execute(sa.insert(Person).values(ssn="t"))
    session.flush()
    assert sorted(filter(None, session.scalars(sa.select(Person.ssn)))) == list("abcdefghijklmnoprst")

    session.execute(sa.update(PERSONS).where(PERSONS.c.id == first).values(ssn="A"))
    session.execute(sa.update(Person).where(sa.literal(second) == Person.id, Person.name.is_(None)).values(ssn="C"))
    session.execute(
        sa.update(PERSONS).where(PERSONS.c.id == sa.bindparam("k")),
        [{"k": first, "ssn": "AA"}, {"k": second, "ssn": "CC"}],
    )
    session.execute(sa.update(Person), [{"id": first, "ssn": "aa"}])
    session.expire_all()
    assert (session.get_one(Person, first).ssn, session.get_one(Person, second).ssn) == ("aa", "CC")
    updated = sa.update(Person).where(Person.id == first).values(ssn="aaa").returning(Person.ssn)
    assert session.scalar(updated) == "aaa"
    session.bulk_update_mappings(Person, [{"id": first, "ssn": "x"}, {"id": second, "ssn": "y"}])
    session.execute(sa.update(Person).values(notes=None))
    everybody = session.scalars(sa.select(Person)).all()
    for number, each in enumerate(everybody):
        each.ssn, each.notes = f"{number}", f"n{number}"
    session.commit()
    assert [(each.ssn, each.notes) for each in everybody] == [(f"{n}", f"n{n}") for n in range(len(everybody))]
    assert {each[:4] for each in (*stored(session), *stored(session, "notes"))} == {"v3x:"}

    upsert = postgres_insert(Person).values([{"id": first, "ssn": "u"}, {"id": uuid.uuid4(), "ssn": "v"}])
    upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"ssn": upsert.excluded.ssn})
    assert set(session.scalars(upsert.returning(Person.ssn))) == {"u", "v"}
    one = postgres_insert(PERSONS).values(id=first, ssn="w")
    session.execute(one.on_conflict_do_update(index_elements=[PERSONS.c.id], set_={"ssn": "w2"}))
    many = postgres_insert(PERSONS)
    many = many.on_conflict_do_update(index_elements=[PERSONS.c.id], set_={"ssn": many.excluded.ssn, "name": "x"})
    session.execute(many, [{"id": second, "ssn": "z"}, {"id": uuid.uuid4(), "ssn": "zz"}])
    session.expire_all()
    assert (session.get_one(Person, first).ssn, session.get_one(Person, second).ssn) == ("w2", "z")
    session.execute(postgres_insert(PERSONS).values(id=first, ssn="never").on_conflict_do_nothing())


class Code(str, enum.Enum):  # noqa: UP042  whose str() is not its text
    """A key that is a text, and prints as something else."""

    SWISS = "ch"


def test_a_key_is_bound_as_it_is_stored_whatever_its_python_type(session: Session) -> None:
    session.execute(sa.insert(Country), {"id": Code.SWISS, "motto": "unus pro omnibus"})
    assert session.execute(sa.select(Country.id, Country.motto)).all() == [("ch", "unus pro omnibus")]
    person = Person(name="Anna")
    session.add(person)
    session.flush()
    session.execute(sa.insert(VISITS), {"id": Decimal(7), "person_id": person.id, "finding": "molar"})
    assert session.scalars(sa.select(Visit.finding).where(Visit.id == 7)).all() == ["molar"]
    with pytest.raises(InvalidBindingError, match="a Decimal in a column of type"):  # PostgreSQL would round it
        session.execute(sa.insert(VISITS), {"id": Decimal("1.5"), "person_id": person.id, "finding": "canine"})


def test_a_list_that_is_sent_in_parts_looks_for_its_keys_once(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_all, looked, table = row_writes._bind_all, [], Base.metadata.tables["countries"]  # noqa: SLF001

    def counted(*given: Any) -> None:  # noqa: ANN401
        looked.append(given)
        bind_all(*given)

    monkeypatch.setattr(row_writes, "_bind_all", counted)
    with engine.begin() as connection:
        rows = [{"id": f"{number}", "motto": f"m{number}"} for number in range(2500)]
        assert len(connection.execute(sa.insert(table).returning(table.c.id), rows).all()) == len(rows)
        assert {each.motto == f"m{each.id}" for each in connection.execute(sa.select(table))} == {True}
    assert len(looked) == 1


class Json(TypeDecorator[Any]):
    """JSON, encrypted."""

    impl = EncryptedType(keys, row="id", row_from=3, binding="documents.content")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:  # noqa: ANN401, ARG002
        return json.dumps(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ANN401, ARG002
        return json.loads(value)


def test_a_type_around_it_and_one_for_a_database_alone_read_and_write_it(engine: sa.Engine) -> None:
    documents = sa.Table(
        "documents",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content", Json),
        sa.Column("title", sa.Text().with_variant(bound(), "postgresql")),
    )
    with engine.begin() as connection:
        documents.create(connection)
        connection.execute(documents.insert(), [{"id": n, "content": {"n": n}, "title": f"t{n}"} for n in range(3)])
        connection.execute(documents.update().where(documents.c.id == 1).values(content=[1], title="one"))
        found = connection.execute(sa.select(documents).order_by(documents.c.id)).all()
        assert [tuple(row) for row in found] == [(0, {"n": 0}, "t0"), (1, [1], "one"), (2, {"n": 2}, "t2")]
        written = connection.execute(sa.text("SELECT content, title FROM documents")).all()
        assert {text[:4] for row in written for text in row} == {"v3x:"}


def test_no_stored_text_passes_for_one_with_the_key_of_another_row(session: Session) -> None:
    anna, bert = Person(name="Anna", ssn="1-2-3"), Person(name="Bert", ssn="4-5-6")
    session.add_all([anna, bert])
    session.commit()
    forged = (
        f"36:{bert.id}" + session.scalars(sa.select(sa.cast(Person.ssn, sa.Text)).where(Person.name == "Bert")).one()
    )
    session.execute(sa.text("UPDATE persons SET ssn = :forged WHERE name = 'Anna'"), {"forged": forged})
    for statement in (
        sa.select(Person.ssn).where(Person.name == "Anna"),
        sa.text("SELECT ssn FROM persons WHERE name = 'Anna'").columns(PERSONS.c.ssn),
    ):
        with pytest.raises((MalformedCiphertextError, UnencryptedValueError)):
            session.scalars(statement).all()


def _refused_writes() -> dict[str, Callable[[Session], object]]:
    excluded = postgres_insert(PERSONS).values(id=uuid.uuid4(), email="e", ssn="x")
    several = postgres_insert(PERSONS).values([{"id": uuid.uuid4(), "ssn": "x"}, {"id": uuid.uuid4(), "ssn": "y"}])
    shared: sa.BindParameter[str] = sa.bindparam("shared")
    other = PERSONS.alias("o")
    inner = sa.insert(PERSONS).values(id=uuid.uuid4(), ssn="x").returning(PERSONS.c.id).cte()
    return {
        "a key that the server counts": lambda s: s.bulk_save_objects([Counted(code="x")]),
        "a key that the server counts, by parameters": lambda s: s.execute(sa.insert(Counted), [{"code": "x"}] * 2),
        "a key that SQL computes": lambda s: s.execute(
            sa.insert(PERSONS).values(id=sa.func.gen_random_uuid(), ssn="x")
        ),
        "all rows": lambda s: s.execute(sa.update(Person).values(ssn="x")),
        "rows by another column": lambda s: s.execute(sa.update(Person).where(Person.name == "Anna").values(ssn="x")),
        "one of two": lambda s: s.execute(
            sa.update(Person).where(sa.or_(Person.id == uuid.uuid4(), Person.name == "Anna")).values(ssn="x")
        ),
        "rows by the key of an alias": lambda s: s.execute(
            sa.update(PERSONS).where(other.c.id == uuid.uuid4(), other.c.name == PERSONS.c.name).values(ssn="x")
        ),
        "several keys": lambda s: s.execute(sa.update(Person).where(Person.id.in_([uuid.uuid4()])).values(ssn="x")),
        "one parameter in two rows": lambda s: s.execute(
            sa.insert(PERSONS).values([{"id": uuid.uuid4(), "ssn": shared}, {"id": uuid.uuid4(), "ssn": shared}]),
            {"shared": "x"},
        ),
        "a text on its own": lambda s: s.execute(
            sa.text("UPDATE persons SET ssn = :x").bindparams(sa.bindparam("x", "y", type_=PERSONS.c.ssn.type))
        ),
        "an INSERT within a SELECT": lambda s: s.execute(sa.select(inner)),
        "a SELECT that is inserted": lambda s: s.execute(
            sa.insert(PERSONS).from_select(["id", "ssn"], sa.select(PERSONS.c.id, sa.literal("x", PERSONS.c.ssn.type)))
        ),
        "an upsert of several rows with one text": lambda s: s.execute(
            several.on_conflict_do_update(index_elements=["id"], set_={"ssn": "z"})
        ),
        "copied": lambda s: s.execute(
            sa.insert(PERSONS).from_select(["id", "ssn"], sa.select(PERSONS.c.id, PERSONS.c.ssn))
        ),
        "copied in an UPDATE": lambda s: s.execute(
            sa.update(PERSONS).values(ssn=sa.select(PERSONS.alias().c.ssn).limit(1).scalar_subquery())
        ),
        "an upsert by another column": lambda s: s.execute(
            excluded.on_conflict_do_update(index_elements=["email"], set_={"ssn": excluded.excluded.ssn})
        ),
        "an upsert by a constraint": lambda s: s.execute(
            excluded.on_conflict_do_update(constraint="persons_pkey", set_={"ssn": excluded.excluded.ssn})
        ),
        "an upsert that changes the key": lambda s: s.execute(
            excluded.on_conflict_do_update(index_elements=["email"], set_={"id": excluded.excluded.id})
        ),
        "an UPDATE of the key": lambda s: s.execute(sa.update(Person).values(id=uuid.uuid4())),
    }


@pytest.mark.parametrize("engine", ["psycopg"], indirect=True)
@pytest.mark.parametrize("what", _refused_writes())
def test_a_statement_that_does_not_say_which_row_is_refused_before_it_is_sent(session: Session, what: str) -> None:
    session.add(Person(name="Anna", ssn="1-2-3", email="e"))
    session.commit()
    before = stored(session)
    with pytest.raises((InvalidBindingError, EncryptedExpressionError)) as refusal:
        _refused_writes()[what](session)
    assert "; " in str(refusal.value)
    session.rollback()
    assert stored(session) == before
    assert not stored(session, "code", "counted")


def test_a_changed_key_is_refused_at_flush(session: Session) -> None:
    anna = Person(name="Anna", ssn="1-2-3")
    session.add(anna)
    session.commit()
    anna.id = uuid.uuid4()
    with pytest.raises(EncryptedExpressionError, match=r"persons\.id"):
        session.flush()
    session.rollback()
    assert anna.ssn == "1-2-3"


def test_none_of_ten_thousand_exchanged_values_opens(engine: sa.Engine) -> None:
    rows = [{"id": number, "person_id": None, "finding": f"f{number}"} for number in range(150)]
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE visits ALTER person_id DROP NOT NULL"))
        connection.execute(sa.insert(VISITS), rows)
        whole = connection.execute(
            sa.select(VISITS.c.id, VISITS.c.finding, sa.cast(VISITS.c.finding, sa.Text).label("s"))
        )
        values = {row.id: row.s for row in whole}
        expression = VISITS.c.finding.type.column_expression(VISITS.c.finding)
        assert expression is not None
        read = expression.type.dialect_impl(engine.dialect).result_processor(engine.dialect, None)
        assert read is not None
        chosen, opened = random.Random(0), 0
        for _ in range(10_000):
            row, other = chosen.sample(range(150), 2)
            try:
                read(f"{len(str(row))}:{row}{values[other]}")
                opened += 1
            except DecryptionError:
                pass
        assert opened == 0
        assert read(f"2:42{values[42]}") == "f42"
        connection.execute(
            sa.text("UPDATE visits SET finding = (SELECT finding FROM visits o WHERE o.id = 149 - visits.id)")
        )
        for number in range(150):
            with pytest.raises(DecryptionError):
                connection.execute(sa.select(VISITS.c.finding).where(VISITS.c.id == number)).all()


def test_values_of_versions_before_are_read_and_written_without_their_row(session: Session) -> None:
    keys.ring = KeyRing({V1: KEYS[V1]}, V1)
    session.execute(sa.insert(PERSONS).values(id=uuid.uuid4(), ssn="one"))
    session.execute(sa.insert(Counted).values(code="free"))
    copy = sa.select(sa.literal(uuid.uuid4()), PERSONS.c.ssn)
    session.execute(sa.insert(PERSONS).from_select(["id", "ssn"], copy))
    keys.ring = KeyRing({V1: KEYS[V1], V2X: KEYS[V2X]}, V2X)
    session.execute(sa.update(Person).values(notes="all the same"))
    session.add(Person(ssn="two"))
    session.flush()
    keys.ring = KeyRing(KEYS, V3X)
    session.add(Person(ssn="three"))
    session.flush()
    assert sorted(filter(None, session.scalars(sa.select(Person.ssn)))) == ["one", "one", "three", "two"]
    assert set(session.scalars(sa.select(Person.notes))) == {"all the same", None}
    assert sorted(each[:3] for each in stored(session)) == ["v1:", "v1:", "v2x", "v3x"]
    assert session.scalar(sa.select(sa.select(Counted.code).subquery())) == "free"


def test_an_asyncio_application_reads_and_writes(database_url: str) -> None:
    keys.ring = KeyRing(KEYS, V3X)

    async def run() -> None:
        engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            anna = Doctor(
                name="Anna", ssn="1", licence="L", visits=[Visit(id=1, finding="m"), Visit(id=2, finding="n")]
            )
            session.add(anna)
            session.add_all([Person(ssn=f"{number}") for number in range(5)])
            await session.commit()
            session.expunge_all()
            found = (
                await session.scalars(
                    sa.select(Person).options(selectinload(Person.visits)).where(Person.name == "Anna")
                )
            ).one()
            assert (found.ssn, [each.finding for each in found.visits]) == ("1", ["m", "n"])
            found.ssn = "2"
            await session.commit()
            await session.refresh(found)
            assert found.ssn == "2"
            several = sa.insert(PERSONS).values(
                [{"ssn": "x", "name": "x"}, {"id": uuid.uuid4(), "ssn": "y", "name": "y"}]
            )
            await session.execute(several)
            where = sa.update(Person).where(Person.name.in_(["a", "b"]), Person.id == found.id).values(ssn="3")
            await session.execute(where)
            rows = await session.execute(sa.select(Person.name, Person.ssn).where(Person.name.is_not(None)))
            assert {row.name: row.ssn for row in rows} == {"Anna": "2", "x": "x", "y": "y"}
            stream = await session.stream_scalars(sa.select(Person.ssn))
            assert len([each async for each in stream]) == 8
        await engine.dispose()

    asyncio.run(run())
