"""A clinic binds its values to their rows by a rotation, and unbinds them, while its ORM reads and writes."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing, SearchIndex, matches
from keyrotation_pipeline.errors import DecryptionError, KeyRotationError
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml

ROWS = 60
DECLARED = '{ key = "id", from = 3 }'
INDEX = 'indexes = [{ of = "ssn", odd = "odd", even = "even" }]\n'


@dataclass
class Application:
    """What an operator runs: an ORM with a row's key that it makes itself."""

    url: str
    delivered: Path
    has_index: bool
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
            if self.has_index:
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


@pytest.fixture(params=[pytest.param(True, id="with a search index"), pytest.param(False, id="without")])
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Home:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    officers = (security_officer, privacy_officer)
    file = tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        "[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\ngeneration = 2\n"
        '[[tables]]\nname = "clinic.persons"\ncolumns = ["ssn", "notes"]\n'
        f"row = {DECLARED}\n{INDEX if request.param else ''}"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA clinic")
        connection.execute(
            "CREATE TABLE clinic.persons (id uuid PRIMARY KEY, ssn text, odd text, even text, notes varchar(400))"
        )
    Commands(file, officers).typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    application = Application(database_url, tmp_path / ".keyrotation" / "keys", has_index=request.param)
    with application.session() as session:
        for row in range(ROWS):
            person = application.person(id=uuid4(), ssn=f"first {row}", notes=None if row % 7 == 0 else f"note {row}")
            session.add(person)
            application.expected[person.id] = (person.ssn, person.notes)
        session.commit()
    return Home(file, officers, application)


def exchange(home: Home) -> None:
    """Two rows get each other's notes."""
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute(
            "WITH two AS (SELECT id, notes FROM clinic.persons WHERE notes <> '' ORDER BY id LIMIT 2) "
            "UPDATE clinic.persons p SET notes = o.notes FROM two o WHERE p.id IN (SELECT id FROM two) AND o.id <> p.id"
        )


@pytest.mark.extended
def test_values_are_bound_to_their_rows_by_one_rotation_and_unbound_by_its_rollback(home: Home) -> None:
    application = home.application
    with application.at_work():
        home.finished("request", "--reason", "bind values to their columns")
        assert home.versions() == ["v2x"]
        request = home.typed("request", "--reason", "bind values to their rows").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "; clinic.persons: values under v3x and later open only in their row, by id" in text
        home.sign(request)
        home.walk(request)
        assert home.versions() == ["v3x"]
    assert (application.wrong, application.writes > 10) == ([], True)
    assert application.read() == application.expected
    assert {value.partition(":")[0] for value in application.stored()} == {"v3x"}
    if application.has_index:
        with application.session() as session:
            key, (ssn, _) = next(iter(application.expected.items()))
            found = session.scalars(sa.select(application.person).where(matches(application.person.ssn, str(ssn))))
            assert [each.id for each in found] == [key]

    with application.at_work():
        back = home.typed("rollback", request).splitlines()[-1]
        assert "by id, and new values are bound to no row" in home.typed("approve", back, "--text")
        home.sign(back)
        home.walk(back)
    assert application.wrong == []
    assert home.versions() == ["v2x"]
    assert application.read() == application.expected


@pytest.mark.extended
@pytest.mark.parametrize("home", [False], indirect=True)
def test_exchanged_values_stop_the_walk_until_they_are_put_right_and_are_unread_meanwhile(home: Home) -> None:
    application = home.application
    home.finished("request", "--reason", "bind values to their columns")
    home.finished("request", "--reason", "bind values to their rows")
    exchange(home)
    with application.session() as session:
        outcomes = [_outcome(application, session, key) for key in application.expected]
    assert (outcomes.count("refused"), outcomes.count("another")) == (2, 0)
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    waited = home.walk(request, stops=True)
    assert "column notes: 2 values (fails authentication under key version v3x)" in waited
    exchange(home)
    home.walk(request)
    assert home.versions() == ["v4x"]
    assert application.read() == application.expected


def _outcome(application: Application, session: Session, key: uuid.UUID) -> str:
    try:
        person = session.get_one(application.person, key)
    except DecryptionError:
        return "refused"
    return "right" if (person.ssn, person.notes) == application.expected[key] else "another"


