"""The database is lost, or more than that: `keyrotation recover`, typed as docs/on-call/ has it."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.model.backups import is_manifest, signature_name
from keyrotation_pipeline_tests.acceptance.disasters.clinic import (
    Clinic,
    DatabaseRoles,
    RecordMinutes,
    Safe,
    open_clinic,
    psql,
)
from keyrotation_pipeline_tests.buckets import TestBucket, in_front_of
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.servers import DEBIAN, Server, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

PAGE_SIGNER = "--signer 5f0c…64-digits"
SWEDISH = "LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LOCALE 'C.UTF-8' TEMPLATE template0"
WARDS = """
CREATE TABLE wards (name text) PARTITION BY RANGE (name);
CREATE TABLE wards_a_to_z PARTITION OF wards FOR VALUES FROM (MINVALUE) TO ('z');
CREATE TABLE wards_after_z PARTITION OF wards FOR VALUES FROM ('z') TO (MAXVALUE);
INSERT INTO wards VALUES ('ambulans'), ('zebra'), ('ärende'), ('öppen')
"""


@contextmanager
def struck(clinic: Clinic) -> Iterator[int]:
    """An application writes before a backup and after it, until the database fails; yields what was written before."""
    with clinic.application.working() as application:
        kept = clinic.backed_up()
        application.wait_for(20)
        clinic.strike()
        yield kept
        assert eventually(application.failed.is_set)


def recovered(clinic: Clinic, trusted: str, server: Server | None = None, *before_backup: str) -> str:
    """Type the page's block on an empty machine; the application's database is the new one then.

    Args:
        before_backup: further lines, that `recover` has printed.
    """
    clinic.server = server or clinic.server
    clinic.moved_to(f"{clinic.database}_recovered")
    own = ("postgresql://keyrotation@db/clinic", f"'{clinic.url}'")
    further = ("keyrotation backup ", "\n".join([*before_backup, "keyrotation backup "]))
    return clinic.typed(block("recover"), *places_of(clinic, trusted), own, further)


def places_of(clinic: Clinic, trusted: str) -> tuple[tuple[str, str], ...]:
    """What stands in the page's line of `recover` for its own names."""
    return (
        ("s3://pazpaz-key-backups/", f"s3://{clinic.bucket.name}/"),
        (PAGE_SIGNER, trusted),
        ("postgresql://postgres@db/", f"'{clinic.server.url()}'"),
        ("--into clinic", f"--into {clinic.database}"),
    )


def signer_of(clinic: Clinic) -> str:
    """What was put into the safe, as an option."""
    return f"--signer {json.loads(clinic.machine.shell('keyrotation status --json'))['backup_signer']}"


def manifests(bucket: TestBucket) -> list[str]:
    return sorted(name for name in bucket.tags() if is_manifest(name))


@pytest.fixture
def another_server() -> Iterator[Server]:
    running = start_server()
    yield running
    discard(running)


def test_the_database_is_lost(clinic: Clinic, record_minutes: RecordMinutes) -> None:
    with struck(clinic) as kept:
        clinic.lose_database()
    new = f"{clinic.database}_2"
    server = clinic.server.url()
    clinic.moved_to(new)
    clinic.typed(
        block("recover-database"),
        ("postgresql://postgres@db/", f"'{server}'"),
        ("postgresql://keyrotation@db/clinic_2", f"'{clinic.url}'"),
        ("--into clinic_2", f"--into {new}"),
    )
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
@pytest.mark.parametrize(
    ("through", "folder"),
    [
        pytest.param("key_version", "clinic", id="a new key"),
        pytest.param("key_version", "elsewhere", id="a new key, another path"),
        pytest.param("archived_key", "clinic", id="an archived key"),
    ],
)
def test_the_machine_is_lost(
    clinic: Clinic, safe: Safe, tmp_path: Path, through: str, folder: str, record_minutes: RecordMinutes
) -> None:
    signer = signer_of(clinic)
    with clinic.application.working() as application:
        clinic.rotated(through)
        clinic.backed_up()
        application.wait_for(20)
        clinic.strike()
        clinic.lose_machine(tmp_path / folder, safe)
        application.wait_for(20)
        clinic.typed(
            block("lost-machine"),
            ("v1 v2", "v1 v2" if through == "key_version" else "v2 v1"),
            ("s3://pazpaz-key-backups/", f"s3://{clinic.bucket.name}/"),
            (PAGE_SIGNER, signer),
            ("postgresql://postgres@db/", f"'{clinic.server.url()}'"),
            ("postgresql://keyrotation@db/clinic", f"'{clinic.url}'"),
            ("clinic_copy", f"{clinic.database}_copy"),
        )
        application.wait_for(20)
        clinic.machine.shell("keyrotation status >status && ! grep 'holds no' status")
    with clinic.application.working():  # with the keys where they are now
        clinic.finish_rotation(elsewhere=folder == "elsewhere")
    record_minutes(clinic.require_whole())


