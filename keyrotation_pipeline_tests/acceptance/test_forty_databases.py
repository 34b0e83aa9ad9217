"""Forty databases on two servers under one key, beside applications that write in all of them.

Databases die, join, leave and change on the way, and no write is lost. What it takes is compared with rotations of
single databases of the same size, in the same run:

uv run pytest -s -m extended keyrotation_pipeline_tests/acceptance/test_forty_databases.py
"""

import base64
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.test_fleet import Fleet
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = pytest.mark.extended

DATABASES = 40
CONNECTIONS = "max_connections=100"
TABLE = '[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n'


@pytest.fixture
def servers() -> Iterator[tuple[Server, ...]]:
    """Of two versions."""
    made = [start_server(EMBEDDED_18, CONNECTIONS), start_server(DEBIAN, CONNECTIONS)]
    yield tuple(made)
    for each in made:
        discard(each)


def configured(folder: Path, members: Sequence[str], officers: Sequence[DemoOfficer]) -> None:
    roster = roster_in_toml(officers)
    declared = "".join(f'[[databases]]\nname = "{each}"\nurl = {{ env = "{each.upper()}" }}\n' for each in members)
    (folder / "keyrotation.toml").write_text(
        'rollout.mode = "none"\nreencryption = { shards = 1, duty_cycle = 1.0 }\n'
        f'[database]\nurl = {{ env = "URL" }}\n{declared}[approvals]\nrequired = 2\n{roster}{TABLE}'
        + (f'{TABLE}databases = "*"\n' if members else "")
    )


def made(folder: Path, urls: dict[str, str], officers: tuple[DemoOfficer, ...], rows: int) -> Fleet:
    """A home whose databases are filled, each with values of its own."""
    folder.mkdir()
    fleet = Fleet(Folder(folder, []), urls, officers)
    configured(folder, [each for each in urls if each], officers)
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
    fleet.typed("init", ENCRYPTION_MASTER_KEY=base64.b64encode(os.urandom(32)).decode())
    for database in urls:
        fill(fleet, database, rows)
    return fleet


def fill(fleet: Fleet, database: str, rows: int) -> None:
    ring = fleet.ring
    with psycopg.connect(fleet.urls[database], autocommit=True) as connection:
        with connection.cursor().copy("COPY clients FROM STDIN") as copy:
            for row in range(rows):
                fleet.expected[database, row] = f"{database} {row}"
                copy.write_row((row, encrypt(ring, f"{database} {row}"), encrypt(ring, f"note {database} {row}")))
        connection.execute("VACUUM ANALYZE clients")


PAUSE_SECONDS = 0.005


@dataclass
class Application:
    """Writes in the databases of one server, and reads what it wrote; one that is down it tries again."""

    fleet: Fleet
    databases: list[str]
    rows: int
    pause_seconds: float = PAUSE_SECONDS
    writes: int = 0
    longest_seconds: float = 0.0
    unsure: dict[tuple[str, int], set[str]] = field(default_factory=dict)

    def at_work(self, stop: threading.Event) -> None:
        chance, connections = Random(len(self.databases)), dict[str, psycopg.Connection]()
        while not stop.wait(self.pause_seconds):
            database, row = chance.choice(self.databases), chance.randrange(self.rows)
            new = f"{database} {row}, write {self.writes}"
            began = time.monotonic()
            try:
                if database not in connections:
                    connections[database] = psycopg.connect(self.fleet.urls[database], autocommit=True)
                value = encrypt(self.fleet.ring, new)
                update = "UPDATE clients SET name = %s WHERE id = %s RETURNING (SELECT name FROM clients WHERE id = %s)"
                ((before,),) = connections[database].execute(update, (value, row, row)).fetchall()
                expected = {self.fleet.expected[database, row]} | self.unsure.pop((database, row), set())
                if decrypt(self.fleet.ring, before) not in expected:
                    self.fleet.wrong.append(f"{database} {row}")
                self.fleet.expected[database, row] = new
            except psycopg.OperationalError:  # it is down; the row may be either
                connections.pop(database, None)
                self.unsure.setdefault((database, row), {self.fleet.expected[database, row]}).add(new)
                continue
            except psycopg.Error as error:
                self.fleet.wrong.append(f"{database} {row}: {error}")
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            self.writes += 1
        for each in connections.values():
            each.close()


