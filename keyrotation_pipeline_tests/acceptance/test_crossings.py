"""An emergency meets other work at any stage of either: the compromised version goes, by commands that are named.

The other work is a rotation, a rollback, a reconciliation, a change of officers, a backup, another incident or nothing;
a stage is requested, signed, rows, proof or retired. Of what was there before the emergency, a reconciliation and a
change of officers have two stages, since one command carries them out; a backup has none, and neither has nothing.
`unit/incidents/test_crossing_stages.py` has the same over fakes.
"""

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.crossing import STAGES, Clinic

pytestmark = pytest.mark.slow
VERSIONS = ("v1", "v2")
# The key of a request that has not begun has yet to be made, so that no incident can be about it.
WITH_A_KEY = STAGES[2:]


def cells(*parts: tuple[str, ...], normally: tuple[str, ...] = ()) -> list[Any]:
    """Every combination; all but one of them are extended."""
    return [
        pytest.param(*cell, id="-".join(cell), marks=() if cell == normally else pytest.mark.extended)
        for cell in itertools.product(*parts)
    ]


@pytest.fixture
def clinic(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
    already_migrated: str,
) -> Clinic:
    return Clinic.make(tmp_path, database_url, (security_officer, privacy_officer, recovery_officer))


@pytest.mark.parametrize(
    ("stage", "version"), cells(STAGES, ("v1",)) + cells(WITH_A_KEY, ("v2",), normally=("rows", "v2"))
)
def test_a_routine_rotation_is_under_way(clinic: Clinic, stage: str, version: str) -> None:
    clinic.rotation(stage)
    incident = clinic.incident(version)
    clinic.handle(incident)
    clinic.require_out(version)
    clinic.type("incident", "close", incident)


@pytest.mark.parametrize(("stage", "version"), cells(STAGES, VERSIONS, normally=("signed", "v1")))
def test_a_rollback_is_under_way(clinic: Clinic, stage: str, version: str) -> None:
    rotation = clinic.rotation("proof")
    undoing = clinic.type("rollback", rotation).strip()
    clinic.bring_to(stage, undoing)
    incident = clinic.incident(version)
    clinic.handle(incident)
    clinic.require_out(version)
    clinic.type("incident", "close", incident)


@pytest.mark.parametrize(("stage", "version"), cells(STAGES, VERSIONS))
def test_a_rollback_of_a_finished_rotation_is_under_way(clinic: Clinic, stage: str, version: str) -> None:
    undoing = clinic.type("rollback", clinic.rotation(None)).strip()
    clinic.bring_to(stage, undoing)
    incident = clinic.incident(version)
    clinic.handle(incident)
    if version == "v1" and stage in {"requested", "signed"}:
        # Applications do not have it; the rollback waits for officers to call it a false alarm, or to be withdrawn.
        assert f"{version} is named by the open incident {incident}" in clinic.refused("rotate", undoing)
        clinic.type("cancel", undoing)
    clinic.require_out(version)


@pytest.mark.parametrize("stage", ["requested", "signed"])
@pytest.mark.extended
def test_a_restored_database_waits_to_be_reconciled(clinic: Clinic, stage: str) -> None:
    with clinic.restorable() as restore:
        clinic.rotation(None)
        restore()
        request = clinic.type("reconcile").strip()
        clinic.bring_to(stage, request)
        incident = clinic.incident("v1")
        clinic.handle(incident)
        clinic.require_out("v1")


@pytest.mark.parametrize("stage", ["requested", "signed"])
@pytest.mark.extended
def test_a_change_of_officers_waits(clinic: Clinic, stage: str) -> None:
    clinic.name_officers(3)
    clinic.bring_to(stage, clinic.type("policy", "--reason", "another officer").strip())
    incident = clinic.incident()
    clinic.handle(incident)
    clinic.require_out("v1")


# The emergency was first, and is at a stage when something else is asked for.


def emergency(clinic: Clinic, stage: str) -> tuple[str, str]:
    """An incident about v1, and its emergency to v2 at a stage."""
    incident = clinic.incident()
    request = str(clinic.prepared(incident))
    clinic.bring_to(stage, request)
    return incident, request