@pytest.mark.extended
def test_machine_and_database_are_lost(
    clinic: Clinic, safe: Safe, tmp_path: Path, record_minutes: RecordMinutes
) -> None:
    signer = signer_of(clinic)
    with struck(clinic) as kept:
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    recovered(clinic, signer)
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
def test_everything_is_lost_but_the_bucket_and_the_recovery_key(
    clinic: Clinic, safe: Safe, tmp_path: Path, another_server: Server, record_minutes: RecordMinutes
) -> None:
    """The signer's fingerprint, too: an officer vouches for the manifest."""
    with struck(clinic) as kept:
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    manifest = manifests(clinic.bucket)[-1]
    (clinic.machine.path / manifest).write_bytes(clinic.bucket.content(manifest))
    (clinic.machine.path / "security.asc").write_bytes(safe.officers[0].certificate.read_bytes())
    clinic.machine.shell(f"gpg -u 'Security Officer' -ab {manifest}")
    recovered(clinic, f"--trust-unsigned {manifest}.asc --officer security.asc", another_server)
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
def test_on_another_server_the_documented_roles_continue_by_the_printed_statements(
    safe: Safe, bucket: TestBucket, another_server: Server, tmp_path: Path, record_minutes: RecordMinutes
) -> None:
    source, roles = start_server(), DatabaseRoles("keyrotation", "clinic_web")
    try:
        with open_clinic(tmp_path / "clinic", source, bucket, safe, roles=roles) as clinic:
            signer = signer_of(clinic)
            with clinic.application.working():
                clinic.rotated("dual_key_rollout")
            kept = clinic.backed_up()
            clinic.strike()
            clinic.lose_database()
            clinic.lose_machine(tmp_path / "empty", safe)
            clinic.server, clinic.database = another_server, f"{clinic.database}_recovered"
            first, *rest = block("recover").splitlines(keepends=True)
            printed = clinic.typed(first, *places_of(clinic, signer))
            statements = re.findall(r"(?m)^ {10}((?:CREATE|ALTER|GRANT) .*;)$", printed)
            assert "next      1. the statements under `roles`" in printed
            psql(another_server, "postgres", "\n".join(statements))
            clinic.moved_to(clinic.database)
            clinic.typed("".join(rest), ("postgresql://keyrotation@db/clinic", f"'{clinic.url}'"))
            with clinic.application.working():
                clinic.rotated("compliance_report")
            (done,) = [
                each for each in json.loads(clinic.machine.shell("keyrotation history --json")) if each["to"] == "v3"
            ]
            assert done["outcome"] == "finished"
            record_minutes(clinic.require_whole(kept))
    finally:
        discard(source)


