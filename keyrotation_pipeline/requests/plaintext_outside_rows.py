"""Looks where plaintext of encrypted columns is outside the live rows, and records what has changed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError, MemberUnavailableError, PreflightError
from keyrotation_pipeline.model.plaintext_outside_rows import CopiesSought, EncryptedColumn, PlaintextOutsideRows
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline


def last_known(ledger: Ledger) -> Mapping[str, PlaintextOutsideRows]:
    """What was recorded last of each database that has columns which were encrypted, by its name; "": the home's own.

    Of members that were signed away, too.
    """
    last = {each.member: each for each in recorded(ledger, PlaintextOutsideRows)}
    return {member: each for member, each in last.items() if each.columns}


def look_after(pipeline: Pipeline, walk: Walk, proven_at: Mapping[str, datetime]) -> None:
    """Looks at what a walk has encrypted, once no snapshot can show it any more.

    A column that was encrypted before counts from now on again: somebody may have let plaintext in meanwhile. After a
    rollback nothing is claimed of columns that applications write plaintext into again.

    Args:
        proven_at: by database, when it was proven that no live row holds any.

    Raises:
        MemberUnavailableError: a member does not answer; what was seen of others is recorded.
    """
    known = last_known(pipeline.ledger)
    for member, at in proven_at.items():
        begun = [each for each in pipeline.tables if each.held_plaintext and each.name.database == member]
        before = known.get(member, PlaintextOutsideRows((), member=member))
        if walk.encrypts_plaintext:
            columns = (EncryptedColumn(str(table.name), name, at) for table in begun for name in table.held_plaintext)
            new = tuple(each for each in columns if each not in before.columns)
            _look(pipeline, before, new, walk.id, for_copies=True)
        elif (after := before.without(begun)) != before:
            pipeline.ledger.append(after, walk.id)


def look_again(pipeline: Pipeline, *, for_copies: bool) -> tuple[PlaintextOutsideRows, ...]:
    """Looks again at what was encrypted, whatever is declared now; a member that does not answer stays as it was.

    Args:
        for_copies: look for copies, too, which reads a sample of every column.
    """
    found = last_known(pipeline.ledger)
    for member, before in found.items():
        if member in {"", *pipeline.members}:
            with suppress(MemberUnavailableError):
                found = {**found, member: _look(pipeline, before, for_copies=for_copies)}
    return tuple(found.values())


def _look(
    pipeline: Pipeline,
    before: PlaintextOutsideRows,
    new: tuple[EncryptedColumn, ...] = (),
    walk: str | None = None,
    *,
    for_copies: bool,
) -> PlaintextOutsideRows:
    if not (columns := before.columns_with(new)):
        return before
    tables = replace(before, columns=columns).tables
    copies = _copies(pipeline, columns) if for_copies else None
    after = before.seen(pipeline.evidence.plaintext_outside_rows(tables, before.oids), new, copies)
    if after != before:
        pipeline.ledger.append(after, walk)
    return after


def _copies(pipeline: Pipeline, columns: Sequence[EncryptedColumn]) -> CopiesSought | None:
    """Looks for copies of values in columns that are declared as they were; None: it cannot be done now."""
    names = {(each.table, each.column) for each in columns}
    encrypted = [
        (table, column) for table in pipeline.tables for column in table.columns if (str(table.name), column) in names
    ]
    # What this rests on was recorded before, and does not wait for it.
    with suppress(PreflightError, BlockedError, DatabaseUnavailableError):
        return pipeline.inventory.plaintext_copies(encrypted, pipeline.keys.read().ring()) if encrypted else None
    return None
