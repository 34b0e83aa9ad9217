"""Whoever writes to the bucket replaces, adds, removes and re-dates: no key, no code, no file, no false green.

They cannot delete versions: the bucket has the one of ours under whatever they do.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from keyrotation_pipeline.adapters.backups.s3 import S3Bucket
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.catalog import kept_sets
from keyrotation_pipeline.backups.completeness import backup_status
from keyrotation_pipeline.backups.key_loss import newest_key, survey
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import BackupError, KeyRotationError, UnsignedBackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import (
    BackupSet,
    dump_name,
    is_manifest,
    key_file_name,
    manifest_name,
    signature_name,
)
from keyrotation_pipeline.model.manifest import render
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.buckets import TestBucket, in_front_of, new_bucket
from keyrotation_pipeline_tests.servers import Server, copy_of

V1, V2 = KeyVersion(1), KeyVersion(2)
THEIRS = "20991231-235959-3fa9c1d2"


def as_ours(content: dict[str, Any]) -> bytes:
    """A manifest in the form of ours, whatever it says."""
    return f"{json.dumps(content, indent=2)}\n".encode()


@dataclass
class Attacker:
    """Has the bucket, the public certificates and a signing key of their own; two sets of ours are there."""

    clinic: Clinic
    bucket: TestBucket
    older: BackupSet
    newest: BackupSet
    key: SigningKey

    def encrypted(self, plaintext: bytes) -> bytes:
        gpg = GnuPG(self.clinic.directory / "attacker", SystemClock())
        return gpg.encrypt(plaintext, [gpg.read_certificate(self.clinic.officer.certificate)])

    def a_key(self) -> bytes:
        return self.encrypted(base64_of(KeyMaterial.generate()).encode())

    def put_manifest(self, name: str, text: bytes, signature: bytes | None) -> None:
        self.bucket.overwrite(name, text)
        if signature is None:
            self.bucket.delete(signature_name(name))
        else:
            self.bucket.overwrite(signature_name(name), signature)

    def text(self) -> bytes:
        return render(self.newest, self.clinic.signer.public)

    def forge(self, stamp: str, *, signature: bytes | None = None, named: str | None = None) -> None:
        """A whole set under a stamp: the newest one's content, with a key and a dump of the attacker's."""
        text = self.text().decode().replace(self.newest.stamp, stamp)
        made_at = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}+00:00"
        manifest = as_ours(json.loads(text) | {"made_at": made_at} | ({} if named is None else {"signed_by": named}))
        for version in (V1, V2):
            self.bucket.overwrite(
                key_file_name(version, stamp), self.encrypted(base64_of(KeyMaterial.generate()).encode())
            )
        self.bucket.overwrite(dump_name(stamp), self.encrypted(b"PGDMP"))
        self.put_manifest(manifest_name(stamp), manifest, self.key.sign(manifest) if signature is None else signature)

    def rewrite(self, change: Callable[[dict[str, Any]], object]) -> None:
        """The newest manifest changed, and signed with the attacker's key."""
        content = json.loads(self.text())
        change(content)
        text = as_ours(content)
        self.put_manifest(self.newest.name, text, self.key.sign(text))

    def swap(self, name: str, other: str) -> None:
        first, second = self.bucket.content(name), self.bucket.content(other)
        self.bucket.overwrite(name, second)
        self.bucket.overwrite(other, first)

    def remove(self, *names: str) -> None:
        for name in names:
            self.bucket.delete(name)

    @property
    def future(self) -> str:
        return f"20991231-235959-{self.clinic.site.trust.pipeline}"

    @property
    def dump(self) -> str:
        assert self.newest.dump is not None
        return self.newest.dump.file.name

    def key_file(self, version: KeyVersion) -> str:
        return key_file_name(version, self.newest.stamp)


def at(clinic: Clinic, bucket: TestBucket) -> Attacker:
    """An attacker at a clinic's bucket, in which the clinic has put two sets."""
    older = back_up(clinic.site).made
    clinic.pass_days(1)
    key = SigningKey(clinic.directory / "attacker.pem")
    key.create()
    return Attacker(clinic, bucket, older, back_up(clinic.site).made, key)