@pytest.mark.extended
def test_the_newest_set_is_damaged(clinic: Clinic, safe: Safe, tmp_path: Path, record_minutes: RecordMinutes) -> None:
    signer, kept = signer_of(clinic), clinic.backed_up()
    with struck(clinic):
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    dump = max(name for name in clinic.bucket.tags() if name.startswith("database-"))
    content = bytearray(clinic.bucket.content(dump))
    content[len(content) // 2] ^= 1
    clinic.bucket.overwrite(dump, bytes(content))
    clinic.bucket.forget_versions(dump)
    printed = recovered(clinic, signer)
    assert f"rejected  {dump}" in printed
    record_minutes(clinic.require_whole(kept))


def put_delete_markers(bucket: TestBucket) -> None:
    for name in bucket.tags():
        bucket.delete(name)


def overwrite_by_the_older_set(bucket: TestBucket) -> None:
    """Every file of the newest set; each of its own kind, and genuine."""
    older, newest = (re.findall(r"\d{8}-\d{6}-\w{8}", name)[0] for name in manifests(bucket)[-2:])
    for name in bucket.tags():
        if newest in name:
            bucket.overwrite(name, bucket.content(name.replace(newest, older)))


@pytest.mark.extended
@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(put_delete_markers, id="delete markers over everything"),
        pytest.param(overwrite_by_the_older_set, id="overwritten by the older set"),
    ],
)
def test_the_newest_set_is_hidden_in_a_versioned_bucket(
    locked_clinic: Clinic,
    safe: Safe,
    tmp_path: Path,
    record_minutes: RecordMinutes,
    hide: Callable[[TestBucket], None],
) -> None:
    """By somebody who may write to it, and delete no version: the newest set comes back all the same."""
    clinic, signer = locked_clinic, signer_of(locked_clinic)
    clinic.backed_up()
    time.sleep(1)  # sets are named by the second
    with struck(clinic) as kept:
        newest = manifests(clinic.bucket)[-1]
        hide(clinic.bucket)
        said = clinic.machine.shell("! keyrotation status --exit-code")
        assert f"the newest backup {newest} was complete in s3://" in said
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    printed = recovered(clinic, signer)
    assert f"restored  {newest}" in printed
    assert f"version   {newest} is deleted or overwritten there; read in version" in printed
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
def test_the_newest_set_cannot_be_read(
    clinic: Clinic, safe: Safe, tmp_path: Path, record_minutes: RecordMinutes
) -> None:
    """S3 answers 503 for its signature: nothing older is taken in its place, unless it is named."""
    signer, kept = signer_of(clinic), clinic.backed_up()
    with struck(clinic):
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    older, newest = manifests(clinic.bucket)[-2:]
    refuses = lambda _method, path: "ServiceUnavailable" if signature_name(newest) in path else None  # noqa: E731
    with in_front_of(clinic.bucket.url, refuses) as url:
        clinic.machine.variables["AWS_ENDPOINT_URL"] = url
        from_bucket = f"--from s3://{clinic.bucket.name}/encryption-keys --key recovery.sec.asc {signer}"
        stopped = clinic.machine.shell(
            f"! keyrotation recover {from_bucket} --server '{clinic.server.url()}' --into {clinic.database}_recovered"
        )
        assert f"cannot be read ({signature_name(newest)}): ServiceUnavailable" in " ".join(stopped.split())
        assert "or name an older set with --set" in " ".join(stopped.split())
        printed = recovered(clinic, f"{signer} --set {older}")
    assert f"restored  {older}" in printed
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
def test_only_a_rekeyed_set_may_be_used(
    clinic: Clinic, safe: Safe, tmp_path: Path, record_minutes: RecordMinutes
) -> None:
    """The key of every other one is known to others; afterwards the next rotation works."""
    clinic.take_silence_soon()
    signer = signer_of(clinic)
    with struck(clinic) as kept:
        clinic.emergency()
        made = json.loads(clinic.machine.shell("keyrotation backup --rekey --key recovery.sec.asc --json"))["set"]
        tested = json.loads(clinic.machine.shell("keyrotation recovery-test --key recovery.sec.asc --json"))
        assert tested["rekeyed"]["file"] == made.replace("backup-", "database-").replace(".json", ".dump.gpg")
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    again = "keyrotation restore-key v1 --key recovery.sec.asc"
    printed = recovered(clinic, f"{signer} --set {made}", None, again)
    assert f"`{again}`, from older sets" in printed
    assert "is archived again" in printed
    with clinic.application.working():
        clinic.rotated_after_a_restore(clinic.machine.shell("keyrotation request --reason again 2>/dev/null").strip())
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
def test_two_pipelines_share_a_bucket(
    clinic: Clinic, safe: Safe, tmp_path: Path, bucket: TestBucket, server: Server, record_minutes: RecordMinutes
) -> None:
    signer = signer_of(clinic)
    with open_clinic(tmp_path / "other", server, bucket, safe) as other, struck(clinic) as kept:
        theirs, ours = signer_of(other), signer.removeprefix("--signer ")[:8]
        for command in ("backup", "status"):
            assert ours in other.machine.shell(f"keyrotation {command}")
            assert theirs.removeprefix("--signer ")[:8] in clinic.machine.shell("keyrotation status")
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    recovered(clinic, signer)
    record_minutes(clinic.require_whole(kept))


