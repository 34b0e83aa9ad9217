"""What the owner of a table changes after the pre-flight, or after the fence, while plaintext is being encrypted."""

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import FenceError, PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.proof import SnapshotPosition
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, PostgresPorts, ring_of, running, sealed
from keyrotation_pipeline_tests.integration.test_plaintext_attacks import NOTES, V1, V2, encrypted, filled, proven


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


NAME = "keyrotation_retired_key_versions"
PUT_BACK = f"""
ALTER TABLE public.notes DROP CONSTRAINT {NAME};
UPDATE public.notes SET note = 'plain text' WHERE id = 3;
"""
ADD = f"ALTER TABLE public.notes ADD CONSTRAINT {NAME} {{}}"
AFTERWARDS = {
    "nothing": "",
    "the fence without a look at the rows": f"{ADD} NOT VALID",
    "the same, called validated by a superuser": (
        f"{ADD} NOT VALID; UPDATE pg_constraint SET convalidated = true WHERE conname = '{NAME}'"
    ),
    "a weaker one": f"ALTER TABLE public.notes ADD CONSTRAINT {NAME} CHECK (left(note, 3) <> 'v1:')",
}


@pytest.mark.parametrize("afterwards", AFTERWARDS.values(), ids=AFTERWARDS)
def test_plaintext_that_the_owner_puts_back_before_the_retirement_is_found(
    migrated: Connection, database_url: str, ring: KeyRing, afterwards: str
) -> None:
    filled(migrated, database_url, ring, "aé")
    ports = encrypted(database_url, migrated, ring)
    moment = SnapshotPosition(ports.evidence.current_xid(), ports.evidence.barrier())
    definition, before = fence_of(migrated), migrated.execute("SELECT note FROM public.notes WHERE id = 3").fetchall()
    with psycopg.connect(database_url) as owner:
        owner.execute((PUT_BACK + afterwards.format(definition)).encode())
    with pytest.raises(ProofError, match="column note: 1 unencrypted value"), migrated.transaction():
        ports.evidence.zero_old_rows([NOTES], V1, [V1], moment)
    # And where he takes it back in time, the fence is younger than what it is to vouch for.
    with psycopg.connect(database_url) as owner:
        owner.execute(f"ALTER TABLE public.notes DROP CONSTRAINT IF EXISTS {NAME}".encode())
        owner.execute("UPDATE public.notes SET note = %s WHERE id = 3", before[0])
        owner.execute(ADD.format(definition).encode())
    with pytest.raises(FenceError, match="was recreated after the proof"), migrated.transaction():
        ports.evidence.zero_old_rows([NOTES], V1, [V1], moment)


def fence_of(connection: Connection) -> str:
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s"
    ((definition,),) = connection.execute(query, (NAME,)).fetchall()
    return str(definition)


@pytest.mark.parametrize(
    ("statement", "said", "repaired"),
    [
        pytest.param(
            "UPDATE public.notes SET note = repeat('secret ', 5) WHERE id = 30",
            "a re-encrypted value is too long for its column, and was not written; widen the column, then run ",
            "ALTER TABLE public.notes ALTER note TYPE varchar(200)", id="a longer text",
        ),
        pytest.param(
            "ALTER TABLE public.notes ADD CONSTRAINT words CHECK (note !~ 'v2:')",
            "a CHECK of the table or of a domain refuses re-encrypted values (table notes, constraint words), which "
            "were not written; change it, then run ", "ALTER TABLE public.notes DROP CONSTRAINT words", id="a CHECK",
        ),
        pytest.param(
            "ALTER DOMAIN public.name ADD CONSTRAINT short CHECK (length(VALUE) < 20) NOT VALID",
            "refuses re-encrypted values (constraint short), which", "ALTER DOMAIN public.name DROP CONSTRAINT short",
            id="a CHECK of a domain",
        ),
    ],
)  # fmt: skip
def test_what_no_longer_fits_after_the_preflight_stops_the_walk_until_it_is_changed(
    migrated: Connection, database_url: str, ring: KeyRing, statement: str, said: str, repaired: str
) -> None:
    migrated.execute("CREATE DOMAIN public.name AS text")
    migrated.execute("CREATE TABLE public.notes (id int PRIMARY KEY, name public.name, note varchar(60))")
    for row in range(50):
        values = row, sealed(ring, 1, f"name {row}"), f"secret {row}"
        migrated.execute("INSERT INTO public.notes VALUES (%s, %s, %s)", values)
    running(migrated, "routine")
    fatal = [each for each in PostgresPorts(database_url, migrated).environment.preflight([NOTES], V2) if each.fatal]
    assert fatal == []
    migrated.execute(statement.encode())
    for work in (Engine.shard, lambda engine, table: engine.sweep(table, wait=True)):
        with pytest.raises(PreflightError) as refused:
            work(Engine(database_url, ring), NOTES)
        assert (said in str(refused.value), "secret" in str(refused.value)) == (True, False), str(refused.value)
        assert refused.value.__context__ is None
    migrated.execute(repaired.encode())
    assert proven(encrypted(database_url, migrated, ring)) == 100
