"""Rows of each form come into our own format, killed at random, beside the library itself and a stale writer.

`SOURCE_ROWS` says how many, 200,000 if nothing else is said. The text of every value is known all the while, and in the
end every one is compared.
"""

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, LegacyKey, MountedKeyRing, attest
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import any_value_in
from keyrotation_pipeline_tests.acceptance.migrations import Home, home_of
from keyrotation_pipeline_tests.applications import beside, engine_of
from keyrotation_pipeline_tests.servers import DEBIAN, discard, start_server
from keyrotation_pipeline_tests.source_libraries import LIBRARIES, Library, RunningLibrary, Stored
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = pytest.mark.extended
ROWS = int(os.environ.get("SOURCE_ROWS", "200000"))
STRANGE = ["v2: final version", "v1:", "100 %", "Zürich 😀", "x" * 5000, "a" * 16, "two\nlines", f"v3:{'A' * 16}:-"]
MOST_KILLS, MOST_RUNS = 12, 40
# A stale writer that writes more often than the rows are counted keeps the rotation from ending, which says so.
SELDOM_SECONDS = max(3, ROWS / 15_000)
MOST_SECONDS = 5 * min(1, ROWS / 100_000)  # before each


class Instance(Protocol):
    """How an instance of an application stores and reads the values of one library's columns."""

    def sealed(self, text: str) -> Stored: ...

    def opened(self, stored: Stored) -> str: ...


@dataclass(frozen=True)
class OfLibrary:
    """One that knows nothing but the library."""

    running: RunningLibrary

    def sealed(self, text: str) -> Stored:
        return self.running.sealed([text])[0]

    def opened(self, stored: Stored) -> str:
        return self.running.opened([stored])[0]


class ByEncryptedType:
    """One of the next release, which reads both by `EncryptedType`."""

    def __init__(self, library: Library, keys: MountedKeyRing, begins: int) -> None:
        said = library.options
        legacy = [LegacyKey(said.pop("format"), library.key, **said)] if said else None
        self._type = EncryptedType(
            keys, encrypted_from=begins, legacy=legacy, binding=f"cases.{library.column}", bytea=library.is_binary
        )

    def sealed(self, text: str) -> Stored:
        return (self._type.process_bind_param(text, None),)  # type: ignore[arg-type, return-value]

    def opened(self, stored: Stored) -> str:
        return str(self._type.process_result_value(stored[0], None))  # type: ignore[arg-type]


class InAnotherLanguage:
    """One whose own code reads both, as where a value is in several columns, of which the first holds ours later."""

    def __init__(self, running: RunningLibrary, keys: MountedKeyRing, begins: int) -> None:
        column = running.library.column
        self._own, self._former = (
            EncryptedType(keys, encrypted_from=begins, binding=f"cases.{column}"),
            OfLibrary(running),
        )
        self._nothing = [None] * (len(running.library.columns) - 1)

    def sealed(self, text: str) -> Stored:
        ours = self._own.process_bind_param(text, None)  # type: ignore[arg-type]
        return self._former.sealed(text) if ours == text else (str(ours), *self._nothing)

    def opened(self, stored: Stored) -> str:
        if not any_value_in([str(stored[0]).encode()]):
            return self._former.opened(stored)
        return str(self._own.process_result_value(stored[0], None))  # type: ignore[arg-type]


@dataclass
class Writer:
    """Reads the value of a row, compares it, and writes another one, while the row is locked.

    Args:
        expected: the texts of the values by row, which all writers share.
        name: of its texts; and each writer chooses rows of its own.
        most_seconds: between two of its writes.
        refused: how many of its writes a fence refused, which a stale writer expects.
    """

    url: str
    library: Library
    instance: Instance
    expected: list[str]
    name: str
    most_seconds: float = 0.01
    wrong: list[str] = field(default_factory=list)
    written: int = 0
    refused: int = 0

    def work(self, stop: threading.Event) -> None:
        chance = Random(self.name)
        with psycopg.connect(self.url) as connection:
            while not stop.wait(chance.uniform(0, self.most_seconds)):
                try:
                    self._step(connection, chance.randrange(ROWS))
                except (psycopg.Error, KeyRotationError, ValueError) as error:
                    self.wrong.append(f"{type(error).__name__} {error}")
                    connection.rollback()

    def _step(self, connection: psycopg.Connection, row: int) -> None:
        columns = [name for name, _ in self.library.columns]
        read = f"SELECT {', '.join(columns)} FROM public.cases WHERE id = %s FOR UPDATE".encode()
        (stored,) = connection.execute(read, (row,)).fetchall()
        if self.most_seconds < 1 and (found := self.instance.opened(stored)) != self.expected[row]:
            self.wrong.append(f"row {row}: {found!r:.60}, not {self.expected[row]!r:.60}")
        text = f"v2: write {self.written} of {self.name}"
        write = f"UPDATE public.cases SET {', '.join(f'{each} = %s' for each in columns)} WHERE id = %s".encode()
        try:
            connection.execute(write, (*self.instance.sealed(text), row))
        except psycopg.errors.InvalidTextRepresentation as error:
            self.refused += any(f"{each} is refused" in str(error) for each in ("another library", "plaintext"))
            connection.rollback()
            return
        self.expected[row] = text  # while the row is locked
        connection.commit()
        self.written += 1


