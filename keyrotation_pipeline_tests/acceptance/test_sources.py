"""Columns that another library encrypted under its one key come into our own format, beside that library."""

import base64
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy_utils import StringEncryptedType  # type: ignore[import-untyped]
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine  # type: ignore[import-untyped]
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import Attestation, EncryptedType, LegacyKey, MountedKeyRing, attest
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside

ROWS = 200
FORMER = "the application's secret"
TEXTS = ["Ada", "v2: final version", "", "100 %", "Zürich 😀", "x" * 5000, "a" * 16, "À", "two\nlines"]


@dataclass
class Release:
    """One release of the application, as it runs in some instances.

    Args:
        encrypted_from: of the columns that come from the library; None: this release knows nothing but the library.
    """

    url: str
    delivered: Path
    expected: dict[int, tuple[str, str, str]]
    encrypted_from: int | None
    former: str = FORMER
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def __post_init__(self) -> None:
        self.keys = keys = MountedKeyRing(str(self.delivered))

        def column(format_: str, engine: object, *padding: str) -> sa.types.TypeEngine[str]:
            if self.encrypted_from is None:
                return StringEncryptedType(sa.Text, self.former, engine, *padding)  # type: ignore[no-any-return]
            key = LegacyKey(format_, self.former, **({"padding": padding[0]} if padding else {}))
            return EncryptedType(keys, encrypted_from=self.encrypted_from, legacy=[key])

        class Base(DeclarativeBase):
            pass

        class Case(Base):
            __tablename__ = "cases"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(EncryptedType(keys))
            token: Mapped[str] = mapped_column(column("sqlalchemy-utils-aes", AesEngine, "naive"))
            note: Mapped[str] = mapped_column(column("sqlalchemy-utils-aesgcm", AesGcmEngine))

        self.case = Case
        self.engine = sa.create_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://"), hide_parameters=True, poolclass=sa.NullPool
        )

    def attest(self) -> Attestation:
        return attest(self.engine, self.keys, instance=f"from {self.encrypted_from}", every_seconds=0.2)

    def work(self, stop: threading.Event) -> None:
        """Reads rows and compares them with what was written, by whatever release; writes others."""
        chance = Random(self.encrypted_from)
        while not stop.wait(0.004):
            try:
                with Session(self.engine) as session:
                    self._step(session, chance.randrange(len(self.expected)))
            except (sa.exc.SQLAlchemyError, KeyRotationError, ValueError) as error:
                self.wrong.append(f"{type(error).__name__} {error}")

    def _step(self, session: Session, key: int) -> None:
        case = session.scalars(sa.select(self.case).where(self.case.id == key).with_for_update()).one()
        if (found := (case.name, case.token, case.note)) != self.expected[key]:
            self.wrong.append(f"{key}: {found!r:.80} instead of {self.expected[key]!r:.80}")
            return
        self.writes += 1
        case.token, case.note = f"v2: token {self.writes} of {self.encrypted_from}", f"note {self.writes} of {key}"
        session.flush()
        self.expected[key] = (case.name, case.token, case.note)  # while the row is locked
        session.commit()

    def read(self) -> dict[int, tuple[str, str, str]]:
        with Session(self.engine) as session:
            return {each.id: (each.name, each.token, each.note) for each in session.scalars(sa.select(self.case))}


@dataclass
class Home(Commands):
    url: str
    keys: Path
    expected: dict[int, tuple[str, str, str]]

    def release(self, encrypted_from: int | None, former: str = FORMER) -> Release:
        return Release(self.url, self.keys, self.expected, encrypted_from, former)

    def stored(self) -> list[str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT token, note FROM public.cases ORDER BY id").fetchall()
        return [value for row in rows for value in row]

    def table(self) -> dict[str, object]:
        (table,) = self.shown("status", "--count")["tables"]
        return dict(table)

    def said(self, *arguments: str) -> str:
        """What a command says that is refused; "": it is done."""
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)])
        return "" if result.exit_code == 0 else str(result.exception)


