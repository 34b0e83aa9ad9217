"""Whether backup, recovery test and restore keep their memory, however large the database is.

uv run python -m benchmarks.backup [--gigabytes 10] [--directory DIR] [--json FILE]
"""

import argparse
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.process_memory import Peaks, watched
from benchmarks.processes import machine
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1 = KeyVersion(1)
# Of a dump: three quarters are encrypted histories of 6 kB, a quarter scans of 1 MB, which nobody can compress.
HISTORY_BYTES, SCAN_BYTES = 6_000, 1_000_000
HISTORIES = 0.75
# So many are made, and repeated: pg_dump compresses what repeats within 32 kB, and these are further apart.
DISTINCT, DISTINCT_SCANS = 2_000, 20
# As needed: the database, its dump, the copy that is restored, the restored database with its log.
DISK_FACTOR = 5.5
CONFIGURATION = """
[[tables]]
name = "clients"
columns = ["last_name", "history"]
[approvals]
required = 2
[[approvals.officers]]
name = "Security Officer"
certificate = "officers/security-officer.asc"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "officers/privacy-officer.asc"
[backup]
recipients = ["officers/recovery.asc", "officers/security-officer.asc"]
"""


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    with _place(options.directory, options.gigabytes) as directory:
        environment, ring = _prepared(directory)
        key = directory / "recovery.sec.asc"
        with EmbeddedServer(directory / ".keyrotation" / "postgres") as server:
            with closing(connect(server.url())) as connection:
                _fill(connection, ring, options.gigabytes)
            results: dict[str, Peaks] = {}
            for name, arguments in (
                ("init", ()),
                ("backup", ()),
                ("recovery-test", ("--key", str(key))),
                ("restore-database", ("--key", str(key), "--into", "restored")),
            ):
                command = [str(Path(sys.executable).with_name("keyrotation")), name, *arguments]
                results[name] = watched(command, environment, directory)
                print(name, results[name], flush=True)
        (dump,) = (directory / ".keyrotation" / "backups").glob("database-*")
        dump_bytes = dump.stat().st_size
    _print(Console(width=110), results, dump_bytes)
    if options.json:
        figures = {name: asdict(peaks) for name, peaks in results.items()}
        document = {"machine": machine(), "dump_bytes": dump_bytes, "results": figures}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backup", description=__doc__)
    parser.add_argument(
        "--gigabytes", type=float, default=10, help="size of the dump; the disk needs 5.5 times as much"
    )
    parser.add_argument("--directory", type=Path, help="where a directory is made, and removed; default: the temporary")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


@contextmanager
def _place(parent: Path | None, gigabytes: float) -> Iterator[Path]:
    parent = parent or Path(tempfile.gettempdir())
    free, needed = shutil.disk_usage(parent).free, gigabytes * DISK_FACTOR * 1e9
    if free < needed:
        sys.exit(f"{parent} has {free / 1e9:.0f} GB free, and this needs {needed / 1e9:.0f}; name another --directory")
    with tempfile.TemporaryDirectory(prefix="keyrotation-benchmark-", dir=parent, ignore_cleanup_errors=True) as made:
        yield Path(made)


def _prepared(directory: Path) -> tuple[dict[str, str], KeyRing]:
    """A configuration, its officers and a key; gives back the environment of the commands."""
    for name in ("Security Officer", "Privacy Officer"):
        DemoOfficer.create(directory / "officers", name)
    recovery = DemoOfficer.create(directory / "officers", "Recovery")
    (directory / "recovery.sec.asc").write_bytes(recovery.gpg("--armor", "--export-secret-keys"))
    (directory / "keyrotation.toml").write_text(CONFIGURATION)
    raw = os.urandom(32)
    environment = {
        "PATH": os.environ["PATH"],
        "ENCRYPTION_MASTER_KEY": base64.b64encode(raw).decode(),
    }
    return environment, KeyRing({V1: KeyMaterial(raw)}, V1)


def _fill(connection: Connection, ring: KeyRing, gigabytes: float) -> None:
    histories = int(gigabytes * 1e9 * HISTORIES / HISTORY_BYTES)
    scans = int(gigabytes * 1e9 * (1 - HISTORIES) / SCAN_BYTES)
    for statement in (
        "CREATE UNLOGGED TABLE template (last_name text, history text)",
        "CREATE TABLE clients (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, last_name text, history text)",
        "CREATE UNLOGGED TABLE scan (content bytea)",
        "CREATE TABLE scans (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content bytea)",
    ):
        connection.execute(f"SET search_path = public; {statement}".encode())
    with connection.cursor() as cursor, cursor.copy("COPY template FROM STDIN") as copy:
        for number in range(DISTINCT):
            history = os.urandom(HISTORY_BYTES // 2).hex()
            copy.write_row([encrypt(ring, f"Client {number}"), encrypt(ring, history)])
    for _ in range(DISTINCT_SCANS):
        connection.execute("INSERT INTO scan VALUES (%s)", [os.urandom(SCAN_BYTES)])
    for table, columns, template, rows, distinct in (
        ("clients", "last_name, history", "template", histories, DISTINCT),
        ("scans", "content", "scan", scans, DISTINCT_SCANS),
    ):
        repeats = -(-rows // distinct)
        connection.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM generate_series(1, {repeats}), {template}".encode()
        )
        connection.execute(f"DROP TABLE {template}; VACUUM (ANALYZE) {table}".split("; ")[0].encode())
        connection.execute(f"VACUUM (ANALYZE) {table}".encode())
    connection.execute("CHECKPOINT")


def _print(console: Console, results: dict[str, Peaks], dump_bytes: int) -> None:
    table = Table("command", "seconds", "peak MB of each program", "all together MB", "disk GB")
    table.title = f"a dump of {dump_bytes / 1e9:.2f} GB"
    for name, peaks in results.items():
        programs = ", ".join(
            f"{program} {kib / 1024:.0f}" for program, kib in sorted(peaks.resident_kib.items()) if program
        )
        table.add_row(
            name,
            f"{peaks.seconds:,.0f}",
            programs,
            f"{peaks.together_kib / 1024:.0f}",
            f"{peaks.used_bytes / 1e9:.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
