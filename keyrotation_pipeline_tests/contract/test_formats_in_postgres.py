"""What a database does with the values of every format: counts, re-encryption, refusal, and the way back."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from typing import cast

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.ranges import StoredPageRanges
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence
from keyrotation_pipeline.adapters.postgres.inventory import key_markers, retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, marked_format_of
from keyrotation_pipeline.fieldcrypto.codecs.marked import MarkedReencryptor
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, running
from keyrotation_pipeline_tests.vectors.format_vectors import VECTORS, FormatVector

# Also of one that names no key.
REFUSED = r"keyrotation: (key version v\d+ is retired|a value must name its key)"
FIRST = {each.name: each for each in reversed(VECTORS)}
EVERY = pytest.mark.parametrize(
    "vector",
    [
        pytest.param(
            each,
            id=f"{each.name}: {each.made_by}",
            marks=[] if FIRST[each.name] is each else pytest.mark.extended,
        )
        for each in VECTORS
    ],
)

OTHERS = """CREATE TYPE public.one AS (n int, value {kind}); CREATE TYPE public.two AS (n int, held public.one[]);
CREATE TABLE public.others (listed {kind}[], one public.one, several public.one[], nested public.two, document jsonb)"""
INTO_OTHERS = """INSERT INTO public.others SELECT array_agg(value), (array_agg(one))[1], array_agg(one),
ROW(1, array_agg(one))::public.two, to_jsonb(array_agg(one))
FROM (SELECT value, ROW(1, value)::public.one FROM unnest(%(values)s::{kind}[]) AS each (value)) AS held (value, one)"""


class Stored:
    """A table that holds the values of a library, a NULL and an empty one."""

    def __init__(self, vector: FormatVector, url: str, connection: Connection) -> None:
        self.vector, self.url, self.connection = vector, url, connection
        self.ring, self.target = vector.ring()
        self.before = KeyRing(
            {each: self.ring.material(each) for each in self.ring.versions if each != self.target},
            max(each for each in self.ring.versions if each != self.target),
        )
        table, column = (vector.label or "held.c").split(".")
        self.name, self.column = sql.Identifier("public", table), sql.Identifier(column)
        self.table = EncryptedTable(TableName("public", table), (column,), vector.declared)
        kind = sql.SQL("bytea" if vector.declared.is_binary else "text")
        connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, {} {})").format(self.name, self.column, kind))
        for row, value in enumerate([*vector.stored, None, b""]):
            self.insert(row, value)
        running(connection, "routine")

    def insert(self, row: int, value: bytes | None) -> None:
        (shown,) = self.shown([value])
        self.connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(self.name), (row, shown))

    def names_a_key(self, value: bytes) -> bool:
        if (code := marked_format_of(self.vector.declared)) is None:
            return True  # all do, or a MAC tells it
        parsed = cast("MarkedReencryptor", code.reencryptor(self.ring, self.target)).parsed(value)
        assert parsed is not None
        return bool(parsed.marker)

    def shown(self, values: Sequence[bytes | None]) -> Sequence[str | bytes | None]:
        if self.vector.declared.is_binary:
            return values
        return [None if value is None else value.decode() for value in values]

    def evidence(self, ring: KeyRing) -> Evidence:
        return evidence_of(self.connection, self.table, CurrentKeys(lambda: connect(self.url), lambda: ring, Limits()))

    def count(self, ring: KeyRing) -> TableCount:
        return self.evidence(ring).count()

    def reencrypt(self, ring: KeyRing, target: KeyVersion) -> Rewritten:
        return Engine(self.url, ring, target=target).shard(self.table)

    def values(self) -> list[bytes]:
        found = self.connection.execute(
            sql.SQL("SELECT {} FROM {} WHERE id < %s ORDER BY id").format(self.column, self.name),
            (len(self.vector.stored),),
        ).fetchall()
        return [str(value).encode() if isinstance(value, str) else bytes(cast("bytes", value)) for (value,) in found]

    def texts(self, ring: KeyRing) -> list[object]:
        return [self.vector.plaintext(ring, value) for value in self.values()]

    def under(self, counted: TableCount) -> dict[KeyVersion, int]:
        assert (counted.unencrypted, counted.unreadable, counted.empty) == (0, 0, 1)
        return {version: number for version, number in counted.values_by_version.items() if number}


@pytest.fixture
def held(vector: FormatVector, database_url: str, migrated: Connection) -> Stored:
    return Stored(vector, database_url, migrated)


@EVERY
def test_values_are_counted_reencrypted_refused_and_taken_back(
    held: Stored, vector: FormatVector, migrated: Connection
) -> None:
    code, ring, target, number = format_of(vector.declared), held.ring, held.target, len(vector.stored)
    opened = Counter(found[0] for value in vector.stored if (found := code.opened_by(held.before, value, vector.label)))
    texts = held.texts(ring)
    assert held.under(held.count(held.before)) == opened

    done = held.reencrypt(ring, target)
    assert (done.rows, done.values, done.skipped, done.quarantined) == (number, number, 0, 0)
    alone = KeyRing({target: ring.material(target)}, target)
    assert held.texts(alone) == texts
    promoted = KeyRing({each: ring.material(each) for each in ring.versions}, target)
    assert held.under(held.count(promoted)) == {target: number}

    retired = sorted(each for each in ring.versions if each != target)
    evidence = held.evidence(promoted)
    assert evidence.old_rows(retired, None).rows == 0
    if vector.declared.identified_by is not IdentifiedBy.DECRYPT:  # of these a login is refused, and no value
        assert evidence.fence(retired)
        assert evidence.fences() == tuple(retired)
        for row, value in enumerate(vector.stored, 10):
            with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=REFUSED):
                held.insert(row, value)
        held.insert(20, held.values()[0])
        for version in retired:
            evidence.lift(version)
        assert evidence.fences() == ()

    migrated.execute("DELETE FROM keyrotation.shard_walks")  # as of another request
    back = held.before.primary
    again = held.reencrypt(KeyRing({each: ring.material(each) for each in ring.versions}, back), back)
    assert (again.skipped, again.quarantined) == (0, 0)
    assert held.texts(held.before) == texts


@EVERY
def test_a_process_that_is_killed_after_a_write_and_before_its_record_loses_nothing(
    held: Stored, vector: FormatVector
) -> None:
    texts = held.texts(held.ring)
    assert killed(held) == signal.SIGKILL
    assert held.values() != vector.stored
    assert held.reencrypt(held.ring, held.target).quarantined == 0
    assert held.texts(KeyRing({held.target: held.ring.material(held.target)}, held.target)) == texts


def killed(held: Stored) -> int:
    """The signal that ended a process which re-encrypts and kills itself where it would record the first pages."""
    if (child := os.fork()) == 0:
        try:
            StoredPageRanges.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            held.reencrypt(held.ring, held.target)
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@EVERY
def test_values_inside_of_other_values_are_found(held: Stored, vector: FormatVector, migrated: Connection) -> None:
    if vector.declared.identified_by is IdentifiedBy.DECRYPT:
        pytest.skip("nothing in a value tells its key without decrypting")
    key_markers.publish(migrated, vector.declared, held.ring)
    if vector.declared.identified_by is IdentifiedBy.MAC:
        retired_signing_keys.publish(migrated, vector.declared, held.ring, held.target)
    if not (named := [value for value in vector.stored if held.names_a_key(value)]):
        pytest.skip("its values name no key before they are re-encrypted")
    kind, number = sql.SQL("bytea" if vector.declared.is_binary else "text"), len(named)
    migrated.execute(sql.SQL(OTHERS).format(kind=kind))
    migrated.execute(sql.SQL(INTO_OTHERS).format(kind=kind), {"values": held.shown(named)})
    found = PostgresInventory(migrated, tables=[held.table]).discover([held.table])
    counted = {each.column: each.values for each in found if each.relation == "others"}
    assert counted == {"listed": number, "one": 1, "several": number, "nested": number, "document": number}
