"""The daily backup: complete or loudly not, in two places, never plain on a disk, the last good one never removed."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.backups.encrypted_files import EncryptedDumps
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.recipients import BackupRecipients
from keyrotation_pipeline.adapters.postgres.server import dump
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.dump import PostgresDump
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.audit.verify import read_anchor
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.catalog import BackupContext, is_intact, kept_sets
from keyrotation_pipeline.backups.destruction import DESTROY
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError, BackupError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.backups import DatabaseCopy, manifest_name, stamp_of
from keyrotation_pipeline.model.key_events import KeyImportIntended
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.manifest import parse
from keyrotation_pipeline.model.requests import Request, RequestStatus
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.monitoring.backup_status import Protection, protection
from keyrotation_pipeline.ports.backups import DatabaseDumps, DumpSource
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline_tests.backup_sites import Clinic, archive_by_officers, gpg_decrypt, open_clinic
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.contract.key_store import archive
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed
from keyrotation_pipeline_tests.officers import make_expired_officer, make_officer, revoke
from keyrotation_pipeline_tests.waiting import eventually

COUNT_SECONDS = 50
V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)


def test_a_set_holds_every_key_and_the_database_under_one_stamp_in_both_places(
    clinic: Clinic, bucket: TestBucket
) -> None:
    done = back_up(clinic.site)
    stamp = stamp_of(clinic.clock.at, clinic.site.trust.pipeline)
    files = {
        f"backup-{stamp}.json",
        f"backup-{stamp}.json.sig",
        f"database-{stamp}.dump.gpg",
        *(f"encryption-key-{version}-{stamp}.bin.gpg" for version in ("v1", "v2")),
    }
    assert files <= set(clinic.site.local.names())
    assert files <= set(clinic.site.offsite[0].names())
    assert all(bucket.content(name) == (clinic.backups / name).read_bytes() for name in files)
    assert {path.stat().st_mode & 0o777 for path in clinic.backups.iterdir()} == {0o600}
    assert done.warnings == ()


def test_the_manifest_says_what_was_counted_in_the_very_snapshot_that_was_dumped(clinic: Clinic) -> None:
    made = back_up(clinic.site).made
    assert made.dump is not None
    clients, invoices = made.dump.tables
    assert (clients.rows, invoices.rows) == (4, 1)
    assert clients.values == {"name": {V1: 4}, "email": {V2: 2}}
    assert made.dump.versions == (V1, V2)
    assert {key.version: key.fingerprint for key in made.keys} == {
        version: clinic.ring.material(version).fingerprint for version in (V1, V2)
    }
    text = (clinic.backups / made.name).read_text()
    assert parse(made.name, text.encode()) == made
    events = {event.seq: event.hash for event in clinic.site.pipeline.ledger.events()}
    assert events[read_anchor(text).seq] == read_anchor(text).hash


def dump_of(clinic: Clinic) -> PostgresDump:
    url = (clinic.directory / "url").read_text()
    return PostgresDump(url, partial(connect, url), None)


def test_rows_that_come_while_the_dump_is_read_are_neither_in_it_nor_counted(clinic: Clinic) -> None:
    """Counting is a session of its own, and it takes the dump's snapshot."""
    source = dump_of(clinic)
    with source.dumping(clinic.site.pipeline.tables) as dump:
        clinic.connection.execute("DELETE FROM public.clients")
        assert dump.stream.read(5) == b"PGDMP"
        while dump.stream.read(1 << 16):
            pass
        counted = dump.counted()
    assert [each.rows for each in counted.tables] == [4, 1]
    assert {str(each.name): each.rows for each in counted.content.relations}["clients"] == 4


