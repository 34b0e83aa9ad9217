"""What nobody signed does not count: the owner writes whole histories, and the commands that rely on them are run."""

import json
from datetime import UTC, datetime

import pytest

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.incidents.opening import open_incident, prepare_requests
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.fleet import TargetKind
from keyrotation_pipeline.model.incident_events import IncidentClosed
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.key_events import KeyDestroyed, KeyRegistered, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import RolloutConfirmed, RosterPinned, StepFinished
from keyrotation_pipeline.model.requests import RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.requests.approvals import approval_text
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.rotate import ROTATE
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.forging import as_another_process
from keyrotation_pipeline_tests.integration.test_database_owner import (
    V1,
    Office,
    called_destroyed,
    destruction_of,
    office,
    run,
    signed_rotation,
)
from keyrotation_pipeline_tests.integration.test_forged_reconciliation import OWNERS, forged, reconciliation, roster_of
from keyrotation_pipeline_tests.signed_texts import confirmation_of

__all__ = ["office"]
V2, V3 = KeyVersion(2), KeyVersion(3)


@pytest.fixture
def typed(office: Office) -> Folder:
    """The office's folder, in which commands are typed."""
    return Folder(office.folder, [])


@pytest.fixture
def rotated(office: Office) -> str:
    """The id of a rotation from v1 to v2 that two officers signed, and that is finished."""
    rotation = signed_rotation(office)
    run(office, rotation)
    return rotation


def fault_of(typed: Folder) -> str:
    """What `audit verify` finds wrong, as `status` does."""
    typed.run("audit", "verify", expect=1)
    fault = typed.printed[-1]
    assert "the audit does not verify: " in fault
    typed.run("status", "--exit-code", expect=1)
    said = typed.printed[-2] + typed.printed[-1]
    assert "\nNow       The audit does not verify: " in said, "before anything that somebody may have forged"
    return fault


def keys_in_backup(typed: Folder) -> set[str]:
    """The versions that a backup holds, which is made although the audit does not verify, and says so."""
    made = json.loads(typed.run("backup", "--json", expect=1))
    assert "the audit does not verify: " in made["audit_fault"]
    return set(made["keys"])


def require_v1_kept(typed: Folder) -> None:
    """Refuse that a command takes v1 for destroyed."""
    states = {each["version"]: each["state"] for each in json.loads(typed.run("status", "--json"))["key_versions"]}
    assert states["v1"] == "archived"
    assert keys_in_backup(typed) == {"v1", "v2"}
    typed.run("restore-key", "v1", expect=1)
    assert "destroyed" not in typed.printed[-1]


def test_a_destruction_with_text_and_signatures_of_a_rotation_destroys_nothing(
    office: Office, typed: Folder, rotated: str
) -> None:
    with office.pipeline() as pipeline, office.forger() as forger:
        record, _ = pipeline.ledger.keys()
        request = destruction_of(pipeline, record)
        text, signatures = pipeline.ledger.approval_text(rotated), pipeline.ledger.signatures(rotated)
        forger.begin(request, text, signatures)
        called_destroyed(forger, record, request.id)
        forger.append(KeyDestroyed(V1, record.fingerprint, (), ()), request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.FINISHED)
    assert "(request_opened) has a text with another line Request than its facts" in fault_of(typed)
    require_v1_kept(typed)


def test_a_destruction_with_garbage_for_signatures_that_is_called_cancelled_destroys_nothing(
    office: Office, typed: Folder, rotated: str
) -> None:
    assert rotated
    with office.pipeline() as pipeline, office.forger() as forger:
        record, _ = pipeline.ledger.keys()
        request = destruction_of(pipeline, record)
        officers = pinned_roster(pipeline).officers
        garbage = [Signature(each.fingerprint, b"garbage", datetime.now(UTC)) for each in officers]
        forger.begin(request, approval_text(pipeline, request), garbage)
        called_destroyed(forger, record, request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.CANCELLED)
    fault = fault_of(typed)
    assert "(signature_added) has no good signature" in fault
    assert "(status_changed) is by a request that too few have signed" in fault
    require_v1_kept(typed)


def test_a_rotation_that_nobody_signed_neither_runs_nor_finishes(office: Office, typed: Folder) -> None:
    with office.pipeline() as pipeline, office.forger() as forger:
        [record] = pipeline.ledger.keys()
        request = new_request(
            Walk, pipeline, ROTATE, source=V1, fingerprint=record.fingerprint, target=V2, reason="x", requested_by="x"
        )  # fmt: skip
        forger.begin(request, approval_text(pipeline, request), ())
        second = KeyRecord(V2, KeyState.PRE_ACTIVATION, "2f" * 32, datetime.now(UTC))
        forger.append(KeyRegistered.of(second), request.id)
        for step in (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ZERO_OLD_ROWS_PROOF):
            forger.append(StepFinished.of(StepRecord(step, None, None, datetime.now(UTC), {})), request.id)
        forger.append(KeyStateChanged(V1, KeyState.ACTIVE, KeyState.DEACTIVATED, record.fingerprint), request.id)
        forger.append(KeyStateChanged(V2, KeyState.PRE_ACTIVATION, KeyState.ACTIVE, second.fingerprint), request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.FINISHED)
    assert "(status_changed) is by a request that too few have signed" in fault_of(typed)
    shown = json.loads(typed.run("status", "--json"))
    assert [(each["version"], each["state"]) for each in shown["key_versions"]] == [("v1", "active")]
    assert json.loads(typed.run("history", "--json")) == []
    assert keys_in_backup(typed) == {"v1"}


