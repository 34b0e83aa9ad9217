"""`EncryptedType` on SQLite, which keeps text as it comes; `integration/` has the same on PostgreSQL."""

import base64
import pickle
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    cast,
    create_engine,
    insert,
    literal,
    null,
    select,
    type_coerce,
    update,
)
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeDecorator
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine  # type: ignore[import-untyped]

from keyrotation_pipeline.encrypted_type import (
    EncryptedType,
    EnvironmentKeyRing,
    KeyRing,
    LegacyKey,
    ciphertext_length,
)
from keyrotation_pipeline.encrypted_type.column import encrypted_from_of, old_forms_of
from keyrotation_pipeline.errors import (
    AlreadyEncryptedError,
    DecryptionError,
    EncryptedComparisonError,
    InvalidKeyError,
    KeyRingUnavailableError,
    KeyRotationError,
    LegacyValueError,
    MalformedCiphertextError,
    PlaintextEncodingError,
    PlaintextTypeError,
    UnencryptedValueError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
KEYS = {V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}
RING = KeyRing(KEYS, V2)
SECRET = "Anna Schmidt"

Seal = Callable[[KeyRing, int, str], str]


def clients_with(first_name: TypeDecorator[str]) -> Table:
    return Table("clients", MetaData(), Column("id", Integer, primary_key=True), Column("first_name", first_name))


CLIENTS = clients_with(EncryptedType(RING))
STORED = select(cast(CLIENTS.c.first_name, Text))


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = create_engine("sqlite://")
    CLIENTS.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def database(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        yield connection


def store(database: Connection, *stored: str | bytes | None) -> None:
    """Put values into the column as they are."""
    for value in stored:
        database.exec_driver_sql("INSERT INTO clients (first_name) VALUES (?)", (value,))


# --- writing and reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [SECRET, "", "日本語 🦷", "v1:not a value", "a\x00b", "x" * 100_000])
def test_a_text_is_stored_under_the_primary_and_comes_back(database: Connection, text: str) -> None:
    database.execute(insert(CLIENTS).values(first_name=text))
    stored = database.execute(STORED).scalar_one()
    assert stored.startswith("v2:")
    assert len(stored) <= ciphertext_length(len(text))
    assert database.execute(select(CLIENTS.c.first_name)).scalar_one() == text


def test_none_is_null(database: Connection) -> None:
    database.execute(insert(CLIENTS).values(first_name=None))
    assert database.execute(STORED).scalar_one() is None
    assert database.execute(select(CLIENTS.c.first_name)).scalar_one() is None


def test_a_stored_empty_text_reads_as_such(database: Connection) -> None:
    store(database, "")
    assert database.execute(select(CLIENTS.c.first_name)).scalar_one() == ""


def test_every_version_of_the_ring_is_read_side_by_side(database: Connection, seal: Seal) -> None:
    store(database, seal(RING, 1, "Anna"), seal(RING, 2, "Bert"))
    assert database.execute(select(CLIENTS.c.first_name)).scalars().all() == ["Anna", "Bert"]


@pytest.mark.parametrize("value", [3, b"Anna", True, 1.5, ["Anna"], object()], ids=lambda value: type(value).__name__)
def test_other_types_than_text_are_refused(database: Connection, value: object) -> None:
    with pytest.raises(PlaintextTypeError, match=f"not {type(value).__name__}; convert"):
        database.execute(insert(CLIENTS).values(first_name=value))


def other_ring() -> KeyRing:
    return KeyRing({V3: KeyMaterial.generate()}, V3)


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        pytest.param("Anna", UnencryptedValueError, id="unencrypted"),
        pytest.param(f"v1:{'A' * 16}:Anna", MalformedCiphertextError, id="damaged"),
        pytest.param(f"V1:{'A' * 16}:Anna", MalformedCiphertextError, id="near miss"),
        pytest.param("v1:Anna", UnencryptedValueError, id="a text that begins like a value"),
        pytest.param(f"v9:{'A' * 16}:{'A' * 24}", UnknownKeyVersionError, id="unknown version"),
        pytest.param(f"v1:{'A' * 16}:{'A' * 24}", DecryptionError, id="wrong tag"),
        pytest.param(b"Anna", PlaintextTypeError, id="bytes in a column without types"),
    ],
)
def test_what_is_no_readable_value_raises(database: Connection, stored: str, kind: type[KeyRotationError]) -> None:
    store(database, stored)
    with pytest.raises(kind) as caught:
        database.execute(select(CLIENTS.c.first_name)).all()
    assert "Anna" not in str(caught.value)


