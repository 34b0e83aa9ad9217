"""How long `keyrotation scan` takes: many tables of ordinary columns, some of them encrypted, on a server of its own.

uv run python -m benchmarks.scan [--tables 300] [--gigabytes 5] [--rounds 3] [--url URL]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from benchmarks.processes import machine
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer

# What applications store: among it a digest, a document, a Fernet token (random within), and a blob like AES-GCM's.
_ROW_BYTES = 880
_TABLE = """
CREATE TABLE records_{number} (
    id bigint, email text, name varchar(80), token text, notes text, document jsonb, secret text, blob bytea,
    tags text[], created timestamptz DEFAULT now());
INSERT INTO records_{number}
SELECT i, 'user' || i || '@example.org', 'Name ' || md5(i::text), encode(sha256(i::text::bytea), 'hex'),
       repeat('Seen on ' || i || ', no complaints. ', 8),
       jsonb_build_object('kind', i % 7, 'address', jsonb_build_object('street', md5(i::text), 'zip', i)),
       translate(encode('\\x80'::bytea || int8send(1790000000 + i) || substr(sha512(i::text::bytea), 1, 16)
           || sha512((i + 1)::text::bytea) || sha256((i + 2)::text::bytea), 'base64'), E'+/\\n', '-_'),
       sha512((i + 1)::text::bytea) || sha224(i::text::bytea), ARRAY['a' || i, 'b' || i]
FROM generate_series(1, {rows}) i;
"""

_SIZE = "SELECT sum(pg_total_relation_size(oid))::float8, count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384"


def main() -> None:
    """Make the database, scan it, print how long that took."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="keyrotation-benchmark-") as directory:
        if options.url:
            _measure(options.url, options.rounds)
            return
        with EmbeddedServer(Path(directory) / "postgres") as server:
            rows = int(options.gigabytes * 1e9 / options.tables / _ROW_BYTES)
            with psycopg.connect(server.url(), autocommit=True) as connection:
                for number in range(options.tables):
                    connection.execute(_TABLE.format(number=number, rows=rows).encode())
                connection.execute("CHECKPOINT")
            _measure(server.url(), options.rounds)


def _measure(url: str, rounds: int) -> None:
    with psycopg.connect(url) as connection:
        ((size, tables),) = connection.execute(_SIZE).fetchall()
    for _ in range(rounds):
        began = time.monotonic()
        command = [str(Path(sys.executable).with_name("keyrotation")), "scan", "--json", "--url", url]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  our own program
        seconds = time.monotonic() - began
        places = len(json.loads(done.stdout)["places"])
        megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{tables} tables, {size / 1e9:.1f} GB: {seconds:.1f} s, {places} places, {megabytes:.0f} MB of memory")
    print(machine())


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="of a database that is there; nothing is made")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
