"""Fernet rotated in place by the engine, the fence and the proof, beside an application that uses the library alone."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys, held_in_snapshot
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import quarantine, retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresFencing
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import FenceError, PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.batch import Held
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.proof import SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, PostgresPorts, ring_of, running, table_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2, V3, application, fernet_table, library, token

USERS = fernet_table("users", "email", "phone")
ROWS = 200


class Application:
    """Reads every row that it updates, and knows what must be in it; its key list is what the key store delivers."""

    def __init__(self, url: str, ring: KeyRing, rows: int) -> None:
        self._url, self._rows = url, rows
        self.keys: MultiFernet = application(ring)
        self.expected = {row: (f"user{row}@example.com", f"+49 {row}") for row in range(rows)}
        self.writes, self.wrong = 0, list[str]()
        self._stop = threading.Event()

    @contextmanager
    def at_work(self, threads: int = 2) -> Iterator["Application"]:
        working = [threading.Thread(target=self._work, args=(number, threads)) for number in range(threads)]
        for thread in working:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in working:
                thread.join()
            self._stop.clear()

    def _work(self, number: int, threads: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(0.001):
                row = chance.randrange(number, self._rows, threads)
                try:
                    self._step(connection, row, chance)
                except (psycopg.Error, InvalidToken) as error:
                    self.wrong.append(f"row {row}: {type(error).__name__} {error}")

    def _step(self, connection: psycopg.Connection, row: int, chance: random.Random) -> None:
        keys = self.keys
        stored = connection.execute("SELECT email, phone FROM public.users WHERE id = %s", (row,)).fetchone()
        if stored is None or tuple(keys.decrypt(value).decode() for value in stored) != self.expected[row]:
            self.wrong.append(f"row {row} was read with another content")
            return
        self.writes += 1
        if chance.random() < 0.2:  # the library's own rotation, which keeps the time of the token
            rotated = keys.rotate(stored[0]).decode()
            connection.execute("UPDATE public.users SET email = %s WHERE id = %s", (rotated, row))
            return
        email, phone = f"user{row}@example.com {chance.random()}", self.expected[row][1]
        self.expected[row] = email, phone
        new = keys.encrypt(email.encode()).decode()
        connection.execute("UPDATE public.users SET email = %s, visits = visits + 1 WHERE id = %s", (new, row))


class Rotation:
    """What the steps of a rotation do to the database, in their order."""

    def __init__(self, url: str, connection: Connection, ring: KeyRing, table: EncryptedTable = USERS) -> None:
        self.ports, self.connection, self.table = PostgresPorts(url, connection), connection, table
        self.engine = Engine(url, ring, target=ring.primary)
        self.retired = [version for version in ring.versions if version != ring.primary]
        self.ring = ring

    def rewrite(self) -> Rewritten:
        done = self.engine.shard(self.table)
        for sweep in range(4):
            if not self.old_rows():
                break
            done += self.engine.sweep(self.table, wait=sweep > 1)
        return done

    def old_rows(self) -> int:
        return self.ports.fencing.old_rows(self.table, self.retired, None).rows

    def fence(self) -> SnapshotPosition:
        assert self.ports.fencing.fence(self.table, self.retired)
        return SnapshotPosition(self.ports.evidence.current_xid(), self.ports.evidence.barrier())

    def proof(self, moment: SnapshotPosition) -> ZeroOldRows:
        tables, old = [self.table], self.retired[0]
        searched = self.ports.evidence.search(tables, old, self.retired, self.engine.progress.append)
        with self.connection.transaction():
            self.connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            return self.ports.evidence.zero_old_rows(tables, old, self.retired, moment, searched)


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


def old_ring(ring: KeyRing) -> KeyRing:
    return KeyRing({version: ring.material(version) for version in ring.versions}, V1)


@pytest.fixture
def users(database_url: str, migrated: Connection, ring: KeyRing) -> Application:
    """A table whose values are all under v1, and the application that writes them."""
    app = Application(database_url, old_ring(ring), ROWS)
    migrated.execute(
        "CREATE TABLE public.users (id int PRIMARY KEY, email text, phone varchar(400), visits int DEFAULT 0)"
    )
    rows = [(row, *(app.keys.encrypt(text.encode()).decode() for text in texts)) for row, texts in app.expected.items()]
    with migrated.cursor() as cursor:
        cursor.executemany("INSERT INTO public.users VALUES (%s, %s, %s)", rows)
    running(migrated, "routine")
    return app


def read_back(connection: Connection, key: Fernet) -> dict[int, tuple[str, str]]:
    """Every row, with one key alone."""
    rows = connection.execute("SELECT id, email, phone FROM public.users").fetchall()
    return {row: (key.decrypt(email).decode(), key.decrypt(phone).decode()) for row, email, phone in rows}  # type: ignore[misc,arg-type]


@pytest.mark.parametrize("keep_time", [pytest.param(True, marks=pytest.mark.extended), False])
def test_a_rotation_and_its_rollback_beside_a_live_writer(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing, *, keep_time: bool
) -> None:
    table = replace(USERS, format=replace(FERNET, keep_time=keep_time))
    rotation = Rotation(database_url, migrated, ring, table)
    with users.at_work():
        users.keys = application(ring)  # every instance has the new key first
        rotation.rewrite()
        assert rotation.old_rows() == 0
        moment = rotation.fence()
        decrypted = rotation.ports.rewriting.decrypt_all(table, ring, rotation.engine.progress.append)
        proof = rotation.proof(moment)
    assert users.wrong == []
    assert users.writes > 10
    assert (proof.version, proof.old_values, proof.values) == (V1, 0, 2 * ROWS)
    assert (decrypted.by_column, decrypted.failures) == ({"email": {V2: ROWS}, "phone": {V2: ROWS}}, 0)
    assert read_back(migrated, library(ring.material(V2))) == users.expected
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired"):
        migrated.execute("UPDATE public.users SET email = %s WHERE id = 1", (token(ring, V1, "late"),))
    _roll_back(users, database_url, migrated, ring, table)


def _roll_back(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing, table: EncryptedTable
) -> None:
    back = Rotation(database_url, migrated, old_ring(ring), table)
    with users.at_work():
        back.ports.fencing.unfence(table, V1)
        assert retired_signing_keys.missing(migrated, [V1, V2]) == (V1, V2)
        users.keys = application(old_ring(ring))
        back.rewrite()
        assert back.old_rows() == 0
        proof = back.proof(back.fence())
    assert users.wrong == []
    assert (proof.version, proof.old_values) == (V2, 0)
    assert read_back(migrated, library(ring.material(V1))) == users.expected
    assert retired_signing_keys.missing(migrated, [V1, V2]) == (V1,)


def test_a_rotation_follows_the_destruction_of_a_key(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    first = Rotation(database_url, migrated, ring)
    first.rewrite()
    first.fence()
    later = KeyRing({V2: ring.material(V2), V3: ring_of(3, primary=3).material(V3)}, V3)
    keys = CurrentKeys(lambda: connect(database_url), lambda: later, Limits())
    assert PostgresFencing(migrated, keys).old_rows(USERS, [V1, V2], None) == OldRows(ROWS, 0)
    second = Rotation(database_url, migrated, later)
    second.retired = [V1, V2]
    second.rewrite()
    assert second.proof(second.fence()).old_values == 0
    assert PostgresFencing(migrated, keys).fences(USERS) == (V1, V2)
    assert read_back(migrated, library(later.material(V3))) == users.expected


def test_a_stale_writer_is_seen_by_its_key_and_not_by_its_clock(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    rotation = Rotation(database_url, migrated, ring)
    rotation.rewrite()
    xid = rotation.ports.evidence.current_xid()
    ahead = library(ring.material(V1)).encrypt_at_time(b"stale", 4_000_000_000).decode()
    behind = library(ring.material(V2)).encrypt_at_time(b"slow clock", 1_000_000_000).decode()
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 7", (ahead,))
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 8", (behind,))
    found = rotation.ports.fencing.old_rows(USERS, [V1], xid)
    assert (found.rows, found.written_since_promotion) == (1, 1)
    with pytest.raises(ProofError, match="column email: 1 under v1"):
        rotation.ports.fencing.fence(USERS, [V1])
    with pytest.raises(FenceError, match="1 value still under v1"):
        rotation.ports.evidence.search([USERS], V1, [V1], rotation.engine.progress.append)
    rotation.rewrite()
    rotation.proof(rotation.fence())
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 8", (behind,))


def test_what_cannot_be_opened_is_quarantined_and_blocks_the_proof(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    stranger, good = Fernet(Fernet.generate_key()).encrypt(b"x").decode(), token(ring, V1, "x")
    twice = {8: token(ring, V1, good), 9: token(ring, V2, good)}
    bad = {3: "plain", 4: good[:-4], 6: stranger, **twice}
    for row, value in bad.items():
        migrated.execute("UPDATE public.users SET phone = %s WHERE id = %s", (value, row))
    rotation = Rotation(database_url, migrated, ring)
    rotation.rewrite()
    # The token within a token under v1 stays, and is told from values that were only skipped.
    assert rotation.old_rows() == 1
    failed = rotation.ports.rewriting.decrypt_all(USERS, ring, rotation.engine.progress.append).failures
    assert failed == len(bad)
    found = {entry.key: entry.defect for entry in quarantine.load(migrated, [USERS])}
    assert found == {
        '["3"]': Defect(DefectKind.NOT_A_VALUE),
        '["4"]': Defect(DefectKind.NOT_A_VALUE),
        '["6"]': Defect(DefectKind.UNKNOWN_KEY),
        '["8"]': Defect(DefectKind.ENCRYPTED_TWICE, V1),
        '["9"]': Defect(DefectKind.ENCRYPTED_TWICE, V2),
    }
    assert "decrypt it once, and store that" in str(found['["8"]'])
    for row in bad:
        migrated.execute("UPDATE public.users SET phone = %s WHERE id = %s", (token(ring, V2, "fixed"), row))
    assert rotation.ports.rewriting.decrypt_all(USERS, ring, rotation.engine.progress.append).failures == 0
    assert quarantine.load(migrated, [USERS]) == ()
    rotation.proof(rotation.fence())


@pytest.mark.parametrize("native", [True, False])
def test_rows_without_an_old_value_are_read_and_not_written(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing, *, native: bool
) -> None:
    new, old = token(ring, V2, "new"), token(ring, V1, "old")
    migrated.execute("UPDATE public.users SET email = %s, phone = %s WHERE id %% 2 = 0", (new, new))
    migrated.execute("UPDATE public.users SET email = %s, phone = NULL WHERE id %% 10 = 1", (new,))
    migrated.execute("UPDATE public.users SET phone = '' WHERE id % 10 = 3")
    stay = "SELECT id, xmin::text, ctid::text FROM public.users WHERE id % 2 = 0 OR id % 10 = 1 ORDER BY id"
    before = migrated.execute(stay).fetchall()
    engine = Rotation(database_url, migrated, ring).engine
    engine.limits = Limits(native_codec=native)
    done = engine.shard(USERS)
    assert (done.rows, done.values, done.skipped, done.quarantined) == (80, 140, 0, 0)
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 5", (old,))
    swept = [engine.sweep(USERS) for _ in range(2)]
    assert [(each.rows, each.values, each.skipped) for each in swept] == [(1, 1, 0), (0, 0, 0)]
    assert migrated.execute(stay).fetchall() == before


def test_a_fence_or_half_that_was_changed_after_the_proof_is_refused(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    rotation = Rotation(database_url, migrated, ring)
    rotation.rewrite()
    moment = rotation.fence()
    migrated.execute("UPDATE keyrotation.retired_signing_halves SET version = version")
    with pytest.raises(FenceError, match=r"the fence of table users .* was recreated after the proof"):
        rotation.proof(moment)
    rotation.proof(SnapshotPosition(rotation.ports.evidence.current_xid(), rotation.ports.evidence.barrier()))
    migrated.execute("ALTER TABLE public.users DISABLE TRIGGER USER")
    with pytest.raises(FenceError, match=r"trigger keyrotation_retired_keys_insert or .* is missing, altered"):
        rotation.proof(moment)


def test_a_key_of_two_rotations_ago_stays_refused(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    Rotation(database_url, migrated, ring).rewrite()
    later = ring_of(2, 3, primary=3)
    later = KeyRing({V2: ring.material(V2), later.primary: later.material(later.primary)}, later.primary)
    rotation = Rotation(database_url, migrated, later)
    rotation.engine.target = later.primary
    migrated.execute("DELETE FROM keyrotation.shard_walks")
    rotation.retired = [V1, V2]  # v1 is in no key ring any more; its half is still there
    rotation.rewrite()
    proof = rotation.proof(rotation.fence())
    assert proof.old_values == 0
    assert rotation.ports.fencing.fences(USERS) == (V1, V2)
    for version in (V1, V2):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=f"key version {version} is retired"):
            migrated.execute("UPDATE public.users SET email = %s WHERE id = 1", (token(ring, version, "late"),))


def current(database_url: str, ring: KeyRing) -> CurrentKeys:
    return CurrentKeys(lambda: connect(database_url), lambda: ring, Limits())


@pytest.mark.parametrize("also", ["plain", None], ids=["beside a value that does not decrypt", "alone"])
def test_rows_under_a_key_that_is_not_yet_the_primary_are_found(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing, also: str | None
) -> None:
    keys = current(database_url, ring)
    assert keys.rows_under(USERS, [V2]) == 0
    migrated.execute("UPDATE public.users SET phone = %s WHERE id = 1", (also,))
    for row, columns in ((1, "email"), (2, "phone"), (3, "email")):
        migrated.execute(f"UPDATE public.users SET {columns} = %s WHERE id = %s", (token(ring, V2, "early"), row))
    assert keys.rows_under(USERS, [V2]) == 3
    assert keys.rows_under(USERS, [V1, V2]) == ROWS


def test_counts_are_of_what_decrypts(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    inventory = PostgresInventory(migrated, keys=current(database_url, old_ring(ring)))
    stranger = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    for row, value in enumerate((token(ring, V2, "x"), "plain", "", None, stranger)):
        migrated.execute("UPDATE public.users SET phone = %s WHERE id = %s", (value, row))
    native = table_of("notes", "c")
    migrated.execute("CREATE TABLE public.notes (c text); INSERT INTO public.notes VALUES ('v1:')")
    other, counted = inventory.count([native, USERS])
    assert (other.unencrypted, other.near_misses) == (1, 1)
    assert counted.by_column == {"email": {V1: ROWS}, "phone": {V1: ROWS - 5, V2: 1}}
    assert counted.values_by_version == {V1: 2 * ROWS - 5, V2: 1}
    assert (counted.rows, counted.empty, counted.unencrypted, counted.unreadable) == (ROWS, 1, 1, 2)
    assert (counted.unencrypted_by_column, counted.fenced_against) == ({"phone": 1}, ())
    by_column: list[Held] = [Counter({V1: ROWS}), Counter({V1: ROWS - 5, V2: 1, None: 1})]
    assert held_in_snapshot(migrated, USERS, old_ring(ring)) == (ROWS, by_column)
    migrated.execute("DELETE FROM public.users WHERE id IN (1, 4)")  # what does not decrypt
    by_column[0][V1] -= 2
    assert held_in_snapshot(migrated, USERS, old_ring(ring)) == (ROWS - 2, by_column)
    with pytest.raises(PreflightError, match="cannot be counted without the keys"):
        PostgresInventory(migrated).count([USERS])


def test_tokens_in_tokens_are_counted_before_any_rotation(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    twice = token(ring, V1, token(ring, V1, "once"))
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 3", (twice,))
    [counted] = PostgresInventory(migrated, keys=current(database_url, old_ring(ring))).count([USERS])
    assert counted.unreadable == 1


def test_values_before_promotion_are_seen_without_the_new_keys_half(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    keys = current(database_url, old_ring(ring))
    fencing, inventory = PostgresFencing(migrated, keys), PostgresInventory(migrated, keys=keys)
    assert fencing.old_rows(USERS, [V2], None).rows == inventory.rows_seen(USERS, V2, 60) == 0
    early = token(ring, V2, "early")
    migrated.execute("UPDATE public.users SET email = %s, phone = %s WHERE id IN (3, 4)", (early, early))
    assert fencing.old_rows(USERS, [V2], None).rows == inventory.rows_seen(USERS, V2, 60) == 2
    assert inventory.rows_seen(USERS, V2, -1) is None
    assert retired_signing_keys.missing(migrated, [V1, V2]) == (V1, V2)


def test_a_fence_that_was_lifted_brings_its_half_back(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    rotation = Rotation(database_url, migrated, ring)
    rotation.rewrite()
    fencing = PostgresFencing(migrated, current(database_url, ring))
    fencing.unfence(USERS, V1)  # as where old values were found: there is no fence yet
    assert retired_signing_keys.missing(migrated, [V1]) == (V1,)
    assert fencing.old_rows(USERS, [V1], None).rows == 0
    assert fencing.fence(USERS, [V1])
    assert (fencing.fences(USERS), retired_signing_keys.missing(migrated, [V1])) == ((V1,), ())


def test_a_fence_whose_half_was_changed_counts_for_nothing_once_values_are_counted_with_the_keys(
    users: Application, database_url: str, migrated: Connection, ring: KeyRing
) -> None:
    rotation = Rotation(database_url, migrated, ring)
    rotation.rewrite()
    rotation.fence()
    inventory = PostgresInventory(migrated, keys=current(database_url, ring))
    [before] = inventory.count([USERS])
    migrated.execute("UPDATE keyrotation.retired_signing_halves SET inner_block = outer_block")
    [after] = inventory.count([USERS])
    assert (before.fenced_against, after.fenced_against) == ((V1,), ())
    assert PostgresFencing(migrated, current(database_url, ring)).fence(USERS, [V1])
    assert inventory.count([USERS])[0].fenced_against == (V1,)


def test_a_sample_says_which_key_opens_what(users: Application, migrated: Connection, ring: KeyRing) -> None:
    inventory = PostgresInventory(migrated)
    right = inventory.decrypt_sample(USERS, old_ring(ring), 50, {"email": [V1]})
    assert (right.tried, right.failed, right.wrong_versions) == (100, 0, ())
    assert right.of_version(V1) == (100, 100)
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 9", (token(ring, V2, "x"),))
    rare = inventory.decrypt_sample(USERS, ring, 50, {"email": [V1, V2]})  # nothing but trying tells where it is
    assert (rare.of_version(V2), rare.failed) == ((1, 1), 0)
    migrated.execute("UPDATE public.users SET email = %s WHERE id = 9", (token(ring, V1, "x"),))
    wrong = inventory.decrypt_sample(USERS, ring_of(1, primary=1), 50, {})
    assert (wrong.tried, wrong.failed, wrong.wrong_versions) == (100, 100, (V1,))
    migrated.execute("UPDATE public.users SET phone = 'plain' WHERE id > 1; UPDATE public.users SET email = NULL")
    few = inventory.decrypt_sample(USERS, old_ring(ring), 50, {})
    assert (few.tried, few.failed) == (2, 0)