def test_legacy_passes_unencrypted_values_and_nothing_damaged(database: Connection, seal: Seal) -> None:
    clients = clients_with(EncryptedType(RING, legacy="passthrough"))
    store(database, "Anna", "v1 ward", seal(RING, 1, "Bert"))
    assert database.execute(select(clients.c.first_name)).scalars().all() == ["Anna", "v1 ward", "Bert"]
    store(database, seal(RING, 1, "Carl")[:-1])
    with pytest.raises(MalformedCiphertextError):
        database.execute(select(clients.c.first_name)).all()


def test_legacy_passes_texts_that_only_begin_like_values(database: Connection) -> None:
    clients = clients_with(EncryptedType(RING, legacy="passthrough"))
    texts = ["v2: final version of the plan", "V1: see above", "v1x:", "v1:note"]
    store(database, *texts)
    assert database.execute(select(clients.c.first_name)).scalars().all() == texts
    for row, text in enumerate(texts, 1):
        database.execute(update(clients).where(clients.c.id == row).values(first_name=text))
    assert [each[:3] for each in database.execute(STORED).scalars()] == ["v2:"] * 4
    assert database.execute(select(clients.c.first_name)).scalars().all() == texts


@pytest.mark.parametrize("legacy", [None, "passthrough"])
@pytest.mark.parametrize("ring", [RING, KeyRing({V3: KeyMaterial.generate()}, V3)], ids=["its key", "another key"])
def test_a_value_copied_from_a_row_is_not_encrypted_again(
    database: Connection, seal: Seal, legacy: Literal["passthrough"] | None, ring: KeyRing
) -> None:
    copied = seal(ring, 3 if V3 in ring.versions else 1, "Anna")
    with pytest.raises(AlreadyEncryptedError, match="a text to encrypt is an encrypted value already") as caught:
        database.execute(insert(clients_with(EncryptedType(RING, legacy=legacy))).values(first_name=copied))
    assert copied[5:] not in str(caught.value)
    assert database.execute(STORED).scalars().all() == []


def test_legacy_still_encrypts_what_it_writes(database: Connection) -> None:
    database.execute(insert(clients_with(EncryptedType(RING, legacy="passthrough"))).values(first_name="Anna"))
    assert database.execute(STORED).scalar_one().startswith("v2:")


# --- queries --------------------------------------------------------------------------------------------------------

first_name: Any = CLIENTS.c.first_name