@pytest.mark.extended
@pytest.mark.external_postgres
def test_the_new_server_has_another_locale(
    safe: Safe, bucket: TestBucket, another_server: Server, tmp_path: Path, record_minutes: RecordMinutes
) -> None:
    """A server without ICU is refused with one sentence; on one that has it, Swedish names sort as before."""
    source, target = start_server(DEBIAN), start_server(DEBIAN)
    try:
        with open_clinic(tmp_path / "clinic", source, bucket, safe, SWEDISH) as clinic:
            with psycopg.connect(clinic.url, autocommit=True) as connection:
                connection.execute(WARDS)
            signer = signer_of(clinic)
            with struck(clinic) as kept:
                clinic.lose_database()
                clinic.lose_machine(tmp_path / "empty", safe)
            from_bucket = f"--from s3://{bucket.name}/encryption-keys --key recovery.sec.asc {signer}"
            refused = f"keyrotation recover {from_bucket} --server '{another_server.url()}' --into {clinic.database}"
            assert "ICU" in clinic.machine.shell(f"! {refused}")
            recovered(clinic, signer, target)
            with psycopg.connect(clinic.url) as connection:
                after_z = connection.execute("SELECT name FROM ONLY wards_after_z ORDER BY name").fetchall()
            assert [name for (name,) in after_z] == ["zebra", "ärende", "öppen"]
            record_minutes(clinic.require_whole(kept))
    finally:
        for each in (source, target):
            discard(each)


def test_a_forged_set_lies_next_to_the_genuine_one(
    clinic: Clinic, safe: Safe, tmp_path: Path, record_minutes: RecordMinutes
) -> None:
    signer = signer_of(clinic)
    with struck(clinic) as kept:
        clinic.lose_database()
        clinic.lose_machine(tmp_path / "empty", safe)
    forger = SigningKey(tmp_path / "forger.pem")
    forger.create()
    sql = safe.officers[0].gpg("--store", text=b"CREATE TABLE public.forged (x int);")
    genuine = manifests(clinic.bucket)[-1]
    forged = [
        forge(clinic.bucket, genuine, forger, sql, timedelta(seconds=1), {}),
        forge(clinic.bucket, genuine, forger, sql, timedelta(seconds=2), {"signed_by": forger.public}),
    ]
    printed = recovered(clinic, signer)
    assert f"restored  {genuine}" in printed
    assert [name for name in forged if not re.search(rf"(?m)^rejected  .*{name}", printed)] == []
    with psycopg.connect(clinic.url) as connection:
        assert connection.execute("SELECT to_regclass('public.forged')").fetchone() == (None,)
    record_minutes(clinic.require_whole(kept))


def forge(
    bucket: TestBucket, genuine: str, forger: SigningKey, sql: bytes, newer_by: timedelta, signed_by: dict[str, str]
) -> str:
    """Whoever writes the bucket adds a newer set of messages that are not encrypted; gives back its manifest's name.

    Args:
        signed_by: what the manifest says of that; nothing: as the genuine one does.
    """
    text = bucket.content(genuine).decode()
    made_at = datetime.fromisoformat(json.loads(text)["made_at"])
    stamps = f"{made_at:%Y%m%d-%H%M%S}", f"{made_at + newer_by:%Y%m%d-%H%M%S}"
    content = json.loads(text.replace(*stamps)) | {"made_at": (made_at + newer_by).isoformat(), **signed_by}
    for entry in (*content["keys"], content["dump"], content["configuration"]):
        bucket.overwrite(entry["file"], sql)
        entry |= {"size_bytes": len(sql), "sha256": hashlib.sha256(sql).hexdigest()}
    manifest, name = f"{json.dumps(content, indent=2)}\n".encode(), genuine.replace(*stamps)
    bucket.overwrite(name, manifest)
    bucket.overwrite(signature_name(name), forger.sign(manifest))
    return name
