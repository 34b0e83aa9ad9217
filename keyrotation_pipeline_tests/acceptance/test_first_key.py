"""A home that begins without a key: its first rotation makes v1, beside an application that writes all the while."""

import json
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing, attest
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.acceptance.test_plaintext import rotate
from keyrotation_pipeline_tests.applications import beside

ROWS = 200
STRANGE = ["v1: final version", "plaintext: yes", "plaintext", "v1:", f"v1:{'A' * 16}:-", "Zürich 😀", "x" * 5000]


@dataclass
class Application:
    """Its column is `EncryptedType(encrypted_from=1)`; it reads back whatever it wrote, all the time."""

    url: str
    delivered: Path
    expected: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def __post_init__(self) -> None:
        self.keys = keys = MountedKeyRing(str(self.delivered))

        class Base(DeclarativeBase):
            pass

        class Case(Base):
            __tablename__ = "cases"
            id: Mapped[int] = mapped_column(primary_key=True)
            note: Mapped[str] = mapped_column(EncryptedType(keys, encrypted_from=1))

        self.case = Case
        self.engine = sa.create_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://"), hide_parameters=True, poolclass=sa.NullPool
        )

    def work(self, stop: threading.Event) -> None:
        chance = Random(1)
        while not stop.wait(0.004):
            try:
                with Session(self.engine) as session:
                    self._step(session, chance.randrange(ROWS))
            except (sa.exc.SQLAlchemyError, KeyRotationError) as error:
                self.wrong.append(f"{type(error).__name__} {error}")

    def _step(self, session: Session, key: int) -> None:
        case = session.scalars(sa.select(self.case).where(self.case.id == key).with_for_update()).one()
        if case.note != self.expected[key]:
            self.wrong.append(f"{key}: {case.note[:30]!r} instead of {self.expected[key][:30]!r}")
        self.writes += 1
        case.note = f"v1: note {self.writes}"
        session.flush()
        self.expected[key] = case.note  # while the row is locked
        session.commit()

    def read(self) -> dict[int, str]:
        with Session(self.engine) as session:
            return {each.id: each.note for each in session.scalars(sa.select(self.case))}


@dataclass
class Home(Commands):
    url: str
    keys: Path

    def application(self, expected: dict[int, str]) -> Application:
        return Application(self.url, self.keys, expected)


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY", raising=False)
    officers = (security_officer, privacy_officer)
    named = "".join(
        f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{each.certificate}"\n' for each in officers
    )
    file = tmp_path / "keyrotation.toml"
    file.write_text(
        f'database.url = "{database_url}"\n[rollout]\nmode = "attest"\ninstance_ttl_seconds = 5\ntimeout_seconds = 4\n'
        f"[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        '[[tables]]\nname = "cases"\ncolumns = [{ column = "note", from = "plaintext" }]\n'
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, note text)")
        for n in range(ROWS):
            note = STRANGE[n] if n < len(STRANGE) else f"note {n}"
            connection.execute("INSERT INTO public.cases VALUES (%s, %s)", (n, note))
    return Home(file, officers, database_url, tmp_path / ".keyrotation" / "keys")


def stored(home: Home) -> dict[int, str]:
    with psycopg.connect(home.url) as connection:
        return {int(n): str(note) for n, note in connection.execute("SELECT id, note FROM public.cases").fetchall()}


def test_the_first_rotation_makes_the_first_key_beside_a_writer(home: Home) -> None:
    assert "primary plaintext" in home.typed("init")
    assert "primary plaintext" in home.typed("init"), "again"
    assert home.shown("status")["primary"] == "plaintext"
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA keyrotation TO PUBLIC")
    application = home.application(stored(home))
    with ExitStack() as running:
        running.enter_context(beside(application.work))
        running.callback(attest(application.engine, application.keys, every_seconds=0.2).stop)
        home.typed("backup")
        request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "\nFrom: plaintext\nTo: v1\n" in text
        home.sign(request)
        assert rotate(home, request) == ""
    assert application.wrong == []
    assert application.writes > 10
    assert {note[:3] for note in stored(home).values()} == {"v1:"}
    assert application.read() == application.expected
    status = home.shown("status", "--count")
    assert status["primary"] == "v1"
    assert not [each for each in status["attention"] if "fence" in each or "plaintext" in each]
    assert [(key["version"], key["state"]) for key in status["key_versions"]] == [("v1", "active")]
    (table,) = status["tables"]
    assert (table["values_by_version"], table["unencrypted"]) == ({"v1": ROWS}, 0)
    assert table["fenced_against"] == ["plaintext"]
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="plaintext is refused"):
        connection.execute("UPDATE public.cases SET note = 'plain' WHERE id = 1")
    assert home.typed("audit", "verify")
    (home.keys / "primary").write_text("plaintext")  # by whoever can write to the key store
    assert "primary is plaintext, but v1 is active" in "; ".join(home.shown("status")["attention"])
    application.keys.reload()
    with Session(application.engine) as session, pytest.raises(sa.exc.DataError, match="plaintext is refused"):
        session.execute(sa.update(application.case).values(note="plain"))


def begun(home: Home) -> Application:
    """A home without a key, and its application."""
    home.typed("init")
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA keyrotation TO PUBLIC")
    return home.application(stored(home))


def signed_request(home: Home) -> str:
    request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
    home.sign(request)
    return request


@pytest.mark.extended
def test_a_cancelled_first_rotation_is_followed_by_another_and_nothing_leads_back(home: Home) -> None:
    application = begun(home)
    home.typed("backup")
    checks = {each["name"]: each["light"] for each in json.loads(home.typed("preflight", "--json", exits=1))["checks"]}
    assert checks["current_key_is_intact"] == "green"
    assert "current_key_is_backed_up" not in checks
    first = signed_request(home)
    home.typed("rotate", first, "--through", "key_version")
    home.typed("cancel", first)
    assert stored(home) == application.expected
    with ExitStack() as running:
        running.callback(attest(application.engine, application.keys, every_seconds=0.2).stop)
        second = signed_request(home)
        assert "cancel it before v2 is the primary" in home.typed("rollback", second, exits=1)
        assert rotate(home, second) == ""
        assert "nothing leads back to plaintext" in home.typed("rollback", second, exits=1)
        assert application.read() == application.expected
        assert {note[:3] for note in stored(home).values()} == {"v2:"}
        home.typed("inventory")
        home.typed("verify")
        home.typed("report", "--format", "html")
        home.typed("report", "--format", "pack", "--output", str(home.file.parent / "pack"))
        assert "has retired no key" in home.typed("report", "--format", "certificate", exits=1)
        third = signed_request(home)
        assert rotate(home, third) == ""
    assert application.read() == application.expected
    assert {note[:3] for note in stored(home).values()} == {"v3:"}
    (table,) = home.shown("status", "--count")["tables"]
    assert table["fenced_against"] == ["v1", "v2"]