@pytest.mark.parametrize(
    "compare",
    [
        pytest.param(lambda: first_name == "Anna", id="equal"),
        pytest.param(lambda: first_name != "Anna", id="not equal"),
        pytest.param(lambda: first_name == CLIENTS.alias().c.first_name, id="equal to a column"),
        pytest.param(lambda: first_name < "B", id="less"),
        pytest.param(lambda: first_name >= "B", id="at least"),
        pytest.param(lambda: first_name.like("A%"), id="like"),
        pytest.param(lambda: first_name.not_like("A%"), id="not like"),
        pytest.param(lambda: first_name.ilike("a%"), id="ilike"),
        pytest.param(lambda: first_name.in_(["Anna"]), id="in"),
        pytest.param(lambda: first_name.in_(select(literal("Anna"))), id="in a query"),
        pytest.param(lambda: first_name.not_in(["Anna"]), id="not in"),
        pytest.param(lambda: first_name.between("A", "B"), id="between"),
        pytest.param(lambda: first_name.startswith("A"), id="startswith"),
        pytest.param(lambda: first_name.contains("n"), id="contains"),
        pytest.param(lambda: first_name.regexp_match("A.*"), id="regular expression"),
        pytest.param(lambda: first_name.match("A"), id="full text"),
        pytest.param(lambda: first_name.is_distinct_from("A"), id="is distinct from"),
        pytest.param(lambda: first_name.is_("A"), id="is, with a text"),
        pytest.param(lambda: first_name + "!", id="concatenation"),
        pytest.param(lambda: "Dr " + first_name, id="concatenation from the left"),
        pytest.param(lambda: first_name.op("~")("A"), id="any operator"),
        pytest.param(first_name.desc, id="sorting"),
        pytest.param(lambda: first_name.collate("C"), id="collation"),
        pytest.param(lambda: select(CLIENTS).filter_by(first_name="Anna"), id="filter_by"),
    ],
)
def test_a_comparison_that_cannot_work_says_why(compare: Callable[[], object]) -> None:
    with pytest.raises(EncryptedComparisonError, match=r"^clients\.first_name is encrypted .* only is_\(None\)"):
        compare()


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        pytest.param(first_name.is_(None), [2], id="is_"),
        pytest.param(first_name == None, [2], id="== None"),  # noqa: E711
        pytest.param(first_name.is_(null()), [2], id="is_ null()"),
        pytest.param(first_name.is_not(None), [1, 3], id="is_not"),
        pytest.param(first_name != None, [1, 3], id="!= None"),  # noqa: E711
    ],
)
def test_null_can_be_asked_for(database: Connection, condition: ColumnElement[bool], found: list[int]) -> None:
    database.execute(insert(CLIENTS), [{"first_name": "Anna"}, {"first_name": None}, {"first_name": ""}])
    assert database.execute(select(CLIENTS.c.id).where(condition)).scalars().all() == found


# --- errors and SQLAlchemy ------------------------------------------------------------------------------------------


def broken_provider() -> KeyRing:
    raise LookupError(SECRET)


def empty_provider() -> KeyRing:
    return KeyRing.from_environment({})


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        pytest.param(EncryptedType(RING), [SECRET], PlaintextTypeError, id="wrong type"),
        pytest.param(EncryptedType(RING), f"{SECRET}\udfff", PlaintextEncodingError, id="lone surrogate"),
        pytest.param(EncryptedType(broken_provider), SECRET, KeyRingUnavailableError, id="provider fails"),
        pytest.param(EncryptedType(empty_provider), SECRET, InvalidKeyError, id="no key"),
    ],
)
def test_an_error_in_a_statement_is_ours_and_without_its_parameters(
    database: Connection, column: EncryptedType, value: object, kind: type[KeyRotationError]
) -> None:
    with pytest.raises(kind) as caught:
        database.execute(insert(clients_with(column)), [{"first_name": "Bert"}, {"first_name": value}])
    chain: list[BaseException] = [caught.value]
    for error in chain:
        assert "Anna" not in str(error) + repr(error) + repr(vars(error))
        chain += [linked for linked in (error.__cause__, error.__context__) if linked and linked not in chain]


def test_an_error_handed_through_reaches_another_process_as_its_plain_class(database: Connection) -> None:
    store(database, f"v9:{'A' * 16}:{'A' * 24}")
    with pytest.raises(UnknownKeyVersionError) as caught:
        database.execute(select(CLIENTS.c.first_name)).all()
    arrived = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (type(arrived), str(arrived), arrived.version) == (UnknownKeyVersionError, str(caught.value), "v9")


def test_two_columns_with_different_rings_never_share_a_cached_statement(engine: Engine) -> None:
    other = other_ring()
    for ring, prefix in ((RING, "v2:"), (other, "v3:"), (RING, "v2:")):
        with engine.begin() as database:
            database.execute(CLIENTS.delete())
            database.execute(insert(clients_with(EncryptedType(ring))).values(first_name="Anna"))
            assert database.execute(STORED).scalar_one().startswith(prefix)
            assert database.execute(select(type_coerce(first_name, EncryptedType(ring)))).scalar_one() == "Anna"


