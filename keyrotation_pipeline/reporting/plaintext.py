"""Where plaintext of encrypted columns is outside the live rows, as the audit has it: never that there is none."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import EventKind, Note, instant, utc_minute
from keyrotation_pipeline.model.backup_events import BackupFacts, BackupIncomplete, BackupRekeyed
from keyrotation_pipeline.model.plaintext_outside_rows import NOT_KNOWN, EncryptedColumn, PlaintextOutsideRows, lines_of
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.reporting.sections import PlaintextKnown

# Of backups in one cell.
MOST_NAMED = 10
_UNTIL_REMOVED = "until somebody, or a rule of the place, removes them"


def plaintext_known(entries: Sequence[HistoryEntry]) -> PlaintextKnown | None:
    """What the newest look found, and which backups are older; None: no column was encrypted from plaintext."""
    last = {each.fact.member: (each.at, each.fact) for each in entries if isinstance(each.fact, PlaintextOutsideRows)}
    looked = [(at, found) for at, found in last.values() if found.columns]
    if not looked:
        return None
    found = [each for _, each in looked]
    columns = tuple(f"{each.name} since {utc_minute(each.since)}" for of in found for each in of.columns)
    return PlaintextKnown(max(at for at, _ in looked), columns, (*lines_of(found), *_of_backups(entries)))


def encrypted_by(entries: Sequence[HistoryEntry]) -> int:
    """The event by which the newest of these columns was encrypted: what was backed up before may hold plaintext."""
    known, seq = dict[str, frozenset[EncryptedColumn]](), 0
    for entry in entries:
        if entry.fault is None and isinstance(found := entry.fact, PlaintextOutsideRows):
            columns = frozenset(found.columns)
            seq = entry.seq if columns - known.get(found.member, frozenset()) else seq
            known[found.member] = columns
    return seq


def in_statement(entries: Sequence[HistoryEntry], backups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same in a signed statement; {}: no column was encrypted from plaintext.

    Args:
        backups: the kept dumps that are older.
    """
    if (known := plaintext_known(tuple(each for each in entries if each.fault is None))) is None:
        return {}
    places = [{"where": where, "known": what, "until": until} for where, what, until in known.places]
    return {
        "plaintext": {
            "encrypted_in_the_live_rows": list(known.columns),
            "looked_at": instant(known.at),
            "known_outside": places,
            "backups_kept": list(backups),
        }
    }


def _of_backups(entries: Sequence[HistoryEntry]) -> Iterator[tuple[str, str, str]]:
    before = encrypted_by(entries)
    named = list(dict.fromkeys(name for each in entries if (name := _dump_in(each, before)) is not None))
    more = f" and {len(named) - MOST_NAMED} older" if len(named) > MOST_NAMED else ""
    said = f"made before: {', '.join(named[-MOST_NAMED:])}{more}" if named else "none was made before"
    yield "backups of this pipeline", said, _UNTIL_REMOVED if named else "none known"
    yield "backups that others make", "those of before hold it", NOT_KNOWN


def _dump_in(entry: HistoryEntry, before: int) -> str | None:
    """The set with a dump that was made before an event, or of a dump of before."""
    match entry.fact:
        case Note(kind=EventKind.BACKUP_MADE, facts=facts) if entry.seq < before:
            try:
                made = read(BackupFacts, facts)
            except AuditError:
                return None
            return made.manifest if made.dump is not None else None
        case BackupIncomplete(manifest=str() as manifest, files=files) if entry.seq < before:
            return manifest if any(name.startswith("database-") for name in files) else None
        case BackupRekeyed(manifest=manifest):
            return manifest  # its rows are of an earlier moment
    return None
