"""Only an instance speaks for itself: what the role of an application, with the documented grants, cannot do."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.possession import proof_of_possession
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY
from keyrotation_pipeline.model.fleet import Instance, Pod, RolloutMode, RolloutTarget, TargetKind, failing_minutes
from keyrotation_pipeline.requests.canary import lacking
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rollout import NAMED_IN_REPORTS
from keyrotation_pipeline_tests.fakes import V1, V2
from keyrotation_pipeline_tests.fakes.world import newest_nonce
from keyrotation_pipeline_tests.pages import TOP
from keyrotation_pipeline_tests.reports import (
    INSERT,
    content,
    keys_of,
    proofs,
    report,
    report_before,
    reported_by,
    store_of,
)
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation

RING = KeyRing({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V1)
READ_V2, WITHOUT_V1 = RolloutTarget(TargetKind.READS, (V2,)), RolloutTarget(TargetKind.WITHOUT, (V1,))
GRANTS = (TOP / "deploy" / "sql" / "application-role.sql").read_text()
Application = psycopg.Connection[Any]


@pytest.fixture
def application(server: Server, migrated: Connection, database_url: str) -> Iterator[Application]:
    """A connection of an application's role."""
    migrated.execute("CREATE ROLE pazpaz_reports LOGIN")
    try:
        migrated.execute(GRANTS.replace("pazpaz", "pazpaz_reports").encode())
        with psycopg.connect(database_url, user="pazpaz_reports", autocommit=True) as connection:
            yield connection
    finally:
        migrated.execute("DROP OWNED BY pazpaz_reports")
        migrated.execute("DROP ROLE pazpaz_reports")


def seen(connection: Connection, ring: KeyRing = RING) -> dict[str, Instance]:
    return {each.name: each for each in reported_by(connection, ring).instances()}


def forged(
    connection: Application, name: str, held: dict[KeyVersion, KeyMaterial], *versions: KeyVersion, **parts: object
) -> None:
    """A report in the name of another, which claims versions of which only some keys are held."""
    text = json.dumps({"names_primary": True, **content(connection, versions, versions[-1]), **parts})
    wrong = {version: held.get(version, KeyMaterial.generate()) for version in versions}
    connection.execute(INSERT, (name, text, proofs(name, text, wrong)))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT report FROM keyrotation.instance_reports",
        "SELECT id FROM keyrotation.instance_reports FOR UPDATE",
        "UPDATE keyrotation.instance_reports SET report = ''",
        "DELETE FROM keyrotation.instance_reports",
        "TRUNCATE keyrotation.instance_reports",
        "LOCK TABLE keyrotation.instance_reports IN SHARE MODE",
        "LOCK TABLE keyrotation.report_nonce IN ROW EXCLUSIVE MODE",
        "INSERT INTO keyrotation.instance_reports (id, instance, report, proofs) VALUES (-1, 'web-1', '', '')",
        "INSERT INTO keyrotation.instance_reports VALUES (1, 'web-1', '', '', 'infinity')",
        "INSERT INTO keyrotation.instance_reports (instance, report, proofs) VALUES ('web-1', '', '') RETURNING id",
        "SELECT nextval('keyrotation.instance_report_number')",
        "SELECT * FROM keyrotation.seen_pods",
        "SELECT body FROM keyrotation.audit_events",
        "CREATE TEMP TABLE own (); CREATE TRIGGER t AFTER INSERT ON own EXECUTE FUNCTION keyrotation.take_report()",
    ],
)  # fmt: skip
def test_with_the_documented_grants_an_application_reads_changes_and_locks_no_report(
    migrated: Connection, application: Application, statement: str
) -> None:
    report(application, RING, "web-1", (V1,), V1)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), application.transaction():
        application.execute(statement.encode())
    assert seen(migrated)["web-1"].reads == (V1,)


