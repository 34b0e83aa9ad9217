"""The recovery test: what it proves when it passes, and each way in which it fails, loudly and in its own words."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.catalog import Objectives
from keyrotation_pipeline.backups.recovery_test import RecoveryReport, recovery_test, require_recipient
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import (
    BackupError,
    DamagedBackupError,
    FingerprintMismatchError,
    KeyRotationError,
    LostRowsError,
    ManifestError,
    MissingVersionError,
    UndecryptableError,
    UnsignedBackupError,
    WrongRecipientError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import BackupSet, is_manifest, signature_name, stamp_of
from keyrotation_pipeline.model.manifest import parse
from keyrotation_pipeline_tests.backup_sites import Clinic, archive_by_officers
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.contract.key_store import archive
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed

V1, V2 = KeyVersion(1), KeyVersion(2)


def run_test(clinic: Clinic, *, officer: DemoOfficer | None = None) -> RecoveryReport:
    with clinic.recovery_key(officer) as key:
        return recovery_test(clinic.site, key)


def last_event(clinic: Clinic) -> dict[str, Any]:
    *_, last = clinic.site.pipeline.ledger.events()
    return dict(json.loads(last.body))


def test_everything_comes_from_the_bucket_and_of_a_test_its_record_alone_is_left(
    clinic: Clinic, bucket: TestBucket
) -> None:
    back_up(clinic.site)
    for path in clinic.backups.iterdir():
        path.unlink()
    killed = clinic.settings.home / "recovery" / "server-x" / "data"  # what a test left that was killed
    killed.mkdir(parents=True)
    report = run_test(clinic)
    assert report.place == clinic.site.offsite[0].description
    assert report.newest.rows == {"clients": 4, "billing.Invoices": 1}
    assert report.newest.read.values == {
        "clients": {"name": {"v1": 4}, "email": {"v2": 2}},
        "billing.Invoices": {"note": {"v2": 1}},
    }
    assert (report.missed, report.older) == ((), None)
    assert not (clinic.settings.home / "recovery").exists()
    assert list(Path("/dev/shm").glob(f"keyrotation-key-{os.getpid()}-*")) == []
    assert_recorded(clinic, bucket)

    clinic.pass_days(3)
    clinic.site = replace(clinic.site, objectives=Objectives(rto_seconds=14400, rpo_seconds=86400))
    (sentence,) = run_test(clinic).missed
    assert "the newest backup was 259,200 s old" in sentence
    assert "rpo_seconds allows 86,400 s" in sentence


def assert_recorded(clinic: Clinic, bucket: TestBucket) -> None:
    """A test that has passed is in the audit and beside the backups, without any secret."""
    event = last_event(clinic)
    assert event["event"] == "recovery_test_passed"
    facts, made = event["facts"], next(clinic.site.trust.sealed_with_dump)
    assert facts["newest"]["decrypted"]["clients"]["name"] == {"v1": 4}
    assert facts["sha256"] == hashlib.sha256(bucket.content(made)).hexdigest()
    [(own,)] = clinic.connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchall()
    assert facts["scratch_server"].isdigit()
    assert facts["scratch_server"] != own
    (name,) = [name for name in clinic.site.local.names() if name.startswith("recovery-test-")]
    record = json.loads(bucket.content(name))
    assert record["outcome"] == "recovery_test_passed"
    assert record["audit"]["seq"] == event["seq"]
    text = json.dumps([event, record])
    assert not any(name in text for name in ("Ada", "example.org"))
    assert not any(base64_of(clinic.ring.material(v)) in text for v in (V1, V2))


def test_a_place_that_takes_no_record_does_not_make_a_passed_test_a_failed_one(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(clinic.site)

    def refused(*_: object) -> NoReturn:
        raise BackupError("the bucket takes no more; check it")

    monkeypatch.setattr(type(clinic.site.offsite[0]), "put", refused)
    with pytest.raises(BackupError, match=r"recovery test passed, as the audit .*: the bucket takes no more; check"):
        run_test(clinic)
    assert last_event(clinic)["event"] == "recovery_test_passed"
    assert any(name.startswith("recovery-test-") for name in clinic.site.local.names())


def test_an_older_dump_under_an_archived_key_is_restored_with_todays_backups(clinic: Clinic) -> None:
    older = back_up(clinic.site).made
    for (row,) in clinic.connection.execute("SELECT id FROM public.clients").fetchall():
        value = sealed(clinic.ring, 2, f"re-encrypted {row}")
        clinic.connection.execute("UPDATE public.clients SET name = %s WHERE id = %s", (value, row))
    archive(clinic.site.pipeline.keys, V1)
    archive_by_officers(clinic, V1)
    clinic.pass_days(1)
    back_up(clinic.site)
    report = run_test(clinic)
    assert older.dump is not None
    assert report.newest.read.values["clients"]["name"] == {"v2": 4}
    assert report.older is not None
    assert report.older.name == older.dump.file.name
    assert report.older.read.values["clients"]["name"] == {"v1": 4}


# --- the loud failures ----------------------------------------------------------------------------------------------


def file_in(clinic: Clinic, beginning: str) -> str:
    return next(n for n in reversed(clinic.site.local.names()) if n.startswith(beginning) and n.endswith(".gpg"))


def corrupt(content: bytes) -> bytes:
    """One bit, in what is encrypted: beginnings of a message are for each recipient apart."""
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


def damaged(clinic: Clinic, bucket: TestBucket, beginning: str, damage: Callable[[bytes], bytes]) -> str:
    """Damage a file in the bucket, which has no other version of it; gives back its name."""
    name = file_in(clinic, beginning)
    bucket.overwrite(name, damage(bucket.content(name)))
    bucket.forget_versions(name)
    return name


def with_manifest(clinic: Clinic, bucket: TestBucket, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest manifest and have it signed again, as a mistake of our own would."""
    name = max(n for n in clinic.site.local.names() if is_manifest(n))
    manifest = json.loads(bucket.content(name))
    change(manifest)
    seal_again(clinic, bucket, parse(name, json.dumps(manifest).encode()))


