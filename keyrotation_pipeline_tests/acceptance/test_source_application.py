"""The chapter on the application of the source procedure, typed with that application, which serves all the while."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.command import environment
from keyrotation_pipeline_tests.acceptance.nights import ROWS, NewDesk
from keyrotation_pipeline_tests.acceptance.test_reference import OFFICERS, by_both, signed_request, status
from keyrotation_pipeline_tests.pages import block, code
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = pytest.mark.extended
EARLY = "v2 value seen before promotion: table clients holds"

# The code printed in section 4.2 of the source procedure, with imports, and with what its `...` omits.
CONFIG = '''
# src/pazpaz/core/config.py
import base64

from pydantic import Field
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    encryption_master_key: str = Field(..., env="ENCRYPTION_MASTER_KEY")
    encryption_master_key_v2: str | None = Field(None, env="ENCRYPTION_MASTER_KEY_V2")

    @property
    def encryption_key(self) -> bytes:
        """Primary encryption key (used for new writes)."""
        # Use v2 if available (during rotation)
        if self.encryption_master_key_v2:
            return base64.b64decode(self.encryption_master_key_v2)
        return base64.b64decode(self.encryption_master_key)

    @property
    def encryption_key_v1(self) -> bytes:
        """Legacy encryption key (for reading old data)."""
        return base64.b64decode(self.encryption_master_key)
'''
TYPES = '''
# src/pazpaz/db/encrypted_types.py
import base64
import secrets

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.types import Text, TypeDecorator


class EncryptedType(TypeDecorator):
    impl = Text
    cache_ok = False

    def __init__(self, key: bytes, key_v1: bytes | None = None):
        super().__init__()
        self.key = key  # v2 (for writes)
        self.key_v1 = key_v1  # v1 (for reads during rotation)
        self.cipher = AESGCM(key)
        self.cipher_v1 = AESGCM(key_v1) if key_v1 else None

    def process_bind_param(self, value, dialect):
        """Encrypt with v2 key."""
        # Always use v2 for new writes
        nonce = secrets.token_bytes(12)
        ciphertext = self.cipher.encrypt(nonce, value.encode("utf-8"), None)
        return f"v2:{base64.b64encode(nonce).decode()}:{base64.b64encode(ciphertext).decode()}"

    def process_result_value(self, value, dialect):
        """Decrypt with appropriate key version."""
        parts = value.split(":")
        key_version = parts[0]

        if key_version == "v2":
            cipher = self.cipher  # v2 key
        elif key_version == "v1" and self.cipher_v1:
            cipher = self.cipher_v1  # v1 key
        else:
            raise ValueError(f"Unsupported key version: {key_version}")

        nonce = base64.b64decode(parts[1])
        ciphertext = base64.b64decode(parts[2])
        plaintext = cipher.decrypt(nonce, ciphertext, None)
        return plaintext.decode("utf-8")
'''

# What both releases have. A worker writes rows of its own, so that it knows what each must hold, and reads all.
MODEL = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from pazpaz.db.encrypted_types import EncryptedType
from pazpaz.db.session import settings


class Base(DeclarativeBase):
    pass


class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str] = mapped_column(EncryptedType(settings.encryption_key, settings.encryption_key_v1))
    email: Mapped[str] = mapped_column(EncryptedType(key=settings.encryption_key, key_v1=settings.encryption_key_v1))
"""
ENGINE = """
import os
from sqlalchemy import create_engine
from pazpaz.core.config import Settings

settings = Settings()
engine = create_engine(os.environ["DATABASE_URL"], hide_parameters=True)
"""
WORKER = """
import json, random, signal, sys, time
from sqlalchemy import select
from sqlalchemy.orm import Session
from pazpaz.db.session import engine
from pazpaz.models import Client

first, rows = int(sys.argv[1]), int(sys.argv[2])
written, failures, requests, stopping = {}, [], 0, []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))


def request():
    with Session(engine) as session, session.begin():
        read = session.scalars(select(Client).where(Client.id == random.randrange(rows))).one()
        assert read.first_name and read.email
        key = first + requests % 40
        value = f"{first} {requests}"
        mine = session.get(Client, key, with_for_update=True)
        if mine is None:
            session.add(Client(id=key, first_name=value, email=value))
        else:
            assert key not in written or (mine.first_name, mine.email) == (written[key], written[key]), "a lost write"
            mine.first_name = mine.email = value
    written[key] = value


while not stopping:
    try:
        request()
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")
    requests += 1
    if requests == 20:
        print("serving", flush=True)
    time.sleep(0.01)
print(json.dumps({"requests": requests, "failures": failures, "written": written}), flush=True)
"""


