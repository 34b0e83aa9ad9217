"""A world in which nothing was requested yet, and the ways to request and sign in it."""

from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V2, FakeSignatures, FakeWorld, fake_pipeline

ADA, BEN = (officer.fingerprint for officer in ROSTER.officers)


def before_any_rotation() -> FakeWorld:
    """Before any rotation: v1 is the only key, the primary and active."""
    world = fake_pipeline({"clients": [{"first_name": "v1:Zoe", "email": "v1:zoe@example.org"}]})
    del world.keys.live[V2]
    world.keys.primary_version = V1
    world.keys_are({V1: KeyState.ACTIVE})
    return world


def request(world: FakeWorld, **changes: object) -> Walk:
    arguments = {"reason": "yearly rotation", "requested_by": "dba@clinic", **changes}
    return open_request(world.pipeline, **arguments)  # type: ignore[arg-type]


def sign(world: FakeWorld, rotation: Request, officer: str) -> tuple[str, int]:
    text = world.ledger.approval_text(rotation.id)
    return add_approval(world.pipeline, rotation, FakeSignatures.sign(officer, text))


def approved(world: FakeWorld, **changes: object) -> Walk:
    rotation = request(world, **changes)
    for officer in (ADA, BEN):
        sign(world, rotation, officer)
    return world.ledger.walk(rotation.id)


def made_key(world: FakeWorld) -> None:
    material = KeyMaterial.generate()
    world.keys.live[V2] = material
    world.ledger.add_key(KeyRecord(V2, KeyState.PRE_ACTIVATION, material.fingerprint, START), None)
