"""A clinic for emergencies that meet other work: typed commands, two officers, and somebody on call."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.acceptance import warm
from keyrotation_pipeline_tests.acceptance.command import environment
from keyrotation_pipeline_tests.officers import roster_in_toml

V1 = KeyVersion(1)
TABLES = ("clients", "visits")
ROWS = 20
# Of commands that name the next one, and of officers who are asked to sign.
PATIENCE = 12
STAGES = ("requested", "signed", "rows", "proof", "retired")
COMMAND = re.compile(r"`keyrotation ([^`]+)`")


@dataclass
class Clinic:
    """Two tables under v1.

    Args:
        url: of the application's database.
        officers: two who are pinned, and one more.
        typed: every command with what it printed, for a failure to show.
    """

    path: Path
    url: str
    officers: tuple[DemoOfficer, ...]
    typed: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, path: Path, url: str, officers: tuple[DemoOfficer, ...]) -> "Clinic":
        ring = KeyRing({V1: KeyMaterial.generate()}, V1)
        with psycopg.connect(url, autocommit=True) as connection:
            for table in TABLES:
                connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, note text)".encode())
                for number in range(ROWS):
                    row = (number, encrypt(ring, f"Zoe {number}"))
                    connection.execute(f"INSERT INTO {table} VALUES (%s, %s)".encode(), row)
        made = cls(path, url, officers)
        made.name_officers(2)
        initialise(settings.load(made.file), ring, actor="test")
        return made

    @property
    def file(self) -> Path:
        return self.path / "keyrotation.toml"

    def name_officers(self, number: int) -> None:
        """Let the configuration name so many."""
        named = roster_in_toml(self.officers[:number])
        tables = "".join(f'[[tables]]\nname = "{table}"\ncolumns = ["note"]\n' for table in TABLES)
        # Recipients stay the two of the beginning, so that a change of officers is that alone.
        recipients = ", ".join(f'"{each.certificate}"' for each in self.officers[:2])
        self.file.write_text(
            f'database.url = "{self.url}"\n[rollout]\nmode = "none"\n[backup]\nrecipients = [{recipients}]\n'
            f"[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\n{tables}"
        )

    def attempt(self, *arguments: str, text: str | None = None) -> tuple[int, str, str]:
        """Type one command: its exit code, and what it printed on either stream."""
        done = warm.run(arguments, cwd=self.path, env=environment(), text=text, timeout=300)
        self.typed.append(f"$ keyrotation {' '.join(arguments)}   [{done.returncode}]\n{done.stdout}{done.stderr}")
        for trace in ("SQLSTATE", "Traceback"):
            assert trace not in done.stdout + done.stderr, self.story()
        if arguments[0] not in {"status", "verify", "audit"}:
            self.require_one_walk()
        return done.returncode, done.stdout, done.stderr

    def type(self, *arguments: str, text: str | None = None) -> str:
        """Type a command that succeeds."""
        code, printed, _ = self.attempt(*arguments, text=text)
        assert code == 0, self.story()
        return printed

    def refused(self, *arguments: str) -> str:
        """Type a command that is refused by one sentence, which names the next step."""
        code, _, sentence = self.attempt(*arguments)
        assert code == 1, self.story()
        assert COMMAND.search(sentence), self.story()
        return sentence

    def story(self) -> str:
        return "\n".join(self.typed[-14:])

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            yield pipeline

    def require_one_walk(self) -> None:
        """Never two that have begun and are not over."""
        with self.pipeline() as pipeline:
            begun = [each for each in pipeline.ledger.requests() if each.started_at and not each.is_over]
        assert len(begun) <= 1, self.story()

    def sign(self, request: str) -> None:
        """Both pinned officers, unless one has signed already.

        Args:
            request: its id, or the beginning that a sentence shows.
        """
        with self.pipeline() as pipeline:
            (stored,) = (each for each in pipeline.ledger.requests() if each.id.startswith(request))
            text = pipeline.ledger.approval_text(stored.id)
            names = [pinned_roster(pipeline).name_of(each) for each in stored.approvals]
        for officer in self.officers[:2]:
            if officer.name not in names:
                armored = officer.sign(text, "--armor").decode()
                self.attempt("approve", request, "--signature", "-", text=armored)

    def bring_to(self, stage: str, request: str) -> None:
        """Bring a walk to a stage: at `rows` one of two tables is re-encrypted."""
        if stage != "requested":
            self.sign(request)
        if stage == "rows":
            self.type("rotate", request, "--through", Step.PRIMARY_KEY_ROLLOUT)
            with self.pipeline() as pipeline:
                next(runner.run(pipeline, request, lambda _progress: None))
        elif stage in {"proof", "retired"}:
            through = Step.ZERO_OLD_ROWS_PROOF if stage == "proof" else Step.RETIRED_KEY
            self.type("rotate", request, "--through", through)

    def rotation(self, stage: str | None) -> str:
        """A routine rotation at a stage; None: finished."""
        request = self.type("request", "--reason", "yearly").strip()
        if stage is not None:
            self.bring_to(stage, request)
        else:
            self.sign(request)
            self.type("rotate", request)
        return request

    def incident(self, *versions: str, description: str = "a key stands in a log file") -> str:
        """An incident about these versions, reported at the command line; its id."""
        named = [option for each in versions for option in ("--key-version", each)]
        options = ("--type", "key_exposed", "--description", description, "--discovered-at", "now")
        code, printed, sentence = self.attempt("incident", "open", *options, *named)
        assert code == 0 or COMMAND.search(sentence), self.story()
        return printed.split()[0]

    def prepared(self, incident: str) -> str | None:
        """The emergency of an incident that is not over, if there is one."""
        with self.pipeline() as pipeline:
            carrier = carried_by(incidents(pipeline.ledger).by_id[incident], pipeline.ledger.requests())
        return None if carrier is None or carrier.is_over else carrier.id

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.type("status", "--json"))
        return content

    def attention(self, about: str) -> str:
        """What `status` says of an incident."""
        return " ".join(each for each in self.status()["attention"] if about in each)

    @contextmanager
    def restorable(self) -> Iterator[Callable[[], None]]:
        """Keep the database as it is now; the function restores it so."""
        base, _, rest = self.url.partition("?")
        server, _, name = base.rpartition("/")
        with psycopg.connect(f"{server}/postgres?{rest}", autocommit=True) as admin:
            kept = f"{name}_kept"
            admin.execute(f"CREATE DATABASE {kept} TEMPLATE {name} STRATEGY FILE_COPY".encode())

            def restore() -> None:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
                admin.execute(f"CREATE DATABASE {name} TEMPLATE {kept} STRATEGY FILE_COPY".encode())
                self.typed.append("(the database is restored)")

            try:
                yield restore
            finally:
                admin.execute(f"DROP DATABASE {kept} WITH (FORCE)".encode())

    def handle(self, incident: str) -> None:
        """What somebody on call does: sign and run the emergency, and type what each sentence names next."""
        for _ in range(PATIENCE):
            if (emergency := self.prepared(incident)) is not None:
                self.sign(emergency)
                code, _, sentence = self.attempt("rotate", emergency)
                if code == 0:
                    return
            else:
                sentence = self.attention(incident) or self.attention("restored")
            if "applications do not have" in sentence or "is finished; close it" in sentence:
                return
            self.follow(sentence)
        raise AssertionError(f"nothing ends it:\n{self.story()}")

    def follow(self, sentence: str) -> None:
        """Type the first command that a sentence names."""
        named = COMMAND.search(sentence)
        assert named, f"no next step in: {sentence}\n{self.story()}"
        words = [*named[1].replace("TEXT", "because").split()]
        if words[0] == "approve":
            self.sign(words[1])
            return
        code, printed, refusal = self.attempt(*words)
        if code:
            self.follow(refusal)
        elif words[0] == "request":
            self.sign(printed.strip())
            self.type("rotate", printed.strip())
        elif words[0] in {"policy", "reconcile"} and re.fullmatch(r"[0-9a-f]{32}", printed.strip()):
            self.sign(printed.strip())
            self.type(words[0])

    def require_out(self, *versions: str) -> None:
        """These are compromised, gone from applications and rows, and nothing is left to do but to close."""
        self.type("verify")
        self.type("audit", "verify")
        with self.pipeline() as pipeline:
            stored, counts = pipeline.keys.read(), pipeline.inventory.count(pipeline.tables)
            states = {str(each.version): each.state for each in pipeline.ledger.keys()}
            assert pipeline.ledger.current() is None, self.story()
            assert pipeline.ledger.waiting() is None, self.story()
        present = {str(version) for count in counts for version in count.values_by_version}
        live = set(map(str, stored.live))
        for version in versions:
            assert version not in live | present | {str(stored.primary)}, self.story()
        # One that applications did not have any more when the incident was opened is archived, and cannot come back.
        out = {KeyState.COMPROMISED, KeyState.ARCHIVED}
        assert {states.get(version, KeyState.ARCHIVED) for version in versions} <= out, self.story()
