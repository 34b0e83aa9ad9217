"""What a home keeps of audit and roster outside the database."""

from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.backups.anchors import KeptAnchors
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.approval import Officer, PinnedRoster, Roster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.ports.backups import Anchors
from keyrotation_pipeline_tests.fakes import FakeAnchors, fake_pipeline, fake_seals

FIRST = PinnedRoster(1, Roster(2, (Officer("Ada", "A" * 40, "mQAQZGE="), Officer("Bén", "B" * 40)), ("F" * 40,)))
LATER = PinnedRoster(9, Roster(3, FIRST.roster.officers[::-1], ()))


def files(tmp_path: Path) -> KeptAnchors:
    world = fake_pipeline()
    seals = fake_seals(world.ledger, world.pipeline.signatures)
    return KeptAnchors(tmp_path / "anchors", tmp_path / "backups", seals)


@pytest.fixture(params=["files", "fake"])
def anchors(request: pytest.FixtureRequest, tmp_path: Path) -> Anchors:
    return files(tmp_path) if request.param == "files" else FakeAnchors()


def test_nothing_is_kept_at_first(anchors: Anchors) -> None:
    assert (anchors.heads(), anchors.roster(), anchors.roster_digests()) == ((), None, frozenset())


def test_the_newest_head_and_the_newest_roster_are_kept_beside_each_other(anchors: Anchors) -> None:
    for head, pinned in ((AuditHead(1, "a" * 64), FIRST), (AuditHead(9, "b" * 64), LATER)):
        anchors.keep(head)
        anchors.keep_roster(pinned)
        assert (anchors.heads(), anchors.roster()) == ((head,), pinned)


def test_a_roster_is_kept_with_its_certificates(anchors: Anchors) -> None:
    anchors.keep_roster(FIRST)
    kept = anchors.roster()
    assert kept is not None
    assert [officer.certificate for officer in kept.roster.officers] == ["mQAQZGE=", ""]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"seq": 1, "roster": {"required": 2}}'])
def test_a_damaged_roster_vouches_for_nobody_and_stops(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "anchors").mkdir()
    (tmp_path / "anchors" / "roster.json").write_bytes(content)
    with pytest.raises(AuditError, match=r"roster\.json, which says who may approve, is damaged"):
        files(tmp_path).roster()
