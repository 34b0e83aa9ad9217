"""What tests of incidents have in common: a flag, an incident with its request, and the officers' signatures."""

from dataclasses import replace
from datetime import timedelta

from keyrotation_pipeline.incidents.opening import open_incident, prepare
from keyrotation_pipeline.model.incidents import Flag, Incident
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, sign

FLAG = Flag("row 1", "SIEM", "key_exposed", "the key stands in a log file", START - timedelta(hours=1))


def raised(number: int, **changes: object) -> Flag:
    """A flag like the others, with news of its own."""
    return replace(FLAG, **{"key": f"row {number}", "description": f"log file {number}", **changes})  # type: ignore[arg-type]


def opened(world: FakeWorld, **changes: object) -> tuple[Incident, Walk]:
    """An incident, and its request as officers are to sign it."""
    incident = open_incident(world.pipeline, replace(FLAG, **changes))  # type: ignore[arg-type]
    return incident, prepare(world.pipeline, incident, "test")


def signed(world: FakeWorld, request: Walk) -> Walk:
    for officer in (ADA, BEN):
        sign(world, request, officer)
    return world.ledger.walk(request.id)


def walk(world: FakeWorld, request: Walk, through: Step | None = None) -> Walk:
    for _ in runner.run(world.pipeline, request.id, world.report, through):
        pass
    return world.ledger.walk(request.id)


def call_compromised(world: FakeWorld, *versions: str) -> None:
    """By an emergency that both officers have signed, and that was cancelled."""
    _, prepared = opened(world, versions=versions)
    signed(world, prepared)
    world.ledger.set_status(prepared.id, RequestStatus.CANCELLED)
