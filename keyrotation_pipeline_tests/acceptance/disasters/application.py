"""An application that writes until its database fails, and a journal of its writes outside that database."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg

from keyrotation_pipeline.encrypted_type import MountedKeyRing, attest
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.waiting import eventually

PAUSE_SECONDS = 0.005
INSERTS = 0.2  # of all writes; the others are updates
UPSERT = """
INSERT INTO public.clients (id, first_name, email) VALUES (%s, %s, %s)
ON CONFLICT (id) DO UPDATE SET first_name = excluded.first_name, email = excluded.email
"""


@dataclass(frozen=True)
class Write:
    """One row's text, in both of its columns."""

    row: int
    text: str


@dataclass
class Journal:
    """Every write in the order in which it was sent; `acknowledged` of them were, and at most one more was sent."""

    sent: list[Write] = field(default_factory=list)
    acknowledged: int = 0

    @property
    def rows(self) -> list[int]:
        return sorted({each.row for each in self.sent})

    def lost(self, found: Mapping[int, str], so_far: int | None = None) -> list[int]:
        """Rows that hold neither their last write of the first `so_far`, nor a later one; by default of all.

        A row that nobody wrote counts, too: it came from elsewhere.
        """
        so_far = self.acknowledged if so_far is None else so_far
        allowed: dict[int, set[str]] = {each.row: {each.text} for each in self.sent[:so_far]}
        required = set(allowed)
        for each in self.sent[so_far:]:
            allowed.setdefault(each.row, set()).add(each.text)
        return sorted(row for row in required | set(found) if found.get(row) not in allowed.get(row, ()))


@dataclass
class Application:
    """One instance of the application on one database, with the keys that lie in a directory."""

    url: str
    keys: Path
    journal: Journal
    failed: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def working(self) -> Iterator["Application"]:
        """It writes and reports itself meanwhile."""
        stop, ring, engine = threading.Event(), MountedKeyRing(self.keys), engine_of(self.url)
        thread = threading.Thread(target=self._write, args=(stop, ring))
        attestation = attest(engine, ring, instance=f"web-{os.urandom(4).hex()}", every_seconds=0.2)
        thread.start()
        try:
            self.wait_for(20)
            yield self
        finally:
            stop.set()
            thread.join()
            attestation.stop()
            engine.dispose()

    def wait_for(self, writes: int) -> None:
        """Until so many more are acknowledged."""
        enough = self.journal.acknowledged + writes
        assert eventually(lambda: self.journal.acknowledged >= enough)

    def _write(self, stop: threading.Event, ring: MountedKeyRing) -> None:
        dice, rows = Random(7), self.journal.rows
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                while not stop.wait(PAUSE_SECONDS):
                    if not rows or dice.random() < INSERTS:
                        rows.append(max(rows, default=0) + 1)
                        row = rows[-1]
                    else:
                        row = dice.choice(rows)
                    write = Write(row, f"write {len(self.journal.sent)} ✓")
                    values = [encrypt(ring(), write.text) for _ in ("first_name", "email")]
                    self.journal.sent.append(write)
                    connection.execute(UPSERT, (row, *values))
                    self.journal.acknowledged += 1
        except psycopg.OperationalError:
            self.failed.set()


@dataclass
class Reads:
    """What a reader has read, and could not."""

    done: int = 0
    failed: list[str] = field(default_factory=list)

    def wait_for(self, reads: int) -> None:
        """Until so many more are done."""
        enough = self.done + reads
        assert eventually(lambda: self.done >= enough)


@contextmanager
def reading(url: str, keys: Path, reads: Reads) -> Iterator[None]:
    """An instance that reads every row of a database, again and again, with the keys that lie in a directory."""
    stop, ring, engine = threading.Event(), MountedKeyRing(keys), engine_of(url)
    thread = threading.Thread(target=_read, args=(url, ring, stop, reads))
    attestation = attest(engine, ring, instance=f"reader-{os.urandom(4).hex()}", every_seconds=0.2)
    thread.start()
    try:
        reads.wait_for(20)
        yield
    finally:
        stop.set()
        thread.join()
        attestation.stop()
        engine.dispose()


def _read(url: str, ring: MountedKeyRing, stop: threading.Event, reads: Reads) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.wait(PAUSE_SECONDS):
            for row, stored in connection.execute("SELECT id, first_name FROM public.clients").fetchall():
                try:
                    decrypt(ring(), stored)
                except KeyRotationError as error:
                    reads.failed.append(f"row {row}: {error}")
                reads.done += 1
