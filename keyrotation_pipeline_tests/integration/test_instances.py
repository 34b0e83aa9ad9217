"""Application instances that report themselves, in a real database."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances, report_instance, withdraw_instance
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.instances import Instance

V1, V2 = KeyVersion(1), KeyVersion(2)
Rings = Callable[..., KeyRing]


def rollout(connection: Connection, timeout_seconds: float = 0) -> ReportedInstances:
    return ReportedInstances(connection, ttl_seconds=30, timeout_seconds=timeout_seconds, clock=SystemClock())


def without_v2(instances: Sequence[Instance]) -> list[str]:
    return [instance.name for instance in instances if V2 not in instance.reads]


def age(connection: Connection, name: str, seconds: int) -> None:
    connection.execute(
        "UPDATE keyrotation.application_instances SET reported_at = now() - make_interval(secs => %s) "
        "WHERE instance = %s",
        (seconds, name),
    )


def test_an_instance_says_what_it_reads_and_writes(migrated: Connection, keyring_of: Rings) -> None:
    report_instance(migrated, "web-1", keyring_of(1, 2, primary=1))
    (seen,) = rollout(migrated).instances()
    assert (seen.name, seen.reads, seen.writes) == ("web-1", (V1, V2), V1)
    assert abs((seen.reported_at - SystemClock().now()).total_seconds()) < 10


def test_the_last_report_of_an_instance_counts(migrated: Connection, keyring_of: Rings) -> None:
    report_instance(migrated, "web-1", keyring_of(1, 2, primary=1))
    report_instance(migrated, "web-1", keyring_of(1, 2, primary=2))
    (seen,) = rollout(migrated).instances()
    assert seen.writes == V2


@pytest.mark.parametrize(("silent_seconds", "there"), [(25, ["web-1"]), (35, [])], ids=["within its time", "past it"])
def test_an_instance_that_is_silent_too_long_is_gone(
    migrated: Connection, keyring_of: Rings, silent_seconds: int, there: list[str]
) -> None:
    report_instance(migrated, "web-1", keyring_of(1, primary=1))
    age(migrated, "web-1", silent_seconds)
    assert [each.name for each in rollout(migrated).instances()] == there


def test_an_instance_that_withdraws_is_gone_at_once(migrated: Connection, keyring_of: Rings) -> None:
    report_instance(migrated, "web-1", keyring_of(1, primary=1))
    report_instance(migrated, "web-2", keyring_of(1, primary=1))
    withdraw_instance(migrated, "web-1")
    assert [each.name for each in rollout(migrated).instances()] == ["web-2"]


def test_with_no_instance_there_is_nothing_to_wait_for(migrated: Connection) -> None:
    assert rollout(migrated).wait_for("read v2", without_v2) == ()


def test_instances_that_lag_are_named_after_the_time_out(migrated: Connection, keyring_of: Rings) -> None:
    report_instance(migrated, "web-1", keyring_of(1, 2, primary=1))
    report_instance(migrated, "web-2", keyring_of(1, primary=1))
    with pytest.raises(BlockedError, match=r"^web-2: not seen to read v2 within 0 seconds; reload or restart"):
        rollout(migrated).wait_for("read v2", without_v2)


def test_the_wait_ends_when_the_last_instance_has_reloaded(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    report_instance(migrated, "web-1", keyring_of(1, primary=1))
    asked = threading.Event()

    def reload() -> None:
        asked.wait(10)
        with connect(database_url) as connection:
            report_instance(connection, "web-1", keyring_of(1, 2, primary=1))

    def lagging(instances: Sequence[Instance]) -> list[str]:
        asked.set()
        return without_v2(instances)

    thread = threading.Thread(target=reload)
    thread.start()
    started = time.monotonic()
    (seen,) = rollout(migrated, timeout_seconds=20).wait_for("read v2", lagging)
    thread.join()
    assert V2 in seen.reads
    assert time.monotonic() - started < 10


def test_an_instance_that_dies_while_it_is_waited_for_is_not_waited_for_longer(
    migrated: Connection, keyring_of: Rings
) -> None:
    report_instance(migrated, "web-1", keyring_of(1, primary=1))

    def lagging(instances: Sequence[Instance]) -> list[str]:
        age(migrated, "web-1", 60)
        return without_v2(instances)

    assert rollout(migrated, timeout_seconds=20).wait_for("read v2", lagging) == ()