@dataclass
class Pazpaz:
    """The application: its releases, and the instances that run. What each has written and met is known at the end."""

    desk: NewDesk
    started: int = 0
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    written: dict[int, str] = field(default_factory=dict)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def release(self, name: str, config: str, types: str, session: str = "") -> None:
        source = self.desk.night.path / name / "pazpaz"
        modules = {
            "core/config.py": config,
            "db/encrypted_types.py": types,
            "db/session.py": ENGINE + session,
            "models.py": MODEL,
            "worker.py": WORKER,
        }
        for module, text in modules.items():
            (source / module).parent.mkdir(parents=True, exist_ok=True)
            (source / module).write_text(text)

    def start(self, release: str, **variables: str) -> subprocess.Popen[str]:
        """One more instance; it serves when this returns."""
        self.started += 1
        url = self.desk.night.variables["KEYROTATION_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
        instance = subprocess.Popen(
            [sys.executable, "-m", "pazpaz.worker", str(1000 * self.started), str(ROWS)],
            cwd=self.desk.night.path / release,
            env=environment(DATABASE_URL=url, **variables),
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running.append(instance)
        assert instance.stdout is not None
        assert instance.stdout.readline() == "serving\n"
        return instance

    def stop(self, *instances: subprocess.Popen[str]) -> None:
        for instance in instances or tuple(self.running):
            self.running.remove(instance)
            instance.send_signal(signal.SIGTERM)
            reported, _ = instance.communicate(timeout=60)
            seen: dict[str, Any] = json.loads(reported)
            self.requests += seen["requests"]
            self.failures += seen["failures"]
            self.written |= {int(key): value for key, value in seen["written"].items()}

    def lost(self) -> list[int]:
        """Rows that do not hold what was written last, read with the keys of the key store."""
        column = EncryptedType(MountedKeyRing(self.desk.night.path / ".keyrotation" / "keys"))
        with psycopg.connect(self.desk.night.variables["KEYROTATION_DATABASE_URL"]) as connection:
            rows = connection.execute("SELECT id, first_name, email FROM clients").fetchall()
        stored = {
            key: {column.process_result_value(value, None) for value in values}  # type: ignore[arg-type]
            for key, *values in rows
        }
        return [key for key, value in self.written.items() if stored.get(key) != {value}]

    def labels(self) -> set[str]:
        with psycopg.connect(self.desk.night.variables["KEYROTATION_DATABASE_URL"]) as connection:
            return {each for row in connection.execute(
                "SELECT DISTINCT split_part(unnest(ARRAY[first_name, email]), ':', 1) FROM clients"
            ).fetchall() for each in row}  # fmt: skip


@pytest.fixture
def pazpaz(new_desk: NewDesk) -> Iterator[Pazpaz]:
    """Three releases: before section 4.2 (one key, labelled v1), of section 4.2, and of our chapter."""
    made = Pazpaz(new_desk)
    types = TYPES
    assert types.count('return f"v2:') == 1
    made.release("before-4.2", CONFIG, types.replace('return f"v2:', 'return f"v1:'))
    made.release("4.2", CONFIG, types)
    session = code("session")
    assert session.count("attest(engine, settings.encryption_key)") == 1
    often = session.replace("settings.encryption_key)", "settings.encryption_key, every_seconds=0.2)")
    made.release("migrated", code("config"), code("types"), often)
    yield made
    for each in made.running:
        each.kill()
        each.wait()


def adopted(desk: NewDesk, lines: str, mode: str = "attest") -> str:
    with (desk.night.path / "keyrotation.toml").open("a") as configuration:
        configuration.write(f'[rollout]\nmode = "{mode}"\n')
    return desk.night.shell(f"export ENCRYPTION_MASTER_KEY={base64_of(desk.key)}\n{lines}")


def refused(desk: NewDesk, line: str) -> str:
    return desk.night.shell(f"{line} && exit 9 || test $? = 1")


KEYS = {"ENCRYPTION_KEYS": "../.keyrotation/keys"}


@pytest.mark.parametrize(
    ("old", "labels", "target"),
    [
        pytest.param("4.2", {"v1", "v2"}, "v3", id="section 4.2 with one key"),
        pytest.param("before-4.2", {"v1"}, "v2", id="before section 4.2"),
    ],
)
def test_the_application_of_the_source_procedure_is_migrated_and_rotated_while_it_serves(
    new_desk: NewDesk, pazpaz: Pazpaz, old: str, labels: set[str], target: str
) -> None:
    night, one_key = new_desk.night, {"ENCRYPTION_MASTER_KEY": base64_of(new_desk.key)}
    former = [pazpaz.start(old, **one_key), pazpaz.start(old, **one_key)]
    assert set(night.shell(block("labels")).split()) == labels
    reported = adopted(new_desk, block("adopt") if "v2" in labels else "keyrotation init\nkeyrotation verify")
    assert {line.split()[-1] for line in reported.splitlines() if line.startswith("clients   ")} == {"0"}

    refuses_to_make_a_key(new_desk)
    for each in former:
        pazpaz.start("migrated", **KEYS)
        pazpaz.stop(each)
    reported = night.shell(block("migrated"))
    assert "green  applications name their primary: every instance that reports does" in reported
    fleet = json.loads(night.shell("keyrotation rollout --json"))["instances"]
    primary = max(labels)
    assert [(each["reads"], each["writes"], each["names_primary"]) for each in fleet] == [
        (sorted(labels), primary, True)
    ] * 2
    assert pazpaz.labels() == labels

    request = json.loads(night.shell("keyrotation status --json"))["rotation"]["id"]
    assert f"finished: nothing is left under {primary}" in night.shell(f"keyrotation rotate {request}")
    before = pazpaz.started
    pazpaz.start("migrated", **KEYS)
    assert pazpaz.started == before + 1
    pazpaz.stop()
    assert (pazpaz.failures, pazpaz.lost()) == ([], [])
    assert pazpaz.requests > 100
    assert pazpaz.labels() == {target}
    assert status(night)["primary"] == target
    night.shell("keyrotation verify && keyrotation audit verify")


def refuses_to_make_a_key(desk: NewDesk) -> None:
    """As long as no instance reports: what is typed says so, and nothing was begun."""
    why = "no application instance reports itself"
    assert "red    applications name their primary: " + why in refused(desk, "keyrotation preflight")
    opened = desk.night.shell("keyrotation request --reason 'yearly rotation'")
    assert f"note: {why}" in opened
    request = opened.split()[-1]
    sign = (
        f"keyrotation approve {request} --text | gpg -ab | keyrotation approve {request} --signature - # two officers"
    )
    desk.night.shell(by_both(f"{sign}\n"))
    for line in (f"keyrotation rotate {request}", f"keyrotation rotate {request} --dry-run"):
        assert why in refused(desk, line)
    seen = status(desk.night)
    assert (seen["rotation"]["phase"], seen["rotation"]["started_at"]) == ("requested", None)
    assert why in seen["rotation"]["waiting_for"]
    assert any(why in each and "cannot begin" in each for each in seen["attention"])
    assert [key["state"] for key in seen["key_versions"]][-1] == "active"


@pytest.mark.parametrize("mode", ["none", "confirm", "attest"])
def test_an_application_that_chooses_its_key_itself_stops_the_rotation_and_a_rollback_repairs_it(
    new_desk: NewDesk, pazpaz: Pazpaz, mode: str
) -> None:
    """What the amber light says; with "attest" it runs unseen next to an instance that reports."""
    night, one_key = new_desk.night, {"ENCRYPTION_MASTER_KEY": base64_of(new_desk.key)}
    adopted(new_desk, "keyrotation init", mode)
    pazpaz.start("before-4.2", **one_key)
    if mode == "attest":
        pazpaz.start("migrated", **KEYS)
    else:
        reported = night.shell("keyrotation preflight")
        assert (
            f"amber  applications name their primary: mode {mode}: not seen; one that chooses its key itself"
            in reported
        )
        assert f'"{EARLY.partition(":")[0]}", and only a rollback helps' in reported
    request = signed_request(night, "--through key_version")
    made = (night.path / ".keyrotation" / "keys" / "v2.key").read_text().strip()
    chooses = pazpaz.start("4.2", **one_key, ENCRYPTION_MASTER_KEY_V2=made)  # the deployment of section 4.2
    assert eventually(lambda: pazpaz.labels() == {"v1", "v2"})
    if mode == "confirm":
        confirm(new_desk, request)
    assert EARLY in refused(new_desk, f"keyrotation rotate {request}")
    assert status(night)["primary"] == "v1"

    pazpaz.start("migrated", **KEYS)
    pazpaz.stop(chooses)
    pazpaz.stop(pazpaz.running[0])
    rollback = night.shell(f"keyrotation rollback {request} --reason 'written early'").split()[-1]
    sign = (
        f"keyrotation approve {rollback} --text | gpg -ab | keyrotation approve {rollback} --signature - # two officers"
    )
    night.shell(by_both(f"{sign}\n"))
    for _ in range(3 if mode == "confirm" else 0):
        refused(new_desk, f"keyrotation rotate {rollback}")
        confirm(new_desk, rollback)
    assert "finished: nothing is left under v2" in night.shell(f"keyrotation rotate {rollback}")
    pazpaz.stop()
    assert pazpaz.labels() == {"v1"}
    assert pazpaz.lost() == []
    assert [each for each in pazpaz.failures if "Unsupported" not in each] == []


def confirm(desk: NewDesk, request: str) -> None:
    sign = f'gpg -u "{OFFICERS[0]}" -ab | keyrotation confirm {request} --signature -'
    desk.night.shell(f"keyrotation confirm {request} --text | {sign}")
