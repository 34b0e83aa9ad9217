"""What `EncryptedType` binds values of the second generation to, and which statements it refuses because of that."""

from collections.abc import Iterator
from itertools import product

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from keyrotation_pipeline.encrypted_type import EncryptedType
from keyrotation_pipeline.errors import (
    DecryptionError,
    EncryptedExpressionError,
    InvalidBindingError,
    KeyRotationError,
)
from keyrotation_pipeline.fieldcrypto.cipher import decrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V2X = KeyVersion(1), KeyVersion(2, 2)
KEYS = {V1: KeyMaterial.generate(), V2X: KeyMaterial.generate()}
FIRST, SECOND = KeyRing({V1: KEYS[V1]}, V1), KeyRing(KEYS, V2X)


class Keys:
    """What an application reads its ring from; a rotation changes it."""

    def __init__(self) -> None:
        self.ring = SECOND

    def __call__(self) -> KeyRing:
        return self.ring


keys = Keys()
SHARED = EncryptedType(keys)


class Base(DeclarativeBase):
    pass


class Contact:
    """A mixin, whose columns are copied to each table."""

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column(EncryptedType(keys))
    phone: Mapped[str | None] = mapped_column(SHARED)
    other: Mapped[str | None] = mapped_column("second_phone", SHARED)


class Client(Contact, Base):
    __tablename__ = "clients"


class Doctor(Contact, Base):
    __tablename__ = "doctors"
    # SQLite has no schemas without ATTACH; the label is that of the Table.
    __table_args__ = ({"schema": "main"},)


CLIENTS, DOCTORS = Base.metadata.tables["clients"], Base.metadata.tables["main.doctors"]
MOVED = sa.Table(
    "moved_clients",
    Base.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", EncryptedType(keys, binding="clients.email", row="id", row_from=9)),
)


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    keys.ring = SECOND
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def stored(connection: sa.Connection, column: str, table: str = "clients") -> str:
    return str(connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalar_one())


def encrypted(column: sa.Column[object]) -> EncryptedType:
    assert isinstance(column.type, EncryptedType)
    return column.type


