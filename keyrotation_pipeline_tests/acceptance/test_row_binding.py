"""A clinic binds its values to their rows by a rotation, and unbinds them, while its ORM reads and writes."""

import base64
import os
import threading
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typer.testing import CliRunner

from keyrotation_pipeline.cli.application import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing, SearchIndex, matches
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside

ROWS = 60
DECLARED = '{ key = "id", from = 3 }'


@dataclass
class Application:
    """What an operator runs: an ORM with a row's key that it makes itself."""

    url: str
    delivered: Path
    keys: MountedKeyRing = field(init=False)
    expected: dict[uuid.UUID, tuple[str | None, str | None]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def __post_init__(self) -> None:
        self.keys = keys = MountedKeyRing(str(self.delivered))

        class Base(DeclarativeBase):
            pass

        class Person(Base):
            __tablename__ = "persons"
            __table_args__ = {"schema": "clinic"}  # noqa: RUF012
            id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid4)
            ssn: Mapped[str | None] = mapped_column(EncryptedType(keys, row="id", row_from=3))
            odd: Mapped[str | None] = mapped_column(SearchIndex(keys, of="ssn", odd=True))
            even: Mapped[str | None] = mapped_column(SearchIndex(keys, of="ssn", odd=False))
            notes: Mapped[str | None] = mapped_column(EncryptedType(keys, row="id", row_from=3))

        self.person = Person

    def session(self) -> Session:
        url = self.url.replace("postgresql://", "postgresql+psycopg://")
        return Session(sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool))

    def at_work(self) -> AbstractContextManager[None]:
        return beside(self._work)

    def _work(self, stop: threading.Event) -> None:
        chance = Random(7)
        while not stop.wait(0.005):
            try:
                with self.session() as session:
                    self.step(session, chance)
            except (sa.exc.SQLAlchemyError, KeyRotationError) as error:
                self.wrong.append(f"{type(error).__name__} {error}")

    def step(self, session: Session, chance: Random) -> None:
        key = chance.choice(list(self.expected))
        person = session.get_one(self.person, key)
        if (person.ssn, person.notes) != self.expected[key]:
            self.wrong.append(f"{key}: another content")
            return
        if self.writes % 10 == 0:
            person = self.person(id=uuid4())
            session.add(person)
        self.writes += 1
        person.ssn, person.notes = f"ssn {self.writes}", chance.choice([None, "", f"note {self.writes}"])
        session.commit()
        self.expected[person.id] = (person.ssn, person.notes)

    def read(self) -> dict[uuid.UUID, tuple[str | None, str | None]]:
        with self.session() as session:
            return {each.id: (each.ssn, each.notes) for each in session.scalars(sa.select(self.person))}

    def stored(self) -> list[str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT ssn, notes FROM clinic.persons").fetchall()
        return [value for row in rows for value in row if value]


@dataclass
class Home(Commands):
    application: Application

    def walk(self, request: str, *, stops: bool = False) -> str:
        """Types `rotate`, reloads the application's keys and confirms that, until it is over or stops."""
        for _ in range(8):
            result = CliRunner().invoke(app, ["rotate", request, "--config", str(self.file)])
            if result.exit_code == 0:
                return ""
            if stops and "no officer has confirmed" not in str(result.exception):
                return str(result.exception)
            assert "no officer has confirmed" in str(result.exception), (result.exception, result.output)
            self.application.keys.reload()
            self.confirm(request)
        pytest.fail("not over")

    def finished(self, *arguments: str) -> str:
        request = self.typed(*arguments).splitlines()[-1]
        self.sign(request)
        self.walk(request)
        return request

    def versions(self) -> list[str]:
        (table,) = self.shown("status", "--count")["tables"]
        assert table["unreadable"] == 0
        return [version for version, number in table["values_by_version"].items() if number]


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    officers = (security_officer, privacy_officer)
    file = tmp_path / "keyrotation.toml"
    named = "".join(
        f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{each.certificate}"\n' for each in officers
    )
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        "[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\ngeneration = 2\n"
        '[[tables]]\nname = "clinic.persons"\ncolumns = ["ssn", "notes"]\n'
        f'indexes = [{{ of = "ssn", odd = "odd", even = "even" }}]\nrow = {DECLARED}\n'
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA clinic")
        connection.execute(
            "CREATE TABLE clinic.persons (id uuid PRIMARY KEY, ssn text, odd text, even text, notes varchar(400))"
        )
    Commands(file, officers).typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    application = Application(database_url, tmp_path / ".keyrotation" / "keys")
    with application.session() as session:
        for row in range(ROWS):
            person = application.person(id=uuid4(), ssn=f"first {row}", notes=None if row % 7 == 0 else f"note {row}")
            session.add(person)
            application.expected[person.id] = (person.ssn, person.notes)
        session.commit()
    return Home(file, officers, application)


def exchange(home: Home) -> None:
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute(
            "UPDATE clinic.persons p SET notes = o.notes FROM clinic.persons o WHERE p.id <> o.id "
            "AND p.id IN (SELECT min(id::text)::uuid FROM clinic.persons WHERE notes <> '') "
            "AND o.id IN (SELECT max(id::text)::uuid FROM clinic.persons WHERE notes <> '')"
        )


def test_values_are_bound_to_their_rows_by_one_rotation_and_unbound_by_its_rollback(home: Home) -> None:
    application = home.application
    with application.at_work():
        home.finished("request", "--reason", "bind values to their columns")
        assert home.versions() == ["v2x"]
        request = home.typed("request", "--reason", "bind values to their rows").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "; clinic.persons: values under v3x and later open only in their row, by id; search index" in text
        home.sign(request)
        home.walk(request)
        assert home.versions() == ["v3x"]
    assert (application.wrong, application.writes > 10) == ([], True)
    assert application.read() == application.expected
    assert {value.partition(":")[0] for value in application.stored()} == {"v3x"}
    with application.session() as session:
        key, (ssn, _) = next(iter(application.expected.items()))
        assert ssn is not None
        assert [
            each.id
            for each in session.scalars(sa.select(application.person).where(matches(application.person.ssn, ssn)))
        ] == [key]

    with application.at_work():
        back = home.typed("rollback", request).splitlines()[-1]
        assert "by id, and new values are bound to no row" in home.typed("approve", back, "--text")
        home.sign(back)
        home.walk(back)
    assert application.wrong == []
    assert home.versions() == ["v2x"]
    assert application.read() == application.expected
