"""What was never done, or is not known, is reported as exactly that: no command takes absence for success."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.retirement import search
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import body_of, hash_of
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline_tests.acceptance.test_cli import V1, Clinic, clinic, officers

__all__ = ["clinic", "officers"]


def findings(clinic: Clinic) -> dict[str, str]:
    """The state of each objective in OSCAL, by name."""
    content = json.loads(clinic.run("report", "--format", "oscal"))
    (result,) = content["assessment-results"]["results"]
    return {each["target"]["target-id"]: each["target"]["status"]["state"] for each in result["findings"]}


def certified(clinic: Clinic, rotation: str) -> dict[str, Any]:
    """What the certificate of key death says."""
    envelope = json.loads(clinic.run("report", "--format", "certificate", "--rotation", rotation))
    said: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    return said


def value_under_v1(clinic: Clinic) -> str:
    return encrypt(KeyRing({V1: clinic.key}, V1), "a straggler")


def written_past_the_fence(clinic: Clinic) -> None:
    """The table's owner drops the fence, and writes one old value."""
    with psycopg.connect(clinic.database_url, autocommit=True) as owner:
        fences = owner.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = 'clients'::regclass AND contype = 'c'"
        ).fetchall()
        for (name,) in fences:
            owner.execute(f'ALTER TABLE clients DROP CONSTRAINT "{name}"')
        owner.execute("UPDATE clients SET first_name = %s WHERE id = 1", (value_under_v1(clinic),))


def test_what_was_never_done_is_not_satisfied(clinic: Clinic) -> None:
    clinic.initialise()
    assert {name for name, state in findings(clinic).items() if state == "not-satisfied"} >= {
        "backup-daily",
        "backup-elsewhere",
        "recovery-tested-quarterly",
        "recovery-objectives-met",
        "key-age-known",
        "procedure-reviewed",
        "key-access-logged",
    }


def test_a_routine_rotation_ends_with_a_backup_that_holds_the_new_key(clinic: Clinic) -> None:
    clinic.initialise()
    clinic.run("rotate", clinic.approved_request(*clinic.officers))
    assert clinic.status()["last_backup_versions"] == ["v1", "v2"]
    found = findings(clinic)
    assert {name for name, state in found.items() if state == "not-satisfied"} == {
        "audit-time-stamped",
        "audit-witnessed",
        "backup-elsewhere",
        "key-access-logged",
        "procedure-reviewed",
        "recovery-objectives-met",
        "recovery-tested",
        "recovery-tested-quarterly",
        "undeclared-searched",
    }


def test_a_rotation_without_a_backup_after_it_is_not_satisfied(clinic: Clinic) -> None:
    clinic.initialise()
    clinic.run("backup")
    clinic.walk(clinic.approved_request(*clinic.officers))
    found = findings(clinic)
    assert (found["backup-has-active-key"], found["backup-after-rotation"]) == ("not-satisfied", "not-satisfied")


def test_the_age_of_an_imported_key_is_unknown_until_somebody_declares_it(clinic: Clinic) -> None:
    clinic.initialise()
    (key,) = json.loads(clinic.run("report", "--format", "json"))["keys"]
    assert key["cryptoperiods"] == [{"since": None, "until": None}]
    page = clinic.run("report")
    assert "unknown to now" in page
    assert "unknown" in page.partition("<svg")[2].partition("</svg>")[0]
    assert findings(clinic)["key-age-known"] == "not-satisfied"

    clinic.path.write_text(f"keys.activated_at = 2026-01-31\n{clinic.path.read_text()}")
    clinic.run("init")
    (key,) = json.loads(clinic.run("report", "--format", "json"))["keys"]
    (declared,) = key["declared"]
    assert declared["since"].startswith("2026-01-31")
    assert declared["by"]
    assert findings(clinic)["key-age-known"] == "satisfied"