def test_the_canary_is_proven_by_whoever_opened_it_for_one_report_of_one_instance(
    migrated: Connection, application: Application
) -> None:
    store, canary = store_of(RING), KeyMaterial.generate()
    store.shown = store.contents().under("aws-kms key", (), canary)
    text = json.dumps({"names_primary": True, **content(migrated, (V1,), V1)})
    later = json.dumps({"names_primary": True, **content(migrated, (V1,), V1)})
    proof = proof_of_possession(canary, CANARY, "web-1", text)
    for name, report_of_it, given in (
        ("web-1", text, proof),
        ("web-2", text, proof),  # of another instance
        ("web-3", later, proof_of_possession(canary, CANARY, "web-3", text)),  # of another report
        ("web-4", text, proof_of_possession(RING.material(V1), CANARY, "web-4", text)),  # by another key
        ("web-5", text, proof_of_possession(canary, V1, "web-5", text)),  # of another name
        ("web-6", text, ""),
    ):
        held = proofs(name, report_of_it, keys_of(RING, (V1,)))
        application.execute(INSERT, (name, report_of_it, f"{held} {CANARY}={given}"))
    instances = ReportedInstances(migrated, store, RolloutMode.ATTEST, 60, 0, SystemClock()).instances()
    assert [each.name for each in instances if each.opens_sealed] == ["web-1"]
    assert lacking(instances) == ["web-2", "web-3", "web-4", "web-5", "web-6"]


def test_a_role_without_the_new_key_cannot_have_it_promoted_for_an_instance_that_does_not_read_it(
    migrated: Connection, application: Application
) -> None:
    world = before_any_rotation()
    ring = KeyRing(world.keys.live, V1)
    rollout = ReportedInstances(migrated, world.keys, RolloutMode.ATTEST, 60, 0, SystemClock())
    pipeline = replace(world.pipeline, rollout=rollout)
    rotation = approved(world)
    # The ledger of this world is in memory, so its request is no event of the table that the view reads.
    asked = {"nonce": newest_nonce(world)}
    report(migrated, ring, "web-1", (V1,), V1, **asked)
    with application.transaction():  # which also holds whatever it can lock
        with pytest.raises(BlockedError, match=r"^web-1 \(reads v1\): not seen to read v2"):
            list(runner.run(pipeline, rotation.id, world.report, None))
        assert world.keys.live.keys() == {V1, V2}
        old = keys_of(ring, (V1,))
        for _ in range(7):
            forged(application, "web-1", old, V1, V2, **asked)
            forged(application, "web-1", {}, V1, V2, farewell=True, **asked)
    with pytest.raises(BlockedError, match=r"web-1 \(row [0-9]+ .* no valid proof that the instance holds v2\)"):
        list(runner.run(pipeline, rotation.id, world.report, None))
    assert world.keys.primary_version == V1
    report(migrated, KeyRing(world.keys.live, V1), "web-1", (V1, V2), V1, **asked)
    with pytest.raises(BlockedError, match="not seen to write v2"):
        list(runner.run(pipeline, rotation.id, world.report, None))
    assert world.keys.primary_version == V2


def test_a_report_from_before_the_request_is_none_of_it(migrated: Connection) -> None:
    world = before_any_rotation()
    rollout = ReportedInstances(migrated, world.keys, RolloutMode.ATTEST, 60, 0, SystemClock())
    pipeline = replace(world.pipeline, rollout=rollout)
    rotation = approved(world)
    report(migrated, KeyRing(world.keys.live, V1), "web-1", (V1,), V1)
    with pytest.raises(BlockedError, match="not seen to read v2"):
        list(runner.run(pipeline, rotation.id, world.report, None))
    ring = KeyRing(world.keys.live, V1)
    report(migrated, ring, "web-1", (V1, V2), V1)
    with pytest.raises(BlockedError, match=r"^web-1 \(no report since this request was opened\): not seen to read v2"):
        list(runner.run(pipeline, rotation.id, world.report, None))
    report(migrated, ring, "web-1", (V1, V2), V1, nonce=newest_nonce(world))
    with pytest.raises(BlockedError, match="not seen to write v2"):
        list(runner.run(pipeline, rotation.id, world.report, None))


def brackets(report: dict[str, object]) -> str:
    return json.dumps(report)[:-1] + ', "failed": ' + "[" * 6000 + "]" * 6000 + "}"


def changed(**parts: object) -> Callable[[dict[str, object]], str]:
    return lambda given: json.dumps({**given, **parts})


def counted(count: str) -> Callable[[dict[str, object]], str]:
    return lambda given: json.dumps(given)[:-1] + f', "failed": {{"v1": {count}}}}}'