@pytest.fixture(scope="module")
def attacked(
    server: Server,
    template: str,
    s3_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    recovery_officer: DemoOfficer,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> Iterator[Attacker]:
    """One clinic for all attacks of a worker."""
    officers = {"recovery": recovery_officer, "security": security_officer, "privacy": privacy_officer}
    with ExitStack() as stack:
        url = stack.enter_context(copy_of(server, template))
        bucket = new_bucket(s3_url, stack.enter_context(pytest.MonkeyPatch.context()))
        yield at(open_clinic(stack, tmp_path_factory.mktemp("clinic"), url, officers, bucket), bucket)


@pytest.fixture
def attacker(attacked: Attacker) -> Iterator[Attacker]:
    """The attacker, and after the attack the clinic's sets as they were."""
    bucket, tags = attacked.bucket, attacked.bucket.tags()
    yield attacked
    after = bucket.tags()
    for name in after.keys() - tags.keys():
        bucket.delete(name)
    for name in tags.keys() - {name for name, tag in after.items() if tags.get(name) == tag}:
        bucket.overwrite(name, (attacked.clinic.backups / name).read_bytes())


def in_first_key(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["keys"][0].update({name: value})


def older_under_the_newest_name(a: Attacker) -> None:
    a.put_manifest(a.newest.name, a.bucket.content(a.older.name), a.bucket.content(signature_name(a.older.name)))


def re_dated(a: Attacker) -> None:
    """Our own manifest and signature, to the letter, under the name of a later day."""
    a.put_manifest(
        manifest_name(a.future), a.bucket.content(a.older.name), a.bucket.content(signature_name(a.older.name))
    )


def flooded(a: Attacker) -> None:
    """Versions of every file of the newest set, of the size that ours have, and delete markers over them."""
    for name in a.newest.names:
        size = len(a.bucket.content(name))
        for _ in range(120 if name == a.newest.name else 20):
            a.bucket.overwrite(name, os.urandom(size))
    a.remove(*a.newest.names)


# What adds sets: the recovery test fails, since one of them seems to be the newest.
SETS_OF_THEIRS: dict[str, Callable[[Attacker], object]] = {
    "a set of their own, signed by their own key": lambda a: a.forge(a.future),
    "a set of their own that names their own key": lambda a: a.forge(a.future, named=a.key.public),
    "a set of their own with the signature of ours": lambda a: a.forge(
        a.future, signature=a.bucket.content(signature_name(a.newest.name))
    ),
    "a set of their own with an empty signature": lambda a: a.forge(a.future, signature=b""),
    "a set of their own with a huge signature": lambda a: a.forge(a.future, signature=os.urandom(1 << 20)),
    "a set of their own without a signature": lambda a: a.put_manifest(manifest_name(a.future), a.text(), None),
    "a set of the same second": lambda a: a.forge(f"{a.newest.stamp}-2"),
    "our older set under a later day": re_dated,
}
# What hides files of ours: the versions that verify are read, and the test says so.
HIDDEN: dict[str, Callable[[Attacker], object]] = {
    "our newest replaced by theirs": lambda a: a.forge(a.newest.stamp),
    "our older manifest under the newest's name": older_under_the_newest_name,
    "a file of our manifest named by an absolute path": lambda a: a.rewrite(
        in_first_key("file", str(a.clinic.directory / "planted"))
    ),
    "a file of our manifest named by a path upwards": lambda a: a.rewrite(in_first_key("file", "../../keys/v1.key")),
    "a key's fingerprint changed": lambda a: a.rewrite(in_first_key("fingerprint", "0" * 64)),
    "no table in our manifest": lambda a: a.rewrite(lambda content: content["dump"].update(tables=[], versions=[])),
    "one byte more in our manifest": lambda a: a.bucket.overwrite(a.newest.name, a.text() + b" "),
    "our manifest cut off": lambda a: a.bucket.overwrite(a.newest.name, a.text()[:-40]),
    "our manifest emptied": lambda a: a.bucket.overwrite(a.newest.name, b""),
    "our manifest as deep as can be": lambda a: a.bucket.overwrite(a.newest.name, b"[" * 200_000),
    "our signature removed": lambda a: a.remove(signature_name(a.newest.name)),
    "our signature replaced": lambda a: a.bucket.overwrite(signature_name(a.newest.name), os.urandom(64)),
    "our manifest removed": lambda a: a.remove(a.newest.name),
    "our newest set removed, so that an older one is the newest": lambda a: a.remove(*a.newest.names),
    "everything removed": lambda a: a.remove(*a.newest.names, *a.older.names),
    "our dump removed": lambda a: a.remove(a.dump),
    "our dump replaced by theirs": lambda a: a.bucket.overwrite(a.dump, a.encrypted(b"PGDMP")),
    "our dump replaced by an older one of ours": lambda a: a.swap(a.dump, dump_name(a.older.stamp)),
    "our dump cut off": lambda a: a.bucket.overwrite(a.dump, a.bucket.content(a.dump)[:-1]),
    "a key removed": lambda a: a.remove(a.key_file(V1)),
    "a key replaced by theirs": lambda a: a.bucket.overwrite(a.key_file(V1), a.a_key()),
    "a key replaced by a larger file": lambda a: a.bucket.overwrite(a.key_file(V1), b"x" * 100_000),
    "two keys exchanged": lambda a: a.swap(a.key_file(V1), a.key_file(V2)),
    "hundreds of versions over ours, and all removed": flooded,
}


def files_outside(clinic: Clinic) -> dict[str, bytes]:
    """What lies around, but for the backups, their records and gpg's passing files."""
    skipped = {"backups", "gnupg", "recovery", "anchors", "attacker"}
    return {
        str(path): path.read_bytes()
        for path in clinic.directory.rglob("*")
        if path.is_file() and skipped.isdisjoint(path.relative_to(clinic.directory).parts)
    }


@pytest.mark.parametrize("attack", HIDDEN)
def test_what_an_attacker_hides_is_read_in_the_version_that_verifies_and_is_no_false_green(
    attacker: Attacker, attack: str
) -> None:
    clinic = attacker.clinic
    HIDDEN[attack](attacker)
    with clinic.recovery_key() as key:
        tested = recovery_test(clinic.site, key)
        for version in (V1, V2):
            assert newest_key(clinic.site, version, key)[0] == clinic.ring.material(version)
    assert tested.made == attacker.newest
    assert "where older versions were read" in tested.missed[0]
    (sentence,) = clinic.site.pipeline.vault.status(clinic.site.pipeline.ledger.keys()).changed
    assert f"the newest backup {attacker.newest.name} was complete in s3://" in sentence


@pytest.mark.parametrize("attack", SETS_OF_THEIRS)
def test_a_set_of_an_attackers_is_not_taken_and_fails_the_test(attacker: Attacker, attack: str) -> None:
    clinic = attacker.clinic
    SETS_OF_THEIRS[attack](attacker)
    before = files_outside(clinic)
    with clinic.recovery_key() as key, pytest.raises(KeyRotationError) as refused:
        recovery_test(clinic.site, key)
    assert "\n" not in str(refused.value)
    assert files_outside(clinic) == before
    assert [json.loads(event.body)["event"] for event in clinic.site.pipeline.ledger.events()][-1] == (
        "recovery_test_failed"
    )
    # A key that comes back is the registered one, whatever lies there.
    with clinic.recovery_key() as key:
        for version in (V1, V2):
            assert newest_key(clinic.site, version, key)[0] == clinic.ring.material(version)


def test_the_survey_of_lost_keys_names_the_versions_of_what_was_removed(attacker: Attacker) -> None:
    attacker.remove(*attacker.bucket.tags())
    found = survey(attacker.clinic.site)
    (dump,) = [each for each in found.dumps if each.name == attacker.dump and each.place.startswith("s3://")]
    assert dump.intact
    assert any(
        re.search(r"^encryption-key-v1-.* in s3://.* \(version \S+\)$", each) for each in found.database[0].backups
    )


@pytest.mark.parametrize(
    ("denied", "right"), [("?versions", "s3:ListBucketVersions"), ("versionId=", "s3:GetObjectVersion")]
)
def test_a_right_for_versions_that_is_missing_is_named_where_the_newest_set_is_hidden(
    attacker: Attacker, denied: str, right: str
) -> None:
    clinic = attacker.clinic
    attacker.remove(*attacker.newest.names)
    with in_front_of(attacker.bucket.url, lambda _method, path: "AccessDenied" if denied in path else None) as url:
        place = replace(attacker.bucket, url=url).place(clinic.clock)
        stands = backup_status((place, clinic.site.local), clinic.site.trust, clinic.site.pipeline.ledger.keys())
        with clinic.recovery_key() as key, pytest.raises(BackupError, match=f"is not in s3://.*grant {right}"):
            recovery_test(replace(clinic.site, offsite=(place,)), key)
    assert (len(stands.changed), len(stands.unexamined)) == (1, 1)
    assert f"grant {right}" in stands.unexamined[0]


def test_a_forged_set_is_refused_by_its_name_and_none_of_its_files_is_fetched(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacker.forge(attacker.future)
    monkeypatch.setattr(S3Bucket, "fetch", lambda _self, file, _target: pytest.fail(f"it fetched {file.name}"))
    with (
        attacker.clinic.recovery_key() as key,
        pytest.raises(UnsignedBackupError, match=f"{manifest_name(attacker.future)} in s3://.* not this pipeline's"),
    ):
        recovery_test(attacker.clinic.site, key)


def test_other_things_in_the_bucket_do_not_matter(attacker: Attacker) -> None:
    for name in (
        "notes.txt",
        "backup-x.json",
        "backup-20991231-235959-efa1f375.json.sig",
        "database-x.dump.gpg",
        "é\u202e.gpg",
    ):
        attacker.bucket.overwrite(name, b"x")
    with attacker.clinic.recovery_key() as key:
        assert recovery_test(attacker.clinic.site, key).made == attacker.newest


def test_officers_may_vouch_for_a_set_whose_key_is_lost_and_the_audit_names_who_did(
    clinic: Clinic, bucket: TestBucket, backup_officers: dict[str, Any]
) -> None:
    """As after a disaster in which the signature was lost, too."""
    attacker = at(clinic, bucket)
    text = attacker.bucket.content(attacker.newest.name)
    attacker.bucket.delete(signature_name(attacker.newest.name))
    place, ledger, officers = clinic.site.offsite[0], clinic.site.pipeline.ledger, clinic.site.pipeline.signatures

    def believed(*signatures: bytes) -> list[str]:
        trust = type(clinic.site.trust)(attacker.key, ledger, officers, clinic.clock, signatures)
        return [made.name for made in kept_sets(place, trust).sets if made.name == attacker.newest.name]

    assert believed() == []
    assert believed(backup_officers["recovery"].sign(text)) == []  # who may decrypt may not vouch
    assert believed(backup_officers["security"].sign(text + b" ")) == []
    assert believed(backup_officers["security"].sign(text)) == [attacker.newest.name]
    trusted = [json.loads(event.body) for event in ledger.events() if "unsigned_backup_trusted" in event.body]
    assert [event["facts"]["manifest"] for event in trusted] == [attacker.newest.name]


def test_the_audit_has_the_hash_of_every_manifest_and_the_public_key(attacker: Attacker) -> None:
    events = [json.loads(event.body) for event in attacker.clinic.site.pipeline.ledger.events()]
    sealed = {each["facts"]["manifest"] for each in events if each["event"] == "backup_sealed"}
    assert sealed == {name for name in attacker.clinic.site.local.names() if is_manifest(name)}
    (pinned,) = [each["facts"]["public"] for each in events if each["event"] == "backup_key_pinned"]
    assert pinned == SigningKey(attacker.clinic.settings.home / "backup-signing-key.pem").public