def test_statements_are_cached(engine: Engine) -> None:
    column = EncryptedType(RING)
    with engine.begin() as database:
        hits = [database.execute(select(type_coerce(first_name, column))).context.cache_hit.name for _ in range(2)]
    assert hits == ["CACHE_MISS", "CACHE_HIT"]


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> KeyRing:
        return RING


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param((bytes(32),), "takes a KeyRing or what gives one", id="key bytes, as the source procedure's"),
        pytest.param((Unhashable(),), "hashable", id="unhashable provider"),
        pytest.param((RING, "pass"), "legacy", id="unknown legacy"),
    ],
)
def test_a_column_that_cannot_be_right_is_refused_at_once(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(InvalidKeyError, match=sentence):
        EncryptedType(*arguments)


@pytest.mark.parametrize(
    ("column", "ddl"),
    [
        pytest.param(EncryptedType(RING), "first_name TEXT", id="text"),
        pytest.param(EncryptedType(RING, length=ciphertext_length(100)), "first_name VARCHAR(581)", id="varchar"),
    ],
)
@pytest.mark.parametrize("url", ["postgresql+psycopg://", "sqlite://"])
def test_the_column_is_text_or_as_wide_as_asked(column: EncryptedType, ddl: str, url: str) -> None:
    assert ddl in str(CreateTable(clients_with(column)).compile(dialect=create_engine(url).dialect))


IMPORTED = """
import sys
import keyrotation_pipeline.encrypted_type
print(*{".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("keyrotation_pipeline.")})
print(*{name.split(".")[0] for name in sys.modules})
from keyrotation_pipeline.fieldcrypto import formats
print(*{name.split(".")[3] for name in sys.modules if name.startswith(f"{formats.__name__}.")})
"""


def test_applications_import_nothing_of_the_pipeline() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], check=True, capture_output=True, text=True)
    ours, roots, formats = (set(line.split()) for line in done.stdout.splitlines())
    assert formats == {"sources"}, "libraries that the application does not use"
    assert {name.partition(".")[2] for name in ours} == {"encrypted_type", "errors", "fieldcrypto", "regular_files"}
    assert "cryptography" in roots
    assert not roots & {
        "dagster",
        "boto3",
        "botocore",
        "kubernetes",
        "psycopg",
        "pydantic",
        "alembic",
        "gnupg",
        "typer",
    }


# --- the ORM --------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Client(Base):
    __table__ = CLIENTS
    id: Mapped[int]
    first_name: Mapped[str | None]