@pytest.mark.parametrize(
    ("written", "why"),
    [
        pytest.param(changed(reads=[["v1"], ["v2"]]), "its reads is malformed", id="nested arrays"),
        pytest.param(changed(reads=["v1,v2"]), "its reads is malformed", id="two versions in one"),
        pytest.param(changed(reads=[]), "its reads is malformed", id="no version"),
        pytest.param(changed(writes="v01"), "its writes is malformed", id="no version is written"),
        pytest.param(changed(reads=["0" * 64]), "it names a key that is not in the key store", id="an unknown key"),
        pytest.param(changed(writes="0" * 64), "it names a key that is not in the key store", id="writes such a one"),
        pytest.param(changed(nonce=7), "its nonce is malformed", id="a number as the nonce"),
        pytest.param(changed(at="infinity"), "its at is malformed", id="infinity"),
        pytest.param(changed(at="0001-01-01T00:00:00+23:59"), "its at is malformed", id="a time before the first"),
        pytest.param(changed(at="9999-12-31T23:59:59-23:59"), "its at is malformed", id="a time after the last"),
        pytest.param(changed(at="2026-01-01T00:00:00"), "its at is malformed", id="a time without a zone"),
        pytest.param(changed(pod=["x"]), "its pod is malformed", id="no Pod"),
        pytest.param(counted('{"values": 1e5000, "last_at": "2026-01-01T00:00:00Z"}'), "its failed", id="1e5000"),
        pytest.param(
            counted(f'{{"values": {"9" * 5000}, "last_at": "2026-01-01T00:00:00Z"}}'),
            "it is not JSON",
            id="5000 digits",
        ),
        pytest.param(
            counted('{"values": 1, "last_at": "0001-01-01T00:00:00+23:59"}'), "its failed", id="counted before time"
        ),
        pytest.param(
            counted('{"values": 1, "last_at": "2026-01-01T00:00:00Z", "minutes": {"x": []}}'),
            "its failed is malformed",
            id="a minute that is none",
        ),
        pytest.param(changed(decrypted={"Zoe": {}}), "its decrypted is malformed", id="a name that is no version"),
        pytest.param(brackets, "it is not JSON", id="6000 brackets"),
        pytest.param(lambda _: "[" * 6000, "it is not JSON", id="6000 brackets and nothing else"),
        pytest.param(lambda _: "", "it is not JSON", id="nothing"),
        pytest.param(lambda _: "[]", "it is no JSON object", id="an array"),
        pytest.param(lambda _: "NaN", "it is no JSON object", id="no number"),
        pytest.param(lambda _: '"\\ud800"', "it is not JSON", id="half a character"),
        pytest.param(changed(at="2999-01-01T00:00:00Z"), "it was made at another time", id="made in the future"),
        pytest.param(changed(at="2026-01-01T00:00:00Z"), "it was made at another time", id="made long ago"),
    ],
)
def test_a_bad_row_is_named_and_hides_neither_its_instance_nor_another(
    migrated: Connection, application: Application, written: Callable[[dict[str, object]], str], why: str
) -> None:
    report(application, RING, "web-1", (V1, V2), V1)
    for name in ("web-1", "web-2"):
        text = written(content(application, (V1,), V1))
        application.execute(INSERT, (name, text, proofs(name, text, keys_of(RING, (V1,)))))
    known = seen(migrated)
    assert (known["web-1"].reads, known["web-1"].writes) == ((V1, V2), V1)
    assert (known["web-2"].reads, known["web-2"].writes) == ((), None)
    for number, name in ((2, "web-1"), (3, "web-2")):
        problem = known[name].problem or ""
        assert problem.startswith(f"row {number} of keyrotation.instance_reports: {why}")
    assert failing_minutes(known.values(), datetime.now(UTC)) == ()
    assert not READ_V2.met_by(known["web-2"])
    assert not WITHOUT_V1.met_by(known["web-2"])


