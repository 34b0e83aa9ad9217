"""What `verify.py` prints of its findings."""

from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.reporting.verify_pack import Findings


def test_whoever_has_a_pack_alone_is_not_told_to_type_our_commands() -> None:
    found = Findings()
    with found.readable("the audit"):
        raise AuditError("event 3 was changed; run `keyrotation audit verify`")
    assert list(found.lines()) == ["the pack does NOT hold", "DIFFERENT    event 3 was changed"]
