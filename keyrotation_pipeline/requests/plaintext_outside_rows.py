"""Looks where plaintext of encrypted columns is outside the live rows, and records what has changed."""

from collections import deque
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.model.plaintext_outside_rows import EncryptedColumn, PlaintextOutsideRows
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline


def last_known(ledger: Ledger) -> PlaintextOutsideRows | None:
    """What was recorded last; None: no column was encrypted, or none is any more."""
    (last,) = deque(recorded(ledger, PlaintextOutsideRows), maxlen=1) or (None,)
    return last if last is not None and last.columns else None


def look_after(pipeline: Pipeline, walk: Walk, proven_at: datetime) -> None:
    """Looks at what a walk has encrypted, once no snapshot can show it any more.

    A column that was encrypted before counts from now on again: somebody may have let plaintext in meanwhile. After a
    rollback nothing is claimed of columns that applications write plaintext into again.
    """
    begun = [table for table in pipeline.tables if table.held_plaintext]
    before = last_known(pipeline.ledger) or PlaintextOutsideRows(())
    if walk.encrypts_plaintext:
        columns = (
            EncryptedColumn(str(table.name), name, proven_at) for table in begun for name in table.held_plaintext
        )
        _look(pipeline, before, tuple(each for each in columns if each not in before.columns), walk.id)
    elif (after := before.without(begun)) != before:
        pipeline.ledger.append(after, walk.id)


def look_again(pipeline: Pipeline) -> PlaintextOutsideRows | None:
    """Looks again at what was encrypted, whatever is declared now; None: nothing was."""
    before = last_known(pipeline.ledger)
    return None if before is None else _look(pipeline, before)


def _look(
    pipeline: Pipeline, before: PlaintextOutsideRows, new: tuple[EncryptedColumn, ...] = (), walk: str | None = None
) -> PlaintextOutsideRows:
    if not (columns := before.columns_with(new)):
        return before
    tables = replace(before, columns=columns).tables
    after = before.seen(pipeline.evidence.plaintext_outside_rows(tables, before.oids), new)
    if after != before:
        pipeline.ledger.append(after, walk)
    return after
