"""The home's head of the audit moves forward only, and only within the audit that it is of."""

from pathlib import Path

from keyrotation_pipeline.adapters.backups.anchors import advance_head, keep_head
from keyrotation_pipeline.audit.chain import read_anchor
from keyrotation_pipeline.model.audit import AuditHead


def head(seq: int) -> AuditHead:
    return AuditHead(seq, f"{seq:064x}")


def stored(directory: Path) -> int:
    return read_anchor((directory / "audit-head.json").read_text()).seq


def test_a_head_is_stored_after_each_change_and_never_goes_back(tmp_path: Path) -> None:
    anchors = tmp_path / "anchors"
    for seq, expected in ((3, 3), (2, 3), (7, 7), (7, 7)):
        advance_head(anchors, head(seq), lambda _anchor: True)
        assert stored(anchors) == expected


def test_an_audit_that_lost_the_stored_head_replaces_nothing(tmp_path: Path) -> None:
    advance_head(tmp_path, head(5), lambda _anchor: True)
    advance_head(tmp_path, head(9), lambda anchor: anchor != head(5))
    assert stored(tmp_path) == 5
    keep_head(tmp_path, head(9))  # as a reconciliation does, which gives the other up
    assert stored(tmp_path) == 9


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "audit-head.json").write_text("{}")
    advance_head(tmp_path, head(1), lambda _anchor: False)
    assert stored(tmp_path) == 1