@pytest.mark.parametrize("value", ["no proof", "v1=\xe9", "v1", "v1=", "v1=v1=v1 v1"])
def test_proofs_of_another_form_prove_nothing(migrated: Connection, application: Application, value: str) -> None:
    text = json.dumps(content(application, (V1,), V1))
    if not value.isascii():
        with pytest.raises(psycopg.errors.CheckViolation):
            application.execute(INSERT, ("web-1", text, value))
        return
    application.execute(INSERT, ("web-1", text, value))
    [instance] = seen(migrated).values()
    assert (instance.reads, instance.writes) == ((), None)
    assert "row 1 of keyrotation.instance_reports" in (instance.problem or "")


@pytest.mark.parametrize("name", ["", "web 1", "web\x9b1", "w\u202eb", "x" * 256, "\u3164"])
def test_an_instance_has_a_plain_name(application: Application, name: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        application.execute(INSERT, (name, "{}", ""))


def test_an_instance_with_another_key_under_a_version_is_named_and_does_not_read_it(migrated: Connection) -> None:
    other = KeyRing({V1: RING.material(V1), V2: KeyMaterial.generate()}, V1)
    report(migrated, RING, "web-1", (V1,), V1)
    report(migrated, other, "web-1", (V1, V2), V2)
    [instance] = seen(migrated).values()
    assert (instance.reads, instance.writes, instance.unproven) == ((V1,), None, (V2,))
    assert "no valid proof that the instance holds v2" in (instance.problem or "")
    assert not WITHOUT_V1.met_by(instance)


def test_a_version_that_is_claimed_without_proof_is_not_gone_either(migrated: Connection) -> None:
    new = KeyRing({V2: RING.material(V2)}, V2)
    report(migrated, RING, "web-1", (V1, V2), V2)
    assert not WITHOUT_V1.met_by(seen(migrated, new)["web-1"])
    report(migrated, RING, "web-1", (V2,), V2)
    assert WITHOUT_V1.met_by(seen(migrated, new)["web-1"])


def test_what_an_instance_said_earlier_does_not_count_again(migrated: Connection) -> None:
    """Whoever could read reports could store one again."""
    report(migrated, RING, "web-1", (V1, V2), V1)
    [earlier] = migrated.execute("SELECT instance, report, proofs FROM keyrotation.instance_reports").fetchall()
    report(migrated, RING, "web-1", (V1,), V1)
    migrated.execute(INSERT, earlier)
    assert seen(migrated)["web-1"].reads == (V1,)
    migrated.execute(INSERT, ("web-2", *earlier[1:]))
    assert seen(migrated)["web-2"].reads == ()


@pytest.mark.parametrize(
    ("held", "is_gone"),
    [
        pytest.param((), False, id="no key"),
        pytest.param((V1,), False, id="one of two"),
        pytest.param((V1, V2), True, id="all"),
    ],
)
def test_a_farewell_takes_every_key_that_it_names(
    migrated: Connection,
    application: Application,
    held: tuple[KeyVersion, ...],
    is_gone: bool,
) -> None:
    report(migrated, RING, "web-1", (V1, V2), V1)
    forged(application, "web-1", keys_of(RING, held), V1, V2, farewell=True)
    reported_by(migrated, RING).forget()
    assert ("web-1" not in seen(migrated)) is is_gone
    report(migrated, RING, "web-1", (V1, V2), V1)
    assert seen(migrated)["web-1"].problem is None or not is_gone


def test_no_flood_of_reports_makes_a_name_disappear_or_fills_the_table(
    migrated: Connection, application: Application
) -> None:
    report(migrated, RING, "web-1", (V1,), V1)
    for _ in range(50):
        forged(application, "web-1", {}, V2)
    [(kept,)] = migrated.execute("SELECT count(*) FROM keyrotation.instance_reports").fetchall()
    assert kept == 3
    instance = seen(migrated)["web-1"]
    assert (instance.reads, instance.writes) == ((), None)
    report(migrated, RING, "web-1", (V1, V2), V1)
    assert seen(migrated)["web-1"].reads == (V1, V2)


@pytest.mark.parametrize(
    ("report", "rows"),
    [pytest.param("'{}'", 30_001, id="many"), pytest.param("repeat('[', 100000)", 1_400, id="large")],
)
def test_what_no_fleet_reports_is_one_sentence_and_no_memory_is_spent_on_it(
    migrated: Connection, application: Application, report: str, rows: int
) -> None:
    made = f"SELECT 'web-' || n, {report}, '' FROM generate_series(1, {rows}) AS n"
    application.execute(f"INSERT INTO keyrotation.instance_reports (instance, report, proofs) {made}".encode())
    with pytest.raises(BlockedError, match=r"keyrotation\.instance_reports has .* REVOKE INSERT"):
        seen(migrated)


def test_an_open_transaction_of_an_application_makes_nobody_wait(
    migrated: Connection, application: Application, database_url: str
) -> None:
    """Its report deletes older ones of that name, whose rows it locks until it ends."""
    for _ in range(3):
        report(migrated, RING, "web-1", (V1,), V1)
    report_before(migrated, RING, "web-2", 100, (V1,), V1)
    migrated.execute("SET lock_timeout = '300ms'")
    with application.transaction():
        for name in ("web-1", "web-1", "web-2"):
            forged(application, name, {}, V2)
        report(migrated, RING, "web-1", (V1, V2), V1)
        assert seen(migrated)["web-1"].reads == (V1, V2)
        report(migrated, RING, "web-1", (V1, V2), V1, farewell=True)
        reported_by(migrated, RING).forget()
        assert "web-1" not in seen(migrated)
        report_before(migrated, RING, "web-3", 100, (V1,), V1)
        report(migrated, RING, "web-3", (V1, V2), V1, farewell=True)
        reported_by(migrated, RING).forget()
        assert "web-3" not in seen(migrated)
        migrated.execute("VACUUM keyrotation.instance_reports")


def test_a_silent_instance_stays_known_and_an_unknown_one_too(migrated: Connection) -> None:
    report_before(migrated, RING, "web-1", 90 * 24 * 3600, (V1,), V1)
    migrated.execute(INSERT, ("web-2", "{}", ""))
    known = seen(migrated)
    assert (known["web-1"].silent, known["web-2"].silent) == (True, False)


def test_the_time_and_the_nonce_are_those_of_the_database(migrated: Connection, application: Application) -> None:
    [(nonce, at)] = application.execute("SELECT nonce, at FROM keyrotation.report_nonce").fetchall()
    assert nonce == ""
    assert abs(datetime.fromisoformat(at) - datetime.now(UTC)) < timedelta(minutes=1)
    migrated.execute(
        "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event, request)"
        " VALUES (1, '{}', '', 'a', 'request_opened', 'first'), (2, '{}', '', 'b', 'request_opened', 'second'),"
        " (3, '{}', '', 'c', 'counted', NULL)"
    )
    [(nonce, _)] = application.execute("SELECT nonce, at FROM keyrotation.report_nonce").fetchall()
    assert nonce == "b"


@pytest.mark.parametrize("kind", NAMED_IN_REPORTS)
def test_a_report_names_the_newest_event_that_opened_a_request_or_followed_a_change_of_the_key_store(
    migrated: Connection, application: Application, kind: str
) -> None:
    others = [each for each in NAMED_IN_REPORTS if each != kind]
    for seq, each in enumerate((*others, kind, "counted"), 1):
        migrated.execute(
            "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event)"
            " VALUES (%s, '{}', '', %s, %s)",
            (seq, each, each),
        )
    assert application.execute("SELECT nonce FROM keyrotation.report_nonce").fetchall() == [(kind,)]


def test_pods_that_were_seen_are_known_until_their_instances_are_forgotten(migrated: Connection) -> None:
    def pod(uid: str) -> dict[str, str]:
        return {"namespace": "pazpaz", "uid": uid}

    report(migrated, RING, "web-1", (V1,), V1, pod=pod("a"))
    report(migrated, RING, "web-2", (V1,), V1, pod=pod("b"))
    rollout = reported_by(migrated, RING)
    for _ in range(2):
        rollout.see_pods([Pod("pazpaz", "a"), Pod("pazpaz", "not of an instance"), Pod("other", "b")])
    assert rollout.seen_pods() == {Pod("pazpaz", "a")}
    rollout.see_pods([Pod("pazpaz", "b")])
    report(migrated, RING, "web-1", (V1,), V1, pod=pod("a"), farewell=True)
    assert [each.name for each in rollout.instances()] == ["web-2"]
    rollout.forget()
    assert rollout.seen_pods() == {Pod("pazpaz", "b")}