COLUMNS = (
    '["name", { column = "token", from = { format = "sqlalchemy-utils-aes", keys = { env = "OLD_KEY" }, padding = '
    '"naive" } }, { column = "note", from = { format = "sqlalchemy-utils-aesgcm", keys = { env = "OLD_KEY" } } }]'
)


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """A home whose first key is v1, and whose values of the library are under a key that is imported as v2."""
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    officers = (security_officer, privacy_officer)
    named = "".join(
        f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{each.certificate}"\n' for each in officers
    )
    file = tmp_path / "keyrotation.toml"
    file.write_text(
        f'database.url = "{database_url}"\n[rollout]\nmode = "attest"\ninstance_ttl_seconds = 5\ntimeout_seconds = 2\n'
        f"[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[[tables]]\nname = "cases"\ncolumns = ["name"]\n'
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, name text, token text, note text)")
    Commands(file, officers).typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    texts = {
        n: (f"name {n}", TEXTS[n % len(TEXTS)] if n < 20 else f"token {n}", TEXTS[n] if n < len(TEXTS) else f"note {n}")
        for n in range(ROWS)
    }
    made = Home(file, officers, database_url, tmp_path / ".keyrotation" / "keys", texts)
    first = made.release(None)
    with Session(first.engine) as session:
        session.add_all(first.case(id=n, name=a, token=b, note=c) for n, (a, b, c) in texts.items())
        session.commit()
    file.write_text(file.read_text().replace('["name"]', COLUMNS))
    monkeypatch.setenv("OLD_KEY", FORMER)
    made.typed("init")
    monkeypatch.delenv("OLD_KEY")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA keyrotation TO PUBLIC")
    return made


def test_values_of_the_library_are_encrypted_beside_it_and_then_refused(home: Home) -> None:
    assert home.table()["unencrypted"] == 2 * ROWS
    old, new = home.release(None), home.release(3)
    with ExitStack() as running:
        old_at_work = running.enter_context(ExitStack())
        old_at_work.enter_context(beside(old.work))
        request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "\nNot authenticated: cases.token\n" in text
        home.sign(request)
        old_attests = old.attest()
        running.enter_context(beside(new.work))
        running.callback(new.attest().stop)
        said = home.said("rotate", request)
        assert "sqlalchemy-utils-aes, padding naive in cases.token" in said, said
        assert not {value[:3] for value in home.stored()} & {"v1:", "v2:", "v3:"}
        old_at_work.close()
        old_attests.stop()
        assert home.said("rotate", request) == ""
    assert (old.wrong, new.wrong) == ([], [])
    assert min(old.writes, new.writes) > 10
    assert new.read() == home.expected
    assert {value[:3] for value in home.stored()} == {"v3:"}
    table = home.table()
    assert (table["unencrypted"], table["unreadable"]) == (0, 0)
    assert table["values_by_version"] == {"v1": 0, "v2": 0, "v3": 3 * ROWS}
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="another library is refused"):
        connection.execute("UPDATE public.cases SET token = 'tx/xz0B5+j3uK0v+GcYpyw==' WHERE id = 1")


def rotated(home: Home, application: Release, request: str) -> None:
    """Rotates beside one release that reads both."""
    home.sign(request)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        assert home.said("rotate", request) == ""


