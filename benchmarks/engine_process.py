"""One measured run of the engine, in a process of its own: a job on stdin, what it took on stdout, both JSON."""

import json
import os
import resource
import sys
import time
import uuid
from functools import partial
from pathlib import Path

from benchmarks.clinic import CLIENTS, table_of
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.shard import reencrypt_shard
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import Shard

_WITH_WORKERS = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main() -> None:
    """Do the job."""
    job = json.load(sys.stdin)
    store = FileKeyStore(Path(job["keys"]))
    ring, target, limits = store.read().ring(), KeyVersion.parse(job["target"]), Limits(**job["limits"])
    if job.get("emergency"):
        limits = limits.in_an_emergency()
    table = table_of(job.get("format", CLIENTS.format.name))
    connecting = partial(connect, job["url"])
    before = os.times()
    processes = WorkerSettings(store)
    started = time.monotonic()
    done = reencrypt_shard(
        connecting, uuid.uuid4().hex, Shard(table, 0, 1), ring, target, lambda _: None, limits, processes
    )
    seconds = time.monotonic() - started
    after = os.times()
    outcome = {
        "rows": done.rows,
        "skipped": done.skipped,
        "seconds": seconds,
        "client_cpu_seconds": sum(after[:4]) - sum(before[:4]),
        "worker_peak_mb": max(resource.getrusage(of).ru_maxrss for of in _WITH_WORKERS) / 1024,
    }
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    main()
