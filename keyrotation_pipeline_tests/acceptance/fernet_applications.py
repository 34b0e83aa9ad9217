"""Programs of Fernet applications: what guides/fernet.md prints, with the real packages, and a loop that uses it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from keyrotation_pipeline_tests.pages import code, report_of

# Reads and writes rows until standard input ends. Row and text are those of one writer alone.
_LOOP = """
import random, sys
import psycopg
keep_reporting(lambda: psycopg.connect(os.environ["URL"]), KEYS)
expected = {int(row): text for row, text in json.loads(sys.stdin.readline()).items()}
if os.environ.get("SEED"):
    for row, text in expected.items():
        write(row, text)
wrong, writes, stop = [], 0, threading.Event()
if os.environ.get("READS_ALL"):
    wrong = [f"{found!r}, not {text!r}" for row, text in expected.items() if (found := read(row)) != text]
    stop.set()
reading = threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True)
reading.start()
print("at work", flush=True)
while not stop.wait(0.02):
    row = random.choice(list(expected))
    if (found := read(row)) != expected[row]:
        wrong.append(f"{found!r}, not {expected[row]!r}")
    writes += 1
    expected[row] = f"{row}, write {writes} of {os.getpid()}"
    try:
        write(row, expected[row])
    except Exception as error:
        wrong.append(f"{row}: {error!r}")
reading.join()
print(json.dumps({"expected": expected, "wrong": wrong, "writes": writes}))
"""
_DJANGO = """
import django
django.setup()
from clinic.models import Client
KEYS
in_json = hasattr(Client, "details")
def read(row):
    client = Client.objects.get(id=row)
    values = {client.name, client.note, *(client.details["phones"] if in_json else [])}
    return values.pop() if len(values) == 1 else sorted(values)
def write(row, text):
    Client(id=row, name=text, note=text, **({"details": {"phones": [text]}} if in_json else {})).save()
"""
_PSYCOPG = """
def execute(*arguments):
    with psycopg.connect(os.environ["URL"], autocommit=True) as connection:
        cursor = connection.execute(*arguments)
        return cursor.fetchall() if cursor.description else []
"""
# As the models of Airflow 2.10 to 3.3 read and write these columns; now and then like an instance that has no key.
_AIRFLOW = """
import random
def read(row):
    [(secret, extra, is_encrypted, is_extra_encrypted)] = execute(
        "SELECT password, extra, is_encrypted, is_extra_encrypted FROM connection WHERE id = %s", (row,))
    [(val, is_val_encrypted)] = execute("SELECT val, is_encrypted FROM variable WHERE id = %s", (row,))
    def opened(value, says):
        return fernet.decrypt(value.encode()).decode() if says else value
    values = {opened(secret, is_encrypted), opened(val, is_val_encrypted)}
    values.add(json.loads(opened(extra, is_extra_encrypted))["text"])
    values |= {json.loads(fernet.decrypt(kwargs.encode()))["text"]
               for (kwargs,) in execute("SELECT kwargs FROM trigger WHERE id = %s", (row,))}
    return values.pop() if len(values) == 1 else sorted(values)
def write(row, text):
    def new(text, says):
        return fernet.encrypt(text.encode()).decode() if says else text
    says, extra, says_val = (random.random() < 0.8 for _ in range(3))
    execute("INSERT INTO connection (id, conn_id, conn_type, password, extra, is_encrypted, is_extra_encrypted) "
            "VALUES (%s, %s, 'http', %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET password = excluded.password, "
            "extra = excluded.extra, is_encrypted = excluded.is_encrypted, "
            "is_extra_encrypted = excluded.is_extra_encrypted",
            (row, str(row), new(text, says), new(json.dumps({"text": text}), extra), says, extra))
    execute("INSERT INTO variable (id, key, val, is_encrypted) VALUES (%s, %s, %s, %s) ON CONFLICT (id) "
            "DO UPDATE SET val = excluded.val, is_encrypted = excluded.is_encrypted",
            (row, str(row), new(text, says_val), says_val))
    execute("INSERT INTO trigger (id, classpath, kwargs, created_date) VALUES (%s, 'x', %s, now()) "
            "ON CONFLICT (id) DO UPDATE SET kwargs = excluded.kwargs", (row, new(json.dumps({"text": text}), True)))
