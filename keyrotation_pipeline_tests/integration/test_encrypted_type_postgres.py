"""`EncryptedType` in an application on real PostgreSQL: the ORM's ways of writing and reading rows."""

import asyncio
import importlib.util
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import (
    Engine,
    ForeignKey,
    Text,
    cast,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, relationship, selectinload

from keyrotation_pipeline.encrypted_type import EncryptedType, KeyRing, SearchIndex, ciphertext_length, matches
from keyrotation_pipeline.errors import DecryptionError, EncryptedExpressionError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V2 = KeyVersion(1), KeyVersion(2)
KEYS = {V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}


class Keys:
    """A provider whose ring a test replaces."""

    ring = KeyRing(KEYS, V1)

    def __call__(self) -> KeyRing:
        return self.ring


keys = Keys()


class Base(DeclarativeBase):
    pass


class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="client")
    first_name: Mapped[str | None] = mapped_column(EncryptedType(keys))
    email: Mapped[str | None] = mapped_column(EncryptedType(keys, length=ciphertext_length(20)))
    appointments: Mapped[list["Appointment"]] = relationship(back_populates="client", cascade="all, delete-orphan")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "client"}  # noqa: RUF012


class Patient(Base):
    __tablename__ = "patients"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column(EncryptedType(keys))
    email_odd: Mapped[str | None] = mapped_column(SearchIndex(keys, of="email", odd=True), unique=True)
    email_even: Mapped[str | None] = mapped_column(SearchIndex(keys, of="email", odd=False), unique=True)


class Minor(Client):
    __tablename__ = "minors"
    id: Mapped[int] = mapped_column(ForeignKey("clients.id"), primary_key=True)
    guardian: Mapped[str | None] = mapped_column(EncryptedType(keys))
    __mapper_args__ = {"polymorphic_identity": "minor"}  # noqa: RUF012


class Appointment(Base):
    __tablename__ = "appointments"
    id: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("clients.id"))
    notes: Mapped[str | None] = mapped_column(EncryptedType(keys))
    client: Mapped[Client] = relationship(back_populates="appointments")


STORED = select(cast(Client.first_name, Text)).order_by(Client.id)
NAMES = select(Client.first_name).order_by(Client.id)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    keys.ring = KeyRing(KEYS, V1)
    made = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as opened:
        yield opened


def test_text_null_and_the_empty_text_come_back(session: Session) -> None:
    texts = ["Anna", "", None, "日本語 🦷", "a\x00b", "x" * 1_000_000]
    session.add_all([Client(first_name=value) for value in texts])
    session.commit()
    assert session.scalars(NAMES).all() == texts
    assert [value and value[:3] for value in session.scalars(STORED)] == ["v1:", "v1:", None, "v1:", "v1:", "v1:"]


def test_related_and_inherited_objects_come_back(session: Session) -> None:
    session.add(Minor(first_name="Anna", guardian="Berta", appointments=[Appointment(notes="molar"), Appointment()]))
    session.commit()
    session.expunge_all()
    anna = session.scalars(select(Client).options(selectinload(Client.appointments))).one()
    assert isinstance(anna, Minor)
    assert (anna.first_name, anna.guardian) == ("Anna", "Berta")
    assert sorted(appointment.notes or "" for appointment in anna.appointments) == ["", "molar"]
    session.delete(anna)
    session.commit()
    assert session.scalar(select(func.count()).select_from(Appointment)) == 0


def test_many_objects_with_two_encrypted_columns_are_inserted_and_returned(session: Session) -> None:
    rows = [{"first_name": f"Anna {number}", "email": f"a{number}@x"} for number in range(3)]
    returned = session.scalars(insert(Client).returning(Client, sort_by_parameter_order=True), rows)
    assert [(each.first_name, each.email) for each in returned] == [tuple(row.values()) for row in rows]
    table = Client.metadata.tables["clients"]
    with pytest.raises(EncryptedExpressionError, match=r"clients\.(first_name|email) is encrypted"):
        session.execute(select(Client.id).where(table.c.first_name == table.c.email))


@pytest.mark.parametrize("synchronise", ["auto", "evaluate", "fetch", False])
def test_bulk_changes_reach_rows_and_objects(session: Session, synchronise: str | bool) -> None:
    anna, nobody, bert = Client(first_name="Anna"), Client(first_name=None), Client(first_name="Bert")
    session.add_all([anna, nobody, bert])
    session.flush()
    options = {"synchronize_session": synchronise}
    session.execute(
        update(Client).where(Client.first_name.is_(None)).values(first_name="Carl"), execution_options=options
    )
    session.execute(delete(Client).where(Client.id == anna.id), execution_options=options)
    session.expire_all()
    assert session.scalars(NAMES).all() == ["Carl", "Bert"]


def test_returning_upsert_and_bulk_insert_encrypt(session: Session) -> None:
    rows = [{"id": number, "first_name": f"name {number}"} for number in (1, 2)]
    assert session.scalars(insert(Client).returning(Client.first_name), rows).all() == ["name 1", "name 2"]
    upsert = postgres_insert(Client).values(id=1, first_name="Anna", kind="client")
    session.execute(
        upsert.on_conflict_do_update(index_elements=["id"], set_={"first_name": upsert.excluded.first_name})
    )
    assert session.scalars(NAMES).all() == ["Anna", "name 2"]


