"""What every `Anchors` must do. A test class inherits the suite and has a fixture `stage` of what it plays on."""

from typing import Protocol

import pytest

from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.approval import Officer, PinnedRoster, Roster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.ports.backups import Anchors

FIRST = PinnedRoster(1, Roster(2, (Officer("Ada", "A" * 40, "mQAQZGE="), Officer("Bén", "B" * 40)), ("F" * 40,)))
LATER = PinnedRoster(9, Roster(3, FIRST.roster.officers[::-1], ()))
HEAD, NEXT, OTHER = AuditHead(1, "a" * 64), AuditHead(9, "b" * 64), AuditHead(9, "c" * 64)


class Stage(Protocol):
    """Anchors, and what others write next to them."""

    def anchors(self) -> Anchors:
        """As a process that has just begun sees them."""

    def store_head(self, head: AuditHead) -> None:
        """As the ledger does after a commit."""

    def back_up(self, head: AuditHead, roster: PinnedRoster | None) -> None:
        """A backup whose manifest is signed by the pipeline and names these."""

    def forge_backup(self, roster: PinnedRoster) -> None:
        """A backup by somebody else that names this roster."""

    def damage_roster(self) -> None: ...

    def damage_head(self) -> None: ...


class AnchorsSuite:
    @pytest.fixture
    def stage(self) -> Stage:
        raise NotImplementedError

    def test_nothing_is_kept_at_first(self, stage: Stage) -> None:
        anchors = stage.anchors()
        assert (anchors.heads(), anchors.roster(), anchors.roster_digests()) == ((), None, frozenset())

    def test_the_head_and_the_roster_that_were_kept_last_are_kept_next_to_each_other(self, stage: Stage) -> None:
        for head, pinned in ((HEAD, FIRST), (NEXT, LATER), (NEXT, FIRST)):
            stage.store_head(head)
            stage.anchors().keep_roster(pinned)
            assert (stage.anchors().heads(), stage.anchors().roster()) == ((head,), pinned)

    def test_a_roster_is_kept_with_its_certificates_and_every_letter_of_a_name(self, stage: Stage) -> None:
        stage.anchors().keep_roster(FIRST)
        kept = stage.anchors().roster()
        assert kept is not None
        assert [officer.certificate for officer in kept.roster.officers] == ["mQAQZGE=", ""]
        assert kept.is_same(FIRST)

    def test_heads_of_backups_are_reported_in_order_each_once(self, stage: Stage) -> None:
        stage.store_head(NEXT)
        for head in (OTHER, HEAD, NEXT):
            stage.back_up(head, None)
        assert stage.anchors().heads() == (HEAD, NEXT, OTHER)

    def test_rosters_of_backups_are_reported_by_their_digests(self, stage: Stage) -> None:
        for pinned in (FIRST, None, LATER):
            stage.back_up(HEAD, pinned)
        assert stage.anchors().roster_digests() == {FIRST.roster.digest, LATER.roster.digest}
        assert stage.anchors().roster() is None

    def test_a_backup_by_somebody_else_vouches_for_no_roster(self, stage: Stage) -> None:
        stage.back_up(HEAD, FIRST)
        stage.forge_backup(LATER)
        assert stage.anchors().roster_digests() == {FIRST.roster.digest}

    def test_a_damaged_roster_vouches_for_nobody_and_stops(self, stage: Stage) -> None:
        stage.anchors().keep_roster(FIRST)
        stage.damage_roster()
        with pytest.raises(AuditError, match="damaged"):
            stage.anchors().roster()

    def test_a_damaged_head_vouches_for_nothing_and_backups_still_do(self, stage: Stage) -> None:
        stage.store_head(NEXT)
        stage.back_up(HEAD, FIRST)
        stage.damage_head()
        assert stage.anchors().heads() == (HEAD,)
