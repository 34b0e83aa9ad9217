"""Runs a whole rotation on the embedded default, while an application writes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from keyrotation_pipeline.adapters.keystores.file import APPLICATION_FILE
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.backups.backup import back_up_after_rotation
from keyrotation_pipeline.demo import application as native_application
from keyrotation_pipeline.demo import clinic, fernet_application
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import MODULE_VARIABLE, PIN_VARIABLE
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.requests import Request, StepRecord, Walk
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import keys, runner
from keyrotation_pipeline.rotation.rollout import unnamed_primary
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.loading import child_environment

ACTOR = "demo"
REPORT_SECONDS = 30
STOP_SECONDS = 120


@dataclass
class DemoOutcome:
    """The result that the demo prints; `holds` is true only if every claim is."""

    rotation: Walk
    counts: tuple[TableCount, ...]
    keys: tuple[KeyRecord, ...]
    archived: tuple[KeyVersion, ...]
    application: dict[str, Any]
    old_value_refused: bool
    seconds_by_phase: dict[str, float] = field(default_factory=dict)

    @property
    def old_values(self) -> int:
        """Values left under any version but the target."""
        return sum(
            number
            for count in self.counts
            for version, number in count.values_by_version.items()
            if version != self.rotation.target
        )

    def as_facts(self) -> dict[str, Any]:
        """Returns the outcome as one JSON object."""
        return {
            "id": self.rotation.id,
            "from": str(self.rotation.source),
            "to": str(self.rotation.target),
            "holds": self.holds,
            "old_values": self.old_values,
            "old_value_refused": self.old_value_refused,
            "archived": [str(version) for version in self.archived],
            "application": self.application,
            "seconds_by_phase": {step: round(seconds, 3) for step, seconds in self.seconds_by_phase.items()},
        }

    @property
    def holds(self) -> bool:
        """Zero old values and none accepted, the old key archived, and an application without error or lost write."""
        clean = self.application["errors"] == 0 and self.application["lost_writes"] == 0
        worked = self.application["writes"] > 0
        retired = self.old_value_refused and self.rotation.source in self.archived
        return self.old_values == 0 and retired and clean and worked


def run_demo(
    option: Path | None,
    clients: int,
    report: Report,
    say: Callable[[str], None],
    finished: Callable[[StepRecord, float], None],
    values: ValueFormat = NATIVE,
) -> DemoOutcome:
    """Sets everything up, rotates once, and compares.

    Args:
        option: `--config`.
        clients: how many patients a new clinic has; an existing one is not changed.
        say: called with one line at a time on what happens.
        finished: called with each finished step and its duration in seconds.
    """
    settings, officers = prepare(option, values=values)
    with open_home(settings, clients, say) as pipeline, working_application(settings) as application:
        say(f"{pipeline.environment.identity().name}: an application reads and writes from here on")
        rotation = open_request(pipeline, reason="Demonstration of a routine rotation", requested_by=ACTOR)
        say(f"Request {rotation.id}: {rotation.source} → {rotation.target}")
        approve(pipeline, rotation, officers, say)
        _wait_for_report(pipeline, rotation)
        seconds: dict[str, float] = {}
        with _connected(settings) as connection:
            old = clinic.stored_value(connection)
        started = time.monotonic()
        for record in runner.run(pipeline, rotation.id, report):
            now = time.monotonic()
            seconds[record.step] = seconds.get(record.step, 0.0) + now - started
            started = now
            if record.shard is None:
                finished(record, seconds[record.step])
        tally = application.stop()
        with open_backups(settings, actor=ACTOR) as site:
            if (done := back_up_after_rotation(site)) is not None:
                say(f"Backup {done.made.name}: every key and the database, encrypted to the officers")
                done.require_sound_audit()
        with _connected(settings) as connection:
            refused = clinic.refuses(connection, old)
        return DemoOutcome(
            rotation=pipeline.ledger.walk(rotation.id),
            counts=pipeline.inventory.count(pipeline.tables),
            keys=pipeline.ledger.keys(),
            archived=tuple(pipeline.keys.read().archived),
            application=tally,
            old_value_refused=refused,
            seconds_by_phase=seconds,
        )


@contextmanager
def _connected(settings: Settings) -> "Iterator[psycopg.Connection[tuple[Any, ...]]]":
    with database_url(settings) as url, connect(url) as connection:
        yield connection


def _wait_for_report(pipeline: Pipeline, rotation: Walk) -> None:
    """Waits for the application's first report; without it no key is made."""
    for _ in attempts(pipeline.clock, pause_seconds=0.1, patience_seconds=REPORT_SECONDS):
        if unnamed_primary(Situation(pipeline), rotation) is None:
            return


