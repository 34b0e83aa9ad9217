"""Every fence of a tree counts: those of partitions and inheritance children are compared as the root's is."""

from collections.abc import Callable

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.retirement import fence, proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, FenceError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.proof import Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, TableName

V1 = KeyVersion(1)
VISITS = EncryptedTable(TableName("public", "visits"), ("notes",))

# How the tree is made; how the child leaves it, and joins it again.
PARTITION = (
    """CREATE TABLE public.visits (id int, notes text) PARTITION BY RANGE (id);
    CREATE TABLE public.part PARTITION OF public.visits FOR VALUES FROM (0) TO (100)""",
    "ALTER TABLE public.visits DETACH PARTITION public.part",
    "ALTER TABLE public.visits ATTACH PARTITION public.part FOR VALUES FROM (0) TO (100)",
)
CHILD = (
    ("CREATE TABLE public.visits (id int, notes text); CREATE TABLE public.part () INHERITS (public.visits)"),
    "ALTER TABLE public.part NO INHERIT public.visits",
    "ALTER TABLE public.part INHERIT public.visits",
)


class Tree:
    """Visits in a child table, all under v2 and fenced against v1, and the moment after that."""

    def __init__(
        self, connection: Connection, url: str, scripts: tuple[str, str, str], sealed: Callable[[int], str]
    ) -> None:
        self.connection = connection
        self.url = url
        self.sealed = sealed
        make, self.leave, self.join = scripts
        connection.execute(make.encode())
        connection.execute("INSERT INTO public.part VALUES (1, %s)", (sealed(2),))
        self.fence()

    def fence(self) -> None:
        fence.fence(self.connection, VISITS, [V1])
        self.moment = SnapshotPosition(
            snapshot_horizon.current_xid(self.connection), snapshot_horizon.barrier(self.connection)
        )

    def search(self) -> Searched:
        return search.search(self.connection, [VISITS], V1, [V1], lambda _: None)

    def prove(self, searched: Searched | None = None) -> ZeroOldRows:
        with self.connection.transaction():
            return proof.zero_old_rows(self.connection, [VISITS], V1, [V1], self.moment, searched=searched)

    def pass_an_old_value(self, *, stays: bool = True) -> None:
        """As a superuser: edit the fence of the child alone, write an old value past it, and restore the fence."""
        of_the_child = f"WHERE conrelid = 'public.part'::regclass AND conname = '{fence.NAME}'"
        with psycopg.connect(self.url, autocommit=True) as superuser:
            superuser.execute(f"CREATE TABLE public.stored AS SELECT conbin::text FROM pg_constraint {of_the_child}")
            superuser.execute(
                "CREATE TABLE public.true (c text CHECK (c IS NULL OR true));"
                f"UPDATE pg_constraint SET conbin = (SELECT conbin FROM pg_constraint WHERE conrelid = "
                f"'public.true'::regclass) {of_the_child}; DROP TABLE public.true"
            )
        with psycopg.connect(self.url, autocommit=True) as application:
            application.execute("INSERT INTO public.part VALUES (7, %s)", (self.sealed(1),))
            if not stays:
                application.execute("UPDATE public.part SET notes = %s WHERE id = 7", (self.sealed(2),))
        with psycopg.connect(self.url, autocommit=True) as superuser:
            superuser.execute("CREATE CAST (text AS pg_node_tree) WITHOUT FUNCTION")
            superuser.execute(
                f"UPDATE pg_constraint SET conbin = (SELECT conbin::pg_node_tree FROM public.stored) {of_the_child}"
            )
            superuser.execute("DROP CAST (text AS pg_node_tree); DROP TABLE public.stored")


@pytest.fixture(params=[pytest.param(PARTITION, id="partition"), pytest.param(CHILD, id="inheritance child")])
def tree(
    request: pytest.FixtureRequest,
    migrated: Connection,
    database_url: str,
    keyring_of: Callable[..., KeyRing],
    seal: Callable[[KeyRing, int, str], str],
) -> Tree:
    ring = keyring_of(1, 2, primary=2)
    return Tree(migrated, database_url, request.param, lambda version: seal(ring, version, "some text"))