def seal_again(clinic: Clinic, bucket: TestBucket, made: BackupSet) -> None:
    clinic.site.trust.write(clinic.site.local, made)
    for name in (made.name, signature_name(made.name)):
        bucket.overwrite(name, clinic.site.local.read(name))


def cut(content: bytes) -> bytes:
    return content[:-20]


@pytest.mark.parametrize("what", ["encryption-key-v1", "database"])
@pytest.mark.parametrize(
    ("damage", "sentence"), [(corrupt, "is corrupt: its SHA-256"), (cut, "is truncated: .* of .* bytes")]
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    clinic: Clinic, bucket: TestBucket, what: str, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    back_up(clinic.site)
    name = damaged(clinic, bucket, what, damage)
    with pytest.raises(DamagedBackupError, match=f"{name} in s3://.* {sentence}"):
        run_test(clinic)
    event = last_event(clinic)
    assert (event["event"], event["facts"]["failure"]) == ("recovery_test_failed", "DamagedBackupError")


@pytest.mark.parametrize("damage", [corrupt, cut, lambda _: b"no message"], ids=["corrupt", "truncated", "replaced"])
@pytest.mark.parametrize("what", ["encryption-key-v1", "database"])
def test_a_damaged_file_whose_manifest_was_adapted_is_found_by_gpg(
    clinic: Clinic, bucket: TestBucket, what: str, damage: Callable[[bytes], bytes]
) -> None:
    back_up(clinic.site)
    name = damaged(clinic, bucket, what, damage)
    content = bucket.content(name)

    def adapt(manifest: dict[str, Any]) -> None:
        for entry in (*manifest["keys"], manifest["dump"]):
            if entry["file"] == name:
                entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}

    with_manifest(clinic, bucket, adapt)
    with pytest.raises(DamagedBackupError, match=f"{name} cannot be decrypted: it is damaged"):
        run_test(clinic)


def test_a_recovery_key_that_is_no_recipient_is_named(clinic: Clinic, privacy_officer: DemoOfficer) -> None:
    back_up(clinic.site)
    with pytest.raises(WrongRecipientError, match=r"encryption-key-v1-.* is not encrypted to the recovery key"):
        run_test(clinic, officer=privacy_officer)


def test_a_wrong_key_is_refused_before_a_test_is_recorded_and_one_of_a_recipient_never(
    clinic: Clinic, bucket: TestBucket, privacy_officer: DemoOfficer
) -> None:
    back_up(clinic.site)
    before = clinic.site.pipeline.ledger.head()
    with (
        clinic.recovery_key(privacy_officer) as key,
        pytest.raises(WrongRecipientError, match=r"backup-.* is not encrypted to the key .*so nothing was tested"),
    ):
        require_recipient(clinic.site, key)
    assert clinic.site.pipeline.ledger.head() == before
    # A set that leaves out a recipient whom the roster names is what the test is to find.
    with_manifest(clinic, bucket, lambda manifest: manifest["dump"].update(recipients=["0" * 40]))
    with clinic.recovery_key() as key:
        require_recipient(clinic.site, key)
    with clinic.recovery_key(privacy_officer) as key, pytest.raises(WrongRecipientError):
        require_recipient(clinic.site, key)