def test_a_dump_that_is_abandoned_ends_its_count_at_once(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    def long_count(connection: Connection, *_: object) -> None:
        connection.execute("SELECT pg_sleep(%s)", (COUNT_SECONDS,))

    monkeypatch.setattr(dump, "_counted", long_count)
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        abandon_a_dump(clinic)
    assert time.monotonic() - begun < COUNT_SECONDS
    assert eventually(lambda: counting(clinic) == 0)


def abandon_a_dump(clinic: Clinic) -> None:
    with dump_of(clinic).dumping(clinic.site.pipeline.tables):
        assert eventually(lambda: counting(clinic) == 1)
        raise ZeroDivisionError


def counting(clinic: Clinic) -> int:
    """Sessions that count."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    with connect((clinic.directory / "url").read_text()) as another:
        ((found,),) = another.execute(query.encode()).fetchall()
    return int(str(found))


def test_gpg_decrypt_gives_the_base64_key_and_a_restorable_dump(clinic: Clinic) -> None:
    made = back_up(clinic.site).made
    assert made.dump is not None
    for key in made.keys:
        plain = gpg_decrypt(clinic.officer, clinic.backups / key.file.name)
        assert plain == f"{base64_of(clinic.ring.material(key.version))}\n".encode()
    assert gpg_decrypt(clinic.officer, clinic.backups / made.dump.file.name)[:5] == b"PGDMP"


def test_neither_keys_nor_the_dump_are_on_a_disk_in_plain(clinic: Clinic) -> None:
    clinic.connection.execute("ALTER TABLE public.clients ADD COLUMN plain text DEFAULT 'only-in-the-dump'")
    back_up(clinic.site)
    keys = [clinic.ring.material(version) for version in (V1, V2)]
    forbidden = [form for key in keys for form in (raw_of(key), base64_of(key).encode(), raw_of(key).hex().encode())]
    files = [path for path in clinic.directory.rglob("*") if path.is_file() and "keys" not in path.parts]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert not any(form in content for form in (*forbidden, b"PGDMP", b"only-in-the-dump")), path


def dying_programs(directory: Path, script: str) -> Path:
    """A directory whose pg_dump says that it is new, and then does as `script` says."""
    directory.mkdir()
    program = directory / "pg_dump"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 99.1" && exit 0\n{script}\n')
    program.chmod(0o755)
    return directory


def with_binaries(clinic: Clinic, binaries: Path) -> BackupContext:
    dumps = clinic.site.dumps
    assert isinstance(dumps, EncryptedDumps)
    assert isinstance(dumps.source, PostgresDump)
    return replace(clinic.site, dumps=replace(dumps, source=replace(dumps.source, binaries=binaries)))


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        pytest.param("echo PGDMP; exit 3", "pg_dump ended with 3 before the dump was complete", id="fails at the end"),
        pytest.param("head -c 200000 /dev/zero; kill -9 $$", "pg_dump ended with -9", id="killed halfway"),
        pytest.param(
            "echo 'ERROR: permission denied for table secrets' >&2; exit 1",
            r"may not read everything \(permission denied for table secrets\)",
            id="may not read",
        ),
    ],
)
def test_a_pg_dump_that_dies_leaves_no_dump_and_says_so_though_its_pipe_closed_cleanly(
    local_clinic: Clinic, tmp_path: Path, script: str, sentence: str
) -> None:
    binaries = dying_programs(tmp_path / "bin", script)
    site = with_binaries(local_clinic, binaries)
    with pytest.raises(BackupError, match=sentence):
        back_up(site)
    assert [path.name for path in local_clinic.backups.iterdir() if "database" in path.name] == []
    kept = kept_sets(site.local, site.trust)
    assert kept.newest is None
    assert len(kept.sets[0].keys) == 2  # the keys are backed up all the same
    assert "backup_incomplete" in [json.loads(event.body)["event"] for event in site.pipeline.ledger.events()]


def test_nights_of_failing_dumps_are_amber_at_once_and_red_after_a_day(local_clinic: Clinic, tmp_path: Path) -> None:
    done, pipeline = back_up(local_clinic.site), local_clinic.site.pipeline

    def seen() -> Protection:
        return protection(pipeline, pipeline.ledger.keys(), local_clinic.clock.now())

    assert (seen().last_backup, seen().attention, seen().warnings) == (done.made.made_at, (), ())
    failing = with_binaries(local_clinic, dying_programs(tmp_path / "bin", "echo PGDMP; exit 3"))
    local_clinic.clock.sleep(24 * 3600)
    with pytest.raises(BackupError, match="is incomplete: pg_dump ended with 3"):
        back_up(failing)
    assert (seen().last_backup, seen().attention) == (done.made.made_at, ())
    assert "was incomplete (pg_dump ended with 3" in seen().warnings[0]
    local_clinic.clock.sleep(3 * 3600)
    assert "the last backup is of" in seen().attention[0]
    assert "was incomplete (pg_dump ended with 3" in seen().attention[1]


def test_an_unusable_key_store_does_not_stop_the_dump(local_clinic: Clinic) -> None:
    shutil.rmtree(local_clinic.settings.keys_directory)
    with pytest.raises(BackupError, match=r"is incomplete: there is no key store at .*`keyrotation restore-key`"):
        back_up(local_clinic.site)
    made, *_ = kept_sets(local_clinic.site.local, local_clinic.site.trust).sets
    assert made.dump is not None
    assert made.keys == ()
    assert gpg_decrypt(local_clinic.officer, local_clinic.backups / made.dump.file.name)[:5] == b"PGDMP"


def test_one_revoked_recipient_does_not_keep_the_others_from_a_backup(
    tmp_path: Path, already_migrated: str, database_url: str, backup_officers: dict[str, DemoOfficer]
) -> None:
    leaving = make_officer(tmp_path, "Leaving")
    with ExitStack() as stack:
        clinic = open_clinic(stack, tmp_path, database_url, {**backup_officers, "security": leaving}, None)
        revoke(leaving)
        with pytest.raises(BackupError, match=r"is incomplete: certificate leaving\.asc .* is revoked"):
            back_up(clinic.site)
        made, *_ = kept_sets(clinic.site.local, clinic.site.trust).sets
        assert made.dump is not None
        stays = GnuPG(tmp_path / "g", SystemClock()).read_certificate(clinic.officer.certificate).fingerprint
        assert {file.recipients for file in made.files} == {(stays,)}
        assert gpg_decrypt(clinic.officer, clinic.backups / made.dump.file.name)[:5] == b"PGDMP"
        key = clinic.site.pipeline.vault.store_key(V1, clinic.ring.material(V1), clinic.site.pipeline.ledger.head())
        assert key.recipients == (stays,)


def test_an_old_pg_dump_is_refused_before_it_runs(local_clinic: Clinic, tmp_path: Path) -> None:
    binaries = dying_programs(tmp_path / "bin", "exit 0")
    (binaries / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.2'\n")
    site = with_binaries(local_clinic, binaries)
    with pytest.raises(BackupError, match=r"is of PostgreSQL 13, and the server runs 18; .*postgres_binaries"):
        back_up(site)


def test_one_lost_key_is_an_error_but_the_others_are_backed_up(local_clinic: Clinic) -> None:
    (local_clinic.settings.keys_directory / "v1.key").unlink()
    with pytest.raises(BackupError, match=r"is incomplete: .*holds no v1"):
        back_up(local_clinic.site)
    made, *_ = kept_sets(local_clinic.site.local, local_clinic.site.trust).sets
    assert [key.version for key in made.keys] == [V2]
    assert made.dump is not None


def test_another_key_under_a_registered_version_is_never_backed_up(local_clinic: Clinic) -> None:
    (local_clinic.settings.keys_directory / "v1.key").write_text(base64_of(KeyMaterial.generate()))
    with pytest.raises(BackupError, match=r"holds another v1 .*than the registered one"):
        back_up(local_clinic.site)


def test_a_bucket_that_does_not_answer_is_an_error_but_the_local_set_is_there(
    clinic: Clinic, bucket: TestBucket
) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"})
    with pytest.raises(BackupError, match=r"is incomplete: bucket .* is not versioned"):
        back_up(clinic.site)
    assert kept_sets(clinic.site.local, clinic.site.trust).newest is not None
    assert kept_sets(clinic.site.offsite[0], clinic.site.trust).newest is None


def versioning(bucket: TestBucket, status: str) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": status})


def test_what_was_made_while_the_bucket_did_not_answer_stays_until_it_is_uploaded(
    clinic: Clinic, bucket: TestBucket
) -> None:
    versioning(bucket, "Suspended")
    missed = []
    for _ in range(2):
        with pytest.raises(BackupError, match="is not versioned"):
            back_up(clinic.site)
        missed.append(clinic.clock.at)
        clinic.pass_days(10)
    assert {f"{at:%Y%m%d}" for at in missed} <= stamps(clinic)  # older than seven days, and nowhere else
    versioning(bucket, "Enabled")
    done = back_up(clinic.site)
    names = [manifest_name(stamp_of(at, clinic.site.trust.pipeline)) for at in missed]
    assert set(names) <= set(done.uploaded_later)
    kept = kept_sets(clinic.site.offsite[0], clinic.site.trust)
    assert {done.made.name, *names} <= {made.name for made in kept.sets}
    assert all(is_intact(kept.place, file) for made in kept.sets for file in made.files)
    assert stamps(clinic) == {day(clinic)}  # now the older ones may go
    assert back_up(clinic.site).uploaded_later == ()


def test_one_manifest_in_an_archive_of_the_bucket_hides_none_of_the_others(clinic: Clinic, bucket: TestBucket) -> None:
    first = back_up(clinic.site).made
    clinic.pass_days(1)
    second = back_up(clinic.site).made
    content = bucket.content(first.name)
    key = f"encryption-keys/{first.name}"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=content, StorageClass="GLACIER")
    kept = kept_sets(clinic.site.offsite[0], clinic.site.trust)
    assert kept.newest == second
    assert "cannot be read" in str(kept.refused[first.name])


def test_the_newest_set_is_that_by_the_audit_and_one_of_the_future_is_refused(local_clinic: Clinic) -> None:
    site, ahead = local_clinic.site, local_clinic.clock.at + timedelta(days=365)
    local_clinic.clock.at, now = ahead, local_clinic.clock.at
    of_the_future = back_up(site).made
    assert kept_sets(site.local, site.trust).newest == of_the_future
    local_clinic.clock.at = now
    kept = kept_sets(site.local, site.trust)
    assert kept.newest is None
    assert "is dated in the future" in str(kept.refused[of_the_future.name])
    made = back_up(site).made
    assert site.pipeline.vault.status(site.pipeline.ledger.keys()).manifest == made.name
    local_clinic.clock.at = ahead  # when that day has come, the order of the audit still holds
    assert [each.name for each in kept_sets(site.local, site.trust).sets[:2]] == [
        made.name,
        of_the_future.name,
    ]


@dataclass
class Meanwhile:
    """`DatabaseDumps` during which something happens."""

    dumps: DatabaseDumps
    happens: Callable[[], None]

    def make(self, name: str, tables: Sequence[EncryptedTable], source: DumpSource | None = None) -> DatabaseCopy:
        self.happens()
        return self.dumps.make(name, tables, source)


def test_a_key_that_is_promoted_while_the_database_is_dumped_is_in_the_set(local_clinic: Clinic) -> None:
    site, third = local_clinic.site, ring_of(2, 3)

    def promoted() -> None:
        material = third.material(V3)
        site.pipeline.keys.add(V3, material, site.pipeline.keys.read().revision)
        site.pipeline.ledger.append(KeyImportIntended(V3, material.fingerprint))
        site.pipeline.ledger.add_key(
            KeyRecord(V3, KeyState.PRE_ACTIVATION, material.fingerprint, local_clinic.clock.at), None
        )
        insert(local_clinic.connection, "public.clients", [(99, sealed(third, 3, "Eve"), None)])

    made = back_up(replace(site, dumps=Meanwhile(site.dumps, promoted))).made
    assert made.dump is not None
    assert V3 in made.dump.versions
    assert V3 in {key.version for key in made.keys}


def test_what_a_set_never_had_was_taken_from_it_by_nobody(local_clinic: Clinic) -> None:
    site = local_clinic.site
    (local_clinic.settings.home / "keys" / "v1.key").unlink()
    with pytest.raises(BackupError, match="v1"):
        back_up(site)
    found = site.pipeline.vault.status(site.pipeline.ledger.keys())
    assert any("does not hold the registered key v1" in each for each in found.problems)
    assert found.changed == ()


def test_a_version_in_the_dump_that_no_key_covers_fails_the_backup(local_clinic: Clinic) -> None:
    insert(local_clinic.connection, "public.clients", [(99, sealed(ring_of(2, 9), 9, "Eve"), None)])
    with pytest.raises(BackupError, match="a dump holds values under v9, a key that could not be backed up"):
        back_up(local_clinic.site)


def test_any_number_of_planted_versions_makes_one_sentence(local_clinic: Clinic) -> None:
    stranger = sealed(ring_of(2, 9), 9, "Eve").removeprefix("v9:")
    insert(local_clinic.connection, "public.clients", [(100 + n, f"v{n}:{stranger}", None) for n in range(10, 310)])
    with pytest.raises(BackupError, match=r"under v10, v11, .*, v19 and 10 more versions, a key that could") as made:
        back_up(local_clinic.site)
    assert len(str(made.value)) < 600
    assert max(len(event.body) for event in local_clinic.site.pipeline.ledger.events()) < 4000
    kept, *_ = kept_sets(local_clinic.site.local, local_clinic.site.trust).sets
    assert kept.dump is not None
    assert [version.number for version in kept.dump.versions] == [1, 2, *range(10, 29), 309], "the lowest, the highest"


def test_one_recipient_is_a_warning_and_so_is_one_place(local_clinic: Clinic) -> None:
    alone, here = back_up(replace(local_clinic.site, recipients=1)).warnings
    assert "only one certificate can decrypt" in alone
    assert "on this machine only" in here


def signed_destruction(clinic: Clinic, officers: dict[str, DemoOfficer]) -> Request:
    pipeline = replace(clinic.site.pipeline, clock=SystemClock())  # as the ledger and gpg have it
    fingerprint = clinic.ring.material(V1).fingerprint
    opened = new_request(
        Request, pipeline, DESTROY, source=V1, fingerprint=fingerprint, target=V1, reason="old", requested_by="dba"
    )
    pipeline.ledger.open(opened, text := approval_text(pipeline, opened))
    for role in ("security", "privacy"):
        add_approval(pipeline, opened, officers[role].sign(text))
    return opened


def test_destroyed_versions_are_left_out_and_archived_ones_are_not(
    local_clinic: Clinic, backup_officers: dict[str, DemoOfficer]
) -> None:
    ledger = local_clinic.site.pipeline.ledger
    archive(local_clinic.site.pipeline.keys, V1)
    archive_by_officers(local_clinic, V1)
    assert [key.version for key in back_up(local_clinic.site).made.keys] == [V1, V2]
    destroyed = signed_destruction(local_clinic, backup_officers)
    ledger.set_status(destroyed.id, RequestStatus.RUNNING)
    ledger.set_key_state(V1, KeyState.DESTROYED, destroyed.id)
    local_clinic.connection.execute("DELETE FROM public.clients")  # nothing is under v1 any more
    local_clinic.pass_days(1)
    assert [key.version for key in back_up(local_clinic.site).made.keys] == [V2]


# --- retention ------------------------------------------------------------------------------------------------------


def stamps(clinic: Clinic) -> set[str]:
    """Days, by what is kept of the dumps."""
    return {name[9:17] for name in clinic.site.local.names() if name.startswith("database-")}


def day(clinic: Clinic) -> str:
    return f"{clinic.clock.at:%Y%m%d}"


def test_local_files_older_than_seven_days_go_once_a_newer_one_is_verified(local_clinic: Clinic) -> None:
    back_up(local_clinic.site)
    first, stamp = day(local_clinic), f"{local_clinic.clock.at:%Y%m%d-%H%M%S}"
    local_clinic.pass_days(7)
    assert not any(stamp in name for name in back_up(local_clinic.site).removed)
    second = day(local_clinic)
    local_clinic.pass_days(1)
    removed = back_up(local_clinic.site).removed
    assert all(first in name for name in removed)
    assert {name.split("-")[0] for name in removed} == {"backup", "configuration", "database", "encryption"}
    assert stamps(local_clinic) == {second, day(local_clinic)}
    assert [made.name for made in kept_sets(local_clinic.site.local, local_clinic.site.trust).sets] == [
        f"backup-{each}-{local_clinic.clock.at:%H%M%S}-{local_clinic.site.trust.pipeline}.json"
        for each in (day(local_clinic), second)
    ]


def test_the_last_good_copy_of_a_key_and_of_the_database_stay_however_old(local_clinic: Clinic) -> None:
    back_up(local_clinic.site)
    first = day(local_clinic)
    local_clinic.pass_days(400)
    (local_clinic.settings.keys_directory / "v1.key").unlink()
    with pytest.raises(BackupError, match="holds no v1"):
        back_up(local_clinic.site, database=False)
    left = [name for name in local_clinic.site.local.names() if first in name]
    assert [name.split("-2")[0] for name in left if name.endswith(".gpg")] == ["database", "encryption-key-v1"]
    assert f"backup-{first}" in "".join(left)  # the manifest that vouches for them


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink], ids=["corrupt", "missing"])
def test_a_newer_dump_that_is_damaged_saves_the_older_one(local_clinic: Clinic, damage: Callable[[Path], None]) -> None:
    back_up(local_clinic.site)
    first = day(local_clinic)
    local_clinic.pass_days(5)
    newer = back_up(local_clinic.site).made
    assert newer.dump is not None
    damage(local_clinic.backups / newer.dump.file.name)
    local_clinic.pass_days(5)
    back_up(local_clinic.site, database=False)
    assert first in stamps(local_clinic)


def test_files_of_others_in_the_directory_are_left_alone(local_clinic: Clinic) -> None:
    back_up(local_clinic.site)
    (local_clinic.backups / "encryption-key-notes.txt").write_text("ours")
    local_clinic.pass_days(9)
    back_up(local_clinic.site)
    assert (local_clinic.backups / "encryption-key-notes.txt").read_text() == "ours"


def test_an_expired_recipient_stops_the_backup(local_clinic: Clinic, tmp_path: Path) -> None:
    gone: DemoOfficer = make_expired_officer(tmp_path / "gone", "Gone")
    gpg, dumps = GnuPG(tmp_path / "g", SystemClock()), local_clinic.site.dumps
    assert isinstance(dumps, EncryptedDumps)
    roster = Roster(2, (), (gpg.read_certificate(gone.certificate).fingerprint,))
    dumps = replace(dumps, encryptor=BackupRecipients(gpg, [gone.certificate], lambda: roster))
    with pytest.raises(BackupError, match=r"certificate gone\.asc .* has expired"):
        back_up(replace(local_clinic.site, dumps=dumps))


def recipients_of(clinic: Clinic, *officers: DemoOfficer) -> Path:
    """The configuration, rewritten after `init` so that backups are for these."""
    path = clinic.settings.path
    named = ", ".join(f'"{officer.certificate}"' for officer in officers)
    lines = [
        f"recipients = [{named}]" if line.startswith("recipients") else line for line in path.read_text().split("\n")
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("who", "sentence"),
    [
        pytest.param(["recovery", "security", "stranger"], r"stranger\.asc .* is not a pinned", id="one more"),
        pytest.param(["stranger"], r"stranger\.asc .* is not a pinned recipient", id="another"),
        pytest.param(["recovery"], "pinned recipient .* is no longer among", id="one less"),
    ],
)
def test_recipients_other_than_the_pinned_ones_get_no_key_and_no_dump(
    local_clinic: Clinic, backup_officers: dict[str, DemoOfficer], tmp_path: Path, who: list[str], sentence: str
) -> None:
    officers = {**backup_officers, "stranger": make_officer(tmp_path, "Stranger")}
    declared = settings.load(recipients_of(local_clinic, *(officers[each] for each in who)))
    before = local_clinic.site.local.names()
    with open_backups(declared, actor="test") as site:
        with pytest.raises(KeyRotationError, match=sentence):
            back_up(site)
        with pytest.raises(ApprovalError, match=sentence):
            site.dumps.make("database-20260105-090000-efa1f375.dump.gpg", site.pipeline.tables)
        with pytest.raises(ApprovalError, match=sentence):
            site.pipeline.vault.store_key(V1, KeyMaterial.generate(), site.pipeline.ledger.head())
        assert site.local.names() == before
