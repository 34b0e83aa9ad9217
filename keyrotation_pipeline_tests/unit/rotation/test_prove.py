"""Proving zero old rows, with the ports in memory: what gets fenced, what blocks and how it is named, and crashes."""

from typing import Any

import pytest

from keyrotation_pipeline.errors import BackupError, BlockedError, KeyRotationError, ProofError, StaleWriterError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.records import as_json
from keyrotation_pipeline.rotation.prove import prove_zero_old_rows
from keyrotation_pipeline_tests.fakes import (
    CLIENTS,
    START,
    V1,
    V2,
    V3,
    FakeFencing,
    FakeRewriting,
    FakeWorld,
    ProcessKilled,
    fake_pipeline,
    rotation_of,
)

MIXED: list[dict[str, str | None]] = [
    {"first_name": "v1:Ada", "email": "v2:a@x"},
    {"first_name": "v2:Ben", "email": None},
    {"first_name": "", "email": "v1:c@x"},
]


def prove(world: FakeWorld) -> dict[str, object]:
    return as_json(prove_zero_old_rows(world.pipeline, rotation_of(world), world.report))


def test_what_was_skipped_is_swept_decrypted_and_fenced() -> None:
    world = fake_pipeline({"clients": MIXED, "visits": []})

    facts = prove(world)

    assert world.database.rows["clients"] == [
        {"first_name": "v2:Ada", "email": "v2:a@x"},
        {"first_name": "v2:Ben", "email": None},
        {"first_name": "", "email": "v2:c@x"},
    ]
    assert world.database.decrypted == ["clients", "visits"]
    assert world.database.fence_state == {"clients": (V1,), "visits": (V1,)}
    assert facts["retired"] == ["v1"]
    assert facts["moment"] == {"xid": world.database.xid, "lsn": world.pipeline.evidence.barrier()}
    assert "waiting" not in " ".join(world.journal.entries), "nobody waits for a row lock while none is held"
    assert world.ledger.counts([CLIENTS])[0].values_by_version == {V2: 4}


def test_what_may_wait_for_others_is_noted_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = fake_pipeline({"clients": MIXED})
    world.database.locked = {("clients", 0)}
    world.database.in_use = {"clients"}
    noted: list[str] = []

    def sweep(*arguments: Any, wait: bool) -> Rewritten:  # noqa: ANN401 - as the port has them
        noted.extend(f"{wait}: {each.waiting_for}" for each in world.ledger.waits(rotation_of(world).id))
        world.database.locked = set() if wait else world.database.locked
        return FakeRewriting(world.database).sweep(*arguments, wait=wait)

    def fence(*arguments: Any, wait: bool = True) -> bool:  # noqa: ANN401 - as the port has them
        noted.extend(each.waiting_for for each in world.ledger.waits(rotation_of(world).id))
        return FakeFencing(world.database).fence(*arguments, wait=wait)

    monkeypatch.setattr(world.pipeline.rewriting, "sweep", sweep)
    monkeypatch.setattr(world.pipeline.fencing, "fence", fence)
    prove(world)
    assert noted == [
        "True: waiting for rows that others hold",
        "waiting for a short lock on the table for its fence",
    ]
    assert world.ledger.waits(rotation_of(world).id) == ()


def test_a_table_that_somebody_is_at_is_fenced_last() -> None:
    world = fake_pipeline({"clients": [], "visits": [], "notes": []})
    world.database.in_use = {"clients"}
    prove(world)
    fenced = [each for each in world.journal.entries if each.startswith("fence")]
    assert fenced == ["fence visits v1", "fence notes v1", "fence clients v1"]


def test_three_versions_at_once_end_under_the_newest_and_both_others_are_fenced() -> None:
    world = fake_pipeline({"clients": [{"first_name": "v1:Ada", "email": "v2:a@x"}]})
    world.keys.live[V3] = KeyMaterial.generate()
    world.keys.primary_version = V3
    world.ledger.state.keys[V3] = KeyRecord(V3, KeyState.ACTIVE, world.keys.live[V3].fingerprint, START)
    world.vault.store_key(V3, world.keys.live[V3], world.ledger.head())

    proof = prove_zero_old_rows(world.pipeline, rotation_of(world, V2, V3), world.report)

    assert world.database.rows["clients"] == [{"first_name": "v3:Ada", "email": "v3:a@x"}]
    assert world.pipeline.fencing.fences(CLIENTS) == (V1, V2)
    assert proof.retired == (V1, V2)


def test_no_sweep_rewrites_a_row_under_a_key_that_lost_its_backup() -> None:
    world = fake_pipeline({"clients": MIXED})
    world.vault.backups.clear()
    before = [dict(row) for row in world.database.rows["clients"]]
    with pytest.raises(BackupError, match="no intact backup of v2"):
        prove(world)
    assert world.database.rows["clients"] == before


