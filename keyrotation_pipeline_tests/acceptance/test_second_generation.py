"""A clinic moves from the first generation of the format to the second by a rotation, on, and back, while it works."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml

ROWS = 80
BOUND = (
    "\nFormat: native, second generation: KC-XAES-256-GCM, identified by the version that each value names; each value "
    "opens only under the label of its column; patients.mail is bound as clients.email\n"
)


@dataclass
class Application:
    """What an operator runs, on the keys that the key store delivers."""

    url: str
    keys: MountedKeyRing
    patients: sa.Table
    expected: dict[int, tuple[str, str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    @classmethod
    def of(cls, url: str, delivered: Path) -> "Application":
        keys = MountedKeyRing(str(delivered))
        patients = sa.Table(
            "patients",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("mail", EncryptedType(keys, binding="clients.email")),  # the table was once called clients
            sa.Column("phone", EncryptedType(keys)),
        )
        return cls(url, keys, patients)

    def engine(self) -> sa.Engine:
        url = self.url.replace("postgresql://", "postgresql+psycopg://")
        return sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)

    def at_work(self) -> AbstractContextManager[None]:
        return beside(self._work)

    def _work(self, stop: threading.Event) -> None:
        chance = Random(7)
        while not stop.wait(0.005):
            try:
                with self.engine().begin() as connection:
                    self._step(connection, chance.randrange(ROWS))
            except (sa.exc.SQLAlchemyError, KeyRotationError) as error:
                self.wrong.append(f"{type(error).__name__} {error}")

    def _step(self, connection: sa.Connection, row: int) -> None:
        place = self.patients.c.id == row
        found = connection.execute(sa.select(self.patients.c.mail, self.patients.c.phone).where(place)).one()
        if tuple(found) != self.expected[row]:
            self.wrong.append(f"{row}: another content")
            return
        self.writes += 1
        self.expected[row] = (f"user{row}@example.com, write {self.writes}", found.phone)
        connection.execute(self.patients.update().where(place).values(mail=self.expected[row][0]))

    def read(self) -> dict[int, tuple[str, str]]:
        with self.engine().connect() as connection:
            return {row: (mail, phone) for row, mail, phone in connection.execute(sa.select(self.patients))}

    def stored(self) -> list[str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT mail, phone FROM patients").fetchall()
        return [value for row in rows for value in row]


@dataclass
class Home(Commands):
    application: Application

    def configure(self, generation: int) -> None:
        text = self.file.read_text()
        before = next(line for line in text.splitlines() if line.startswith("generation"))
        self.file.write_text(text.replace(before, f"generation = {generation}"))

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

    def counts(self) -> tuple[dict[str, int], list[str]]:
        (table,) = self.shown("status")["tables"]
        held = {version: number for version, number in table["values_by_version"].items() if number}
        return held, table["fenced_against"]


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
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        "[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\ngeneration = 1\n"
        '[[tables]]\nname = "patients"\ncolumns = ["mail", "phone"]\nbindings = { mail = "clients.email" }\n'
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE patients (id int PRIMARY KEY, mail text, phone varchar(400))")
    Commands(file, officers).typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    application = Application.of(database_url, tmp_path / ".keyrotation" / "keys")
    with application.engine().begin() as connection:
        for row in range(ROWS):
            application.expected[row] = (f"user{row}@example.com", f"+49 {row}")
            mail, phone = application.expected[row]
            connection.execute(application.patients.insert().values(id=row, mail=mail, phone=phone))
    return Home(file, officers, application)


def refused(home: Home, value: str) -> bool:
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        try:
            connection.execute("UPDATE patients SET phone = %s WHERE id = -1 OR id = 1", (value,))
        except psycopg.errors.InvalidTextRepresentation as error:
            return "is retired" in str(error)
    return False


def test_a_rotation_into_the_second_generation_within_it_and_back(home: Home) -> None:
    application = home.application
    home.configure(2)
    with application.at_work():
        request = home.typed("request", "--reason", "bind values to their columns").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert BOUND in text
        assert "\nTo: v2x\n" in text
        assert "New data are written in a newer form, the second generation, each value tied to its column" in text
        home.sign(request)
        home.walk(request)
        assert home.counts() == ({"v2x": 2 * ROWS}, ["v1"])
        home.finished("request", "--reason", "yearly")
        assert home.counts() == ({"v3x": 2 * ROWS}, ["v1", "v2x"])
    assert (application.wrong, application.writes > 10) == ([], True)
    assert application.read() == application.expected
    assert {value.partition(":")[0] for value in application.stored()} == {"v3x"}
    tail = application.stored()[0].partition(":")[2]
    outcome = {name: refused(home, f"{name}:{tail}") for name in ("v1", "v1x", "v2", "v2x", "v3x", "v11x", "v20")}
    assert outcome == {"v1": True, "v1x": True, "v2": True, "v2x": True, "v3x": False, "v11x": False, "v20": False}


@pytest.mark.extended
def test_a_rollback_and_what_backups_are_good_for(home: Home, tmp_path: Path) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.configure(2)
    with application.at_work():
        request = home.finished("request", "--reason", "bind values to their columns")
        home.typed("backup")
        assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
        back = home.typed("rollback", request).splitlines()[-1]
        text = home.typed("approve", back, "--text")
        assert "\nTo: v1 " in text
        assert "\nFormat: native, back to the first generation: AES-256-GCM" in text
        assert "New data are in the older form, the first generation, again: tied to no column" in text
        home.sign(back)
        home.walk(back)
    assert application.wrong == []
    assert home.counts() == ({"v1": 2 * ROWS}, ["v2x"])
    assert application.read() == application.expected
    with application.at_work():
        home.configure(1)
        home.finished("request", "--reason", "in the first generation")
    assert application.wrong == []
    assert home.counts() == ({"v3": 2 * ROWS}, ["v1", "v2x"])
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(home.typed("audit", "verify", "--json"))


@pytest.mark.extended
def test_values_that_were_moved_stop_the_walk_and_are_named(home: Home) -> None:
    home.configure(2)
    home.finished("request", "--reason", "bind values to their columns")
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute("UPDATE patients SET phone = mail WHERE id = 3")
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    waited = home.walk(request, stops=True)
    assert "table patients, column phone: 1 value (fails authentication under key version v2x)" in waited
    with home.application.engine().begin() as connection:
        table = home.application.patients
        connection.execute(table.update().where(table.c.id == 3).values(phone=home.application.expected[3][1]))
    home.walk(request)
    assert home.application.read() == home.application.expected


@pytest.mark.extended
def test_a_leaked_key_is_replaced_in_rows_and_backups_and_destroyed(home: Home, tmp_path: Path) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.configure(2)
    home.finished("request", "--reason", "bind values to their columns")
    home.typed("backup")
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    with psycopg.connect(application.url, autocommit=True) as connection:
        connection.execute("UPDATE patients SET phone = (SELECT phone FROM patients WHERE id = 5) WHERE id = 4")
    before, application.expected[4] = application.expected[4], (application.expected[4][0], application.expected[5][1])
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    incident, request = opened.split()
    home.sign(request)
    home.walk(request)
    assert home.counts() == ({"v3x": 2 * ROWS}, ["v1", "v2x"])
    assert application.read() == application.expected
    compared = home.shown("incident", "compare", incident, "--key", str(secret))
    differing = [(each["key"], each["column"], each["kind"]) for each in compared["differences"]]
    assert differing == [('["4"]', "phone", "changed")]

    made = home.shown("backup", "--rekey", "--key", str(secret))
    assert made["values"] == {"patients": 2 * ROWS}
    (rekeyed,) = (name for name in made["files"] if name.startswith("database-"))
    copy = f"copy_{uuid4().hex}"  # its server is that of other tests, too
    home.typed("restore-database", "--into", copy, "--from", rekeyed, "--key", str(secret))
    there = sa.make_url(application.url).set(database=copy).render_as_string(hide_password=False)
    assert replace(application, url=there).read() == application.expected | {4: before}

    for path in (tmp_path / ".keyrotation" / "backups").glob("database-*"):
        if path.name != rekeyed and not path.name.startswith(f"{rekeyed}."):
            path.unlink()
    home.sign(home.typed("destroy", "v2x", "--reason", "leaked").splitlines()[-1])
    home.typed("destroy", "v2x")
    assert "is destroyed permanently" in home.typed("restore-key", "v2x", "--key", str(secret), exits=1)
    (key,) = (tmp_path / ".keyrotation" / "keys").glob("v3x.key")
    before_loss = key.read_bytes()
    key.unlink()
    home.typed("restore-key", "v3x", "--key", str(secret))
    assert key.read_bytes() == before_loss
    shutil.copy(key, key.parent / "v4.key")  # one key for both generations
    assert "v3x and v4, one number or one key" in home.typed("verify", exits=1)
    (key.parent / "v4.key").unlink()
    home.typed("verify")
    home.typed("audit", "verify")


@pytest.mark.extended
def test_a_renamed_column_asks_for_its_label_and_is_read_again_once_that_is_declared(home: Home) -> None:
    home.configure(2)
    home.finished("request", "--reason", "bind values to their columns")
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE patients RENAME COLUMN phone TO tel")
    home.file.write_text(home.file.read_text().replace('["mail", "phone"]', '["mail", "tel"]'))
    assert "if patients.tel (or the table) was renamed" in home.typed("request", "--reason", "yearly", exits=1)
    assert f"{ROWS} values of patients cannot be decrypted" in home.typed("verify", exits=1)
    before = home.file.read_text()
    home.file.write_text(before.replace("clients.email", "patients.phone"))
    assert f"{2 * ROWS} values of patients cannot be decrypted" in home.typed("verify", exits=1)
    home.file.write_text(before.replace('"clients.email"', '"clients.email", tel = "patients.phone"'))
    home.typed("verify")
    (table,) = home.shown("status", "--count")["tables"]
    assert (table["unreadable"], table["values_by_version"]["v2x"]) == (0, 2 * ROWS)
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    assert "patients.mail is bound as clients.email; patients.tel is bound as patients.phone\n" in home.typed(
        "approve", request, "--text"
    )
    home.sign(request)
    home.walk(request)
    assert home.counts() == ({"v3x": 2 * ROWS}, ["v1", "v2x"])
