"""Makes the homes of the version at hand: `uv run python -m keyrotation_pipeline_tests.upgrades.make`.

Once a version is released its homes stay as they are. Until then, whatever changes what a home or its database holds
makes them again.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.servers import DIRECTORY, Server, discard, start_server
from keyrotation_pipeline_tests.upgrades.kept_home import DATABASE, HOMES, folder_of, keep, version_of_this

ROWS = 60
# Whatever day it is when the walk is finished.
NEVER = datetime(2999, 1, 1, tzinfo=UTC)
CONFIGURATION = """\
database.url = { env = "KEYROTATION_DATABASE_URL" }
rollout.mode = "none"
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[tables]]
name = "notes"
columns = ["body"]
[approvals]
required = 2
"""


def plaintext(row: int) -> tuple[str, str, str]:
    """The first name, address and note of a row; of every third row there is no address."""
    return f"name {row}", f"{row}@example.invalid", f"note {row}"


def _to_key(pipeline: Pipeline, request: str) -> None:
    """The new key is made, and no application has it."""
    list(runner.run(pipeline, request, lambda _progress: None, Step.KEY_VERSION))


def _to_rows(pipeline: Pipeline, request: str) -> None:
    """Some rows are under the new key."""
    list(runner.run(pipeline, request, lambda _progress: None, Step.PRIMARY_KEY_ROLLOUT))
    first, *_rest = runner.next_decision(Situation(pipeline), pipeline.ledger.walk(request)).tasks
    runner.run_step(pipeline, request, first, lambda _progress: None)


def _to_retired(pipeline: Pipeline, request: str) -> None:
    """The old key has left the key store, and no application is seen to be without it.

    Not the proof: a fence in a restored database is not the one that was proven, and the retirement says so.
    """
    list(runner.run(pipeline, request, lambda _progress: None, Step.RETIRED_KEY))


POINTS: Mapping[str, Callable[[Pipeline, str], None]] = {"key": _to_key, "rows": _to_rows, "retired": _to_retired}


def _fill(url: str, ring: KeyRing) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text, email text)")
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
        for row in range(ROWS):
            name, email, note = plaintext(row)
            connection.execute(
                "INSERT INTO clients VALUES (%s, %s, %s)",
                (row, encrypt(ring, name), encrypt(ring, email) if row % 3 else None),
            )
            connection.execute("INSERT INTO notes VALUES (%s, %s)", (row, encrypt(ring, note)))


def make(server: Server, officers: Sequence[DemoOfficer], file: Path, walk: Callable[[Pipeline, str], None]) -> None:
    """Makes one file; the officers' secret keys are not in it."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    url, ring = server.url(DATABASE), KeyRing({KeyVersion(1): KeyMaterial.generate()}, KeyVersion(1))
    _fill(url, ring)
    os.environ["KEYROTATION_DATABASE_URL"] = url
    with folder_of(file) as folder:
        text = CONFIGURATION
        for officer in officers:
            shutil.copy(officer.certificate, folder)
            text += f'[[approvals.officers]]\nname = "{officer.name}"\ncertificate = "{officer.certificate.name}"\n'
        (folder / "keyrotation.toml").write_text(text)
        declared = settings.load(folder / "keyrotation.toml")
        initialise(declared, ring, actor="test")
        with open_pipeline(declared, actor="test") as pipeline:
            opened = open_request(
                pipeline, reason="yearly rotation", requested_by="test", start_by=NEVER, finish_by=NEVER
            )
            for officer in officers:
                add_approval(pipeline, opened, officer.sign(pipeline.ledger.approval_text(opened.id)))
            walk(pipeline, opened.id)
        keep(server, folder, file)


def main() -> None:
    """Makes the homes of this version, in place of those that are there."""
    target = HOMES / version_of_this()
    target.mkdir(parents=True, exist_ok=True)
    secret = Path(tempfile.mkdtemp(dir=DIRECTORY))
    officers = [DemoOfficer.create(secret, name) for name in ("Security Officer", "Privacy Officer")]
    for point, walk in POINTS.items():
        server, file = start_server(), target / f"{point}.tar.xz"
        try:
            make(server, officers, file, walk)
        finally:
            discard(server)
        sys.stdout.write(f"{file}: {file.stat().st_size:,} bytes\n")
    shutil.rmtree(secret)


if __name__ == "__main__":
    main()