@pytest.mark.parametrize(
    ("budget", "refusal"),
    [
        pytest.param(0, "changed during the search for old values", id="too large to be read under the lock"),
        pytest.param(8192, r"table visits, column notes: 1 value still under v1", id="small"),
    ],
)
def test_a_childs_fence_that_was_edited_between_search_and_commit_certifies_nothing(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, budget: int, refusal: str
) -> None:
    searched = tree.search()
    tree.pass_an_old_value()
    assert fence.fences(tree.connection, VISITS) == (V1,), "the catalogue looks as before"
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", budget)
    with pytest.raises((BlockedError, ProofError), match=refusal):
        tree.prove(searched)


def test_a_childs_fence_that_was_edited_since_the_proof_is_not_the_one_proven(tree: Tree) -> None:
    tree.pass_an_old_value(stays=False)
    with pytest.raises(FenceError, match=r"fence of part, declared through visits, .* was recreated after the proof"):
        tree.prove(tree.search())
    tree.fence()
    tree.prove(tree.search())


def test_a_table_that_was_attached_since_the_proof_is_proven_first(tree: Tree) -> None:
    """What it holds was in no full decrypt, and while it stood alone anything could be written and replaced."""
    tree.connection.execute(f"{tree.leave}; ALTER TABLE public.part DROP CONSTRAINT {fence.NAME}".encode())
    tree.connection.execute("INSERT INTO public.part VALUES (7, %s)", (tree.sealed(1),))
    tree.connection.execute("UPDATE public.part SET notes = %s", (tree.sealed(2),))
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.visits'::regclass"
    ((text,),) = tree.connection.execute(definition.encode()).fetchall()
    tree.connection.execute(f"ALTER TABLE public.part ADD CONSTRAINT {fence.NAME} {text}; {tree.join}".encode())
    tree.connection.execute("GRANT SELECT (ctid) ON public.part TO PUBLIC")  # so that a system column looks new
    with pytest.raises(FenceError, match=r"fence of part, declared through visits, .* was recreated after the proof"):
        tree.prove()
    tree.fence()
    tree.prove()


SUBPARTITIONS = (
    """CREATE TABLE public.visits (id int, notes text) PARTITION BY RANGE (id);
    CREATE TABLE public.part PARTITION OF public.visits FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE public.leaf PARTITION OF public.part FOR VALUES FROM (0) TO (50)""",
    "",
    """CREATE TABLE public.more (LIKE public.part INCLUDING ALL);
    ALTER TABLE public.part ATTACH PARTITION public.more FOR VALUES FROM (50) TO (100)""",
)
GRANDCHILD = (CHILD[0], "", "CREATE TABLE public.more () INHERITS (public.part)")


@pytest.mark.parametrize(
    "scripts", [pytest.param(SUBPARTITIONS, id="partition of a partition"), pytest.param(GRANDCHILD, id="grandchild")]
)
def test_nothing_joins_a_child_before_the_retiring_transaction_ends(
    migrated: Connection,
    database_url: str,
    keyring_of: Callable[..., KeyRing],
    seal: Callable[[KeyRing, int, str], str],
    scripts: tuple[str, str, str],
) -> None:
    ring = keyring_of(2, primary=2)
    tree = Tree(migrated, database_url, scripts, lambda version: seal(ring, version, "some text"))
    with connect(database_url) as other, migrated.transaction():
        proof.zero_old_rows(migrated, [VISITS], V1, [V1], tree.moment)
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(tree.join.encode())


@pytest.mark.external_postgres
def test_a_fence_whose_transaction_number_was_erased_is_another_one(
    debian: Connection,
    keyring_of: Callable[..., KeyRing],
    seal: Callable[[KeyRing, int, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By pg_surgery a row of the catalogue looks as old as the server: the comparison with the search remains."""
    migrate(debian.info.dsn)
    debian.execute("CREATE EXTENSION pg_surgery SCHEMA public")
    ring = keyring_of(1, 2, primary=2)
    tree = Tree(debian, debian.info.dsn, PARTITION, lambda version: seal(ring, version, "some text"))
    searched = tree.search()
    tree.pass_an_old_value()
    debian.execute("VACUUM pg_constraint")  # or an index would not lead to the row
    debian.execute(
        "SELECT public.heap_force_freeze('pg_constraint', array_agg(ctid)) FROM pg_constraint "
        f"WHERE conname = '{fence.NAME}' AND conrelid = 'public.part'::regclass".encode()
    )
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0)
    with pytest.raises(BlockedError, match="changed during the search for old values"):
        tree.prove(searched)
