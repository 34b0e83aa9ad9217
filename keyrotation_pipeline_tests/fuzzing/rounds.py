"""One round: a plan made of a seed, a database and a home made of it, walks amid everything else, a judgement."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.fuzzing.application import LOGINS, Application, Process, first_state
from keyrotation_pipeline_tests.fuzzing.disturbances import OTHER, Disturbances
from keyrotation_pipeline_tests.fuzzing.environment import Far, Subscriber
from keyrotation_pipeline_tests.fuzzing.formats import Keys
from keyrotation_pipeline_tests.fuzzing.home import Home, RefusedError
from keyrotation_pipeline_tests.fuzzing.journal import Journal, Outcome
from keyrotation_pipeline_tests.fuzzing.judgement import Judgement
from keyrotation_pipeline_tests.fuzzing.plans import Plan
from keyrotation_pipeline_tests.fuzzing.tables import Kind, Table
from keyrotation_pipeline_tests.servers import Server

WALK_SECONDS, TRIES = 240.0, 200
ROLLBACK_SECONDS = 20.0  # of a rotation that may not have begun
PROCESSES = 3
DAMAGED, DAMAGED_SECONDS = 9_000_000, 60.0  # the row with a value that no key opens, and how long a walk tries


@dataclass(frozen=True)
class Servers:
    """Those of all rounds.

    Args:
        further: of another major version, with postgres_fdw.
    """

    first: Server
    further: Server | None

    def of(self, plan: Plan) -> tuple[Server, Server | None]:
        """The server of the database, and that of its subscriber."""
        if self.further is not None and "foreign tables" in plan.environment:
            return self.further, self.first
        return self.first, self.further


@dataclass
class Round:
    """A round that is being carried out."""

    plan: Plan
    servers: Servers
    folder: Path
    officers: tuple[DemoOfficer, ...]
    report: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = Random(self.plan.seed + 1)
        self.last = ""  # the request of the last rotation
        self.database = f"fuzz_{self.plan.seed}"
        self.journal = Journal(f"fz{self.plan.seed}")
        self.home = Home(self.folder, self.officers)
        self.server, further = self.servers.of(self.plan)
        self.roles = tuple(f"{self.database}_g{number}" for number in range(1, LOGINS + 1))
        self.subscriber = self.far = None
        if further is not None and "subscriber" in self.plan.environment:
            self.subscriber = Subscriber(self.server, further, self.database, self.plan.tables)
        if self.servers.further is not None and "foreign tables" in self.plan.environment:
            self.far = Far(self.server, self.database, self.plan.tables, self.roles)
        self.application = Application(
            self.server.url(self.database),
            self.home.path,
            self.plan.form,
            self.plan.tables,
            self.journal,
            self.database,
        )

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def carry_out(self) -> None:
        """Everything, to the judgement; what was found is in the journal."""
        self.create()
        try:
            for number, walk in enumerate(self.plan.walks):
                before = self.application.delivered()
                with self.busy(number, before):
                    self.walk(walk)
                    judgement = Judgement(self.plan, self.server, self.url, self.journal, self.home, self.subscriber)
                    judgement.of_subscriber(self.application.delivered())
                judgement.of_everything(self.application.delivered())
                if walk != "half":
                    judgement.of_late_writes(self.application, before, self.chance)
        finally:
            self.drop()

    # Before

    def create(self) -> None:
        """The database with its rows under a first key, what reaches it, and the home."""
        environment, keys = self.plan.form.first()
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {self.database}".encode())
            for role in self.roles:
                admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        with psycopg.connect(self.url) as connection:
            connection.execute(f"CREATE TABLE {OTHER} (id int PRIMARY KEY, what text)".encode())
            connection.execute(f"INSERT INTO {OTHER} SELECT i, 'visit ' || i FROM generate_series(1, 50) i".encode())
            for table in self.plan.tables:
                self._fill(connection, table, keys)
        for each in (self.subscriber, self.far):
            if each is not None:
                each.create()
        logins = {f"v{number}": role for number, role in enumerate(self.roles, start=1)}
        further = f"shards = {self.plan.shards}\nworkers = {self.plan.workers}\n"
        self.home.configure(self.url, self.plan.form, self.plan.tables, logins, further)
        self.home.typed("init", **environment)

    def _fill(self, connection: psycopg.Connection[Any], table: Table, keys: Keys) -> None:
        for statement in table.created():
            connection.execute(statement.encode())
        for name in (table.name, *table.children):
            for role in self.roles:
                connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}".encode())
        writes = []
        for row in range(table.rows):
            state = first_state(table, self.chance, self.journal.seed, row)
            write = self.journal.begin((table.name, row), None, state.values, state.others, keys.names[0])
            table.insert(connection, row, write.mark, keys, state)
            writes.append(write)
        connection.commit()
        self.journal.end(writes, Outcome.COMMITTED)

    def drop(self) -> None:
        self.report.update(self.journal.counts)
        self.report["kills"] += self.home.kills
        for each in (self.subscriber, self.far):
            if each is not None:
                each.drop()
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self.database} WITH (FORCE)".encode())
            for role in self.roles:
                admin.execute(f"DROP ROLE {role}".encode())

    # Meanwhile

    @contextmanager
    def busy(self, walk: int, before: Keys) -> Iterator[None]:
        """Inside, the application writes, some of it with keys from before, and everything is disturbed."""
        stop = threading.Event()
        subscriber = None if self.subscriber is None else self.subscriber.server
        chance = Random(self.plan.seed + 7)
        around = Disturbances(
            self.server, self.url, self.plan.tables, self.plan.disturbances, chance, subscriber, self.application
        )
        works = [around.work, *(process.work for process in self._processes(walk, before))]
        threads = [threading.Thread(target=work, args=(stop,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            self.journal.findings += around.wrong
            self.report.update({f"disturbance {name}": number for name, number in around.done.items()})
            self.report.update({f"failed {name}": number for name, number in around.failed.items()})

    def _processes(self, walk: int, before: Keys) -> list[Process]:
        """Those of the application: some read the delivered keys, the last ones have those from before."""
        plain = any(table.kind is Kind.PLAIN for table in self.plan.tables)
        far = self.server.url(self.far.name) if self.far and plain else None
        count = PROCESSES + (2 if far else 1)
        return [
            Process(
                self.application,
                Random(self.plan.seed * 100 + walk * 10 + number),
                lambda row, number=number: row % count == number,  # type: ignore[misc]
                before,
                0.04 if number < PROCESSES else 0.5,
                number >= PROCESSES,
                walk,
                far if number in {0, PROCESSES + 1} else None,
            )
            for number in range(count)
        ]

    def walk(self, walk: str) -> None:
        """A rotation, `emergency` or not, or a rollback to its end; `half`: one that is rolled back in its middle."""
        if walk == "rollback":
            request = self._requested("rollback", self.last)
        elif walk == "emergency":
            now = datetime.now(UTC).isoformat(timespec="seconds")
            exposed = ("--type", "key_exposed", "--description", "fuzzed", "--discovered-at", now)
            request = self.last = self._requested("incident", "open", *exposed)
        else:
            request = self.last = self._requested("request", "--reason", "fuzzed")
        self.home.approve(request, WALK_SECONDS)
        if walk == "half":
            self._rotate_for(request, self.chance.uniform(1.0, 5.0))
            request = self._rolled_back(request)
        if self.plan.planted:
            self._refuses_damage(request)
        self._rotate(request, self.plan.kills)

    def _rolled_back(self, request: str) -> str:
        """The rollback of a rotation, or the rotation, where there is nothing to roll back yet."""
        try:
            back = self._requested("rollback", request, seconds=ROLLBACK_SECONDS)
        except RefusedError:
            self.journal.count("rollbacks refused")
            return request
        self.home.approve(back, WALK_SECONDS)
        return back

    def _refuses_damage(self, request: str) -> None:
        """A value that no key opens is put into a row, and stops the walk until it is taken away again."""
        table = self.plan.tables[0]
        slot = next((slot for slot in table.slots), "")
        _, other = self.plan.form.first()
        assignments, parameters = table.assignments(other, DAMAGED, {slot: "damaged"}, {"mark": "damaged"})
        state = first_state(table, self.chance, "damaged", DAMAGED)
        self._as_owner(
            lambda connection: table.insert(connection, DAMAGED, "damaged", self.application.delivered(), state)
        )
        self._as_owner(
            lambda connection: connection.execute(
                f"UPDATE {table.name} SET {assignments} WHERE id = {DAMAGED}".encode(), parameters
            )
        )
        deadline = time.monotonic() + DAMAGED_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.home.rotate_until_killed(request, WALK_SECONDS):
                    self.journal.found("the walk was over while a value was there that no key opens")
                    break
            except RefusedError as error:
                if "cannot be decrypted" in str(error) or "in quarantine" in str(error):
                    self.journal.count("walks stopped at a damaged value")
                    break
                time.sleep(0.2)
        self._as_owner(lambda connection: connection.execute(f"DELETE FROM {table.name} WHERE id = {DAMAGED}".encode()))

    def _as_owner(self, do: Callable[[psycopg.Connection[Any]], object]) -> None:
        while True:
            try:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    do(connection)
                    return
            except (psycopg.OperationalError, psycopg.errors.UniqueViolation):
                time.sleep(0.2)

    def _requested(self, *arguments: str, seconds: float = WALK_SECONDS) -> str:
        """The id of a request that is typed until it is opened."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.home.typed(*arguments).split()[-1]
            except RefusedError:
                if time.monotonic() > deadline:
                    raise
                if opened := self._open_requests(arguments[0]):
                    return opened[0]
                time.sleep(0.3)

    def _open_requests(self, command: str) -> list[str]:
        """Those that a command has opened, although it was refused later."""
        action = "rollback" if command == "rollback" else "rotate"
        try:
            return [each["id"] for each in self.home.shown("requests") if each["action"] == action]
        except RefusedError:
            return []

    def _rotate_for(self, request: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self.home.rotate_until_killed(request, left):
                    return
            except RefusedError:
                time.sleep(0.2)

    def _rotate(self, request: str, kills: int) -> None:
        deadline = time.monotonic() + WALK_SECONDS
        for number in range(TRIES):
            seconds = self.chance.uniform(0.3, 4.0) if number < kills else WALK_SECONDS
            try:
                if self.home.rotate_until_killed(request, seconds):
                    return
            except RefusedError as error:
                if time.monotonic() > deadline:
                    self.journal.found(f"the walk is not over after {WALK_SECONDS:.0f} s: {error}")
                    raise
                time.sleep(self.chance.uniform(0.1, 0.6))
        raise AssertionError(f"{request} is not over after {TRIES} tries")
