"""The engine against a plain model: whatever happens in whatever order, each value decrypts to what the model holds."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec, NewValues
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.shard import reencrypt_shard
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Shard
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of
from keyrotation_pipeline_tests.integration.stored_places import (
    EVERY_FORMAT,
    EVERY_STORED,
    MATRIX,
    SLOTS,
    Stored,
    fill,
    open_value,
    seal,
)

ROWS = 100
KEYS = st.integers(0, ROWS - 1)
COLUMNS = st.sampled_from(SLOTS)
TEXTS = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
VERSIONS = st.sampled_from([1, 2, 3])


class CrashError(Exception):
    """The engine's process is gone."""


class Rotations(RuleBasedStateMachine):
    """An application, an engine and a model, one step at a time."""

    url: ClassVar[str]
    ring: ClassVar[KeyRing]
    values: ClassVar[ValueFormat]
    stored: ClassVar[Stored]
    table: ClassVar[EncryptedTable]

    @initialize()
    def begin(self) -> None:
        self.connection: Connection = connect(self.url)
        self.connection.execute("TRUNCATE public.cases; DELETE FROM keyrotation.shard_walks")
        self.model: dict[int, dict[str, str | None]] = {n: {"a": f"a{n}", "b": f"b{n}"} for n in range(ROWS)}
        sealed = ((n, tuple(self._sealed(1, f"{slot}{n}") for slot in SLOTS)) for n in range(ROWS))
        fill(self.connection, self.stored, dict(sealed))
        self.rotation = 0
        self.target = KeyVersion(2)
        self.open: psycopg.Connection[Any] | None = None

    def teardown(self) -> None:
        if self.open is not None:
            self.open.close()
        self.connection.close()

    @rule(key=KEYS, column=COLUMNS, text=TEXTS, version=VERSIONS)
    def application_writes(self, key: int, column: str, text: str | None, version: int) -> None:
        if self.open is None and key in self.model:
            self._write(self.connection, key, column, text, version)
            self.model[key][column] = text

    @rule(key=KEYS)
    def application_deletes(self, key: int) -> None:
        if self.open is None:
            self.connection.execute("DELETE FROM public.cases WHERE id = %s", (key,))
            self.model.pop(key, None)

    @precondition(lambda self: self.open is None)
    @rule(key=KEYS, column=COLUMNS, text=TEXTS, version=VERSIONS)
    def application_begins(self, key: int, column: str, text: str | None, version: int) -> None:
        self.open = psycopg.connect(self.url)
        self._write(self.open, key, column, text, version)
        self.waiting = (key, column, text)

    @precondition(lambda self: self.open is not None)
    @rule(commits=st.booleans())
    def application_ends(self, commits: bool) -> None:
        assert self.open is not None
        key, column, text = self.waiting
        if commits:
            self.open.commit()
            if key in self.model:
                self.model[key][column] = text
        else:
            self.open.rollback()
        self.open.close()
        self.open = None

    @rule(index=st.integers(0, 1))
    def engine_walks(self, index: int) -> None:
        self._engine(index)

    @rule(
        version=VERSIONS,
        batch=st.integers(0, 2),
        what=st.sampled_from(["dies", "write", "replace", "rewrite"]),
        column=COLUMNS,
        key=KEYS,
        text=TEXTS,
    )
    def something_happens_between_read_and_write(
        self, version: int, batch: int, what: str, column: str, key: int, text: str | None
    ) -> None:
        self.primary_is_switched(version)  # so that there is something to do
        encrypt, seen = Codec.encrypt, iter(range(10**6))

        def interrupted(codec: Codec, rows: Batch) -> NewValues:
            if next(seen) == batch:
                self._happens(what, key, column, text)
            return encrypt(codec, rows)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Codec, "encrypt", interrupted)
            with suppress(CrashError):
                self._engine(0)
                self._engine(1)

    def _happens(self, what: str, key: int, column: str, text: str | None) -> None:
        if what == "dies":
            raise CrashError
        if self.open is not None:
            return
        if what == "write":
            self.application_writes(key, column, text, 1)
            return
        # Another row gets the place of one that is gone: by VACUUM, or as the table is written again.
        self.application_deletes(key)
        self.connection.execute("VACUUM public.cases" if what == "replace" else "VACUUM FULL public.cases")
        if what == "replace":
            self.connection.execute("INSERT INTO public.cases (id) VALUES (%s)", (key,))
            self.model[key] = {"a": None, "b": None}

    @rule()
    def engine_sweeps(self) -> None:
        Engine(self.url, self.ring, self._limits(), self.target).sweep(self.table)

    @rule(version=VERSIONS)
    def primary_is_switched(self, version: int) -> None:
        self.target = KeyVersion(version)
        self.rotation += 1

    @precondition(lambda self: self.open is None)
    @rule(full=st.booleans())
    def table_is_vacuumed(self, full: bool) -> None:
        self.connection.execute("VACUUM FULL public.cases" if full else "VACUUM public.cases")

    @precondition(lambda self: self.open is None)
    @rule()
    def rotation_comes_to_its_end(self) -> None:
        for index in (0, 1):
            self._engine(index)
        while Engine(self.url, self.ring, Limits(), self.target).sweep(self.table, wait=True).rows:
            pass
        versions = {value[0] for values in self._opened().values() for value in values if value}
        assert versions <= {str(self.target)}

    @invariant()
    def every_value_is_what_the_model_holds(self) -> None:
        texts = {key: [value and value[1] for value in values] for key, values in self._opened().items()}
        assert texts == {key: [held[slot] for slot in SLOTS] for key, held in self.model.items()}

    def _limits(self) -> Limits:
        return Limits(writes_at_once=self.rotation % 2 == 1)

    def _engine(self, index: int) -> None:
        limits = replace(self._limits(), max_pages=1, duty_cycle=1.0)
        request, shard = f"{self.rotation:032x}", Shard(self.table, index, 2)
        reencrypt_shard(lambda: connect(self.url), request, shard, self.ring, self.target, lambda _: None, limits)

    def _write(
        self, connection: "psycopg.Connection[Any]", key: int, column: str, text: str | None, version: int
    ) -> None:
        value = None if text is None else self._sealed(version, text)
        put = self.stored.put[SLOTS.index(column)]
        connection.execute(f"UPDATE public.cases SET {put} WHERE id = %s".encode(), (value, key))

    def _sealed(self, version: int, text: str) -> str:
        return seal(self.values, self.ring, version, text)

    def _opened(self) -> dict[int, list[tuple[str, str] | None]]:
        query = f"SELECT id, {', '.join(self.stored.get)} FROM public.cases"
        rows: list[Any] = self.connection.execute(query.encode()).fetchall()
        return {key: [open_value(self.values, self.ring, value) for value in held] for key, *held in rows}


MACHINES = [
    ("native", "text", 6),
    ("fernet", "jsonb", 2),
    ("pair of bytes", "pair of bytes", 2),
    *(pytest.param(values, stored, 60, marks=pytest.mark.extended) for values, stored in MATRIX),
]


@pytest.mark.parametrize(("values", "stored", "examples"), MACHINES)
def test_the_table_is_at_every_moment_what_a_plain_model_holds(
    migrated: Connection, database_url: str, values: str, stored: str, examples: int
) -> None:
    value_format, layout = EVERY_FORMAT[values], EVERY_STORED[stored]
    migrated.execute(f"CREATE TABLE public.cases (id int PRIMARY KEY, {layout.columns})".encode())
    bound = {"url": database_url, "ring": ring_of(1, 2, 3), "values": value_format, "stored": layout}
    machine = type("Bound", (Rotations,), bound | {"table": layout.table("cases", value_format)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
