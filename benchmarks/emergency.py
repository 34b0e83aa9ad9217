"""An emergency from the flag to the retired key: `uv run python -m benchmarks.emergency [--rows N] [--report FILE]`.

A demo's clinic in a home of its own, an application that writes all the while, and `keyrotation up`; or, with
`--without-dagster`, one process that does what the two sensors ask for. A tool inserts one row as a flag. Two officers
sign what was prepared. Nobody does anything after that. At the end the application compares every value of the database
with what it wrote.

It prints the seconds from the flag to each event, and exits 1 if a write was lost, an error met, or the clock overrun.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.services import LONGEST_SECONDS, awaited, up
from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import approve, open_home, working_application
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.incidents.opening import poll_flags
from keyrotation_pipeline.incidents.report import incident_report
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.key_events import KeyStateChanged
from keyrotation_pipeline.model.request_events import StepFinished
from keyrotation_pipeline.model.requests import Request, RequestStatus
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.settings import Settings

ROWS_PER_CLIENT = 3
FLAG = """
INSERT INTO keyrotation.incident_flag (source, type, description, discovered_at)
VALUES ('SIEM', 'key_exposed', 'the key stands in a log file', now())
"""


def main() -> int:
    """Run it once, and say what happened."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--without-dagster", action="store_true", help="for a machine too busy to start it")
    options.add_argument("--folder", type=Path, help="a home that stays, and is used again")
    options.add_argument("--report", type=Path, help="where the incident report is written")
    given = options.parse_args()
    if given.folder is not None:
        return _run(given.folder / "keyrotation.toml", given)
    with tempfile.TemporaryDirectory(prefix="emergency-") as folder:
        return _run(Path(folder) / "keyrotation.toml", given)


def _run(config: Path, given: argparse.Namespace) -> int:
    settings, officers = prepare(config)
    clients = -(-given.rows // ROWS_PER_CLIENT)
    with open_home(settings, clients, _say) as pipeline, working_application(settings) as application:
        working = _in_process(settings) if given.without_dagster else up(config, settings.home)
        with working, database_url(settings) as url:
            with psycopg.connect(url, autocommit=True) as tool:
                tool.execute(FLAG)
            flagged = time.monotonic(), datetime.now(UTC)
            _say(f"T0 {flagged[1]:%H:%M:%S} UTC: one row is inserted as a flag")
            request = awaited(lambda: next(iter(pipeline.ledger.requests()), None), "an emergency request")
            _say(f"{time.monotonic() - flagged[0]:8.1f} s  request {request.id} ({request.type}) waits for signatures")
            approve(pipeline, request, officers, _say)
            _say(f"{time.monotonic() - flagged[0]:8.1f} s  signed; from here on nobody does anything")
            awaited(lambda: _finished(pipeline, request), "the end of the rotation")
        tally = application.stop()
        verify_everything(pipeline)
        overrun = _told_in_order(pipeline, request, flagged[1])
        if given.report is not None:
            given.report.write_text(incident_report(pipeline, str(request.incident)).markdown())
        left = {
            str(each.table.name): dict(each.values_by_version) for each in pipeline.inventory.count(pipeline.tables)
        }
    _say(f"values by version: {left}")
    _say(f"application: {tally}")
    return int(overrun or tally["errors"] > 0 or tally["lost_writes"] > 0 or not tally["writes"])


def _told_in_order(pipeline: Pipeline, request: Request, since: datetime) -> bool:
    """Print each event of the emergency; gives back whether a stage of the clock was overrun."""
    done: Mapping[str, Any] = {}
    for entry in entries(pipeline.ledger, EventKind.KEY_STATE_CHANGED, EventKind.STEP_FINISHED, request=request.id):
        after = (entry.at - since).total_seconds()
        match entry.fact():
            case KeyStateChanged(version=version, after=state):
                _say(f"{after:8.1f} s  {version} is {state}")
            case StepFinished(step=step, table=None):
                _say(f"{after:8.1f} s  {step}")
                done = {**done, step: after}
    return not done or max(done.values()) > LONGEST_SECONDS


def _finished(pipeline: Pipeline, request: Request) -> Request | None:
    now = pipeline.ledger.request(request.id)
    return now if now.status is RequestStatus.FINISHED else None


@contextmanager
def _in_process(settings: Settings) -> Iterator[None]:
    """What the sensors do: look for flags, and perform what the conductor asks for, with connections of their own."""
    stopped = threading.Event()

    def work() -> None:
        with open_pipeline(settings, actor="emergency") as pipeline:
            while not stopped.wait(1):
                poll_flags(pipeline, (), "emergency")
                for request in pipeline.ledger.requests():
                    with suppress(BlockedError):  # which waits for signatures
                        for _ in runner.run(pipeline, request.id, lambda _progress: None):
                            pass

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stopped.set()
        worker.join()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