def test_a_key_version_that_no_backup_holds_is_named_with_the_dump_that_needs_it(
    clinic: Clinic, bucket: TestBucket
) -> None:
    back_up(clinic.site)
    with_manifest(clinic, bucket, lambda manifest: manifest["keys"].pop(0))
    with pytest.raises(
        MissingVersionError, match=r"backup-.* in s3://.* lacks the key v1; run `keyrotation restore-key v1`"
    ):
        run_test(clinic)


def test_a_version_that_nobody_registered_but_rows_use_is_missing(clinic: Clinic) -> None:
    stranger = ring_of(7, primary=7)
    clinic.connection.execute("UPDATE public.clients SET name = %s WHERE id = 1", (sealed(stranger, 7, "x"),))
    with pytest.raises(BackupError, match="a dump holds values under v7"):
        back_up(clinic.site)
    with pytest.raises(MissingVersionError, match=r"database-.* needs the key v7, which no recovered backup holds"):
        run_test(clinic)


def test_a_file_that_the_manifest_names_but_is_gone_is_named(clinic: Clinic, bucket: TestBucket) -> None:
    back_up(clinic.site)
    bucket.lose(name := file_in(clinic, "encryption-key-v2"))
    with pytest.raises(BackupError, match=f"{name} is not in s3://"):
        run_test(clinic)


def test_a_backup_of_another_key_is_a_fingerprint_mismatch(clinic: Clinic, bucket: TestBucket) -> None:
    back_up(clinic.site)
    other = clinic.site.pipeline.vault.store_key(V1, KeyMaterial.generate(), clinic.site.pipeline.ledger.head())
    content = (clinic.backups / other.name).read_bytes()
    name = file_in(clinic, "encryption-key-v1-" + f"{stamp_of(clinic.clock.at, clinic.site.trust.pipeline)}.")
    bucket.overwrite(name, content)

    def adapt(manifest: dict[str, Any]) -> None:
        manifest["keys"][0] |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}

    with_manifest(clinic, bucket, adapt)
    with pytest.raises(FingerprintMismatchError, match=r"holds the key [0-9a-f]{16}, but its manifest says"):
        run_test(clinic)

    def adapt_that_too(manifest: dict[str, Any]) -> None:
        manifest["keys"][0]["fingerprint"] = other.fingerprint

    with_manifest(clinic, bucket, adapt_that_too)
    with pytest.raises(FingerprintMismatchError, match=r"but v1 is registered as"):
        run_test(clinic)


def test_a_file_that_decrypts_to_something_else_than_a_key_is_named(clinic: Clinic, bucket: TestBucket) -> None:
    back_up(clinic.site)
    gpg = GnuPG(clinic.directory / "g", SystemClock())
    message = gpg.encrypt(b"c2hvcnQ=\n", [gpg.read_certificate(clinic.officer.certificate)])
    bucket.overwrite(name := file_in(clinic, "encryption-key-v1"), message)

    def adapt(manifest: dict[str, Any]) -> None:
        manifest["keys"][0] |= {"sha256": hashlib.sha256(message).hexdigest(), "size_bytes": len(message)}

    with_manifest(clinic, bucket, adapt)
    with pytest.raises(DamagedBackupError, match=f"{name} decrypts, but not to the base64 of 32 bytes"):
        run_test(clinic)


def test_a_value_that_does_not_decrypt_is_named_by_column_and_version(clinic: Clinic) -> None:
    stranger = ring_of(1, primary=1)
    clinic.connection.execute("UPDATE public.clients SET name = %s WHERE id = 3", (sealed(stranger, 1, "x"),))
    back_up(clinic.site)
    with pytest.raises(UndecryptableError, match=r"1 of 4 values of clients\.name under v1 do not decrypt") as refused:
        run_test(clinic)
    assert "v1:" not in str(refused.value)


UNDECLARED = "CREATE TABLE public.visits AS SELECT 1 AS id; SELECT lo_from_bytea(0, 'x'); CREATE SEQUENCE public.bills"