@pytest.mark.parametrize(
    "command",
    [
        ("inventory",),
        *(pytest.param(each, marks=pytest.mark.extended) for each in (("status", "--count"), ("verify",))),
    ],
)
def test_a_key_that_was_found_in_use_after_its_retirement_gets_no_certificate(
    clinic: Clinic, command: tuple[str, ...]
) -> None:
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    clinic.walk(request)
    clinic.run("report", "--format", "certificate", "--rotation", request)
    written_past_the_fence(clinic)
    clinic.run(*command, expect=int(command == ("verify",)))
    clinic.run("report", "--format", "certificate", "--rotation", request, expect=1)
    assert "could not decrypt 1 value in " in clinic.error
    assert "run `keyrotation inventory`" in clinic.error
    assert findings(clinic)["old-keys-retired"] == "not-satisfied"


def test_status_says_nothing_about_a_version_that_was_promoted_after_the_count(clinic: Clinic) -> None:
    clinic.initialise()
    clinic.walk(clinic.approved_request(*clinic.officers), Step.PRIMARY_KEY_ROLLOUT)
    said = clinic.run("status")
    assert "No value under v2" not in said
    assert "Tables were not counted since v2 became the primary; run `keyrotation status --count`." in said
    assert "No value under" not in clinic.run("status", "--count")


def test_what_was_not_read_again_is_repeated_until_an_inventory_reads_it(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0)
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    clinic.walk(request)
    for command in (("status",), ("rotate", request)):
        said = [line for line in clinic.run(*command).splitlines() if "not read again" in line]
        assert said, command
        assert "run `keyrotation inventory`" in said[0]
    assert "not read again" in str(certified(clinic, request)["not_read_again"])
    assert findings(clinic)["undeclared-searched"] == "not-satisfied"
    clinic.run("inventory")
    assert "not read again" not in clinic.run("status")
    after = certified(clinic, request)
    assert after["not_read_again"] is None
    assert {each["event"] for each in after["read_since"]} == {"counted", "undeclared_columns_searched"}
    assert findings(clinic)["undeclared-searched"] == "satisfied"


def test_a_backup_of_an_audit_with_faults_is_made_and_warns_and_fails(clinic: Clinic) -> None:
    clinic.initialise()
    destroyed_by_nobody(clinic)
    said = clinic.run("backup", expect=1)
    assert "manifest " in said
    assert "v1 (" in said, "a key that nobody may have destroyed is in it"
    assert "is made and complete, but the audit does not verify" in clinic.error
    shown = clinic.status()
    assert (shown["last_backup"] is not None, shown["last_backup_versions"]) == (True, ["v1"])


def destroyed_by_nobody(clinic: Clinic) -> None:
    """The database's owner appends an event, with a right hash, that no officer has signed."""
    with psycopg.connect(clinic.database_url, autocommit=True) as owner:
        owner.execute("SET session_replication_role = replica")
        last = owner.execute(
            "SELECT seq, hash, body FROM keyrotation.audit_events ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        registered = owner.execute(
            "SELECT body FROM keyrotation.audit_events WHERE event = 'key_registered'"
        ).fetchone()
        assert last is not None
        assert registered is not None
        fingerprint = json.loads(registered[0])["facts"]["fingerprint"]
        facts = {"version": "v1", "from": "active", "to": "destroyed", "fingerprint": fingerprint}
        before, seq = json.loads(last[2]), last[0] + 1
        body = body_of(
            seq=seq, at=datetime.now(UTC), actor=before["actor"], database=before["database"], request=None,
            event="key_state_changed", facts=facts,
        )  # fmt: skip
        digest = hash_of(last[1], body)
        owner.execute(
            "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event, request)"
            " VALUES (%s, %s, %s, %s, 'key_state_changed', NULL)",
            (seq, body, last[1], digest),
        )
        owner.execute("UPDATE keyrotation.audit_head SET seq = %s, hash = %s", (seq, digest))
