"""What backup, recovery test, restore and recovery cost, next to the plain programs on the same data, and what memory.

uv run python -m benchmarks.backup [--gigabytes 5] [--rounds 1] [--directory DIR] [--json FILE]
"""

import argparse
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.process_memory import Peaks, watched
from benchmarks.processes import machine, postmaster_of, server_cpu_seconds
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.programs import Installation
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import signer_fingerprint

V1 = KeyVersion(1)
KEYROTATION = Path(sys.executable).with_name("keyrotation")
# Of a dump: three quarters are encrypted histories of 6 kB, a quarter scans of 1 MB, which nobody can compress.
HISTORY_BYTES, SCAN_BYTES = 6_000, 1_000_000
HISTORIES = 0.75
# So many are made, and repeated: pg_dump compresses what repeats within 32 kB, and these are further apart.
DISTINCT, DISTINCT_SCANS = 2_000, 20
# As needed: the database, its dump, the copy that is restored, the restored database with its log.
DISK_FACTOR = 6.5
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


# By the command that does the same and more: what people type without us. gpg would compress a second time.
YARDSTICKS = {
    "backup": "pg_dump --format=custom {url} | gpg --compress-algo none {to} --output plain.gpg --encrypt",
    "recovery-test": "gpg --decrypt plain.gpg | pg_restore --no-owner --no-privileges --dbname {copy}",
    "restore-database": "gpg --decrypt plain.gpg | pg_restore --no-owner --no-privileges --dbname {copy}",
    "recover": "gpg --decrypt plain.gpg | pg_restore --no-owner --no-privileges --dbname {copy}",
}
COPIES = ("restored", "plain")


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    rounds: list[dict[str, Peaks]] = []
    with _place(options.directory, options.gigabytes) as directory:
        environment, ring = _prepared(directory)
        with EmbeddedServer(directory / ".keyrotation" / "postgres") as server:
            with closing(connect(server.url())) as connection:
                _fill(connection, ring, options.gigabytes)
            bench = Bench(directory, environment, server)
            bench.measured("init", bench.keyrotation("init"))
            for _ in range(options.rounds):
                rounds.append(results := {})
                for name, plain in YARDSTICKS.items():
                    results[f"plain {name}"] = bench.measured(f"plain {name}", bench.shell(plain))
                    results[name] = bench.measured(name, bench.keyrotation(name))
                # Every value decrypted, as in each of the last three.
                results["verify"] = bench.measured("verify", bench.keyrotation("verify"))
        dump_bytes = max(each.stat().st_size for each in (directory / ".keyrotation" / "backups").glob("database-*"))
    _print(Console(width=130), rounds, dump_bytes)
    if options.json:
        figures = [{name: asdict(peaks) for name, peaks in results.items()} for results in rounds]
        document = {"machine": machine(), "dump_bytes": dump_bytes, "results": figures}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


@dataclass(frozen=True)
class Bench:
    """Where commands are measured: each on the same data, with as much of it in memory, and no copy left."""

    directory: Path
    environment: dict[str, str]
    server: EmbeddedServer

    def keyrotation(self, name: str) -> list[str]:
        """The command as it is typed."""
        if name == "recover":
            return self._recover()
        key = ("--key", str(self.directory / "recovery.sec.asc"))
        options = {"recovery-test": key, "restore-database": (*key, "--into", COPIES[0])}
        return [str(KEYROTATION), name, *options.get(name, ())]

    def _recover(self) -> list[str]:
        """In an empty folder, as where everything is lost."""
        (empty := self.directory / "recovered").mkdir()
        home = self.directory / ".keyrotation"
        signer = signer_fingerprint(SigningKey(home / "backup-signing-key.pem").public)
        options = f"--from {home / 'backups'} --key {self.directory / 'recovery.sec.asc'} --signer {signer}"
        line = f"{KEYROTATION} recover {options} --server '{self.server.url('postgres')}' --into {COPIES[0]}"
        return ["bash", "-euc", f"cd {empty}; {line}; cd ..; rm -r {empty}"]

    def shell(self, line: str) -> list[str]:
        """A yardstick."""
        to = " ".join(f"--recipient-file officers/{name}.asc" for name in ("recovery", "security-officer"))
        typed = line.format(url=f"'{self.server.url()}'", copy=f"'{self.server.url(COPIES[1])}'", to=to)
        return ["bash", "-euo", "pipefail", "-c", typed]

    def measured(self, name: str, command: list[str]) -> Peaks:
        """What a command took, the server's part included."""
        with closing(connect(self.server.url("postgres"))) as admin:
            for copy in COPIES:
                admin.execute(f"DROP DATABASE IF EXISTS {copy} WITH (FORCE)".encode())
            if COPIES[1] in " ".join(command):
                admin.execute(f"CREATE DATABASE {COPIES[1]} TEMPLATE template0".encode())
            admin.execute("CHECKPOINT")
        if "--output" in " ".join(command):
            (self.directory / "plain.gpg").unlink(missing_ok=True)
        postmaster = postmaster_of(self.server.url())
        before = server_cpu_seconds(postmaster)
        peaks = watched(command, self.environment, self.directory)
        peaks.cpu_seconds += server_cpu_seconds(postmaster) - before
        print(name, peaks, flush=True)
        return peaks


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backup", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5, help="size of the dump; the disk needs 6 times as much")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is done")
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
    programs = Installation.of_wheel()
    environment = {
        "PATH": f"{programs.binaries}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(programs.binaries.parent / "lib"),
        "GNUPGHOME": str(recovery.home),
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


def _print(console: Console, rounds: Sequence[dict[str, Peaks]], dump_bytes: int) -> None:
    table = Table("command", "seconds", "CPU s", "to plain", "CPU to plain", "peak MB of each program", "disk GB")
    table.title = f"a dump of {dump_bytes / 1e9:.2f} GB; {len(rounds)} round(s), medians"
    for name in rounds[0]:
        several = [results[name] for results in rounds]
        plain = [results.get(f"plain {name}", results[name]) for results in rounds]
        pairs = tuple(zip(several, plain, strict=True))
        peak: dict[str, int] = {}
        for program, kib in (each for peaks in several for each in peaks.resident_kib.items() if each[0]):
            peak[program] = max(peak.get(program, 0), kib)
        table.add_row(
            name,
            f"{median(peaks.seconds for peaks in several):,.1f}",
            f"{median(peaks.cpu_seconds for peaks in several):,.1f}",
            f"{median(ours.seconds / theirs.seconds for ours, theirs in pairs):.2f}",
            f"{median(ours.cpu_seconds / theirs.cpu_seconds for ours, theirs in pairs):.2f}",
            ", ".join(f"{program} {kib / 1024:.0f}" for program, kib in sorted(peak.items())),
            f"{max(peaks.used_bytes for peaks in several) / 1e9:.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
