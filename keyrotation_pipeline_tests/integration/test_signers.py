"""Whose sets are ours: two pipelines in one bucket, homes made again, and keys that the database's owner pins."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.key_vault import KeyVault
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey, verifies
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.pipeline import initialise
from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.catalog import BackupContext, kept_sets
from keyrotation_pipeline.backups.key_loss import newest_key
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust, signed_manifest
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.errors import ManifestError, OutOfOrderError, UnsignedBackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, BackupSealed
from keyrotation_pipeline.model.backups import (
    DatabaseCopy,
    KeyBackup,
    manifest_name,
    signature_name,
    signer_fingerprint,
    stamp_of,
)
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.monitoring.backup_status import protection
from keyrotation_pipeline.ports.backups import DumpSource
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.rotation.reconcile import open_reconciliation, reconcile
from keyrotation_pipeline.rotation.rotate import ROTATE
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.integration.test_hostile_buckets import at
from keyrotation_pipeline_tests.servers import Server, copy_of

V1 = KeyVersion(1)


@pytest.fixture
def neighbour(
    server: Server, template: str, tmp_path: Path, backup_officers: dict[str, Any], bucket: TestBucket
) -> Iterator[Clinic]:
    """Another clinic with a pipeline of its own, in the same bucket and prefix."""
    with ExitStack() as stack:
        directory = tmp_path / "neighbour"
        directory.mkdir()
        yield open_clinic(stack, directory, stack.enter_context(copy_of(server, template)), backup_officers, bucket)


def attention(site: BackupContext) -> tuple[str, ...]:
    pipeline = site.pipeline
    return protection(pipeline, pipeline.ledger.keys(), pipeline.clock.now()).attention


def test_two_pipelines_in_one_bucket_overwrite_nothing_and_are_reported_at_once(
    clinic: Clinic, neighbour: Clinic, bucket: TestBucket
) -> None:
    neighbour.clock.at = clinic.clock.at
    before = bucket.tags()
    ours, theirs = back_up(clinic.site), back_up(neighbour.site)
    added = bucket.tags().keys() - before.keys()
    assert len(added) == len((*ours.made.files, *theirs.made.files)) + 4
    assert ours.made.made_at == theirs.made.made_at
    for name in added:
        written = [each.backups / name for each in (clinic, neighbour) if (each.backups / name).exists()]
        assert [path.read_bytes() for path in written] == [bucket.content(name)]
    for site, other, done in ((clinic.site, neighbour.site, ours), (neighbour.site, clinic.site, theirs)):
        said = f"of the pipeline {other.trust.pipeline}, which is unknown"
        assert [said in sentence for sentence in attention(site)] == [True]
        assert any(said in sentence for sentence in done.warnings) or site is clinic.site  # which came first
        kept = kept_sets(site.offsite[0], site.trust)
        assert (kept.newest, kept.refused) == (done.made, {})
    with clinic.recovery_key() as key:
        assert recovery_test(clinic.site, key).made == ours.made
        assert newest_key(clinic.site, V1, key)[0] == clinic.ring.material(V1)


def test_what_the_databases_owner_says_makes_no_set_of_theirs_ours(clinic: Clinic, bucket: TestBucket) -> None:
    """They pin a key of their own, and seal a set that it signs: by events with right hashes."""
    attacker, ledger = at(clinic, bucket), clinic.site.pipeline.ledger
    theirs = attacker.key.public
    ledger.append(BackupKeyPinned(theirs))
    for stamp in (
        stamp_of(clinic.clock.now(), signer_fingerprint(theirs)[:8]),
        stamp_of(clinic.clock.now(), clinic.site.trust.pipeline) + "-2",
    ):
        attacker.forge(stamp, named=theirs)
        name = manifest_name(stamp)
        ledger.append(BackupSealed(name, hashlib.sha256(bucket.content(name)).hexdigest(), has_dump=True))
    site = replace(
        clinic.site, trust=ManifestTrust(clinic.signer, ledger, clinic.site.pipeline.signatures, clinic.clock)
    )
    assert site.trust.signers == {site.trust.own_signer}
    kept = kept_sets(site.offsite[0], site.trust)
    assert kept.newest == attacker.newest
    (refused,) = kept.refused.values()
    assert f"names the signer {signer_fingerprint(theirs)}, which is not this pipeline's" in str(refused)
    with clinic.recovery_key() as key:
        assert newest_key(site, V1, key)[0] == clinic.ring.material(V1)
        with pytest.raises(UnsignedBackupError, match="names the signer"):
            recovery_test(site, key)


def signed_request(site: BackupContext, clinic: Clinic) -> bytes:
    """A rotation that officers sign and that begins; its text."""
    pipeline = site.pipeline
    *_, newest = pipeline.ledger.keys()
    request = new_request(
        Walk, pipeline, ROTATE, source=newest.version, fingerprint=newest.fingerprint,
        target=newest.version.next(), reason="old", requested_by="dba",
    )  # fmt: skip
    pipeline.ledger.open(request, text := approval_text(pipeline, request))
    for signer in clinic.signers:
        add_approval(pipeline, request, signer.sign(text))
    pipeline.ledger.set_status(request.id, RequestStatus.RUNNING)
    assert approval_text(pipeline, pipeline.ledger.request(request.id)) == text
    return text


@contextmanager
def new_home(clinic: Clinic) -> Iterator[BackupContext]:
    """What `init` makes where the key that signs backups is lost, and nothing else."""
    (clinic.settings.home / "backup-signing-key.pem").unlink()
    initialise(clinic.settings, None, actor="test")
    with open_backups(clinic.settings, actor="test") as site:
        yield site


def named(site: BackupContext, clinic: Clinic) -> None:
    """Officers name the key of this home, and nothing else changes."""
    pipeline = site.pipeline
    asked, plan = open_reconciliation(pipeline, requested_by="dba")
    (finding,) = plan.findings
    assert "this home has another one" in finding
    text = pipeline.ledger.approval_text(asked.id)
    assert f"let this home, whose key is {site.trust.own_signer}, go on with the audit".encode() in text
    for signer in clinic.signers:
        add_approval(pipeline, asked, signer.sign(text))
    reconcile(pipeline, asked)
    verify_everything(pipeline)


def test_the_signers_of_lost_homes_count_by_the_first_pin_and_by_signed_texts(
    clinic: Clinic, bucket: TestBucket
) -> None:
    first = back_up(clinic.site).made
    keys = [clinic.site.trust.own_signer]
    with new_home(clinic) as site:
        keys.append(site.trust.own_signer)
        done = back_up(site)
        second = done.made
        (unnamed,) = (each for each in done.warnings if "this home has another one" in each)
        assert unnamed.endswith("; run `keyrotation reconcile`")
        with pytest.raises(OutOfOrderError, match="officers have not named the key of this home yet"):
            signed_request(site, clinic)
        named(site, clinic)
        assert kept_sets(site.offsite[0], site.trust).newest == second
        text = signed_request(site, clinic)
        assert f"\nBackups signed by: {keys[1]}\n".encode() in text
        walk, *_ = site.pipeline.ledger.requests()
    with new_home(clinic) as site:
        keys.append(site.trust.own_signer)
        assert len(set(keys)) == 3
        assert site.trust.signers == set(keys)
        # The walk that officers have signed goes on in the new home, by the text that names the second key.
        assert approval_text(site.pipeline, site.pipeline.ledger.request(walk.id)) == text
        assert attention(site) == ()
        kept = kept_sets(site.offsite[0], site.trust)
        assert ({first.name, second.name} <= {made.name for made in kept.sets}, kept.refused) == (True, {})
        pinned = recorded(site.pipeline.ledger, BackupKeyPinned)
        # What the second home wrote before officers named it counts for nothing here.
        assert [signer_fingerprint(each.public) for each in pinned] == [keys[0], keys[2]]
    # A fourth home: the third key, which no text names, does not count there.
    with new_home(clinic) as site:
        assert keys[2] not in site.trust.signers
        assert {keys[0], keys[1]} < site.trust.signers


def test_a_manifest_is_verified_by_the_fingerprint_of_its_signer_alone(local_clinic: Clinic) -> None:
    made = back_up(local_clinic.site).made
    signer = str(local_clinic.site.trust.own_signer)
    place = local_clinic.site.local
    text, signature = place.read(made.name), place.read(signature_name(made.name))

    def read(text: bytes, signature: bytes, fingerprint: str, name: str = made.name) -> object:
        here = BackupDirectory(local_clinic.directory / "here")
        here.write(signature_name(name), signature)
        return signed_manifest(here, name, text, signers={fingerprint}, verifies=verifies)

    assert read(text, signature, signer) == made
    stranger = SigningKey(local_clinic.directory / "stranger.pem")
    stranger.create()
    own = text.replace(local_clinic.signer.public.encode(), stranger.public.encode())
    for wrong in (
        (text + b" ", signature, signer),
        (text, signature, signer_fingerprint(stranger.public)),
        (text, stranger.sign(text), signer),
        (own, stranger.sign(own), signer),
        (text, b"", signer),
        (b"", signature, signer),
        (text[1:], signature, signer),
    ):
        with pytest.raises(UnsignedBackupError):
            read(*wrong)
    with pytest.raises(ManifestError, match="another pipeline"):
        read(own, stranger.sign(own), signer_fingerprint(stranger.public))
    with pytest.raises(ManifestError, match="does not have the name"):
        read(text, signature, signer, f"backup-20200101-000000-{signer[:8]}.json")


class MeanwhileAKey:
    """`DatabaseDumps` during which another process stores a key, after both looked for a free name."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = clinic
        self.stored: KeyBackup | None = None

    def make(self, name: str, tables: Sequence[EncryptedTable], source: DumpSource | None = None) -> DatabaseCopy:
        site, material = self._clinic.site, self._clinic.ring.material(V1)
        vault = site.pipeline.vault
        assert isinstance(vault, KeyVault)
        self.stored = replace(vault, clock=self._clinic.clock).store_key(V1, material, site.pipeline.ledger.head())
        return site.dumps.make(name, tables, source)


def test_a_backup_and_a_key_that_is_stored_in_the_same_second_have_names_of_their_own(local_clinic: Clinic) -> None:
    dumps = MeanwhileAKey(local_clinic)
    made = back_up(replace(local_clinic.site, dumps=dumps)).made
    assert dumps.stored is not None
    assert dumps.stored.made_at == made.made_at
    assert dumps.stored.name not in {file.name for file in made.files}
    kept = kept_sets(local_clinic.site.local, local_clinic.site.trust)
    assert {made.name, manifest_name(f"{made.stamp}-2")} <= {each.name for each in kept.sets}
    assert kept.refused == {}
