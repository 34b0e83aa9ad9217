"""Keys in a Kubernetes Secret and two Deployments that get them, rotated by the command; a bad rollout is repaired."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.adapters.rollouts.templates import Workload
from keyrotation_pipeline.fieldcrypto.environment import PRIMARY_VARIABLE
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.fleets import BROKEN, CRASHES, TestFleet

FIRST, SECOND = "ENCRYPTION_MASTER_KEY", "ENCRYPTION_MASTER_KEY_V2"
TABLES = """
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[tables]]
name = "billing.Invoices"
columns = ["memo"]
"""


def configuration(clinic: Clinic, fleet: TestFleet) -> str:  # noqa: F811
    secrets = fleet.secrets
    workloads = "".join(
        f'[[rollout.workloads]]\nkind = "{each.kind}"\nname = "{each.name}"\ncontainer = "{each.container}"\n'
        for each in fleet.workloads
    )
    return (
        f'database.url = "{clinic.database_url}"\n[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\n'
        f'namespace = "{secrets.cluster.namespace}"\nname = "{secrets.name}"\nkubeconfig = "{secrets.kubeconfig}"\n'
        f'[rollout]\nmode = "kubernetes"\n{workloads}{TABLES}{clinic.roster}'
    )


@pytest.fixture
def fleet(clinic: Clinic, new_key_secrets: Callable[[], TestKeySecrets]) -> Iterator[TestFleet]:  # noqa: F811
    """Two Deployments that get the seed's Secret: one key, and nothing that names it."""
    secrets = new_key_secrets()
    secrets.overwrite({FIRST: base64_of(clinic.key), "PEPPER": "x"})
    fleet = TestFleet(secrets)
    fleet.start(replicas=2)
    fleet.start()
    yield fleet
    fleet.stop()


class Timeline:
    """What the stand-in saw, in its order: the Secret, and the Pods that were there at each moment."""

    def __init__(self, fleet: TestFleet) -> None:
        assert fleet.cluster.standin is not None
        self.secret: list[tuple[int, set[str], bytes]] = []
        self._pods: list[tuple[int, str, str, str]] = []
        names = tuple(f"{each.name}-" for each in fleet.workloads)
        for moment, (_, kind, plural, content) in enumerate(fleet.cluster.standin.objects.events):
            metadata = content["metadata"]
            if plural == "secrets" and metadata["name"] == fleet.secrets.name:
                data = content.get("data") or {}
                self.secret.append((moment, set(data), data.get(PRIMARY_VARIABLE, "")))
            elif plural == "pods" and metadata["name"].startswith(names):
                told = (metadata.get("annotations") or {}).get("keyrotation/keys", "")
                self._pods.append((moment, kind, metadata["name"], told))

    def first(self, true: Callable[[set[str], Any], bool]) -> int:
        """The moment at which something became true of the Secret's entries and its primary."""
        return next(moment for moment, entries, primary in self.secret if true(entries, primary))

    def pods_at(self, moment: int) -> dict[str, tuple[int, str]]:
        """Each Pod that was there: when it was made, and its annotation."""
        there: dict[str, tuple[int, str]] = {}
        for at, kind, name, told in self._pods:
            if at > moment:
                break
            if kind == "DELETED":
                del there[name]
            elif kind == "ADDED":
                there[name] = (at, told)
        return there


def assert_read_before_write(fleet: TestFleet) -> None:
    timeline = Timeline(fleet)
    stored = timeline.first(lambda entries, _primary: SECOND in entries)
    promoted = timeline.first(lambda entries, primary: SECOND in entries and primary == "djI=")  # v2
    withdrawn = next(at for at, entries, _ in timeline.secret if at > promoted and FIRST not in entries)
    readers, writers = timeline.pods_at(promoted), timeline.pods_at(withdrawn)
    assert len(readers) == len(writers) == 3
    assert all(made > stored and "v2=" in told and "primary=v1" in told for made, told in readers.values())
    assert all(made > promoted and "v2=" in told and "primary=v2" in told for made, told in writers.values())
    last = timeline.pods_at(10**9)
    assert len(last) == 3
    assert all(made > withdrawn and "v1=" not in told for made, told in last.values())


def values_under(clinic: Clinic, version: str) -> int:  # noqa: F811
    with psycopg.connect(clinic.database_url) as connection:
        query = """SELECT count(*) FROM (SELECT unnest(ARRAY[first_name, email]) AS value FROM clients
                   UNION ALL SELECT memo FROM billing."Invoices") AS every WHERE value LIKE %s"""
        found = connection.execute(query, (f"{version}:%",)).fetchone()
    return int(found[0]) if found else 0


@pytest.mark.slow
def test_a_rotation_waits_for_every_pod_and_a_crash_loop_stops_it_before_any_row(
    clinic: Clinic,  # noqa: F811
    fleet: TestFleet,
) -> None:
    first: Workload = fleet.workloads[0]
    clinic.path.write_text(configuration(clinic, fleet))
    with fleet.controlled():
        clinic.run("init")
        assert fleet.secrets.entries() == {FIRST: base64_of(clinic.key), PRIMARY_VARIABLE: "v1", "PEPPER": "x"}
        request = clinic.approved_request(*clinic.officers)

        fleet.change(first, **BROKEN)
        clinic.run("rotate", request, expect=1)
        assert f"the rollout of {first} failed: Pod {first.name}-" in clinic.error
        assert re.search(CRASHES, clinic.error)
        assert "repair it, and run the rotation again" in clinic.error
        assert fleet.secrets.entries()[PRIMARY_VARIABLE] == "v1"
        assert values_under(clinic, "v2") == 0

        fleet.change(first)
        clinic.run("rotate", request)
        shown = clinic.run("rollout")
    for workload in fleet.workloads:
        assert f"{workload}: rolled out" in shown
        assert all(re.search(rf"{pod['metadata']['name']}\W+v2\W+v2\W", shown) for pod in fleet.pods(workload))
    entries = fleet.secrets.entries()
    assert (set(entries), entries[PRIMARY_VARIABLE]) == ({SECOND, PRIMARY_VARIABLE, "PEPPER"}, "v2")
    assert fleet.secrets.entries(fleet.secrets.archive) == {"v1": base64_of(clinic.key)}
    assert (values_under(clinic, "v1"), values_under(clinic, "v2") > 0) == (0, True)
    if fleet.cluster.standin is not None:
        assert_read_before_write(fleet)
    assert not [key for key in (base64_of(clinic.key), entries[SECOND]) if key in "".join(clinic.folder.printed)]
