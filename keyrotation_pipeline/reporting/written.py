"""Reports that were written: each names its own hash in the audit, so that a changed one is refused."""

import json
from collections.abc import Mapping
from hashlib import sha256

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.backup_events import ReportWritten
from keyrotation_pipeline.ports.ledger import Ledger

# Each of ours has one of these: in the JSON, and in OSCAL.
_ONLY_IN_REPORTS = frozenset({"policy", "requests", "assessment-results"})


def record(ledger: Ledger, form: str, files: Mapping[str, bytes]) -> None:
    """Records a report, before anybody gets it."""
    ledger.append(ReportWritten(form, {name: sha256(content).hexdigest() for name, content in files.items()}))


def written_at(ledger: Ledger, name: str, content: bytes) -> int | None:
    """The seq of the event that recorded these bytes as a report; None: they are not a report.

    Args:
        name: of the file, for the message.

    Raises:
        AuditError: they are a report that the audit does not know.
    """
    digest = sha256(content).hexdigest()
    for entry in entries(ledger, ReportWritten.kind):
        fact = entry.fact()
        if isinstance(fact, ReportWritten) and digest in fact.files.values():
            return entry.seq
    if _is_report(content):
        raise AuditError(
            f"{name} is not a report as this audit has recorded one; write a new one with `keyrotation report --output "
            "FILE`"
        )
    return None


def _is_report(content: bytes) -> bool:
    if content.lstrip().startswith(b"<"):
        return b"Audit head:" in content
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and not _ONLY_IN_REPORTS.isdisjoint(said)