@pytest.mark.parametrize("stage", cells(STAGES))
def test_a_routine_rotation_is_requested_meanwhile(clinic: Clinic, stage: str) -> None:
    incident, _ = emergency(clinic, stage)
    clinic.refused("request", "--reason", "yearly")
    clinic.handle(incident)
    clinic.require_out("v1")


@pytest.mark.parametrize("stage", cells(STAGES))
def test_a_rollback_of_the_emergency_is_requested(clinic: Clinic, stage: str) -> None:
    incident, request = emergency(clinic, stage)
    clinic.refused("rollback", request)
    clinic.handle(incident)
    clinic.require_out("v1")
    clinic.refused("rollback", request)


@pytest.mark.parametrize("stage", cells(STAGES))
def test_a_rollback_of_the_rotation_before_is_requested(clinic: Clinic, stage: str) -> None:
    rotation = clinic.rotation(None)
    incident, _ = emergency(clinic, stage)
    if stage in {"requested", "signed"}:
        clinic.sign(clinic.type("rollback", rotation).strip())  # the emergency ends it when it begins
    else:
        clinic.refused("rollback", rotation)
    clinic.handle(incident)
    clinic.require_out("v2")


@pytest.mark.parametrize(
    ("restored", "stage"),
    cells(
        ("to before the incident", "to the request", "to the signatures", "to its rows"),
        ("rows", "retired"),
        normally=("to the signatures", "rows"),
    ),
)
def test_the_database_is_restored(clinic: Clinic, stage: str, restored: str) -> None:
    with ExitStack() as kept:
        restore = kept.enter_context(clinic.restorable()) if restored == "to before the incident" else None
        incident = clinic.incident()
        request = str(clinic.prepared(incident))
        restore = kept.enter_context(clinic.restorable()) if restored == "to the request" else restore
        if stage != "requested":
            clinic.sign(request)
        restore = kept.enter_context(clinic.restorable()) if restored == "to the signatures" else restore
        clinic.bring_to("rows" if restore is None else stage, request)
        if restore is None:
            restore = kept.enter_context(clinic.restorable())
            clinic.bring_to(stage, request)
        restore()
        if restored == "to before the incident":
            # Nothing is left of it but what applications were told, and what a person knows.
            incident = clinic.incident("v1")
        clinic.handle(incident)
        clinic.require_out("v1")


@pytest.mark.parametrize("stage", cells(STAGES, normally=("rows",)))
def test_a_change_of_officers_is_requested_and_signed(clinic: Clinic, stage: str) -> None:
    incident, _ = emergency(clinic, stage)
    clinic.name_officers(3)
    clinic.sign(clinic.type("policy", "--reason", "another officer").strip())
    if stage == "signed":  # its signatures would be void; once it has begun, it counts under the earlier roster
        clinic.refused("policy")
        clinic.name_officers(2)
    else:
        clinic.type("policy")
    clinic.handle(incident)
    clinic.require_out("v1")


@pytest.mark.parametrize("stage", cells(STAGES))
def test_a_backup_is_made(clinic: Clinic, stage: str) -> None:
    incident, _ = emergency(clinic, stage)
    clinic.type("backup")
    clinic.handle(incident)
    clinic.require_out("v1")


@pytest.mark.parametrize(
    ("stage", "version"), cells(STAGES, ("v1",)) + cells(WITH_A_KEY, ("v2",), normally=("proof", "v2"))
)
def test_another_incident_is_opened(clinic: Clinic, stage: str, version: str) -> None:
    first, _ = emergency(clinic, stage)
    second = clinic.incident(version, description="another log file")
    for each in (first, second):
        clinic.handle(each)
    clinic.require_out("v1", version)
    for each in (first, second):
        clinic.type("incident", "close", each)


@pytest.mark.parametrize("stage", cells(STAGES))
def test_nothing_happens_meanwhile(clinic: Clinic, stage: str) -> None:
    incident, _ = emergency(clinic, stage)
    clinic.handle(incident)
    clinic.require_out("v1")
