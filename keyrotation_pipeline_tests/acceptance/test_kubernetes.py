"""A rollout of two Deployments that fails, by the command: it stops before any row, and continues after the repair."""

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest

from keyrotation_pipeline.adapters.rollouts.templates import Workload
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.fleets import BROKEN, CRASHES, TestFleet
from keyrotation_pipeline_tests.key_places import KubernetesPlace

FIRST, SECOND = "ENCRYPTION_MASTER_KEY", "ENCRYPTION_MASTER_KEY_V2"
TABLES = """
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[tables]]
name = "billing.Invoices"
columns = ["memo"]
"""


@pytest.fixture
def fleet(clinic: Clinic, new_key_secrets: Callable[[], TestKeySecrets]) -> Iterator[TestFleet]:  # noqa: F811
    """Two Deployments that get the source procedure's Secret: one key, and nothing that names it."""
    secrets = new_key_secrets()
    secrets.overwrite({FIRST: base64_of(clinic.key), "PEPPER": "x"})
    fleet = TestFleet(secrets)
    fleet.start(replicas=2)
    fleet.start()
    yield fleet
    fleet.stop()


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
    place = KubernetesPlace(fleet)
    clinic.path.write_text(f'database.url = "{clinic.database_url}"\n{place.configuration()}{TABLES}{clinic.roster}')
    with fleet.controlled():
        clinic.run("init")
        assert fleet.secrets.entries() == {FIRST: base64_of(clinic.key), PRIMARY_VARIABLE: "v1", "PEPPER": "x"}
        request = clinic.approved_request(*clinic.officers)

        fleet.change(first, **BROKEN)
        clinic.run("rotate", request, expect=1)
        assert f"the rollout of {first} failed: Pod {first.name}-" in clinic.error
        assert re.search(CRASHES, clinic.error)
        assert "repair it, and run `keyrotation rotate` again" in clinic.error
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
    assert not [key for key in (base64_of(clinic.key), entries[SECOND]) if key in "".join(clinic.folder.printed)]
