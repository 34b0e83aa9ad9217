"""What is lost, and what one types then: no write acknowledged before the backup is lost, and every value decrypts.

Where the live database survives, no write is lost at all.
"""

import json
import re
import shutil

import pytest

from keyrotation_pipeline_tests.acceptance.disasters.application import Journal, Reads, Write, reading
from keyrotation_pipeline_tests.acceptance.disasters.clinic import Clinic, RecordMinutes
from keyrotation_pipeline_tests.acceptance.test_runbook import lines_of
from keyrotation_pipeline_tests.buckets import TestBucket, new_bucket
from keyrotation_pipeline_tests.pages import block


@pytest.mark.parametrize(
    ("found", "so_far", "lost"),
    [
        pytest.param({1: "b", 2: "c"}, 3, [], id="the last write of each"),
        pytest.param({1: "a", 2: "c"}, 3, [1], id="an earlier write"),
        pytest.param({1: "a", 2: "c"}, 1, [], id="the last one before the backup, and one from after it"),
        pytest.param({1: "b"}, 3, [2], id="no row"),
        pytest.param({1: "a"}, 1, [], id="no row that came after the backup"),
        pytest.param({1: "b", 2: "c", 3: "d"}, 3, [3], id="a row that nobody wrote"),
        pytest.param({1: "b", 2: "c", 4: "sent"}, 3, [], id="a write that was sent and not acknowledged"),
    ],
)
def test_the_journal_tells_which_rows_are_lost(found: dict[int, str], so_far: int, lost: list[int]) -> None:
    journal = Journal([Write(1, "a"), Write(1, "b"), Write(2, "c"), Write(4, "sent")], 3)
    assert journal.lost(found, so_far) == lost


def test_the_keys_are_lost(clinic: Clinic, record_minutes: RecordMinutes) -> None:
    with clinic.application.working() as application:
        clinic.backed_up()
        application.wait_for(20)
        clinic.strike()
        shutil.rmtree(clinic.keys)
        application.wait_for(20)
        assert "restore   `keyrotation restore-key v1" in clinic.typed(lines_of("on-call/lost"), ("v3", "v1"))
        application.wait_for(20)
    record_minutes(clinic.require_whole())


@pytest.mark.extended
@pytest.mark.parametrize(
    "through",
    [
        pytest.param(None, id="one key"),
        pytest.param("key_version", id="a new key"),
        pytest.param("archived_key", id="an archived key"),
    ],
)
def test_the_home_is_lost(clinic: Clinic, through: str | None, record_minutes: RecordMinutes) -> None:
    with clinic.application.working() as application:
        if through is not None:
            clinic.rotated(through)
        clinic.backed_up()
        application.wait_for(20)
        clinic.strike()
        shutil.rmtree(clinic.home)
        application.wait_for(20)
        assert "this home has another one" in clinic.machine.shell("keyrotation init")
        clinic.typed(block("lost-home"), ("v1 v2", clinic.lost_versions()))
        application.wait_for(20)
        clinic.finish_rotation()
    record_minutes(clinic.require_whole())


@pytest.mark.extended
def test_the_bucket_is_lost(clinic: Clinic, record_minutes: RecordMinutes, monkeypatch: pytest.MonkeyPatch) -> None:
    with clinic.application.working() as application:
        clinic.backed_up()
        application.wait_for(20)
        clinic.strike()
        empty(clinic.bucket)
        new = new_bucket(clinic.bucket.url, monkeypatch)
        configuration = clinic.machine.path / "keyrotation.toml"
        configuration.write_text(configuration.read_text().replace(clinic.bucket.name, new.name))
        clinic.typed(block("lost-bucket"))
    assert {each.partition("-")[0] for each in new.tags()} == {
        "backup",
        "configuration",
        "database",
        "encryption",
        "recovery",
    }
    record_minutes(clinic.require_whole())


@pytest.mark.extended
def test_backups_are_deleted_in_a_versioned_bucket(locked_clinic: Clinic, record_minutes: RecordMinutes) -> None:
    """While all else is there: `status` says so, and the page's lines make a backup that is visible again."""
    clinic = locked_clinic
    with clinic.application.working() as application:
        clinic.backed_up()
        assert "and is not any more" not in clinic.machine.shell("keyrotation status")
        clinic.strike()
        for name in clinic.bucket.tags():
            clinic.bucket.delete(name)
        assert "and is not any more" in clinic.machine.shell("! keyrotation status --exit-code")
        listed = json.loads(clinic.machine.shell("keyrotation backup --list --json"))["sets"][0]["sets"]
        assert listed
        assert all(each["version"] for each in listed)
        tested = clinic.machine.shell("! keyrotation recovery-test --key recovery.sec.asc")
        assert "every encrypted value decrypts" in tested
        assert "where older versions were read" in " ".join(tested.split())
        assert "and is not any more" not in clinic.typed(block("hidden-backups"))
        application.wait_for(20)
    record_minutes(clinic.require_whole())


def empty(bucket: TestBucket) -> None:
    """Somebody removes every version of everything, and the bucket."""
    for version in bucket.client.list_object_versions(Bucket=bucket.name).get("Versions", []):
        bucket.client.delete_object(Bucket=bucket.name, Key=version["Key"], VersionId=version["VersionId"])
    bucket.client.delete_bucket(Bucket=bucket.name)


@pytest.mark.extended
@pytest.mark.parametrize(
    "through",
    [pytest.param("primary_key_rollout", id="in mid-walk"), pytest.param("archived_key", id="after retirement")],
)
def test_the_database_is_restored_to_yesterday(clinic: Clinic, through: str, record_minutes: RecordMinutes) -> None:
    """No read fails meanwhile, and the rotation after it waits for processes that may still run."""
    clinic.take_silence_soon()
    new, reads = f"{clinic.database}_yesterday", Reads()
    with clinic.application.working() as application, reading(clinic.url, clinic.keys, reads):
        kept = clinic.backed_up()
        dump = max(path.name for path in (clinic.home / "backups").glob("database-*"))
        clinic.machine.shell("keyrotation preflight")
        clinic.rotated(through)
        application.wait_for(20)
        clinic.strike()
        printed = clinic.typed(
            block("yesterday") + block("reconcile"),
            ("database-20261124-030000-3fa9c1d2.dump.gpg", dump),
            ("postgresql://keyrotation@db/clinic_yesterday", f"'{clinic.server.url(new)}'"),
            ("--into clinic_yesterday", f"--into {new}"),
        )
        assert "but a copy outside names event" in printed
        reads.wait_for(100)
    clinic.moved_to(new)
    with clinic.application.working(), reading(clinic.url, clinic.keys, reads):
        reads.wait_for(100)
        (request,) = json.loads(clinic.machine.shell("keyrotation requests --json"))
        silent = clinic.rotated_after_a_restore(request["id"])
        # One of the two that wrote before the restore is named.
        assert re.search(r"(web|reader)-[^ ]+ \(last report [^)]+\) and 1 more$", silent), silent
    assert reads.failed == []
    record_minutes(clinic.require_whole(kept))
