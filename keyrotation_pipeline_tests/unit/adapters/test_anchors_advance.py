"""The home's head of the audit moves forward only, within the audit that it is of or by officers' signatures."""

from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.backups.anchors import advance_head
from keyrotation_pipeline.audit.verify import read_anchor
from keyrotation_pipeline.model.audit import HASH_BYTES, AuditHead
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline_tests.fakes.chain import good_at_start


def head(seq: int, first: int = 0) -> AuditHead:
    return AuditHead(seq, f"{first:02x}{seq:062x}")


def audit_of(seq: int, *abandoned: AuditHead) -> AuditState:
    """An audit with so many events."""
    hashes = b"".join(bytes.fromhex(head(each).hash) for each in range(1, seq + 1))
    assert len(hashes) == HASH_BYTES * seq
    return AuditState(good_at_start, head=head(seq), hashes=bytearray(hashes), abandoned=set(abandoned))


def stored(directory: Path) -> AuditHead:
    return read_anchor((directory / "audit-head.json").read_text())


def test_a_head_is_stored_after_each_change_and_never_goes_back(tmp_path: Path) -> None:
    for seq, expected in ((3, 3), (2, 3), (7, 7), (7, 7)):
        advance_head(tmp_path / "anchors", head(seq), audit_of(seq).replaces)
        assert stored(tmp_path / "anchors") == head(expected)


LOST = head(5, 0xFF)


@pytest.mark.parametrize(
    ("abandoned", "expected"), [pytest.param((), LOST, id="lost"), pytest.param((LOST,), head(4), id="abandoned")]
)
def test_an_audit_that_lost_the_stored_head_replaces_it_only_if_officers_gave_it_up(
    tmp_path: Path, abandoned: tuple[AuditHead, ...], expected: AuditHead
) -> None:
    advance_head(tmp_path, LOST, audit_of(1).replaces)
    advance_head(tmp_path, head(4), audit_of(4, *abandoned).replaces)
    assert stored(tmp_path) == expected


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "audit-head.json").write_text("{}")
    advance_head(tmp_path, head(1), audit_of(1).replaces)
    assert stored(tmp_path) == head(1)