def test_a_left_over_of_an_older_version_than_the_source_blocks_before_anything_is_fenced() -> None:
    world = fake_pipeline({"clients": [{"first_name": "v1:Ada", "email": None}, {"first_name": "v2:Ben"}]})
    world.keys.live[V3] = KeyMaterial.generate()
    world.keys.primary_version = V3
    world.ledger.state.keys[V3] = KeyRecord(V3, KeyState.ACTIVE, world.keys.live[V3].fingerprint, START)
    world.vault.store_key(V3, world.keys.live[V3], world.ledger.head())
    world.database.locked = {("clients", 0)}

    with pytest.raises(BlockedError, match=r"table clients: 1 row with old values cannot be locked"):
        prove_zero_old_rows(world.pipeline, rotation_of(world, V2, V3), world.report)

    assert world.database.fence_state == {}


@pytest.mark.parametrize("table", ["clients", "visits"])
def test_an_unencrypted_value_in_any_table_blocks_and_is_named(table: str) -> None:
    world = fake_pipeline({"clients": [{"first_name": "v2:Ada"}], "visits": [{"first_name": "v2:Ada"}]})
    world.database.rows[table].append({"first_name": None, "email": "ada@example.org"})
    with pytest.raises(ProofError, match=rf"table {table}, column email: 1 unencrypted value \(row .*1"):
        prove(world)


def test_a_row_that_stays_locked_blocks_after_three_sweeps_and_names_who_holds_it() -> None:
    world = fake_pipeline({"clients": MIXED})
    world.database.locked = {("clients", 0)}
    world.database.connected = ("session 7 (billing, in a transaction for 3 min)",)

    with pytest.raises(BlockedError, match=r"table clients: 1 row .* session 7 \(billing") as blocked:
        prove(world)

    assert not isinstance(blocked.value, StaleWriterError | ProofError)
    swept = [each for each in world.journal.entries if each.startswith("sweep")]
    assert swept == ["sweep clients", "sweep clients", "sweep clients waiting"]
    assert world.pipeline.fencing.fences(CLIENTS) == ()


@pytest.mark.parametrize(
    ("writes", "named"),
    [
        pytest.param(V1, r"restart web-1 \(writes v1\)", id="an instance that reports itself"),
        pytest.param(V2, r"every known instance writes v2, so check session 9 \(cron\)", id="an unknown one"),
    ],
)
def test_a_stale_writer_is_named(writes: KeyVersion, named: str) -> None:
    world = fake_pipeline({"clients": MIXED})
    for number, column in ((0, "first_name"), (2, "email")):
        world.database.update("clients", number, {column: "v1:stale"})
    world.database.locked = {("clients", 0), ("clients", 2)}
    world.database.connected = ("session 9 (cron)",)
    world.rollout.running = (Instance("web-1", (V1, V2), writes, START),)

    with pytest.raises(StaleWriterError, match=rf"table clients: 2 rows written under an old .*{named}"):
        prove(world)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(
            "unreadable",
            r"table clients, column email: 1 value \(fails authentication under key version v1\)",
            id="unreadable",
        ),
        pytest.param("new and unreadable", r"table clients, column first_name: 1 value", id="under the new key"),
        pytest.param("unencrypted", r"table clients, column email: 1 unencrypted value", id="unencrypted"),
    ],
)
def test_what_cannot_be_proven_blocks_before_anything_is_fenced(spoil: str, sentence: str) -> None:
    world = fake_pipeline({"clients": MIXED})
    if spoil == "unencrypted":
        world.database.rows["clients"][1]["email"] = "ben@example.org"
    else:
        place = ("clients", 2, "email") if spoil == "unreadable" else ("clients", 1, "first_name")
        world.database.unreadable = {place}

    with pytest.raises(ProofError, match=sentence) as refused:
        prove(world)

    assert "example.org" not in str(refused.value)
    assert world.database.fence_state == {}


def test_a_fence_over_rows_that_turn_out_to_be_old_is_lifted_for_their_version_alone() -> None:
    world = fake_pipeline({"clients": MIXED})
    world.database.fence_state = {"clients": (V1, V3)}
    world.database.locked = {("clients", 0)}

    with pytest.raises(BlockedError):
        prove(world)

    assert world.pipeline.fencing.fences(CLIENTS) == (V3,), "the application can update its v1 rows again"


def test_dying_at_any_change_and_proving_again_ends_the_same() -> None:
    undisturbed = fake_pipeline({"clients": MIXED, "visits": MIXED})
    prove(undisturbed)
    first = len(undisturbed.journal.entries)

    for die_at in range(first):
        world = fake_pipeline({"clients": MIXED, "visits": MIXED})
        world.journal.die_at = die_at
        with pytest.raises(ProcessKilled):
            prove(world)
        world.journal.die_at = None
        prove(world)

        assert world.database.rows == undisturbed.database.rows
        assert world.database.fence_state == undisturbed.database.fence_state
    assert first == 11


def test_every_refusal_says_what_to_do() -> None:
    world = fake_pipeline({"clients": MIXED})
    world.database.unreadable = {("clients", 2, "email")}
    with pytest.raises(KeyRotationError, match=r"; fix or remove them .*, then run this step again$"):
        prove(world)
