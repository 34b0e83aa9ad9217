"""The compliance report as a value: all of it from the audit, and the same audit and moment give the same bytes."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from keyrotation_pipeline.audit.history import LedgerState, whole_history
from keyrotation_pipeline.audit.verify import read_anchor
from keyrotation_pipeline.errors import AuditError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.registry import DERIVATIONS, SPECS
from keyrotation_pipeline.fieldcrypto.formats.sources import sources
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.standards import findings, modules_in_use
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import AuditTimestamped, BackupIncomplete, BackupRekeyed, BackupSealed
from keyrotation_pipeline.model.incident_events import IncidentOpened
from keyrotation_pipeline.model.incidents import IncidentType
from keyrotation_pipeline.model.key_events import RecoveryTestFailed, WrappingKeyDescribed
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.reporting.compliance import SCHEMA, ComplianceReport, Cryptography, Parameters, Period, Stated
from keyrotation_pipeline.reporting.conclusions import Assessed, Conclusion
from keyrotation_pipeline.reporting.document import render_json
from keyrotation_pipeline.reporting.from_audit import compliance_report
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.keys_in_audit import key_storage_key
from keyrotation_pipeline.reporting.rendering import render_html
from keyrotation_pipeline.reporting.sections import KeyStorageKey
from keyrotation_pipeline.rotation.keys import declare_activation
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeWorld, rotation_of
from keyrotation_pipeline_tests.unit.incidents.cases import opened, signed
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, approved, before_any_rotation, request, sign

DAY = timedelta(days=1)
FIRST_SET = "backup-20260105-090000-efa1f375.json"
PASSED = {
    "place": "s3://<b>", "rto_seconds": 30.0, "rpo_seconds": 90.5, "objectives": {"rto_seconds": 60, "rpo_seconds": 99},
    "set": FIRST_SET, "sha256": "ab" * 32, "scratch_server": "31", "newest": {"rows": {"clients": 3}},
}  # fmt: skip


def reported(world: FakeWorld) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(render_json(gather(world.pipeline).report))
    return shown


def backed_up(world: FakeWorld, manifest: str, **facts: object) -> None:
    """A complete backup, with its signed manifest, as the audit has it."""
    registered = world.ledger.keys()
    fingerprints = {str(key.version): key.fingerprint for key in registered}
    made = {
        "set": manifest, "keys": fingerprints, "recipients": ["CD" * 20], "dump": "d",
        "dump_needs": list(fingerprints), "places": ["here", "s3"], **facts,
    }  # fmt: skip
    world.ledger.append(BackupSealed(manifest, "ab" * 32, has_dump=True))
    world.ledger.append(Note(EventKind.BACKUP_MADE, made))


def eventful() -> FakeWorld:
    """A world with one of everything that a report names."""
    world = before_any_rotation()
    approved(world)
    ledger = world.ledger
    backed_up(world, FIRST_SET)
    ledger.append(BackupIncomplete(None, ("s3 is down",)))
    ledger.append(Note(EventKind.RECOVERY_TEST_PASSED, PASSED))
    ledger.append(RecoveryTestFailed("s3", "cd", "DamagedBackupError", "it is damaged"))
    ledger.append(
        IncidentOpened("INC-2026-001", IncidentType.KEY_EXPOSED, "<script>alert(1)</script>", START, START, "ops",
                       (V1,), None, None, None, "news")
    )  # fmt: skip
    return world


def test_everything_that_the_procedure_asks_for_is_in_the_object() -> None:
    world = eventful()
    shown = reported(world)
    head = world.ledger.head()
    assert shown["schema"] == SCHEMA == 5
    assert (shown["audit"], shown["database"]) == (
        {"seq": head.seq, "head": head.hash},
        "clinic@localhost, system identifier 7",
    )
    (rotation,), (key,) = shown["requests"], shown["keys"]
    assert [each["officer"] for each in rotation["approvals"]] == ["Ada", "Ben"]
    assert (key["version"], key["state"]) == ("v1", "active")
    assert [span["until"] for span in key["cryptoperiods"]] == [None]
    assert shown["policy"]["next_rotation_due"].startswith("2027-01-05")
    assert [(each["has_dump"], each["failures"]) for each in shown["backups"]] == [
        (True, []),
        (False, ["s3 is down"]),
    ]
    passed, failed = shown["recovery_tests"]
    assert (passed["rto_seconds"], passed["rto_allowed_seconds"], passed["failure"]) == (30.0, 60, None)
    assert failed["failure"] == "it is damaged"
    (incident,) = shown["incidents"]
    assert incident["breach"][0].startswith("Breach by 45 CFR 164.402: ")
    assert [each["to"] for each in incident["notices_due"]] == ["individuals", "media", "HHS"]
    assert incident["stages"][0]["stage"] == "the incident is assessed"


def test_backups_that_a_compromised_key_opens_are_listed_with_what_replaces_them() -> None:
    world = eventful()
    backed_up(world, "backup-20260105-090000-efa1f375-2.json", keys={}, dump_needs=["v1"])
    world.ledger.append(
        BackupSealed(
            "backup-20260105-090000-efa1f375-3.json",
            "cd" * 32,
            has_dump=True,
            made_from="backup-20260105-090000-efa1f375-2.json",
        )
    )
    world.ledger.append(
        BackupRekeyed(
            "backup-20260105-090000-efa1f375-3.json",
            "backup-20260105-090000-efa1f375-2.json",
            V2,
            (V1,),
            {"clients": 3},
            {},
            ("here",),
        )
    )
    signed(world, opened(world, versions=("v1",))[1])
    listed = [(each["manifest"], each["compromised"], each["replaced_by"]) for each in reported(world)["backups"]]
    assert listed == [
        ("backup-20260105-090000-efa1f375.json", ["v1"], None),
        (None, [], None),
        ("backup-20260105-090000-efa1f375-2.json", ["v1"], "backup-20260105-090000-efa1f375-3.json"),
        ("backup-20260105-090000-efa1f375-3.json", [], None),
    ]
    page = render_html(gather(world.pipeline).report).decode()
    assert "v1; backup-20260105-090000-efa1f375-3.json replaces its dump" in page


def test_the_same_audit_and_moment_give_the_same_bytes() -> None:
    world = eventful()
    events, moment = tuple(world.ledger.events()), START + 40 * DAY
    first, second = (
        compliance_report(whole_history(events, world.ledger.verify), moment, Parameters()) for _ in range(2)
    )
    assert (render_json(first), render_html(first)) == (render_json(second), render_html(second))
    assert (first.generated_at, first.audit_ends_at) == (moment, START)
    with pytest.raises(AuditError, match="dated before the newest event"):
        compliance_report(whole_history(events, world.ledger.verify), START - DAY)
    later = compliance_report(whole_history(events, world.ledger.verify), moment + DAY)
    assert render_json(later) != render_json(first)


def test_an_event_with_a_fault_counts_for_nothing() -> None:
    world = eventful()
    newest = world.ledger.head()
    world.ledger.append(AuditTimestamped(newest.seq, newest.hash, START, "an authority", "", ()))
    entries, state = whole_history(world.ledger.events(), world.ledger.verify)
    whole = compliance_report((entries, state), START)
    doubted = tuple(replace(each, fault="cannot have happened") for each in entries)
    nothing = compliance_report((doubted, LedgerState(world.ledger.verify)), START)
    assert whole.requests
    assert whole.backups
    assert whole.timestamps
    assert (nothing.keys, nothing.requests, nothing.backups, nothing.timestamps) == ((), (), (), ())
    assert (nothing.recovery_tests, nothing.incidents, nothing.data.tables) == ((), (), ())


def test_every_declaration_of_a_keys_age_is_reported_with_its_author() -> None:
    world = before_any_rotation()
    for days in (400, 10):
        declare_activation(world.pipeline, START - days * DAY)
    (key,) = gather(world.pipeline).report.keys
    assert [(each.since, each.by) for each in key.declared] == [(START - 400 * DAY, "test"), (START - 10 * DAY, "test")]
    assert [span.since for span in key.cryptoperiods] == [START - 10 * DAY]
    world.clock.at += 2 * DAY
    with pytest.raises(KeyStoreError, match="v1 was in use when it was imported"):
        declare_activation(world.pipeline, START + DAY)


def test_a_backup_without_a_signed_manifest_is_not_complete() -> None:
    world = eventful()
    facts = {"keys": {}, "recipients": [], "dump": "d", "dump_needs": [], "places": ["here"]}
    world.ledger.append(Note(EventKind.BACKUP_MADE, {"set": "invented.json", **facts}))
    world.ledger.append(Note(EventKind.BACKUP_MADE, {"set": "unreadable.json", "keys": 7}))
    world.ledger.append(BackupSealed("invented.json", "ab" * 32, has_dump=True))  # too late
    *_, invented, unreadable = reported(world)["backups"]
    assert invented["failures"] == ["no signed manifest of it is on record before it"]
    assert "has no valid" in unreadable["failures"][0]


def test_a_key_encrypted_from_when_it_became_active_until_it_no_longer_was() -> None:
    world = before_any_rotation()  # v1 was imported, and nobody has declared its age
    world.clock.at += DAY
    walk = rotation_of(world)
    world.ledger.set_key_state(V1, KeyState.DEACTIVATED, walk.id)
    world.clock.at += DAY
    world.ledger.set_key_state(V1, KeyState.ACTIVE, walk.id)
    (key,) = gather(world.pipeline).report.keys
    assert [(span.since, span.until) for span in key.cryptoperiods] == [
        (None, START + DAY),
        (START + 2 * DAY, None),
    ]


def test_the_object_is_an_anchor() -> None:
    world = eventful()
    assert read_anchor(render_json(gather(world.pipeline).report).decode()) == world.ledger.head()


def test_an_approval_that_does_not_verify_any_more_gives_no_report() -> None:
    world = before_any_rotation()
    sign(world, request(world), ADA)
    world.signatures.revoked.add(ADA)
    gather(world.pipeline)  # what was good when it was verified stays so
    world.signatures.expired[ADA] = START - DAY  # before it was made
    with pytest.raises(AuditError, match="has no good signature"):
        gather(world.pipeline)


def test_a_chain_that_was_changed_gives_no_report() -> None:
    world = eventful()
    event = world.ledger.state.events[-1]
    world.ledger.state.events[-1] = replace(event, body=event.body.replace("ops", "eve"))
    with pytest.raises(AuditError, match="was changed"):
        gather(world.pipeline)


def test_no_key_stands_in_it() -> None:
    world = eventful()
    key = world.keys.get(KeyVersion(1))
    report = gather(world.pipeline).report
    assert key.fingerprint in render_json(report).decode()
    assert "v1:" not in render_json(report).decode() + render_html(report).decode()


def test_the_object_follows_the_published_schema_which_is_of_exactly_this_report() -> None:
    published = json.loads(files("keyrotation_pipeline.reporting").joinpath("report.schema.json").read_text())
    made = TypeAdapter(ComplianceReport).json_schema(mode="serialization")
    made["properties"] = {
        "schema": {"const": SCHEMA, "title": "Schema"},
        **made["properties"],
        "conclusions": {"items": {"$ref": "#/$defs/Conclusion"}, "title": "Conclusions", "type": "array"},
        "objectives": {"items": {"$ref": "#/$defs/Assessed"}, "title": "Objectives", "type": "array"},
    }
    for judged in (Conclusion, Assessed):
        answered = TypeAdapter(judged).json_schema(mode="serialization")
        made["$defs"] |= {**answered.pop("$defs"), judged.__name__: answered}
    made["required"] = list(made["properties"])
    made |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "additionalProperties": False}
    again = json.dumps(made, indent=1)
    assert published == made, (
        f"the report has changed: write this, and count SCHEMA up if it is more than words\n{again}"
    )

    schema = Draft202012Validator(published, format_checker=Draft202012Validator.FORMAT_CHECKER)
    shown = reported(eventful())
    schema.validate(shown)
    changes: tuple[dict[str, Any], ...] = ({"audit": {"seq": "1"}}, {"surprise": 1}, {"requests": [{}]})
    for change in changes:
        assert not schema.is_valid({**shown, **change})


def test_a_period_has_what_happened_in_it_and_what_was_not_over_and_states_as_they_were_at_its_end() -> None:
    world = eventful()
    world.clock.at = START + 10 * DAY
    world.ledger.append(RecoveryTestFailed("here", "cd", "DamagedBackupError", "again"))
    world.clock.at = START + 20 * DAY
    world.ledger.set_key_state(V1, KeyState.DEACTIVATED, rotation_of(world).id)
    world.ledger.append(BackupIncomplete(None, ("the bucket is gone",)))
    at = {number: START + number * DAY for number in (1, 5, 15, 30)}

    def shown(since: datetime | None, until: datetime | None) -> tuple[list[str], int, int, str]:
        report = gather(world.pipeline, Period(since, until)).report
        return (
            [each.failure or "passed" for each in report.recovery_tests],
            len(report.backups),
            len(report.requests),
            report.keys[0].state,
        )

    assert shown(None, at[1]) == (["passed", "it is damaged"], 2, 1, "active")
    # The newest backup and the newest test are there in any case, and the newest that were good.
    assert shown(at[5], at[15]) == (["passed", "again"], 2, 1, "active"), "the request is still open"
    assert shown(at[15], at[30]) == (["passed", "again"], 2, 1, "deactivated")
    early = gather(world.pipeline, Period(None, at[1])).report
    world.ledger.append(Note(EventKind.COUNTED, {}))
    assert gather(world.pipeline, Period(None, at[1])).report == early, "what comes later changes nothing"
    assert early.audit.seq < world.ledger.head().seq
    assert f"up to {at[1]:%Y-%m-%d %H:%M} UTC" in render_html(early).decode()
    for since, until, sentence in ((None, START - DAY, "the audit begins on"), (at[30], None, "the newest event is")):
        with pytest.raises(AuditError, match=sentence):
            shown(since, until)


def test_a_report_names_the_key_storage_key_the_modules_and_what_nist_advises_against() -> None:
    world = eventful()
    arn = "arn:aws:kms:eu-central-1:111122223333:key/8f0a1c9e-0000-4000-8000-000000000000"
    line = f"keys sealed by aws-kms {arn} at AWS with recovery sealed"
    assert KeyStorageKey.signed_in(["alerts x", line]) == KeyStorageKey("aws-kms", arn, "AWS", "sealed")
    assert KeyStorageKey.signed_in([line.replace("keys sealed", "keys earlier sealed")]) is None
    declared = replace(
        ValueFormat.of(SPECS["aes-gcm"]), layout="b64(nonce16 ct tag16)", derivation=DERIVATIONS["sha256"]
    )
    found = tuple(findings(declared))
    assert [each.split()[0] for each in found] == ["nonces", "keys"]
    stated = Stated(cryptography=Cryptography("aes-gcm", modules_in_use(), found))
    made = gather(world.pipeline, stated=stated).report
    page = render_html(replace(made, key_storage_key=KeyStorageKey("aws-kms", arn, "AWS", "sealed"))).decode()
    for said in (arn, "backups open with it alone", "OpenSSL ", "no validated module", "restrict themselves to 12"):
        assert said in page
    assert "as the format aes-gcm defines" in page
    assert "256 bits" not in page
    assert tuple(findings(ValueFormat.of(SPECS["native"]))) == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cryptojs-openssl", "one round of MD5"),
        ("pgcrypto-pgp", "OpenPGP's S2K, by default SHA-1"),
        ("pgcrypto-armor", "OpenPGP's S2K, by default SHA-1"),
        ("sqlalchemy-utils-aes", "SHA-256 of a secret"),
        ("sqlalchemy-utils-aesgcm", "SHA-256 of a secret"),
        ("django-cryptography", "one salt for everybody"),
        ("typeorm-encrypted-gcm", "nonces have 16 bytes"),
        ("typeorm-encrypted-cbc", None),
        ("ciphersweet-brng", "XChaCha20 is no approved cipher"),
        ("ciphersweet-nacl", "XChaCha20 is no approved cipher"),
        ("ciphersweet-fips", None),
        ("attr-encrypted", None),
        ("attr-encrypted-cbc", None),
        ("awx", "one round of SHA-512"),
        ("gitlab-token", "most values have one nonce"),
        ("aes-256-gcm", None),
        ("aes-256-cbc", None),
    ],
)
def test_what_nist_advises_against_in_a_source_is_named_with_it(name: str, said: str | None) -> None:
    spec = sources()[name]
    found = tuple(findings(ValueFormat.of(SPECS["native"]), [spec, spec]))
    assert len(found) == len(spec.against)
    assert all(each.startswith(f"values from {spec.library} until their rotation: ") for each in found)
    assert any(said in each for each in found) if said is not None else not found


def test_every_source_is_judged() -> None:
    judged = {"cryptojs-openssl", "pgcrypto-pgp", "pgcrypto-armor", "sqlalchemy-utils-aes", "sqlalchemy-utils-aesgcm"}
    judged |= {"django-cryptography", "typeorm-encrypted-gcm", "typeorm-encrypted-cbc", "attr-encrypted"}
    judged |= {"gitlab-token", "aes-256-gcm", "aes-256-cbc"}
    judged |= {"awx", "attr-encrypted-cbc", "ciphersweet-brng", "ciphersweet-nacl", "ciphersweet-fips"}
    assert set(sources()) == judged, "say in its spec what NIST has against it, then add it above"


def test_a_report_says_where_the_key_storage_key_comes_from_and_when_that_was_asked() -> None:
    arn = "arn:aws:kms:eu-central-1:111122223333:key/8f0a1c9e-0000-4000-8000-000000000000"
    hosts = [f"keys sealed by aws-kms {arn} at AWS with recovery officers"]
    world = eventful()
    for origin, exposed in (("AWS_KMS", ()), ("EXTERNAL", ("imported",))):
        world.clock.at += DAY
        world.ledger.append(WrappingKeyDescribed(f"aws-kms {arn}", (f"Origin {origin}",), exposed))
    world.ledger.append(WrappingKeyDescribed("aws-kms another", ("Origin AWS_KMS",), ()))
    every, _ = whole_history(world.ledger.events(), world.ledger.verify)
    found = key_storage_key(every, hosts)
    assert found == KeyStorageKey(
        "aws-kms", arn, "AWS", "officers", ("Origin EXTERNAL",), ("imported",), world.clock.at
    )
    made = gather(world.pipeline).report
    page = render_html(replace(made, key_storage_key=found)).decode()
    assert f"Origin EXTERNAL: imported, so a copy of it may be elsewhere; asked {world.clock.at:%Y-%m-%d}" in page
    unasked = key_storage_key(every, [hosts[0].replace("111122223333", "999999999999")])
    assert "not shown: it was never asked" in render_html(replace(made, key_storage_key=unasked)).decode()
    assert key_storage_key(every, ()) is None
