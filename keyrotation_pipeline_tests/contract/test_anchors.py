"""The fake anchors and those in files pass the same suite."""

from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.backups.anchors import FileAnchors, advance_head
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.approval import PinnedRoster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import BackupSet, stamp_of
from keyrotation_pipeline_tests.contract.anchors_suite import HEAD, AnchorsSuite, Stage
from keyrotation_pipeline_tests.fakes import (
    PIPELINE,
    START,
    FakeAnchors,
    FakeClock,
    FakeSigner,
    fake_manifest_trust,
    fake_pipeline,
)


class FakeStage:
    """What a test writes down is what there is."""

    def __init__(self) -> None:
        self.fake = FakeAnchors()

    def anchors(self) -> FakeAnchors:
        return self.fake

    def store_head(self, head: AuditHead) -> None:
        self.fake.kept = head

    def back_up(self, head: AuditHead, roster: PinnedRoster | None) -> None:
        self.fake.written.append(head)
        self.fake.digests |= {roster.roster.digest} if roster else set()

    def forge_backup(self, roster: PinnedRoster) -> None:
        """The fake knows only what is vouched for."""

    def damage_roster(self) -> None:
        self.fake.is_damaged = True

    def damage_head(self) -> None:
        self.fake.kept = None


class FileStage:
    """A home, and the manifests of backups next to it."""

    def __init__(self, directory: Path) -> None:
        self.own = directory / "anchors"
        self.backups = BackupDirectory(directory / "backups")
        world = fake_pipeline()
        self.ledger, self.signatures = world.ledger, world.pipeline.signatures
        self.trust = fake_manifest_trust(self.ledger, self.signatures)
        self.numbers = count()

    def anchors(self) -> FileAnchors:
        return FileAnchors(self.own, self.own.parent / "backups", fake_manifest_trust(self.ledger, self.signatures))

    def store_head(self, head: AuditHead) -> None:
        advance_head(self.own, head, lambda _: True)

    def back_up(self, head: AuditHead, roster: PinnedRoster | None) -> None:
        self.trust.write(self.backups, self.made(head, roster))

    def forge_backup(self, roster: PinnedRoster) -> None:
        elsewhere = fake_pipeline()
        strangers = ManifestTrust(FakeSigner("c3RyYW5nZXI="), elsewhere.ledger, self.signatures, FakeClock())
        strangers.write(self.backups, self.made(HEAD, roster))

    def made(self, head: AuditHead, roster: PinnedRoster | None) -> BackupSet:
        stamp = stamp_of(START + timedelta(seconds=next(self.numbers)), PIPELINE)
        return BackupSet(stamp, "clinic", (), None, head, roster.roster.digest if roster else None)

    def damage_roster(self) -> None:
        (self.own / "roster.json").write_bytes(b"{")

    def damage_head(self) -> None:
        (self.own / "audit-head.json").write_bytes(b"\xff{")


class TestFakeAnchors(AnchorsSuite):
    @pytest.fixture
    def stage(self) -> Stage:
        return FakeStage()


class TestKeptAnchors(AnchorsSuite):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> Stage:
        return FileStage(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"seq": 1, "roster": {"required": 2}}'])
    def test_a_roster_that_is_no_roster_is_named_by_its_file(self, tmp_path: Path, content: bytes) -> None:
        stage = FileStage(tmp_path)
        stage.own.mkdir()
        (stage.own / "roster.json").write_bytes(content)
        with pytest.raises(AuditError, match=r"roster\.json, which says who may approve, is damaged"):
            stage.anchors().roster()