@pytest.mark.extended
def test_older_backups_need_the_key_and_it_is_destroyed_once_none_does(
    home: Home, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    secret, backups = tmp_path / "officer.sec.asc", tmp_path / ".keyrotation" / "backups"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    assert "holds 200 value(s) of another library" in home.said("destroy", "v2", "--reason", "too early")
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    (dump,) = backups.glob("database-*.dump.gpg")
    request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
    assert home.said("rehearse", request, "--key", str(secret)) == ""
    home.typed("verify")
    rotated(home, home.release(3), request)
    home.typed("verify")
    home.typed("audit", "verify")
    assert f"v2 is needed to read {dump.name}" in home.said("destroy", "v2", "--reason", "left")
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # The key is lost, and comes back from a backup to where no application gets it.
    (tmp_path / ".keyrotation" / "keys" / "archive" / "v2.key").unlink()
    home.typed("restore-key", "v2", "--key", str(secret))
    assert (tmp_path / ".keyrotation" / "keys" / "archive" / "v2.key").exists()
    copy = f"copy_{uuid4().hex}"
    home.typed("restore-database", "--into", copy, "--from", dump.name, "--key", str(secret))
    with psycopg.connect(home.url, dbname=copy) as connection:
        assert connection.execute("SELECT count(*) FROM cases WHERE token LIKE 'v%:%'").fetchone() == (0,)
    assert "holds values of another library" in home.said("backup", "--rekey", dump.name, "--key", str(secret))
    for path in backups.glob(f"{dump.name.split('.')[0]}.*"):
        path.unlink()
    home.sign(home.typed("destroy", "v2", "--reason", "left").splitlines()[-1])
    home.typed("destroy", "v2")
    assert {each["version"]: each["state"] for each in home.shown("status")["key_versions"]} == {
        "v1": "archived", "v2": "destroyed", "v3": "active",
    }  # fmt: skip
    everything = b"".join(path.read_bytes() for path in (tmp_path / ".keyrotation").rglob("*") if path.is_file())
    assert FORMER.encode() not in everything
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True


@pytest.mark.extended
def test_a_rollback_brings_back_what_was_encrypted_since_and_leaves_the_library_its_values(home: Home) -> None:
    application = home.release(3)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        home.sign(request)
        assert home.said("rotate", request) == ""
        back = home.typed("rollback", request).splitlines()[-1]
        assert "\nOther libraries: stays in cases.token (" in home.typed("approve", back, "--text")
        home.sign(back)
        assert home.said("rotate", back) == ""
        time.sleep(0.5)
        again = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        home.sign(again)
        assert home.said("rotate", again) == ""
    assert application.wrong == []
    assert application.read() == home.expected
    assert {value[:3] for value in home.stored()} == {"v4:"}


@pytest.mark.extended
def test_what_the_key_does_not_open_is_refused_before_anybody_signs_or_quarantined(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = "request", "--reason", "leave sqlalchemy-utils"
    monkeypatch.setenv("OLD_KEY", "another secret")
    assert "0 of 200 values tried open with the key imported from OLD_KEY" in home.said("init")
    monkeypatch.delenv("OLD_KEY")
    declared = home.file.read_text()
    home.file.write_text(declared.replace('padding = "naive"', 'padding = "pkcs5"'))
    assert "they open as sqlalchemy-utils-aes, padding naive: write that there" in home.said(*request)
    home.file.write_text(declared.replace('env = "OLD_KEY" }, padding', 'env = "NO_KEY" }, padding'))
    assert "whose key is not imported; set NO_KEY" in home.said(*request)
    home.file.write_text(declared)
    application = home.release(3)
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("UPDATE public.cases SET token = 'plain', note = 'tx/xz0B5+j3uK0v+GcYpyw==' WHERE id = 7")
    opened = home.typed(*request).splitlines()[-1]
    home.sign(opened)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        time.sleep(1)  # five reports
        said = home.said("rotate", opened)
        assert "neither encrypted under a key version nor opened by the key of the library" in said, said
        with psycopg.connect(home.url, autocommit=True) as connection:
            row = connection.execute("SELECT token, note FROM public.cases WHERE id = 7").fetchone()
            assert row == ("plain", "tx/xz0B5+j3uK0v+GcYpyw==")
            connection.execute("UPDATE public.cases SET token = '', note = NULL WHERE id = 7")
        assert home.said("rotate", opened) == ""
    assert home.table()["unreadable"] == 0