"""
# The same by Airflow itself, version 3.
_REAL_AIRFLOW = """
import json, os, sys, threading
from airflow import settings
from airflow.models import Connection, Variable
from airflow.models.trigger import Trigger
KEYS = []
def keep_reporting(*_): pass
def read(row):
    with settings.Session() as session:
        connection, variable, trigger = (session.get(each, row) for each in (Connection, Variable, Trigger))
        values = {connection.password, json.loads(connection.extra)["text"], variable.val}
        values |= set() if trigger is None else {trigger.kwargs["text"]}
        return values.pop() if len(values) == 1 else sorted(values)
def write(row, text):
    with settings.Session() as session:
        connection = session.get(Connection, row) or Connection(conn_id=str(row), conn_type="http")
        connection.set_password(text)
        connection.set_extra(json.dumps({"text": text}))
        variable = session.get(Variable, row) or Variable(key=str(row))
        variable.set_val(text)
        trigger = session.get(Trigger, row) or Trigger("x", {})
        trigger.kwargs = {"text": text}
        for each in (connection, variable, trigger):
            each.id = row
            session.merge(each)
        session.commit()
"""
# The columns of Airflow that matter, with their types; in version 3 the flags are NOT NULL.
AIRFLOW_TABLES = """
CREATE TABLE connection (id serial PRIMARY KEY, conn_id varchar(250) NOT NULL UNIQUE, conn_type varchar(500) NOT NULL,
    description text, host varchar(500), schema varchar(500), login text, password text, port int,
    is_encrypted boolean, is_extra_encrypted boolean, extra text);
CREATE TABLE variable (id serial PRIMARY KEY, key varchar(250) UNIQUE, val text, description text,
    is_encrypted boolean);
CREATE TABLE trigger (id serial PRIMARY KEY, classpath varchar(1000) NOT NULL, kwargs text NOT NULL,
    created_date timestamptz NOT NULL, triggerer_id int);
"""
# As an Airflow without a key writes them.
AIRFLOW_UNENCRYPTED = """
INSERT INTO connection (id, conn_id, conn_type, password, extra, is_encrypted, is_extra_encrypted)
SELECT row, row, 'http', 'row ' || row, json_build_object('text', 'row ' || row), false, false
FROM generate_series(41, 50) AS row;
INSERT INTO variable (id, key, val, is_encrypted) SELECT row, row, 'row ' || row, false
FROM generate_series(41, 50) AS row;
"""
_SQLALCHEMY = """
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase):
    pass
class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Encrypted)
    note: Mapped[str | None] = mapped_column(Encrypted)
engine = create_engine(os.environ["URL"].replace("postgresql:", "postgresql+psycopg:"), hide_parameters=True)
def read(row):
    with Session(engine) as session:
        client = session.get_one(Client, row)
        return client.name if client.name == client.note else [client.name, client.note]
def write(row, text):
    with Session(engine) as session:
        session.merge(Client(id=row, name=text, note=text))
        session.commit()
if os.environ.get("SEED"):
    Base.metadata.create_all(engine)
"""
_SETTINGS = """
import os
from psycopg.conninfo import conninfo_to_dict
SECRET_KEY, DEFAULT_AUTO_FIELD, INSTALLED_APPS = "the secret", "django.db.models.AutoField", ["clinic"]
given = conninfo_to_dict(os.environ["URL"])
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "USER": given["user"],
                         "HOST": given["host"], "PORT": given.get("port", ""), "PASSWORD": given.get("password", "")}}
"""
_MODELS = """
from django.db import models
from {package}.fields import EncryptedCharField, EncryptedTextField
class Client(models.Model):
    name = EncryptedCharField(max_length=100)
    note = EncryptedTextField(null=True)
"""
_JSON_FIELD = """
    from encrypted_fields.fields import EncryptedJSONField
    details = EncryptedJSONField(default=dict)
