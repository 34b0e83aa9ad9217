"""Looks where plaintext of encrypted columns is outside the live rows, and records what has changed."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import MemberUnavailableError
from keyrotation_pipeline.model.plaintext_outside_rows import EncryptedColumn, PlaintextOutsideRows
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
            _look(pipeline, before, tuple(each for each in columns if each not in before.columns), walk.id)
        elif (after := before.without(begun)) != before:
            pipeline.ledger.append(after, walk.id)


def look_again(pipeline: Pipeline) -> tuple[PlaintextOutsideRows, ...]:
    """Looks again at what was encrypted, whatever is declared now; a member that does not answer stays as it was."""
    found = last_known(pipeline.ledger)
    for member, before in found.items():
        if member in {"", *pipeline.members}:
            with suppress(MemberUnavailableError):
                found = {**found, member: _look(pipeline, before)}
    return tuple(found.values())


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