def dump_of_something_else(clinic: Clinic, bucket: TestBucket, change: str) -> None:
    """Put a dump into the bucket that was made after `change`, under the manifest of the one before."""
    clinic.connection.execute(UNDECLARED)
    before = back_up(clinic.site).made
    clinic.connection.execute(change)
    clinic.pass_days(1)
    after = back_up(clinic.site).made
    assert before.dump is not None
    assert after.dump is not None
    file = replace(after.dump.file, name=before.dump.file.name)
    bucket.overwrite(before.dump.file.name, bucket.content(after.dump.file.name))
    for name in (after.name, signature_name(after.name)):
        bucket.delete(name)
    seal_again(clinic, bucket, replace(before, dump=replace(before.dump, file=file)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param("DELETE FROM public.clients", "table clients is empty in what .* but had 4 rows", id="empty"),
        pytest.param("DELETE FROM public.clients WHERE id = 1", "has 3 rows in what .* but had 4", id="rows lost"),
        pytest.param("DROP TABLE public.clients", "table clients is not in what .* but had 4 rows", id="table lost"),
        pytest.param(
            "UPDATE public.clients SET email = NULL", r"clients\.email has 0 values under v2 .*had 2", id="values lost"
        ),
        pytest.param("DELETE FROM public.visits", "0 rows of 1 in table visits", id="an undeclared table is empty"),
        pytest.param(
            "DROP TABLE public.visits; DROP SEQUENCE public.bills; SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
            "restores less than was dumped: .*no sequence bills; no table visits; 0 large objects of 1",
            id="what was not declared is lost",
        ),
    ],
)
def test_a_table_that_lost_what_it_held_is_named(
    clinic: Clinic, bucket: TestBucket, change: str, sentence: str
) -> None:
    with pytest.raises(BackupError) if change == "DROP TABLE public.clients" else nullcontext():
        dump_of_something_else(clinic, bucket, change)
        with pytest.raises(LostRowsError, match=sentence):
            run_test(clinic)


def test_the_newest_set_is_missed_though_the_clock_was_set_back_before_it(clinic: Clinic, bucket: TestBucket) -> None:
    back_up(clinic.site)
    clinic.clock.at -= timedelta(minutes=5)
    newest = back_up(clinic.site).made.name
    bucket.lose(newest)
    with pytest.raises(BackupError, match=rf"{newest}, the newest backup of the database, is not in .* who removed it"):
        run_test(clinic)


def test_a_set_that_never_reached_the_bucket_was_removed_by_nobody(clinic: Clinic, bucket: TestBucket) -> None:
    back_up(clinic.site)
    clinic.pass_days(1)
    versioning = bucket.client.put_bucket_versioning
    versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"})
    with pytest.raises(BackupError, match=r"is incomplete: bucket .* is not versioned"):
        back_up(clinic.site)
    with pytest.raises(BackupError, match=r"newest backup .*, and the audit records no complete upload of it; run"):
        run_test(clinic)
    versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    clinic.pass_days(1)
    newest = back_up(clinic.site).made.name
    bucket.lose(newest)
    with pytest.raises(BackupError, match=rf"{newest}, .* find out who removed it"):
        run_test(clinic)


def test_without_any_backup_the_test_fails_and_says_what_to_run(clinic: Clinic) -> None:
    with pytest.raises(BackupError, match="has no backup of the database; run `keyrotation backup`"):
        run_test(clinic)
    assert last_event(clinic)["event"] == "recovery_test_failed"


def test_a_damaged_newest_manifest_is_not_passed_over_for_an_older_set(clinic: Clinic, bucket: TestBucket) -> None:
    back_up(clinic.site)
    clinic.pass_days(1)
    newest = back_up(clinic.site).made
    content = bucket.content(newest.name)
    bucket.overwrite(newest.name, content.replace(b"v1", b"v9"))
    bucket.forget_versions(newest.name)
    with pytest.raises(UnsignedBackupError, match=f"{newest.name} in s3://.* is not the one that the audit recorded"):
        run_test(clinic)
    for rest in (content[:-2], content[: len(content) // 2]):
        bucket.overwrite(newest.name, rest)
        with pytest.raises(ManifestError, match=rf"{newest.name} is damaged \(it is cut off\); use another copy"):
            run_test(clinic)


def test_a_test_that_cannot_be_recorded_in_the_bucket_still_says_why_it_failed(
    clinic: Clinic, bucket: TestBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(clinic.site)
    damaged(clinic, bucket, "encryption-key-v1", cut)

    def refusing(name: str, source: Path) -> None:
        raise BackupError("the bucket is full; make room")

    monkeypatch.setattr(clinic.site.offsite[0], "put", refusing)
    with pytest.raises(KeyRotationError, match="is truncated"):
        run_test(clinic)