"""
_MANAGE = (
    "import sys\nfrom django.core.management import execute_from_command_line\n\nexecute_from_command_line(sys.argv)\n"
)


@dataclass
class Project:
    """The files of an application, and its processes, of which each writes rows of its own.

    Args:
        variable: under which it reads its keys.
        expected: what each row holds, by the writer's own account.
        reports: whether its instances report themselves.
        derivation: how it derives its keys from what it reads.
        unencrypted: rows that hold text which is not encrypted, and which nobody writes.
        more: of its environment.
    """

    folder: Path
    url: str
    variable: str
    expected: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    writes: int = 0
    running: "list[subprocess.Popen[str]]" = field(default_factory=list)
    reports: bool = True
    derivation: str | None = None
    unencrypted: dict[int, str] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (sys.executable, "program.py")

    @property
    def delivered(self) -> Path:
        return self.folder / ".keyrotation" / "keys" / "application.env"

    def listed(self) -> list[str]:
        name, _, listed = self.delivered.read_text().strip().partition("=")
        assert name == self.variable
        return listed.split(",")

    def environment(self, keys: list[str], **more: str) -> dict[str, str]:
        return {**os.environ, "URL": self.url, self.variable: ",".join(keys), "DJANGO_SETTINGS_MODULE": "site_settings",
                "PYTHONPATH": str(self.folder), **self.more, **more}  # fmt: skip

    def start(self, rows: dict[int, str], keys: list[str], **more: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            list(self.command), cwd=self.folder, env=self.environment(keys, **more), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(rows) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "at work\n"
        return process

    def stop(self, process: "subprocess.Popen[str]") -> dict[int, str]:
        told = json.loads(process.communicate(timeout=60)[0])
        assert process.returncode == 0
        self.wrong += told["wrong"]
        self.writes += told["writes"]
        rows = {int(row): text for row, text in told["expected"].items()}
        self.expected |= rows
        return rows

    def seed(self, keys: list[str]) -> None:
        self.stop(self.start(self.expected, keys, SEED="1"))

    def require_read(self, keys: list[str]) -> None:
        """A new process with these keys alone reads every row as it was written last."""
        writes = self.writes
        self.stop(self.start(self.expected, keys, READS_ALL="1"))
        assert (self.wrong, self.writes) == ([], writes)

    def restart(self) -> None:
        """Restarts one instance after another with the list as it is delivered now."""
        for number, process in enumerate(self.running):
            self.running[number] = self.start(self.stop(process), self.listed())

    @contextmanager
    def at_work(self, instances: int = 2) -> Iterator[None]:
        for number in range(instances):
            rows = {row: text for row, text in self.expected.items() if row % instances == number}
            self.running.append(self.start(rows, self.listed()))
        try:
            yield
        finally:
            for process in self.running:
                self.stop(process)
            self.running.clear()


_SILENT = "import json, os, threading\ndef keep_reporting(*_): pass\n"


def plain_python(program: str, url: str, folder: Path, variable: str, *, reports: bool = True) -> Project:
    """An application of one file, with the lines for plain Python."""
    lines = code("fernet-python").replace("FERNET_KEYS", variable)
    (folder / "program.py").write_text(lines + (report_of("fernet.py") if reports else _SILENT) + program + _LOOP)
    return Project(folder, url, variable, {row: f"row {row}" for row in range(1, 41)}, reports=reports)


def sqlalchemy(url: str, folder: Path) -> Project:
    """A model with the column type of the guide."""
    return plain_python(code("fernet-sqlalchemy") + _SQLALCHEMY, url, folder, "FERNET_KEYS")


def airflow(url: str, folder: Path) -> Project:
    """Airflow's tables, written as its models write them."""
    project = plain_python(_PSYCOPG + _AIRFLOW, url, folder, "AIRFLOW__CORE__FERNET_KEY", reports=False)
    return replace(project, unencrypted={row: f"row {row}" for row in range(41, 46)})


def real_airflow(url: str, folder: Path, python: str) -> Project:
    """Airflow itself, as an interpreter has it installed."""
    project = airflow(url, folder)
    (folder / "program.py").write_text(_REAL_AIRFLOW + _LOOP.replace("import psycopg\n", ""))
    more = {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.replace("postgresql:", "postgresql+psycopg2:"),
    }
    return replace(project, more=more, command=(python, "program.py"))