_TABLE = "SELECT d.oid, 'clients'::regclass::oid, d.datname FROM pg_database d WHERE datname = current_database()"
_LOCKED = """
SELECT l.database, l.relation, l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND a.query NOT LIKE 'VACUUM%' AND a.backend_type = 'client backend'
  AND l.mode IN
    ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


@dataclass
class Locks:
    """For how long one transaction locked the table of each database, so that nobody could change its definition.

    Looked at in a loop, so that a lock of a few milliseconds may be missed; VACUUM's are left out. A lock has ended
    where one look does not find it.
    """

    server: Server
    tables: dict[tuple[int, int], str]
    held: dict[tuple[str, str], float] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)

    def look(self, stop: threading.Event) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            while not stop.wait(0.001):
                found = connection.execute(_LOCKED).fetchall()
                now, named = time.monotonic(), [(self.tables.get(each[:2]), each[2]) for each in found]
                self.held = {(name, by): self.held.get((name, by), now) for name, by in named if name is not None}
                for (name, _), since in self.held.items():
                    self.longest[name] = max(self.longest.get(name, 0.0), now - since)


@contextmanager
def at_work(fleet: Fleet, servers: Sequence[Server], rows: int) -> Iterator[list[Application]]:
    with ExitStack() as stack:
        found = []
        for server in servers:
            databases = [each for each, url in fleet.urls.items() if str(server.directory) in url]
            if databases:
                found.append(Application(fleet, databases, rows))
                stack.enter_context(beside(found[-1].at_work))
        yield found


@contextmanager
def locks_of(servers: Sequence[Server], fleet: Fleet) -> Iterator[list[Locks]]:
    found = [Locks(each, {}) for each in servers]
    for url in fleet.urls.values():
        with psycopg.connect(url) as connection:
            ((database, relation, name),) = connection.execute(_TABLE).fetchall()
        next(each for each in found if str(each.server.directory) in url).tables[database, relation] = name
    with ExitStack() as stack:
        for each in found:
            stack.enter_context(beside(each.look))
        yield found


def create(servers: Sequence[Server], names: Sequence[str]) -> dict[str, str]:
    """The URLs of new databases, on each server in turn."""
    urls = {}
    for number, name in enumerate(names):
        server = servers[number % len(servers)]
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name or 'lead'}".encode())
        urls[name] = server.url(name or "lead")
    return urls


ROWS = int(os.environ.get("FORTY_ROWS", "5000"))
ROWS_OF_NIGHT, LARGE, PATIENCE_SECONDS = 100, 90_000, 300.0


def test_it_takes_no_longer_than_one_after_the_other(
    tmp_path: Path,
    servers: tuple[Server, ...],
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> None:
    """As many homes with one database each, of the same rows, are rotated: half of them before, half after.

    The fleet's applications write all the time, and one more in the single database that is rotated, which it writes as
    often as they write each of theirs.
    """
    officers = (security_officer, privacy_officer)
    names = [f"m{number:02d}" for number in range(1, DATABASES)]
    fleet = made(tmp_path / "fleet", create(servers, ["", *names]), officers, ROWS)
    urls = create(servers, [f"single{number:02d}" for number in range(DATABASES)])
    singles = [made(tmp_path / name, {"": url}, officers, ROWS) for name, url in urls.items()]
    rarely = PAUSE_SECONDS * DATABASES / len(servers)
    took, locked = dict[str, float](), dict[str, dict[str, float]]()

    def rotated(name: str, home: Fleet) -> None:
        request = home.requested("request", "--reason", "yearly")
        with locks_of(servers, home) as locks:
            began = time.monotonic()
            home.typed("rotate", request)
            took[name] = time.monotonic() - began
        locked[name] = {name: seconds for each in locks for name, seconds in each.longest.items()}
        print(f"{name}: {took[name]:.1f} s, locked for {_longest(locked[name].values())}")  # noqa: T201

    with at_work(fleet, servers, ROWS) as applications:
        for number, each in enumerate(singles):
            if number == DATABASES // 2:
                rotated("fleet", fleet)
            with beside(Application(each, [""], ROWS, rarely).at_work):
                rotated(each.folder.path.name, each)
    together, members = took.pop("fleet"), locked.pop("fleet")
    own, alone = members.pop("lead"), [seconds for each in locked.values() for seconds in each.values()]
    shares = {
        "time, of as many single ones": together / sum(took.values()),
        "lock of a member, median": median(members.values()) / median(alone),
        "lock of a member, longest": max(members.values()) / max(alone),
        "lock of the home's own database": own / max(alone),
    }
    writes, slowest = sum(each.writes for each in applications), max(each.longest_seconds for each in applications)
    shown = "; ".join(f"{what}: {share:.2f}" for what, share in shares.items())
    print(f"{shown}; {writes} writes, the slowest took {1000 * slowest:.0f} ms")  # noqa: T201
    for each in [fleet, *singles]:
        assert (each.wrong, each.live(), each.read()) == ([], {"v2"}, each.expected)
    assert shares["time, of as many single ones"] <= 1.2
    assert shares["lock of a member, median"] <= 1.5
    assert shares["lock of a member, longest"] <= 1.5
    assert shares["lock of the home's own database"] <= 1.5


def _longest(seconds: Collection[float]) -> str:
    return f"{1000 * max(seconds):.0f} ms at most, {1000 * median(seconds):.0f} in the median of {len(seconds)}"


def down(server: Server, database: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))


def up(server: Server, database: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())


@contextmanager
def rotating(fleet: Fleet, request: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`rotate` as a process of its own, which is killed if it has not ended."""
    with (fleet.folder.path / "rotate.log").open("wb") as log:
        process = subprocess.Popen(
            [KEYROTATION, "rotate", request],
            cwd=fleet.folder.path,
            env=environment(**fleet.variables),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def log(fleet: Fleet) -> str:
    return (fleet.folder.path / "rotate.log").read_text()


def proven(fleet: Fleet, member: str) -> int:
    with psycopg.connect(fleet.urls[""]) as connection:
        found = "SELECT count(*) FROM keyrotation.audit_events WHERE event = 'member_proven' AND body LIKE %s"
        ((number,),) = connection.execute(found, (f'%"member":"{member}"%',)).fetchall()
    return int(number)


def begun(fleet: Fleet, member: str) -> bool:
    with psycopg.connect(fleet.urls[member]) as connection:
        return connection.execute("SELECT count(*) > 0 FROM clients WHERE note LIKE 'v2:%'").fetchone() == (True,)


@dataclass(frozen=True)
class Night:
    """A rotation of forty databases, each of whose databases some calamity may befall."""

    fleet: Fleet
    at: dict[str, Server]
    officers: tuple[DemoOfficer, ...]

    def dies_in_rows(self, request: str) -> None:
        """First the process, then a database: the others go on."""
        with rotating(self.fleet, request) as process:
            assert eventually(lambda: begun(self.fleet, "m10")), log(self.fleet)
            os.killpg(process.pid, signal.SIGKILL)
        with rotating(self.fleet, request) as process:
            assert eventually(lambda: begun(self.fleet, "m18")), log(self.fleet)
            down(self.at["m20"], "m20")
            assert process.wait(PATIENCE_SECONDS) == 1
        assert "database m20: cannot connect to m20@localhost: " in log(self.fleet)
        assert self.fleet.live() == {"v1", "v2"}
        up(self.at["m20"], "m20")

    def leads_elsewhere(self, request: str) -> None:
        """A database of the same name, on the other server."""
        other = next(each for each in self.at.values() if each is not self.at["m05"])
        refused = self.fleet.refused("rotate", request, M05=create([other], ["m05"])["m05"])
        assert "[[databases]] m05 is m05, system identifier" in refused
        assert "officers have signed m05, system identifier" in refused

    def joins_and_leaves(self) -> str:
        """One is found late, and one is gone for good; gives the request that goes on with the others."""
        with psycopg.connect(self.at["m39"].url(), autocommit=True) as admin:
            admin.execute("DROP DATABASE m39 WITH (FORCE)")
        del self.fleet.urls["m39"]
        for row in range(ROWS_OF_NIGHT):
            del self.fleet.expected["m39", row]
        self.fleet.urls |= create([self.at["m01"]], ["m40"])
        with psycopg.connect(self.fleet.urls["m40"], autocommit=True) as connection:
            connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
        fill(self.fleet, "m40", ROWS_OF_NIGHT)
        configured(self.fleet.folder.path, [each for each in self.fleet.urls if each], self.officers)
        self.fleet.requested("policy", "--reason", "m40 was forgotten, m39 is lost")
        self.fleet.typed("policy")
        self.fleet.typed("init")
        return self.fleet.requested("request", "--reason", "with m40, and without m39")

    def changes_after_its_evidence(self, request: str, member: str, change: Callable[[], None]) -> str:
        """Between the evidence of a database and the commit; gives what `rotate` says."""
        before = proven(self.fleet, member)
        with rotating(self.fleet, request) as process:
            assert eventually(lambda: proven(self.fleet, member) > before), log(self.fleet)
            change()
            assert process.wait(PATIENCE_SECONDS) == 1
        assert self.fleet.live() == {"v1", "v2"}
        return " ".join(log(self.fleet).split())


def require_expected(fleet: Fleet, applications: Sequence[Application]) -> None:
    """Every value is the last that was written; a write whose answer was lost may have been made or not."""
    found = fleet.read()
    for place, texts in [each for application in applications for each in application.unsure.items()]:
        if found[place] in texts:
            fleet.expected[place] = found[place]
    assert (found, fleet.wrong) == (fleet.expected, [])


def test_databases_die_join_leave_and_change_and_nothing_is_lost(
    tmp_path: Path,
    servers: tuple[Server, ...],
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> None:
    officers, names = (security_officer, privacy_officer), [f"m{number:02d}" for number in range(1, DATABASES)]
    fleet = made(tmp_path / "fleet", create(servers, ["", *names]), officers, ROWS_OF_NIGHT)
    night = Night(fleet, {name: servers[number % 2] for number, name in enumerate(["", *names])}, officers)
    with psycopg.connect(fleet.urls["m10"], autocommit=True) as connection:
        more = f"SELECT n, name, note FROM clients, generate_series({ROWS_OF_NIGHT}, {LARGE}) AS n WHERE id = 1"
        connection.execute(f"INSERT INTO clients {more}".encode())
    fleet.expected |= {("m10", row): "m10 1" for row in range(ROWS_OF_NIGHT, LARGE + 1)}
    with at_work(fleet, servers, ROWS_OF_NIGHT) as applications:
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request, "--through", "dual_key_rollout")
        fleet.typed("rotate", request, "--through", "primary_key_rollout")
        night.dies_in_rows(request)
        night.leads_elsewhere(request)
    require_expected(fleet, applications)
    request = night.joins_and_leaves()
    with at_work(fleet, servers, ROWS_OF_NIGHT) as more_of_them:
        said = night.changes_after_its_evidence(request, "m30", lambda: down(night.at["m30"], "m30"))
        assert "database m30: cannot connect to m30@localhost: the server accepts no connections to it" in said
        up(night.at["m30"], "m30")
        said = night.changes_after_its_evidence(request, "m15", lambda: fleet.refence("m15"))
        assert "database m15 has changed since it gave its evidence: the fence or the file of clients" in said
        assert "the tables have been proven and fenced again" in said
        fleet.typed("rotate", request)
    assert (fleet.wrong, fleet.live()) == ([], {"v2"})
    require_expected(fleet, more_of_them)
    fleet.typed("audit", "verify")
    fleet.typed("verify")
    print(f"{sum(each.writes for each in [*applications, *more_of_them])} writes, none lost")  # noqa: T201