def test_subqueries_aliases_and_unions_decrypt(session: Session) -> None:
    session.add_all([Client(first_name="Anna"), Client(first_name="Bert")])
    session.flush()
    inner = select(Client.id, Client.first_name.label("name")).cte()
    other = aliased(Client)
    assert set(session.scalars(select(inner.c.name))) == {"Anna", "Bert"}
    assert set(session.scalars(select(other.first_name).where(other.first_name.is_not(None)))) == {"Anna", "Bert"}
    both = union_all(select(Client.first_name), select(other.first_name))
    assert sorted(map(str, session.scalars(both))) == ["Anna", "Anna", "Bert", "Bert"]


def test_refreshed_and_merged_objects_decrypt(session: Session) -> None:
    session.add(Client(id=1, first_name="Anna"))
    session.commit()
    merged = session.merge(Client(id=1, first_name="Berta"))
    session.flush()
    session.refresh(merged)
    assert merged.first_name == "Berta"


def test_a_column_of_ciphertext_length_holds_the_longest_text(session: Session) -> None:
    session.add(Client(email="🦷" * 20))
    session.commit()
    session.add(Client(email="🦷" * 40))
    with pytest.raises(DataError, match="too long") as caught:
        session.commit()
    assert "🦷" not in str(caught.value)


def test_a_statement_that_the_database_refuses_shows_no_plaintext(session: Session) -> None:
    session.add(Client(id=1))
    session.commit()
    with pytest.raises(IntegrityError) as caught:
        session.execute(insert(Client).values(id=1, first_name="Anna Schmidt"))
    assert "Schmidt" not in str(caught.value)


def test_a_promotion_changes_what_is_written_and_not_what_can_be_read(session: Session) -> None:
    session.add(Client(first_name="Anna"))
    session.commit()
    keys.ring = KeyRing(KEYS, V2)
    session.add(Client(first_name="Bert"))
    session.commit()
    assert [value[:3] for value in session.scalars(STORED)] == ["v1:", "v2:"]
    assert session.scalars(NAMES).all() == ["Anna", "Bert"]


def test_a_value_moved_to_a_retired_or_wrong_key_is_an_error(session: Session) -> None:
    session.add(Client(first_name="Anna"))
    session.commit()
    keys.ring = KeyRing({V2: KEYS[V2]}, V2)
    with pytest.raises(UnknownKeyVersionError, match="v1"):
        session.scalars(NAMES).all()
    keys.ring = KeyRing({V1: KEYS[V2]}, V1)
    with pytest.raises(DecryptionError, match="v1"):
        session.scalars(NAMES).all()


def test_a_value_in_the_place_of_another_decrypts_there(session: Session) -> None:
    """Which is not protected: the source procedure's format has no associated data."""
    session.add_all([Client(first_name="Anna"), Client(first_name="Bert")])
    session.commit()
    swap = "UPDATE clients SET first_name = other.first_name FROM clients other WHERE other.id <> clients.id"
    session.execute(text(swap))
    session.commit()
    first, second = session.scalars(select(Client).order_by(Client.id))
    assert (first.first_name, second.first_name) == ("Bert", "Anna")


def test_values_written_by_others_are_read(session: Session, seal: Callable[[KeyRing, int, str], str]) -> None:
    values = {"first_name": seal(keys.ring, 2, "Anna")}
    session.execute(text("INSERT INTO clients (first_name, kind) VALUES (:first_name, 'client')"), values)
    assert session.scalars(NAMES).all() == ["Anna"]


def test_rows_are_stored_only_with_the_search_index_of_their_text(session: Session) -> None:
    def row(number: int, *texts: str | None) -> dict[str, object]:
        return {"id": number, **dict(zip(("email", "email_odd", "email_even"), texts, strict=True))}

    rows = [row(number, *[f"user{number}"] * 3) for number in range(2500)]  # more than one INSERT
    wrong = [*rows[:-1], row(2499, "user2499", "user2499", "user1")]
    upsert = postgres_insert(Patient)
    excluded = {name: upsert.excluded[name] for name in ("email", "email_odd", "email_even")}
    statements = [insert(Patient), insert(Patient).returning(Patient.id), insert(Base.metadata.tables["patients"])]
    statements += [upsert.on_conflict_do_update(index_elements=["id"], set_=excluded)]
    for statement in statements:
        with pytest.raises(EncryptedExpressionError, match="different texts"):
            session.execute(statement, wrong)
        session.rollback()
    alone = [
        postgres_insert(Patient).values(row(1, *["x"] * 3)).on_conflict_do_update(index_elements=["id"], set_=values)
        for values in ({"email_odd": "x"}, {"email_odd": None}, {"email": "y", "email_odd": "x", "email_even": "y"})
    ]
    for each in [*alone, update(Patient).values(email_odd="x"), update(Patient).values(email_even=None)]:
        with pytest.raises(EncryptedExpressionError, match=r"does not set email|different texts"):
            session.execute(each)
        session.rollback()
    assert session.scalars(select(Patient.id)).all() == []
    session.execute(statements[-1], rows)
    session.execute(statements[-1], rows[-3:])
    found = select(Patient.id).where(matches(Patient.email, "user2499"))
    assert session.scalars(found).all() == [2499]


@pytest.mark.skipif(importlib.util.find_spec("greenlet") is None, reason="SQLAlchemy's asyncio needs greenlet")
def test_an_asynchronous_engine_encrypts_and_decrypts(engine: Engine) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine  # noqa: PLC0415 - needs greenlet

    async def walk() -> list[str | None]:
        asynchronous = create_async_engine(engine.url)
        async with AsyncSession(asynchronous) as session:
            session.add(Client(first_name="Anna"))
            await session.commit()
            names = list(await session.scalars(NAMES))
        await asynchronous.dispose()
        return names

    assert asyncio.run(walk()) == ["Anna"]
