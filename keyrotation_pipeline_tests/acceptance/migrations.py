"""Homes whose columns are encrypted for the first time, or come from another library, and their applications."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Self
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import Attestation, MountedKeyRing, attest
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.acceptance import dying_command
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.waiting import eventually

Types = Callable[[MountedKeyRing], "Mapping[str, sa.types.TypeEngine[Any]]"]
Texts = dict[int, tuple[str, ...]]


@dataclass
class Release:
    """One release of the application, as it runs in some instances.

    Args:
        types: of its columns, by name, under its key ring.
        expected: what each row of `cases` holds, which all releases share.
        changed: the columns that it writes.
        label: of its instances; and each release chooses rows of its own.
        begins: what the texts begin with that it writes: like values.
        reports_to: the database that it reports to; "": that of its rows.
    """

    url: str
    delivered: Path
    types: Types
    expected: Texts
    changed: tuple[str, ...]
    label: str
    begins: str = "v2:"
    reports_to: str = ""
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def __post_init__(self) -> None:
        self.keys = MountedKeyRing(str(self.delivered))
        types = self.types(self.keys)
        self.columns = tuple(types)

        class Base(DeclarativeBase):
            pass

        columns = {name: mapped_column(name, each) for name, each in types.items()}
        key = mapped_column("id", sa.Integer, primary_key=True)
        self.case: Any = type("Case", (Base,), {"__tablename__": "cases", "id": key, **columns})
        self.engine, self.reporting = map(_engine, (self.url, self.reports_to or self.url))

    def attest(self, **more: Any) -> Attestation:  # noqa: ANN401
        return attest(self.reporting, self.keys, instance=self.label, every_seconds=0.2, **more)

    def add(self, texts: Texts) -> None:
        with Session(self.engine) as session:
            session.add_all(
                self.case(id=row, **dict(zip(self.columns, each, strict=True))) for row, each in texts.items()
            )
            session.commit()

    def work(self, stop: threading.Event) -> None:
        """Reads rows and compares them with what was written, by whatever release; writes others."""
        chance = Random(self.label)
        while not stop.wait(0.02):
            try:
                with Session(self.engine) as session:
                    self._step(session, chance.randrange(len(self.expected)))
            except (sa.exc.SQLAlchemyError, KeyRotationError, ValueError) as error:
                self.wrong.append(f"{type(error).__name__} {error}")

    def _step(self, session: Session, row: int) -> None:
        case = session.scalars(sa.select(self.case).where(self.case.id == row).with_for_update()).one()
        if (found := self._texts(case)) != self.expected[row]:
            self.wrong.append(f"{row}: {found!r:.80} instead of {self.expected[row]!r:.80}")
            return
        self.writes += 1
        for name in self.changed:
            setattr(case, name, f"{self.begins} {name} {self.writes} of {self.label}")
        session.flush()
        self.expected[row] = self._texts(case)  # while the row is locked
        session.commit()

    def read(self) -> Texts:
        with Session(self.engine) as session:
            return {each.id: self._texts(each) for each in session.scalars(sa.select(self.case))}

    def _texts(self, case: Any) -> tuple[str, ...]:  # noqa: ANN401
        return tuple(getattr(case, name) for name in self.columns)


def _engine(url: str) -> sa.Engine:
    made = url.replace("postgresql://", "postgresql+psycopg://")
    return sa.create_engine(made, hide_parameters=True, poolclass=sa.NullPool)


@dataclass
class Home(Commands):
    """A home of the table `cases`."""

    url: str
    keys: Path
    expected: Texts

    def stored(self, *columns: str) -> list[Any]:
        """What stands in these columns of all rows, in their order."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM public.cases ORDER BY id".encode()).fetchall()
        return [value for row in rows for value in row]

    def table(self) -> dict[str, Any]:
        (table,) = self.shown("status", "--count")["tables"]
        return dict(table)

    def said(self, *arguments: str) -> str:
        """What a command says that is refused; "": it is done."""
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)])
        return "" if result.exit_code == 0 else str(result.exception)

    def killed_everywhere(self, *arguments: str) -> tuple[str, ...]:
        """Types a command until it comes to its end, killed at every moment (see `dying_command`), which it returns."""
        done = subprocess.run(
            [sys.executable, dying_command.__file__, *arguments, "--config", str(self.file)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout
        return tuple(done.stdout.splitlines())

    def rotated_with_kills(self, request: str, *, events: int = 3) -> tuple[int, set[str]]:
        """Has a walk carried out, killed again and again; returns how often, and the phases that it was killed in.

        Args:
            events: after at most so many new ones of the audit.
        """
        command = [str(Path(sys.executable).with_name("keyrotation")), "rotate", request, "--config", str(self.file)]
        chance, kills, phases = Random(20261202), 0, set[str]()
        for _ in range(120):
            wanted = self.events() + chance.randint(1, events)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and self.events() < wanted:
                time.sleep(0.005)
            with suppress(subprocess.TimeoutExpired):
                if process.wait(chance.uniform(0, 0.3)) == 0:
                    return kills, phases
            if process.poll() is None:
                process.kill()
                process.wait()
                kills += 1
            if (rotation := self.shown("status")["rotation"]) is None:
                return kills, phases
            phases.add(str(rotation["phase"]))
        raise AssertionError(f"not finished after {kills} kills")

    def events(self) -> int:
        with psycopg.connect(self.url) as connection:
            ((number,),) = connection.execute("SELECT count(*) FROM keyrotation.audit_events").fetchall()
        return int(number)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def reported(self) -> None:
        """Lets every role report."""
        self.execute("GRANT ALL ON SCHEMA keyrotation TO PUBLIC")

    def undone_and_rekeyed(self, application: Release, secret: Path, *options: str) -> tuple[Any, Self, Any]:
        """Undoes a walk from its middle, and restores what `--rekey` makes of a backup of then.

        Returns:
            What `--rekey` said; the restored database; and the rows that it must have.
        """
        with ExitStack() as running:
            running.callback(application.attest().stop)
            request = self.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
            self.sign(request)
            self.typed("rotate", request, "--through", "primary_key_rollout")
            with beside(application.work):
                assert eventually(lambda: application.writes > 10)
            self.typed("backup")
            (dump,) = (self.file.parent / ".keyrotation" / "backups").glob("database-*.dump.gpg")
            expected = dict(self.expected)
            back = self.typed("rollback", request, *options).splitlines()[-1]
            self.sign(back)
            assert self.said("rotate", back) == ""
        made = self.shown("backup", "--rekey", dump.name, "--key", str(secret))
        copy = f"copy_{uuid4().hex}"
        self.typed("restore-database", "--into", copy, "--from", made["set"], "--key", str(secret))
        url = sa.make_url(self.url).set(database=copy).render_as_string(hide_password=False)
        return made, replace(self, url=url), expected


def home_of(folder: Path, url: str, officers: tuple[DemoOfficer, ...], columns: str, create: str) -> Home:
    """Returns a home before its `init`, and makes its table.

    Args:
        columns: as [[tables]] has them.
        create: the columns of the table `cases`, besides its key.
    """
    named = roster_in_toml(officers)
    file = folder / "keyrotation.toml"
    file.write_text(
        f'database.url = "{url}"\n[rollout]\nmode = "attest"\ninstance_ttl_seconds = 5\ntimeout_seconds = 3\n'
        f"[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[[tables]]\nname = "cases"\ncolumns = {columns}\n'
    )
    home = Home(file, officers, url, folder / ".keyrotation" / "keys", {})
    home.execute(f"CREATE TABLE public.cases (id int PRIMARY KEY, {create})")
    return home
