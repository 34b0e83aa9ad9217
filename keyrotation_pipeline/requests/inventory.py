"""Takes the inventory: counts, undeclared columns with encrypted values, and the pre-flight problems."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from keyrotation_pipeline.errors import MemberUnavailableError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.data_events import UndeclaredColumnsSearched
from keyrotation_pipeline.model.environment import BlindSpots, Problem
from keyrotation_pipeline.model.plaintext_outside_rows import PlaintextOutsideRows
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, QuarantinedValue, TableCount
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.canary import unopened
from keyrotation_pipeline.requests.plaintext_outside_rows import look_again
from keyrotation_pipeline.requests.wrapping_key import record_origin

# Counted within seconds.
COUNTED_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Inventory:
    """The declared tables as counted now, undeclared columns with our values, unreadable values, and blind spots.

    Args:
        plaintext: where it is known outside the live rows, by database; empty: no column was encrypted from it.
    """

    counts: tuple[TableCount, ...]
    findings: tuple[FoundColumn, ...]
    quarantine: tuple[QuarantinedValue, ...]
    blind_spots: BlindSpots
    plaintext: tuple[PlaintextOutsideRows, ...] = ()


def take_inventory(pipeline: Pipeline) -> Inventory:
    """Counts every declared column again, searches everything that is undeclared, and records what was found.

    Raises:
        PreflightError: a declared table is missing or cannot be read.
        BlockedError: another session has locked one.
    """
    began_at = pipeline.clock.now()
    # The quarantine first: reading it drops fixed entries, which the count then leaves out.
    quarantine = pipeline.inventory.quarantine(pipeline.tables)
    counts = pipeline.inventory.count(pipeline.tables)
    pipeline.ledger.save_counts(counts)
    findings = pipeline.inventory.discover(pipeline.tables)
    blind_spots = pipeline.environment.blind_spots()
    pipeline.ledger.append(UndeclaredColumnsSearched.of(began_at, findings, tuple(map(str, blind_spots.unsearched))))
    return Inventory(counts, findings, quarantine, blind_spots, look_again(pipeline, for_copies=True))


def count_answering(pipeline: Pipeline) -> tuple[TableCount, ...]:
    """Counts every table, but for those of members of a fleet that do not answer or cannot be used.

    Raises:
        PreflightError, BlockedError: as `take_inventory`.
    """
    counts = list[TableCount]()
    for database in dict.fromkeys(table.name.database for table in pipeline.tables):
        with suppress(MemberUnavailableError):
            counts += pipeline.inventory.count([each for each in pipeline.tables if each.name.database == database])
    counted = {each.table: each for each in counts}
    return tuple(counted[table] for table in pipeline.tables if table in counted)


def count_if_small(pipeline: Pipeline) -> tuple[TableCount, ...]:
    """Counts all tables if they are small, else none: a terabyte would take hours. The first counts are recorded.

    Raises:
        As `take_inventory`.
    """
    named = all(table.format.names_versions for table in pipeline.tables)
    if not named and pipeline.keys.read().primary is None:
        return ()  # such values are counted by decrypting, and `init` has not imported the keys yet
    if not is_small(pipeline):
        return ()
    counts = pipeline.inventory.count(pipeline.tables)
    if len(pipeline.ledger.counts(pipeline.tables)) < len(counts):
        pipeline.ledger.save_counts(counts)
    return counts


def is_small(pipeline: Pipeline) -> bool:
    """Whether all declared tables are counted within seconds."""
    return sum(span.size_bytes for span in pipeline.inventory.page_spans(pipeline.tables)) <= COUNTED_BYTES


def count_again(pipeline: Pipeline) -> None:
    """Counts all declared tables and records that, however long it takes; raises as `take_inventory`."""
    pipeline.ledger.save_counts(pipeline.inventory.count(pipeline.tables))


def renew_counts(pipeline: Pipeline, most_bytes: int) -> tuple[TableCount, ...]:
    """The last count of each table; recounts the tables that fit into `most_bytes`, oldest counts first.

    Raises:
        As `take_inventory`.
    """
    look_again(pipeline, for_copies=False)
    sizes = Counter[str]()
    for span in pipeline.inventory.page_spans(pipeline.tables):
        sizes[span.table] += span.size_bytes
    last = {count.table: count for count in pipeline.ledger.counts(pipeline.tables)}
    never = datetime.min.replace(tzinfo=UTC)
    for table in sorted(pipeline.tables, key=lambda each: last[each].counted_at if each in last else never):
        if sizes[str(table.name)] <= most_bytes:
            most_bytes -= sizes[str(table.name)]
            (last[table],) = pipeline.inventory.count([table])
    return _saved(pipeline, last)


def recount(pipeline: Pipeline, table: EncryptedTable) -> None:
    """Counts one table again, and records that with the last counts of the others; raises as `take_inventory`."""
    last = {count.table: count for count in pipeline.ledger.counts(pipeline.tables)}
    (last[table],) = pipeline.inventory.count([table])
    _saved(pipeline, last)


def _saved(pipeline: Pipeline, last: Mapping[EncryptedTable, TableCount]) -> tuple[TableCount, ...]:
    counts = tuple(last[table] for table in pipeline.tables if table in last)
    pipeline.ledger.save_counts(counts, [table for table in pipeline.tables if table not in last])
    return counts


def require_preflight(pipeline: Pipeline, target: KeyVersion) -> tuple[Problem, ...]:
    """Runs the pre-flight for a rotation to `target`, records what it learnt of the wrapping key, returns its warnings.

    Raises:
        PreflightError: every fatal problem.
    """
    problems = (
        *pipeline.rollout.preflight(target),
        *pipeline.environment.preflight(pipeline.tables, target),
        *pipeline.keys.preflight(),
        *unopened(pipeline),
    )
    messages = [problem.message for problem in problems if problem.fatal]
    if messages:
        more = len(messages) - 1
        others = "; ".join(f"({number}) {message}" for number, message in enumerate(messages[1:], 2))
        rest = f" ({counted(more, 'more problem')}: {others})" if more else ""
        raise PreflightError(f"{messages[0]}{rest}")
    record_origin(pipeline)
    return tuple(problem for problem in problems if not problem.fatal)
