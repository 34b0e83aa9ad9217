"""One whole rotation in a home of its own, for `benchmarks.rotation`: a setting, where its home is, where to write.

The application's tables are as `benchmarks.clinic` makes them; no application runs, and nobody's rollout is waited for.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.clinic import CLIENTS, fill, make_template, opened
from benchmarks.processes import family_cpu_seconds, postmaster_of, server_cpu_seconds
from benchmarks.services import awaited, up
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import approve
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.request_events import StepFinished
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation import keys, runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline.settings import Settings, load

REQUEST, SIGNATURES = "request", "signatures"
_ACTOR = "benchmark"
_SETTLING_SECONDS = 20
_FIGURES = """
SELECT sum(xact_commit + xact_rollback)::bigint, sum(sessions)::bigint,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint
FROM pg_stat_database
"""
_PAGES = """
SELECT sum(pg_relation_size(oid))::bigint / 8192 FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is rotated, and how.

    Args:
        rows: of all tables together.
        by: ``command`` (what `keyrotation rotate` does, in this process) or ``up`` (`keyrotation up`).
        idle: seconds in which `up` is watched before anything is requested.
    """

    rows: int
    tables: int = 1
    partitions: int = 0
    columns: int = 2
    shards: int = 4
    workers: int = 1
    emergency: bool = False
    by: str = "command"
    idle: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was used; of client and server together."""

    seconds: float
    cpu_seconds: float = 0.0
    transactions: int = 0
    connections: int = 0
    wal_bytes: int = 0

    def since(self, before: "Figures") -> "Figures":
        """What was used between two looks."""
        return Figures(*(mine - its for mine, its in zip(astuple(self), astuple(before), strict=True)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rotation.

    Args:
        steps: by name, in order; with ``up`` only their seconds are known.
        total: from the second signature to the end.
        growth: pages of the tables afterwards, of those before.
    """

    setting: Setting
    total: Figures
    growth: float
    steps: dict[str, Figures]
    idle_transactions_per_minute: float | None


class Watch:
    """Reads the figures of this process, all below it, and the server."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._postmaster, self._connection = postmaster_of(url), connection

    def look(self) -> Figures:
        """What was used so far."""
        # The server counts a session's transactions when it is asked to, or a second later.
        self._connection.execute("SELECT pg_stat_force_next_flush()")
        ((transactions, connections, wal),) = self._connection.execute(_FIGURES).fetchall()
        cpu = family_cpu_seconds(os.getpid()) + server_cpu_seconds(self._postmaster)
        return Figures(time.monotonic(), cpu, int(str(transactions)), int(str(connections)), int(str(wal)))


def main() -> None:
    """Run what the JSON on the command line asks for."""
    setting = Setting(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="rotation-", dir=sys.argv[2]) as folder:
        outcome = rotation(Path(folder) / "keyrotation.toml", setting)
    Path(sys.argv[3]).write_text(json.dumps(asdict(outcome)) + "\n")


def rotation(config: Path, setting: Setting) -> Outcome:
    """Make a home with these tables, rotate once, and tell what it took."""
    _, officers = prepare(config, RolloutMode.NONE)
    settings = _declare(config, setting)
    initialise(settings, None, actor=_ACTOR)
    with open_pipeline(settings, actor=_ACTOR) as pipeline, database_url(settings) as url:
        first = KeyVersion(1)
        keys.import_keys(pipeline, KeyRing({first: KeyMaterial.generate()}, first))
        with closing(opened(url)) as connection:
            _fill(connection, pipeline, setting)
            before = _pages(connection)
            bench = Bench(pipeline, settings, setting, officers, Watch(url, connection))
            total, steps, idle = bench.by_up() if setting.by == "up" else bench.by_command()
            _require_rotated(pipeline)
            return Outcome(setting, total, _pages(connection) / before, steps, idle)


@dataclass(frozen=True, slots=True)
class Bench:
    """A home whose tables are filled."""

    pipeline: Pipeline
    settings: Settings
    setting: Setting
    officers: Sequence[DemoOfficer]
    watch: Watch

    def by_command(self) -> tuple[Figures, dict[str, Figures], None]:
        """As `keyrotation rotate` does it, in this process."""
        steps: dict[str, Figures] = {}
        with _measured(self.watch, steps, REQUEST):
            request = self._request()
        with _measured(self.watch, steps, SIGNATURES):
            approve(self.pipeline, request, self.officers, _ignore)
        begun = last = self.watch.look()
        for record in runner.run(self.pipeline, request.id, _ignore):
            if record.shard is None:
                now = self.watch.look()
                steps[str(record.step)], last = now.since(last), now
        return last.since(begun), steps, None

    def by_up(self) -> tuple[Figures, dict[str, Figures], float | None]:
        """As Dagster's daemon does it. The times of the steps are those of the audit."""
        with up(self.settings.path, self.settings.home):
            idle = self._idle()
            steps: dict[str, Figures] = {}
            with _measured(self.watch, steps, REQUEST):
                request = self._request()
            with _measured(self.watch, steps, SIGNATURES):
                approve(self.pipeline, request, self.officers, _ignore)
            begun, at = self.watch.look(), datetime.now(UTC)
            awaited(lambda: self._finished(request.id) or None, "the end of the rotation")
            total = self.watch.look().since(begun)
            for entry in entries(self.pipeline.ledger, EventKind.STEP_FINISHED, request=request.id):
                fact = entry.fact()
                if isinstance(fact, StepFinished) and fact.shard is None:
                    steps[str(fact.step)], at = Figures((entry.at - at).total_seconds()), entry.at
        seconds = sum(each.seconds for name, each in steps.items() if name not in {REQUEST, SIGNATURES})
        return replace(total, seconds=seconds), steps, idle

    def _idle(self) -> float | None:
        """Transactions a minute while there is nothing to do, once what belongs to the start is over."""
        if not self.setting.idle:
            return None
        time.sleep(_SETTLING_SECONDS)
        before = self.watch.look()
        time.sleep(self.setting.idle)
        used = self.watch.look().since(before)
        _say(f"idle: {60 * used.cpu_seconds / used.seconds:.1f} CPU-s a minute")
        return 60 * used.transactions / used.seconds

    def _request(self) -> Walk:
        incident = "benchmark" if self.setting.emergency else None
        return open_request(self.pipeline, reason="A benchmark", requested_by=_ACTOR, incident=incident)

    def _finished(self, request: str) -> bool:
        return self.pipeline.ledger.request(request).status is RequestStatus.FINISHED


@contextmanager
def _measured(watch: Watch, steps: dict[str, Figures], name: str) -> Iterator[None]:
    before = watch.look()
    yield
    steps[name] = watch.look().since(before)


def _declare(config: Path, setting: Setting) -> Settings:
    """The demo's configuration with other tables."""
    _, _, rest = config.read_text().partition("[reencryption]\nshards = 4\n")
    columns = json.dumps(list(CLIENTS.columns[: setting.columns]))
    tables = "".join(
        f'[[tables]]\nname = "clients{number:03d}"\ncolumns = {columns}\n\n' for number in range(setting.tables)
    )
    speed = f"[reencryption]\nshards = {setting.shards}\nworkers = {setting.workers}\n"
    config.write_text(f"{tables}{speed}{rest}")
    return load(config)


def _fill(connection: Connection, pipeline: Pipeline, setting: Setting) -> None:
    make_template(connection, pipeline.keys.read().ring())
    for table in pipeline.tables:
        fill(connection, setting.rows // setting.tables, table.name.table, table.columns, setting.partitions)
    connection.execute("DROP TABLE public.template_native")  # it holds values of ours, and is not declared


def _pages(connection: Connection) -> int:
    ((pages,),) = connection.execute(_PAGES).fetchall()
    return int(str(pages))


def _require_rotated(pipeline: Pipeline) -> None:
    for count in pipeline.inventory.count(pipeline.tables):
        if set(count.values_by_version) != {KeyVersion(2)} or count.unencrypted:
            raise SystemExit(f"{count.table.name} holds {dict(count.values_by_version)}; the figures mean nothing")


def _ignore(_: object) -> None:
    pass


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