@contextmanager
def open_home(settings: Settings, clients: int, say: Callable[[str], None]) -> Iterator[Pipeline]:
    """Yields the initialised pipeline of the demo, over a clinic that has patients."""
    initialise(settings, None, actor=ACTOR)
    with open_pipeline(settings, actor=ACTOR) as pipeline:
        if not pipeline.keys.read().live:
            first = KeyVersion(1)
            keys.import_keys(pipeline, KeyRing({first: KeyMaterial.generate()}, first))
        with _connected(settings) as connection:
            if not clinic.exists(connection):
                clinic.admit(connection, _encrypting(settings, pipeline.keys.read().ring()), clients)
                say(f"A clinic of {clients:,} clients and {2 * clients:,} appointments, every record encrypted")
        yield pipeline


def _encrypting(settings: Settings, ring: KeyRing) -> Callable[[str], str]:
    """Encrypts as the demo's application does."""
    if settings.format.value_format.names_versions:
        return partial(encrypt, ring)
    fernet = fernet_application.Keys(settings.keys_directory / APPLICATION_FILE).fernet
    return lambda text: fernet.encrypt(text.encode()).decode()


def approve(pipeline: Pipeline, request: Request, officers: Sequence[DemoOfficer], say: Callable[[str], None]) -> None:
    """Has each officer sign the canonical text."""
    text = pipeline.ledger.approval_text(request.id)
    for officer in officers:
        add_approval(pipeline, request, officer.sign(text))
        say(f"Approved by the {officer.name}")


def _environment(settings: Settings) -> dict[str, str]:
    """Returns that of the application, which may have to open keys in a token."""
    seal = settings.keys.seal
    if seal is None or seal.module is None or seal.pin is None:
        return child_environment()
    return child_environment(**{MODULE_VARIABLE: str(seal.module), PIN_VARIABLE: seal.pin.get_secret_value()})


class RunningApplication:
    """The application's process; `stop` returns its tally."""

    def __init__(self, settings: Settings, url: str) -> None:
        # That of Fernet runs as a file, since it imports nothing of this package.
        native = settings.format.value_format.names_versions
        command = [
            sys.executable,
            *(("-m", native_application.__name__) if native else ("-P", fernet_application.__file__)),
        ]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(settings)
        )
        keys = settings.keys_directory if native else settings.keys_directory / APPLICATION_FILE
        self._send(json.dumps({"url": url, "keys": str(keys), "columns": clinic.ENCRYPTED_COLUMNS}))
        if self._read_line() != "ready":
            raise KeyRotationError("the demo's application did not start; run `keyrotation demo` again")

    def stop(self) -> dict[str, Any]:
        """Lets it stop writing and compare the database with its ledger."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        tally: dict[str, Any] = json.loads(self._read_line() or '{"writes": 0, "errors": 1, "lost_writes": 0}')
        self._process.wait(STOP_SECONDS)
        return tally

    def kill(self) -> None:
        """Kills the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _send(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read_line(self) -> str:
        return self._process.stdout.readline().strip() if self._process.stdout is not None else ""


@contextmanager
def working_application(settings: Settings) -> Iterator[RunningApplication]:
    """Starts an application; the context yields it while it works. Its embedded database must stay open."""
    with database_url(settings) as url:
        with connect(url) as connection:
            clinic.forget_applications(connection)
        application = RunningApplication(settings, url)
        try:
            yield application
        finally:
            application.kill()