def test_each_column_has_its_own_label_though_they_share_a_type_or_a_mixin(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add_all([Client(email="a", phone="b", other="c"), Doctor(email="d")])
        session.commit()
        assert [(each.email, each.phone, each.other) for each in session.scalars(sa.select(Client))] == [
            ("a", "b", "c")
        ]
    with engine.connect() as connection:
        assert decrypt(SECOND, stored(connection, "email"), "clients.email") == "a"
        assert decrypt(SECOND, stored(connection, "phone"), "clients.phone") == "b"
        assert decrypt(SECOND, stored(connection, "second_phone"), "clients.second_phone") == "c"
        assert decrypt(SECOND, stored(connection, "email", "doctors"), "main.doctors.email") == "d"


def test_core_inserts_updates_aliases_and_subqueries_use_the_label_of_the_column(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CLIENTS.insert(), [{"email": "a"}, {"email": "b"}])
        connection.execute(CLIENTS.update().values(phone=sa.bindparam("given")), {"given": "x"})
        aliased = CLIENTS.alias("other")
        inner = sa.select(CLIENTS.c.email, CLIENTS.c.phone).subquery()
        for query in (sa.select(aliased.c.email, aliased.c.phone), sa.select(inner.c.email, inner.c.phone)):
            assert connection.execute(query).all() == [("a", "x"), ("b", "x")]
        texts = sa.text("SELECT email FROM clients").columns(email=CLIENTS.c.email.type)
        assert connection.execute(texts).scalars().all() == ["a", "b"]


def test_a_value_of_another_column_or_table_does_not_open(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CLIENTS.insert().values(email="a", phone="b", second_phone="c"))
        connection.execute(DOCTORS.insert().values(email="d"))
        places = [("clients", "email"), ("clients", "phone"), ("clients", "second_phone"), ("doctors", "email")]
        values = {place: stored(connection, place[1], place[0]) for place in places}
    for (table, column), source in product(places, places):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = ?", (values[source],))
            of = CLIENTS if table == "clients" else DOCTORS
            if source == (table, column):
                assert connection.execute(sa.select(of.c[column])).scalar_one()
            else:
                with pytest.raises(DecryptionError):
                    connection.execute(sa.select(of.c[column])).all()
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = ?", (values[table, column],))


def test_both_generations_are_read_and_the_primary_says_which_is_written(engine: sa.Engine) -> None:
    keys.ring = FIRST
    with engine.begin() as connection:
        connection.execute(CLIENTS.insert().values(email="a"))
        assert stored(connection, "email").startswith("v1:")
        keys.ring = SECOND
        assert connection.execute(sa.select(CLIENTS.c.email)).scalar_one() == "a"
        connection.execute(CLIENTS.update().values(phone="b"))
        assert stored(connection, "phone").startswith("v2x:")
        keys.ring = KeyRing(KEYS, V1)  # rolled back
        assert connection.execute(sa.select(CLIENTS.c.phone)).scalar_one() == "b"
        connection.execute(CLIENTS.update().values(phone="b"))
        assert stored(connection, "phone").startswith("v1:")


def test_a_declared_label_outlives_a_renaming() -> None:
    old = sa.Table("clients", sa.MetaData(), sa.Column("mail", EncryptedType(keys)))
    renamed = sa.Table("patients", sa.MetaData(), sa.Column("email", EncryptedType(keys, binding="clients.mail")))
    keys.ring = SECOND
    before, after = encrypted(old.c.mail), encrypted(renamed.c.email)
    dialect = sa.create_engine("sqlite://").dialect
    assert after.process_result_value(before.process_bind_param("a", dialect), dialect) == "a"
    copies = old.to_metadata(sa.MetaData(), name="people"), renamed.to_metadata(sa.MetaData())
    assert [encrypted(copy.c[0]).binding for copy in copies] == ["people.mail", "clients.mail"]


@pytest.mark.parametrize("base", [sa.Text(), EncryptedType(keys, binding="for.others")])
def test_variants_for_a_database_have_the_label_of_their_column(
    engine: sa.Engine, base: sa.types.TypeEngine[str]
) -> None:
    shared = base.with_variant(EncryptedType(keys), "sqlite")
    columns = (sa.Column("email", shared), sa.Column("phone", shared), sa.Column("plain", sa.Text()))
    table = sa.Table("visitors", sa.MetaData(), *columns)
    copied = table.to_metadata(sa.MetaData(), name="guests")
    with engine.begin() as connection:
        for each in (table, copied):
            each.create(connection)
            connection.execute(each.insert().values(email="a", phone="b", plain="c"))
            assert connection.execute(sa.select(each)).all() == [("a", "b", "c")]
        for place in ("visitors.email", "visitors.phone", "guests.email", "guests.phone"):
            name, _, column = place.partition(".")
            assert decrypt(SECOND, stored(connection, column, name), place) == ("a" if column == "email" else "b")
        with pytest.raises(EncryptedExpressionError, match="could never be read"):
            connection.execute(table.update().values(phone=table.c.email))


class Trimmed(sa.TypeDecorator[str]):
    """A type of an application's own around an encrypting one."""

    impl = EncryptedType(keys, binding="visitors.name")
    cache_ok = True


class Unbound(Trimmed):
    impl = EncryptedType(keys)


def test_inside_another_type_a_declared_label_is_needed(engine: sa.Engine) -> None:
    def visitors(type_: sa.types.TypeEngine[str]) -> sa.Table:
        return sa.Table("visitors", sa.MetaData(), sa.Column("name", type_))

    with engine.begin() as connection:
        visitors(Trimmed()).create(connection)
        connection.execute(visitors(Trimmed()).insert().values(name="a"))
        assert decrypt(SECOND, stored(connection, "name", "visitors"), "visitors.name") == "a"
        with pytest.raises(InvalidBindingError, match="is bound to its column, which is unknown here"):
            connection.execute(visitors(Unbound()).insert().values(name="a"))


def test_where_no_column_is_known_one_sentence_says_what_to_give(engine: sa.Engine) -> None:
    dotted = sa.Table("a.b", sa.MetaData(), sa.Column("c", EncryptedType(keys)))
    for type_ in (EncryptedType(keys), dotted.c.c.type):
        with engine.connect() as connection, pytest.raises(InvalidBindingError, match="give it binding="):
            connection.execute(sa.select(sa.literal("a", type_)))
    with pytest.raises(InvalidBindingError, match="printable"):
        EncryptedType(keys, binding="a\nb")


COPIES = {
    "UPDATE from another column": sa.update(CLIENTS).values(phone=CLIENTS.c.email),
    "INSERT from another table": sa.insert(CLIENTS).from_select(["email"], sa.select(DOCTORS.c.email)),
    "UPDATE from a subquery": sa.update(CLIENTS).values(email=sa.select(DOCTORS.c.email).scalar_subquery()),
    "UPDATE from the second SELECT of a UNION": sa.update(CLIENTS).values(
        email=sa.union(
            sa.select(CLIENTS.c.email).where(sa.false()), sa.select(DOCTORS.c.email).where(DOCTORS.c.phone.is_(None))
        ).scalar_subquery()
    ),
    "INSERT of values that are bound to their rows": sa.insert(CLIENTS).from_select(
        ["email"], sa.select(MOVED.c.email)
    ),
    "a literal of another column's type": sa.insert(CLIENTS).values(email=sa.literal("a", CLIENTS.c.phone.type)),
    "one parameter for two columns": sa.update(CLIENTS).values(
        phone=sa.bindparam("one", type_=CLIENTS.c.phone.type), email=sa.bindparam("one", type_=CLIENTS.c.email.type)
    ),
}


@pytest.mark.parametrize("statement", COPIES.values(), ids=list(COPIES))
def test_statements_that_copy_stored_values_are_refused_from_the_first_key_of_the_second_generation_on(
    engine: sa.Engine, statement: sa.Executable
) -> None:
    given = {"one": "x"} if "one" in str(statement) else {}
    keys.ring = FIRST
    with engine.begin() as connection:
        connection.execute(statement, given)  # cached from now on
    keys.ring = KeyRing(KEYS, V1)
    with engine.begin() as connection, pytest.raises(EncryptedExpressionError, match="could never be read"):
        connection.execute(statement, given)


def test_copies_within_a_column_stay_possible(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CLIENTS.insert().values(email="a"))
        connection.execute(CLIENTS.insert().from_select(["email"], sa.select(CLIENTS.c.email)))
        assert connection.execute(sa.select(CLIENTS.c.email)).scalars().all() == ["a", "a"]
        others = CLIENTS.alias()
        chosen = sa.select(others.c.email).where(others.c.phone.is_(None))
        newest = chosen.order_by(others.c.second_phone).limit(1).scalar_subquery()
        for value in (newest, newest.label("newest"), chosen.union(chosen).scalar_subquery()):
            connection.execute(CLIENTS.update().values(email=value))
        assert connection.execute(sa.select(CLIENTS.c.email)).scalars().all() == ["a", "a"]


def test_no_error_holds_a_text_or_a_stored_value(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CLIENTS.insert().values(email="secret", phone="x"))
        connection.exec_driver_sql("UPDATE clients SET phone = email")
        value = stored(connection, "email")
        with pytest.raises(KeyRotationError) as refusal:
            connection.execute(sa.select(CLIENTS.c.phone)).all()
    assert "secret" not in str(refusal.value)
    assert value not in str(refusal.value)
