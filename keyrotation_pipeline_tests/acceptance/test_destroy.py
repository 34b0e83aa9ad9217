"""A key that nothing needs any more is destroyed from the command line, its last copies in a bucket that locks them."""

import json
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.backup_sites import admit, write_configuration
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of

pytestmark = pytest.mark.slow


def approve(folder: Folder, opened: str, officers: list[DemoOfficer]) -> str:
    """Both officers sign with gpg; gives back the text that they signed."""
    text = folder.run("approve", opened, "--text")
    for officer in officers:
        folder.run("approve", opened, "--signature", "-", text=officer.sign(text.encode()).decode())
    return text


def test_an_archived_key_is_destroyed_once_no_backup_needs_it_and_two_officers_signed(
    tmp_path: Path,
    database_url: str,
    locking_bucket: TestBucket,
    recovery_officer: DemoOfficer,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> None:
    folder, ring = Folder(tmp_path, []), ring_of(1, 2)
    roles = {"recovery": recovery_officer, "security": security_officer, "privacy": privacy_officer}
    officers = [security_officer, privacy_officer]
    with psycopg.connect(database_url, autocommit=True) as connection:
        admit(connection, ring)
    write_configuration(tmp_path, database_url, roles, locking_bucket)
    first, second = (base64_of(ring.material(version)) for version in ring.versions)
    folder.run("init", ENCRYPTION_MASTER_KEY=first, ENCRYPTION_MASTER_KEY_V2=second, ENCRYPTION_PRIMARY_VERSION="v2")
    folder.run("backup")
    folder.run("destroy", "v1", "--reason", "too early", expect=1)
    assert "v1 is deactivated, and only an archived or compromised version" in folder.printed[-1]

    rotation = folder.run("request", "--reason", "yearly").strip()
    approve(folder, rotation, officers)
    with reporting(database_url, tmp_path / ".keyrotation" / "keys"):
        folder.run("rotate", rotation)
    backups = tmp_path / ".keyrotation" / "backups"
    dump = min(backups.glob("database-*.dump.gpg"))  # the other one was made after the rotation
    folder.run("destroy", "v1", "--reason", "too early", expect=1)
    assert folder.printed[-1].count(f"{dump.name} in ") == 2  # here and in the bucket

    dump.unlink()
    locking_bucket.delete(dump.name)
    overwritten = max(path.name for path in backups.glob("encryption-key-v1-*.bin.gpg"))
    (backups / overwritten).unlink()
    locking_bucket.delete(overwritten)  # which leaves a non-current version
    opened = folder.run("destroy", "v1", "--reason", "ten years are over").strip()
    assert folder.printed[-1].count("locked until") == 1 + len(list(backups.glob("encryption-key-v1-*.bin.gpg")))
    text = approve(folder, opened, officers[:1])
    assert "Action: destroy\nAuthorises: destroy v1 in the key store" in text
    assert "ten years are over; copies that stay: " in text
    assert "1 non-current version there, which anybody who may read versions can read (the last lock until" in text
    folder.run("destroy", "v1", expect=1)
    assert "needs 1 more approval" in folder.printed[-1]
    approve(folder, opened, officers[1:])
    assert "next: keyrotation destroy v1" in folder.printed[-2]
    done = documented("destroy", folder.run("destroy", "v1", "--json"))

    assert (done["id"], done["destroyed"], done["version"]) == (opened, True, "v1")
    assert all(copy["locked_until"] for copy in done["held"])
    # What can be read after it: every copy that was named, by a recipient who reaches it, and nothing else.
    for copy in done["held"]:
        at = {"VersionId": copy["version"]} if copy["version"] else {}
        key = f"encryption-keys/{copy['file']}"
        message = locking_bucket.client.get_object(Bucket=locking_bucket.name, Key=key, **at)["Body"].read()
        assert recovery_officer.decrypt(message) == f"{first}\n".encode()
    assert [copy["file"] for copy in done["held"] if copy["version"]] == [overwritten]
    assert list((tmp_path / ".keyrotation" / "keys").rglob("v1.key")) == []
    assert list(backups.glob("encryption-key-v1-*")) == []
    assert first not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert first not in "".join(folder.printed)
    status = json.loads(folder.run("status", "--json"))
    assert {key["version"]: key["state"] for key in status["key_versions"]} == {
        "v1": "destroyed", "v2": "archived", "v3": "active",
    }  # fmt: skip

    folder.run("destroy", "v1", expect=1)
    assert "v1 is destroyed already" in folder.printed[-1]
    secret = tmp_path / "recovery.asc"
    secret.write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
    folder.run("restore-key", "v1", "--key", str(secret), expect=1)
    assert "v1 is destroyed permanently" in folder.printed[-1]
    folder.run("backup")
    folder.run("recovery-test", "--key", str(secret))
    folder.run("verify")
    folder.run("audit", "verify")
    assert "v4" in json.loads(folder.run("request", "--reason", "next", "--json")).values()