@contextmanager
def server_of(library: Library, url: str) -> Iterator[str]:
    """A database in which the library works."""
    if not library.on_debian:
        yield url
        return
    server = start_server(DEBIAN)
    try:
        yield server.url()
    finally:
        discard(server)


def seed(url: str, running: RunningLibrary) -> list[str]:
    """Has the library make its values; returns their texts."""
    texts = [STRANGE[n] if n < len(STRANGE) else f"token {n}" for n in range(ROWS)]
    columns = ["id", *(name for name, _ in running.library.columns)]
    copy = f"COPY public.cases ({', '.join(columns)}) FROM STDIN".encode()
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(copy) as rows:
        for first in range(0, ROWS, 5000):
            for row, stored in enumerate(running.sealed(texts[first : first + 5000]), first):
                rows.write_row((row, *stored))
    return texts


def killed_at_random(home: Home, request: str) -> tuple[int, set[str]]:
    """Rotates in processes that are killed at random moments; returns how many were, and the phases that they were in.

    After so many it goes on to its end, in a few runs: each waits three seconds for instances, and sweeps what the
    stale writer stored while the last one counted.
    """
    chance, kills, runs, phases = Random(20261202), 0, 0, set[str]()
    command = [str(Path(sys.executable).with_name("keyrotation")), "rotate", request, "--config", str(home.file)]
    while (rotation := home.shown("status")["rotation"]) is not None:
        phases.add(str(rotation["phase"]))
        wanted = home.events() + chance.randint(1, 3)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while kills < MOST_KILLS and process.poll() is None and home.events() < wanted:
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, MOST_SECONDS) if kills < MOST_KILLS else None)
        if process.poll() is None:
            process.kill()
            kills += 1
        _, said = process.communicate()
        runs += 1
        assert runs < MOST_RUNS, said
    return kills, phases


def require_all(home: Home, library: Library, expected: list[str], version: str) -> None:
    """Checks every value of a library's column, by the keys of the store alone."""
    own, values = (
        EncryptedType(MountedKeyRing(home.keys), binding=f"cases.{library.column}"),
        home.stored(library.column),
    )
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    assert {text.partition(":")[0] for text in texts} == {version}
    wrong = [n for n, text in enumerate(texts) if own.process_result_value(text, None) != expected[n]]  # type: ignore[arg-type]
    assert (len(texts), wrong) == (ROWS, []), library.column


@pytest.mark.parametrize("library", LIBRARIES, ids=[each.column for each in LIBRARIES])
def test_rows_killed_at_random_beside_the_library_and_a_stale_writer_lose_nothing(
    library: Library,
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not library.is_here or (library.on_debian and not DEBIAN.exists()):
        pytest.skip("this library does not run here")
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    monkeypatch.setenv(library.variable, library.key)
    begins = 3 if library.declared else 2  # v1 is there, and the key of a library has a number
    create = ", ".join(f"{name} {kind}" for name, kind in library.columns)
    with ExitStack() as stack:
        url = stack.enter_context(server_of(library, database_url))
        officers = security_officer, privacy_officer
        home = home_of(tmp_path, url, officers, f'[{{ column = "{library.column}", from = {library.source} }}]', create)
        running = stack.enter_context(library.running(url))
        expected = seed(url, running)
        home.typed("init")
        home.reported()
        keys, former = MountedKeyRing(home.keys), OfLibrary(running)
        one_column = len(library.columns) == 1
        both = ByEncryptedType(library, keys, begins) if one_column else InAnotherLanguage(running, keys, begins)
        old, new = Writer(url, library, former, expected, "old"), Writer(url, library, both, expected, "new")
        stale, began = Writer(url, library, former, expected, "stale", SELDOM_SECONDS), time.monotonic()
        with ExitStack() as work:
            work.enter_context(beside(stale.work))
            request = home.typed("request", "--reason", "one format").splitlines()[-1]
            home.sign(request)
            with beside(old.work):
                gates = {f"cases.{library.column}": begins}
                attesting = attest(engine_of(url), keys, instance="new", every_seconds=0.2, encrypts_from=gates)
                work.callback(attesting.stop)
                assert eventually(lambda: home.shown("rollout")["instances"])
                work.enter_context(beside(new.work))
                home.typed("rotate", request, "--through", "key_version")
            kills, phases = killed_at_random(home, request)
            seconds = time.monotonic() - began
            assert eventually(lambda: stale.refused > 0, 4 * SELDOM_SECONDS)
        assert (old.wrong, new.wrong, stale.wrong) == ([], [], [])
        require_all(home, library, expected, f"v{begins}")
        table = home.table()
        assert (table["rows"], table["unencrypted"], table["unreadable"]) == (ROWS, 0, 0)
        home.typed("verify")
        home.typed("audit", "verify")
    print(  # noqa: T201
        f"{ROWS:,} rows of {library.column}, {kills} kills in {len(phases)} phases, {seconds:.0f} s; writes: "
        f"{old.written} of the library, {new.written} of the next release, {stale.written} stale and {stale.refused} "
        "refused"
    )
    assert min(old.written, new.written, stale.written, kills) > 0