def test_a_roster_that_a_reconciliation_pins_by_signatures_of_its_own_members_is_not_pinned(
    office: Office, typed: Folder
) -> None:
    roster = roster_of(office, *OWNERS)
    with office.pipeline() as pipeline, office.forger() as forger:
        request = reconciliation(pipeline)
        forged(office, pipeline, forger, request, roster)
        forger.append(RosterPinned.of(roster), request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.FINISHED)
    assert "(roster_pinned) pins a roster that nobody is known to have signed" in fault_of(typed)
    assert keys_in_backup(typed) == {"v1"}
    office.configure(*OWNERS)
    typed.run("request", "--reason", "mine now", expect=1)
    assert "differ from what is pinned" in typed.printed[-1]


def test_a_garbage_confirmation_is_named(office: Office, typed: Folder) -> None:
    rotation = signed_rotation(office)
    run(office, rotation, Step.KEY_VERSION)
    with office.pipeline() as pipeline, office.forger() as forger:
        ada, _ = pinned_roster(pipeline).officers
        text = confirmation_of(rotation, TargetKind.READS).decode()
        forger.append(RolloutConfirmed(TargetKind.READS, (), ada.fingerprint, b"garbage".hex(), text), rotation)
    assert "(rollout_confirmed) has no good signature" in fault_of(typed)


def test_a_routine_request_that_is_rewritten_as_an_emergency_is_named(office: Office, typed: Folder) -> None:
    signed_rotation(office)
    with office.forger() as forger:
        forger.rewrite(
            lambda body, _seq: body.replace('"type":"routine"', '"type":"emergency"').replace(
                '"incident":null', '"incident":"INC-2026-001"'
            )
        )
    (office.anchors / "audit-head.json").unlink(missing_ok=True)  # which alone would name it
    assert "(request_opened) has a text with another line Incident than its facts" in fault_of(typed)
    assert json.loads(typed.run("requests", "--json")) == []


def exposed(office: Office) -> tuple[str, str]:
    """The ids of an incident about v1, and of the emergency prepared for it."""
    flag = Flag(key="cli", source="dba", type="key_exposed", description="in a log", discovered_at=datetime.now(UTC))
    with office.pipeline() as pipeline:
        incident = open_incident(pipeline, flag)
        assert prepare_requests(pipeline, "test") == ()
        [emergency] = pipeline.ledger.requests()
    return incident.id, emergency.id


def test_an_incident_about_a_key_in_use_is_not_closed_by_an_event(office: Office, typed: Folder) -> None:
    incident, _ = exposed(office)
    with office.forger() as forger:
        forger.append(IncidentClosed(incident, "owner", datetime.now(UTC), "x", "x", "x"))
    assert f"although {V1} is in use and officers have signed no decision" in fault_of(typed)
    assert json.loads(typed.run("status", "--json"))["incidents_open"]
    [shown] = json.loads(typed.run("incident", "list", "--json"))
    assert shown["status"] != "closed"


# --- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_new", [pytest.param(False, id="same process"), pytest.param(True, id="new process")])
def test_a_cancellation_that_the_owner_deletes_lets_no_rotation_run(
    office: Office, typed: Folder, *, as_new: bool
) -> None:
    rotation = signed_rotation(office)
    with office.pipeline() as pipeline:
        cancel(pipeline, pipeline.ledger.request(rotation))
    with office.forger() as forger:
        forger.truncate(2)
    if as_new:
        as_another_process()
        typed.run("rotate", rotation, expect=1)
        typed.run("audit", "verify", expect=1)
    with pytest.raises(KeyRotationError, match=r"the audit ends at event|is no longer in the audit"):
        run(office, rotation)
    with office.pipeline() as pipeline:
        assert [str(version) for version in pipeline.keys.read().versions] == ["v1"]


def test_an_open_incident_and_its_emergency_are_not_removed_by_a_truncation(office: Office, typed: Folder) -> None:
    with office.pipeline() as pipeline:
        before = pipeline.ledger.head().seq
    exposed(office)
    with office.pipeline() as pipeline, office.forger() as forger:
        forger.truncate(pipeline.ledger.head().seq - before)
    as_another_process()
    typed.run("audit", "verify", expect=1)
    assert "were cut off" in typed.printed[-1]
    typed.run("status", "--exit-code", expect=1)
    assert "the audit ends at event" in typed.printed[-2] + typed.printed[-1]
    typed.run("request", "--reason", "yearly", expect=1)
    assert "keyrotation reconcile" in typed.printed[-1]