def derived(block: str) -> str:
    """The lines that report instances, for what keys are derived from."""
    line = "    held = [base64.urlsafe_b64decode(key) for key in keys]\n"
    lines = report_of("fernet.py")
    assert line in lines
    return lines.replace(line, code(block))


def sha256(url: str, folder: Path) -> Project:
    """A model with the column type of the guide, whose keys are SHA-256 of the entries."""
    project = plain_python(code("fernet-sqlalchemy") + _SQLALCHEMY, url, folder, "FERNET_KEYS")
    program = code("fernet-sha256") + derived("fernet-report-derived") + code("fernet-sqlalchemy") + _SQLALCHEMY + _LOOP
    (folder / "program.py").write_text(program)
    return replace(project, derivation="sha256")


_CRYPTOGRAPHY_FIELDS = """
from django_cryptography.fields import encrypt
class Client(models.Model):
    name = encrypt(models.CharField(max_length=100))
    note = encrypt(models.TextField(null=True))
"""
_OUR_FIELDS = """
class Client(models.Model):
    name = EncryptedTextField()
    note = EncryptedTextField(null=True)
"""
_ATTESTING = """
import django
django.setup()
import sqlalchemy
from keyrotation_pipeline.encrypted_type import attest
from clinic.models import keys
def keep_reporting(*_):
    url = os.environ["URL"].replace("postgresql:", "postgresql+psycopg:")
    attest(sqlalchemy.create_engine(url), keys, every_seconds=0.2,
           encrypts_from={"clinic_client.name": 3, "clinic_client.note": 3})
"""


def django_cryptography(url: str, folder: Path, delivered: Path, *, reads_both: bool) -> Project:
    """A release of a project with django-cryptography, or the one after it, as the guide has it."""
    clinic = folder / "clinic"
    clinic.mkdir(parents=True)
    (clinic / "__init__.py").touch()
    fields = code("django-cryptography") + _OUR_FIELDS if reads_both else _CRYPTOGRAPHY_FIELDS
    (clinic / "models.py").write_text(f"from django.db import models\n{fields}")
    (folder / "manage.py").write_text(_MANAGE)
    (folder / "site_settings.py").write_text(f"{_SETTINGS}ENCRYPTION_KEYS = {str(delivered)!r}\n")
    reporting = f"import json, os, threading\n{_ATTESTING}" if reads_both else _SILENT
    (folder / "program.py").write_text(reporting + _DJANGO.replace("KEYS", "KEYS = []") + _LOOP)
    return Project(folder, url, "UNUSED", {row: f"row {row}" for row in range(1, 41)})


# The lines of the guide for the settings of a package, where it reads its keys, and how it derives them.
_PACKAGES = {
    "encrypted_model_fields": ("fernet-django-model-fields", "FIELD_ENCRYPTION_KEY", None),
    "encrypted_fields": ("fernet-django-encrypted-fields", "FERNET_KEYS", "django-fernet-encrypted-fields"),
    "fernet_fields": ("fernet-django-fernet-fields", "FERNET_KEYS", "django-fernet-fields"),
}


def django(url: str, folder: Path, package: str, settings: str | None = None) -> Project:
    """A project with one application, `clinic`.

    Args:
        package: of its fields.
        settings: from before the keys are rotated; None: as the guide says.
    """
    clinic = folder / "clinic"
    clinic.mkdir(exist_ok=True)
    (clinic / "__init__.py").touch()
    in_json = package == "encrypted_fields"
    (clinic / "models.py").write_text(_MODELS.format(package=package) + (_JSON_FIELD if in_json else ""))
    (folder / "manage.py").write_text(_MANAGE)
    block, variable, derivation = _PACKAGES[package]
    (folder / "site_settings.py").write_text(_SETTINGS + (code(block) if settings is None else settings))
    reporting = report_of("fernet.py") if derivation is None else derived("fernet-report-derived")
    keys = "from site_settings import KEYS"
    if settings is not None:
        reporting, keys = _SILENT, "KEYS = []"
    (folder / "program.py").write_text(reporting + _DJANGO.replace("KEYS", keys) + _LOOP)
    return Project(folder, url, variable, {row: f"row {row}" for row in range(1, 41)}, derivation=derivation)