def test_objects_are_written_read_and_changed(engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([Client(first_name="Anna"), Client(first_name=None)])
        session.commit()
        anna = session.scalars(select(Client).where(Client.first_name.is_not(None))).one()
        before = session.execute(STORED).scalars().first()
        anna.first_name = "Anna"
        session.commit()
        assert session.execute(STORED).scalars().first() == before, "the same text again is no change"
        anna.first_name = "Beate"
        session.commit()
        session.execute(update(Client).where(Client.first_name.is_(None)).values(first_name="Carl"))
        assert session.scalars(select(Client.first_name).order_by(Client.id)).all() == ["Beate", "Carl"]
    with pytest.raises(EncryptedComparisonError, match="first_name is encrypted"):
        Client.first_name == "Anna"  # noqa: B015


# --- the key ring from the environment ------------------------------------------------------------------------------


def environment_of(ring: KeyRing) -> dict[str, str]:
    names = {V1: "ENCRYPTION_MASTER_KEY", V2: "ENCRYPTION_MASTER_KEY_V2"}
    keys = {names[version]: base64_of(ring.material(version)) for version in ring.versions}
    return keys | {"ENCRYPTION_PRIMARY_VERSION": str(ring.primary)}


def test_a_running_application_takes_a_new_key_and_a_new_primary(engine: Engine) -> None:
    environment = environment_of(KeyRing({V1: KEYS[V1]}, V1))
    keys = EnvironmentKeyRing(environment)
    clients = clients_with(EncryptedType(keys))
    written = []
    for ring in (KeyRing({V1: KEYS[V1]}, V1), KeyRing(KEYS, V1), RING):
        environment.update(environment_of(ring))
        keys.reload()
        with engine.begin() as database:
            database.execute(insert(clients).values(first_name="Anna"))
            written = [value[:3] for value in database.execute(STORED).scalars()]
            assert set(database.execute(select(clients.c.first_name)).scalars()) == {"Anna"}
    assert written == ["v1:", "v1:", "v2:"]


def test_a_failed_reload_raises_and_keeps_the_old_ring() -> None:
    environment = environment_of(RING)
    keys = EnvironmentKeyRing(environment)
    before = keys()
    environment["ENCRYPTION_MASTER_KEY_V2"] = "broken"
    with pytest.raises(InvalidKeyError, match="ENCRYPTION_MASTER_KEY_V2 does not hold a key"):
        keys.reload()
    assert keys() is before


def test_variables_are_read_at_first_use_and_then_not_before_a_reload() -> None:
    environment: dict[str, str] = {}
    keys = EnvironmentKeyRing(environment)
    with pytest.raises(InvalidKeyError, match="no key is set"):
        keys()
    environment.update(environment_of(RING))
    ring = keys()
    environment.clear()
    assert keys() is ring


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(RING).items():
        monkeypatch.setenv(name, value)
    assert EnvironmentKeyRing()().primary == V2


def test_threads_see_one_whole_ring_while_it_is_reloaded() -> None:
    keys = EnvironmentKeyRing(environment_of(RING))
    seen: list[KeyRing] = []

    def use() -> None:
        for _ in range(200):
            seen.append(keys())
            seen.append(keys.reload())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4 * 200 * 2
    assert all(ring.versions == (V1, V2) and ring.primary == V2 for ring in seen)


# --- the source procedure -------------------------------------------------------------------------------------------


class SeedEncryptedType(TypeDecorator[str]):
    """The code of the source procedure, section 4.2."""

    impl = String
    cache_ok = False

    def __init__(self, key: bytes, key_v1: bytes) -> None:
        super().__init__()
        self.cipher = AESGCM(key)
        self.cipher_v1 = AESGCM(key_v1)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:  # noqa: ANN401, ARG002
        nonce = secrets.token_bytes(12)
        ciphertext = self.cipher.encrypt(nonce, value.encode("utf-8"), None)
        return f"v2:{base64.b64encode(nonce).decode()}:{base64.b64encode(ciphertext).decode()}"

    def process_result_value(self, value: Any, dialect: Dialect) -> str:  # noqa: ANN401, ARG002
        parts = value.split(":")
        cipher = {"v2": self.cipher, "v1": self.cipher_v1}[parts[0]]
        return cipher.decrypt(base64.b64decode(parts[1]), base64.b64decode(parts[2]), None).decode("utf-8")


@pytest.mark.parametrize("primary", [V1, V2], ids=str)
def test_the_source_applications_type_reads_ours_and_we_read_its(database: Connection, primary: KeyVersion) -> None:
    texts = ["Anna Schmidt", "", "日本語 🦷", "x" * 10_000]
    seeds = clients_with(SeedEncryptedType(raw_of(KEYS[V2]), raw_of(KEYS[V1])))
    ours = clients_with(EncryptedType(KeyRing(KEYS, primary)))
    for writer, reader in ((seeds, ours), (ours, seeds)):
        database.execute(CLIENTS.delete())
        database.execute(insert(writer), [{"first_name": text} for text in texts])
        assert database.execute(select(reader.c.first_name)).scalars().all() == texts


# --- a column that held plaintext -----------------------------------------------------------------------------------


def before_and_after() -> tuple[Table, Table]:
    """The table of one application release, under the primary before v2 and under v2."""
    return tuple(clients_with(EncryptedType(KeyRing(KEYS, each), encrypted_from=2)) for each in (V1, V2))  # type: ignore[return-value]


def test_texts_are_stored_as_they_are_until_the_named_key_is_the_primary(database: Connection) -> None:
    before, after = before_and_after()
    database.execute(insert(before).values(first_name="Anna"))
    database.execute(insert(before).values(first_name=""))
    database.execute(insert(after).values(first_name="Bert"))
    stored = database.execute(STORED).scalars().all()
    assert (stored[:2], stored[2][:3]) == (["Anna", ""], "v2:")
    for table in (before, after):
        assert database.execute(select(table.c.first_name)).scalars().all() == ["Anna", "", "Bert"]


def test_only_what_is_a_value_in_full_is_read_as_one(database: Connection, seal: Seal) -> None:
    texts = ["v2: final version", f"v1:{'A' * 16}:Anna", f"v2:{'A' * 16}:{'A' * 23}"]
    store(database, *texts, seal(RING, 1, "Anna"))
    for table in before_and_after():
        assert database.execute(select(table.c.first_name)).scalars().all() == [*texts, "Anna"]


@pytest.mark.parametrize("stored", [f"v9:{'A' * 16}:{'A' * 24}", f"v1:{'A' * 16}:{'A' * 24}"])
def test_a_value_that_does_not_open_is_no_plaintext(database: Connection, stored: str) -> None:
    store(database, stored)
    for table in before_and_after():
        with pytest.raises((UnknownKeyVersionError, DecryptionError)):
            database.execute(select(table.c.first_name)).all()


def test_a_text_that_would_be_read_as_a_value_is_refused(database: Connection) -> None:
    for table in before_and_after():
        with pytest.raises(AlreadyEncryptedError):
            database.execute(insert(table).values(first_name=f"v1:{'A' * 16}:{'A' * 24}"))


def test_a_column_that_is_yet_to_be_encrypted_is_not_copied_into_an_encrypted_one(database: Connection) -> None:
    before = clients_with(EncryptedType(RING, encrypted_from=2)).alias()
    with pytest.raises(KeyRotationError, match="takes no SQL expression or column of another type"):
        database.execute(insert(CLIENTS).from_select(["first_name"], select(before.c.first_name)))


@pytest.mark.parametrize("number", [0, -1, 1_000_000])
def test_encrypted_from_is_the_number_of_a_key(number: int) -> None:
    with pytest.raises(InvalidKeyError, match="such as 2 for v2"):
        EncryptedType(RING, encrypted_from=number)


def test_the_columns_of_a_key_ring_that_begin_to_be_encrypted_are_known_by_their_labels() -> None:
    ring = KeyRing(KEYS, V1)
    clients_with(EncryptedType(ring, encrypted_from=2))
    Table("cases", MetaData(schema="billing"), Column("note", EncryptedType(ring, encrypted_from=3)))
    clients_with(EncryptedType(ring))
    assert encrypted_from_of(ring) == {"clients.first_name": 2, "billing.cases.note": 3}


def former(key: str = "secret", padding: str = "naive") -> LegacyKey:
    return LegacyKey("sqlalchemy-utils-aes", key, padding=padding)


def test_a_column_of_another_library_is_written_as_before_until_the_named_key_is_the_primary(
    database: Connection,
) -> None:
    engine = AesEngine()
    engine._update_key("secret")  # noqa: SLF001
    engine._set_padding_mechanism()  # noqa: SLF001
    before, after = (
        clients_with(EncryptedType(KeyRing(KEYS, primary), encrypted_from=2, legacy=[former()]))
        for primary in (V1, KeyVersion(2))
    )
    for table, name in ((before, "Anna"), (after, "Bert")):
        database.execute(insert(table).values(first_name=name))
    store(database, engine.encrypt("Carl"))
    first, second, _ = database.execute(STORED).scalars().all()
    assert (engine.decrypt(first), second[:3]) == ("Anna", "v2:")
    for table in (before, after):
        assert database.execute(select(table.c.first_name)).scalars().all() == ["Anna", "Bert", "Carl"]


@pytest.mark.parametrize("stored", ["Anna", "tx/xz0B5+j3uK0v+GcYpyw=="])
def test_what_the_former_key_does_not_open_is_neither_read_nor_passed_on(database: Connection, stored: str) -> None:
    store(database, stored)
    table = clients_with(EncryptedType(RING, encrypted_from=2, legacy=[former()]))
    with pytest.raises(LegacyValueError) as refused:
        database.execute(select(table.c.first_name)).all()
    assert stored not in str(refused.value)


def test_a_text_that_the_former_library_would_change_is_refused(database: Connection) -> None:
    table = clients_with(EncryptedType(KeyRing(KEYS, V1), encrypted_from=2, legacy=[former()]))
    with pytest.raises(LegacyValueError):
        database.execute(insert(table).values(first_name="Anna*"))


@pytest.mark.parametrize(
    ("legacy", "encrypted_from"),
    [([former()], None), ([], 2), ([former(), former("other")], 2), (["secret"], 2), ("pass", 2)],
)
def test_legacy_is_one_key_of_a_column_that_is_yet_to_be_encrypted(legacy: Any, encrypted_from: int | None) -> None:  # noqa: ANN401
    with pytest.raises(InvalidKeyError, match="a list of one LegacyKey"):
        EncryptedType(RING, legacy=legacy, encrypted_from=encrypted_from)


def test_a_column_of_bytes_holds_values_as_ascii_and_those_of_a_library_as_they_are(database: Connection) -> None:
    before = LegacyKey("django-cryptography", "secret", key_of="SECRET_KEY")
    first, second = (
        clients_with(EncryptedType(KeyRing(KEYS, primary), encrypted_from=2, legacy=[before], bytea=True))
        for primary in (V1, KeyVersion(2))
    )
    after = clients_with(EncryptedType(KeyRing(KEYS, V1), bytea=True))
    for table, name in ((first, "Anna"), (second, "Bert"), (after, "Carl")):
        database.execute(insert(table).values(first_name=name))
    store(database, b"")
    stored = database.exec_driver_sql("SELECT first_name FROM clients").scalars().all()
    assert before.source.opened(stored[0]) == b"Anna"
    assert [value[:3] for value in stored[1:]] == [b"v2:", b"v1:", b""]
    for table in (first, second):
        assert database.execute(select(table.c.first_name)).scalars().all() == ["Anna", "Bert", "Carl", ""]
    with pytest.raises(UnencryptedValueError):
        database.execute(select(after.c.first_name)).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param({"legacy": "passthrough", "bytea": True}, "takes no length", id="passes"),
        pytest.param({"encrypted_from": 2, "bytea": True}, "takes no length", id="plaintext"),
        pytest.param({"length": 20, "bytea": True}, "takes no length", id="length"),
        pytest.param({"row": "id", "row_from": 3, "bytea": True}, "takes no length", id="row"),
        pytest.param(
            {"encrypted_from": 2, "legacy": [LegacyKey("django-cryptography", "secret", key_of="SECRET_KEY")]},
            r"are bytes; give EncryptedType\(bytea=True\)",
            id="text",
        ),
    ],
)
def test_what_a_column_of_bytes_cannot_hold_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidKeyError, match=said):
        EncryptedType(RING, **wrong)


def test_the_former_library_and_the_fingerprint_of_its_key_are_reported() -> None:
    ring = KeyRing(KEYS, V1)
    clients_with(EncryptedType(ring, encrypted_from=2, legacy=[former()]))
    Table("cases", MetaData(), Column("note", EncryptedType(ring, encrypted_from=2)))
    fingerprint = SourceKey(b"secret", "OLD_KEY").fingerprint
    assert old_forms_of(ring) == {
        "clients.first_name": f"sqlalchemy-utils-aes, padding naive: {fingerprint}", "cases.note": "plaintext",
    }  # fmt: skip
