"""Calling a version compromised as officers do, where a test is about what follows and not about the rotation."""

from collections.abc import Sequence
from dataclasses import replace

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.incidents.opening import open_incident
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import approval_text
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.rotate import ROTATE
from keyrotation_pipeline_tests.forging import signature_of


def call_compromised(pipeline: Pipeline, version: KeyVersion, officers: Sequence[DemoOfficer]) -> None:
    """By an emergency request that its officers have signed, and that was cancelled.

    Args:
        officers: those of the pinned roster, in its order.
    """
    flagged_at, registered = pipeline.clock.now(), pipeline.ledger.keys()
    (fingerprint,) = [each.fingerprint for each in registered if each.version == version]
    flag = Flag(f"test {version}", "test", "key_exposed", f"{version} is known", flagged_at, versions=(str(version),))
    incident = open_incident(pipeline, flag)
    pipeline = replace(pipeline, clock=SystemClock())  # as the ledger and gpg have it
    request = new_request(
        Walk,
        pipeline,
        ROTATE,
        source=version,
        fingerprint=fingerprint,
        target=KeyVersion(max(each.version.number for each in registered) + 1),
        reason="it is known",
        requested_by="test",
        incident=incident.id,
    )
    text = approval_text(pipeline, request)
    pipeline.ledger.open(request, text)
    for pinned, officer in zip(pinned_roster(pipeline).officers, officers, strict=True):
        pipeline.ledger.add_signature(request.id, signature_of(officer, text, pinned.fingerprint))
    pipeline.ledger.set_key_state(version, KeyState.COMPROMISED, request.id)
    pipeline.ledger.set_status(request.id, RequestStatus.CANCELLED)