@pytest.mark.extended
def test_a_configuration_that_says_otherwise_than_the_application_is_met_before_anything_is_written(home: Home) -> None:
    application, declared = home.application, home.file.read_text()
    home.finished("request", "--reason", "bind values to their columns")
    home.finished("request", "--reason", "bind values to their rows")
    home.file.write_text(declared.replace(f"row = {DECLARED}\n", ""))
    refusal = home.typed("request", "--reason", "yearly", exits=1)
    assert "and under row what it declares as row and row_from" in refusal
    home.file.write_text(declared.replace("from = 3", "from = 4"))
    assert "decrypts none of the" in home.typed("request", "--reason", "yearly", exits=1)
    home.file.write_text(declared.replace('key = "id"', 'key = "notes"'))
    assert "which changes with the encryption key" in home.typed("request", "--reason", "yearly", exits=1)
    assert {value.partition(":")[0] for value in application.stored()} == {"v3x"}
    home.file.write_text(declared)
    home.typed("verify")
    assert application.read() == application.expected


@pytest.mark.extended
def test_backups_are_restored_compared_and_made_anew_for_their_rows(home: Home, tmp_path: Path) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.finished("request", "--reason", "bind values to their columns")
    home.finished("request", "--reason", "bind values to their rows")
    home.typed("backup")
    manifest = max((tmp_path / ".keyrotation" / "backups").glob("backup-*.json"))
    tables = json.loads(manifest.read_text())["dump"]["tables"]
    assert [each["row"] for each in tables] == [{"key": "id", "from": 3}]
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    exchange(home)
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    incident, request = opened.split()
    compared = home.shown("incident", "compare", incident, "--key", str(secret))
    assert [(each["column"], each["kind"]) for each in compared["differences"]] == [("notes", "changed")] * 2
    exchange(home)
    home.sign(request)
    home.walk(request)
    assert home.versions() == ["v4x"]

    made = home.shown("backup", "--rekey", "--key", str(secret))
    (rekeyed,) = (name for name in made["files"] if name.startswith("database-"))
    copy = f"copy_{uuid4().hex}"  # its server is that of other tests, too
    home.typed("restore-database", "--into", copy, "--from", rekeyed, "--key", str(secret))
    there = sa.make_url(application.url).set(database=copy).render_as_string(hide_password=False)
    restored = replace(application, url=there)
    restored.keys = application.keys
    assert restored.read() == application.expected
    assert {value.partition(":")[0] for value in restored.stored()} == {"v4x"}
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    home.typed("audit", "verify")


@pytest.mark.extended
@pytest.mark.parametrize("home", [False], indirect=True)
def test_what_two_declarations_made_unreadable_is_brought_back_by_a_rollback(home: Home) -> None:
    application, declared = home.application, home.file.read_text()
    home.finished("request", "--reason", "bind values to their columns")
    home.file.write_text(declared.replace(f"row = {DECLARED}\n", ""))
    request = home.typed("request", "--reason", "bind values to their rows").splitlines()[-1]
    home.sign(request)
    for text in ("before", "of the application"):  # every instance reads the new key, then writes under it
        assert "no officer has confirmed" in home.typed("rotate", request, exits=1)
        application.keys.reload()
        key, (_, notes) = next(iter(application.expected.items()))
        with application.session() as session:
            session.get_one(application.person, key).ssn = text
            session.commit()
        application.expected[key] = (text, notes)
        home.confirm(request)
    assert "column ssn: 1 value (fails authentication under key version v3x)" in home.walk(request, stops=True)
    with pytest.raises(DecryptionError):
        application.read()

    back = home.typed("rollback", request).splitlines()[-1]
    home.sign(back)
    assert "column ssn: 1 value" in home.walk(back, stops=True)
    assert application.read() == application.expected
    with application.session() as session:
        person = session.get_one(application.person, key)
        person.ssn = "another"
        session.flush()
        person.ssn = text
        session.commit()
    home.walk(back)
    home.file.write_text(declared)
    assert home.versions() == ["v2x"]
    home.finished("request", "--reason", "bind values to their rows")
    assert home.versions() == ["v4x"]
    assert application.read() == application.expected
