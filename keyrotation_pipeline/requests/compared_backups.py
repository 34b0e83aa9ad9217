"""What officers sign of backups that were compared with values which no authentication protects."""

from collections.abc import Iterable, Mapping

from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.model.approval import signed_fields
from keyrotation_pipeline.model.audit import EventKind, Note, utc_minute
from keyrotation_pipeline.model.backup_events import RecoveryTestFacts
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.model.signed_lines import COMPARED_BACKUP, NO_BACKUP
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.model.visible_text import plain_name, visible
from keyrotation_pipeline.ports.ledger import Ledger


def compared_backups(ledger: Ledger, request: Request, tables: Iterable[TableName]) -> str | None:
    """Returns for each table the last comparison by a recovery test, as of the audit head of the request.

    None, and no line: the stored text is from before there was one.
    """
    text = ledger.replayed().texts.get(request.id)
    if text is not None and COMPARED_BACKUP not in signed_fields(text):
        return None
    found = _compared(ledger, request.audit_head[0])
    return "; ".join(f"{plain_name(name)}: {found.get(name, NO_BACKUP)}" for name in dict.fromkeys(map(str, tables)))


def _compared(ledger: Ledger, until: int) -> Mapping[str, str]:
    """By table the last comparison, in words."""
    found = dict[str, str]()
    for entry in history(ledger, EventKind.RECOVERY_TEST_PASSED):
        if entry.seq > until or entry.fault is not None or not isinstance(entry.fact, Note):
            continue
        tested = read(RecoveryTestFacts, entry.fact.facts)
        for file, table in tested.compared:
            found[table.table] = (
                f"{table.equal:,} of {table.values:,} values as in {visible(file)} on {utc_minute(entry.at)}, {table}"
            )
    return found
