"""Keys and encrypted data as the audit has them: cryptoperiods, ages that somebody declared, and what was last read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.data_events import (
    Counted,
    CountedTable,
    UndeclaredColumnsSearched,
    UndeclaredValues,
    ValuesDecrypted,
)
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.key_events import (
    KeyActivationDeclared,
    KeyCreationIntended,
    KeyRegistered,
    KeyStateChanged,
    WrappingKeyDescribed,
)
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.request_events import RequestOpened, StepFinished
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.reporting.plaintext import plaintext_known
from keyrotation_pipeline.reporting.sections import (
    AgeDeclared,
    DataRead,
    EveryValueRead,
    KeyChange,
    KeyLife,
    KeyStorageKey,
    Span,
    TableCounted,
    UndeclaredSearched,
)

GENERATED, IMPORTED, HELD = "generated", "imported", "held by a server"
# As every request to rotate such a key says it in its signed text.
_SAYS_HELD = f"\nRollout: {RolloutMode.SERVER}: "
Entries = Sequence[HistoryEntry]


def declared_ages(entries: Entries) -> Mapping[KeyVersion, tuple[AgeDeclared, ...]]:
    """Since when imported keys have been in use, as declared, the newest declaration last."""
    ages: dict[KeyVersion, tuple[AgeDeclared, ...]] = {}
    for entry in entries:
        if isinstance(fact := entry.fact, KeyActivationDeclared):
            declared = AgeDeclared(fact.activated_at, entry.entry.actor, entry.at)
            ages[fact.version] = (*ages.get(fact.version, ()), declared)
    return ages


def is_held(entries: Entries) -> bool:
    """Whether a server makes and holds the keys, as far as a request has said it; nothing stored here is a key then."""
    return any(isinstance(each.fact, RequestOpened) and _SAYS_HELD in each.fact.approval_text for each in entries)


def key_storage_key(entries: Entries, hosts: Iterable[str]) -> KeyStorageKey | None:
    """The key under which stored keys are sealed, with what it last said of its origin; None: there is none.

    Args:
        hosts: as officers signed them last.
    """
    if (found := KeyStorageKey.signed_in(hosts)) is None:
        return None
    for each in reversed(entries):
        said = each.fact if each.fault is None else None
        if isinstance(said, WrappingKeyDescribed) and said.wrapping_key == f"{found.kind} {found.name}":
            return replace(found, origin=said.origin, exposed=said.exposed, asked_at=each.at)
    return found


def key_lives(entries: Entries, keys: Mapping[KeyVersion, KeyRecord]) -> tuple[KeyLife, ...]:
    """Every registered key, in order of version."""
    ages = declared_ages(entries)
    made = {
        (each.fact.version, each.fact.fingerprint) for each in entries if isinstance(each.fact, KeyCreationIntended)
    }
    held = is_held(entries)
    return tuple(
        _life(record, entries, ages.get(version, ()), generated=(version, record.fingerprint) in made, held=held)
        for version, record in sorted(keys.items())
    )


def _life(
    record: KeyRecord, entries: Entries, ages: tuple[AgeDeclared, ...], *, generated: bool, held: bool
) -> KeyLife:
    declared = () if generated else ages
    return KeyLife(
        version=str(record.version),
        state=str(record.state),
        fingerprint=record.fingerprint,
        origin=HELD if held else GENERATED if generated else IMPORTED,
        registered_at=record.created_at,
        declared=declared,
        cryptoperiods=tuple(_cryptoperiods(record.version, entries, declared, generated=generated)),
        changes=tuple(
            KeyChange(str(each.fact.after), each.at)
            for each in entries
            if isinstance(each.fact, KeyStateChanged) and each.fact.version == record.version
        ),
    )


def _cryptoperiods(
    version: KeyVersion, entries: Entries, declared: tuple[AgeDeclared, ...], *, generated: bool
) -> Iterator[Span]:
    """Each time from becoming active to becoming anything else. When an imported key became so is not known."""
    active, since = False, None
    for entry in entries:
        match entry.fact:
            case KeyRegistered(version=named, state=after, created_at=at) if named == version:
                if not generated:
                    active, since = True, min(declared[-1].since, at) if declared else None
            case KeyStateChanged(version=named, after=after) if named == version:
                at = entry.at
            case _:
                continue
        if active and after is not KeyState.ACTIVE:
            yield Span(since, at)
        if after is KeyState.ACTIVE and not active:
            since = at
        active = after is KeyState.ACTIVE
    if active:
        yield Span(since, None)


def data_read(entries: Entries) -> DataRead:
    """What was last read of the encrypted data."""
    counted = Counted()
    every_value: EveryValueRead | None = None
    undeclared: UndeclaredSearched | None = None
    for entry in entries:
        match entry.fact:
            case Counted() as counted:
                pass
            case ValuesDecrypted(tables=decrypted):
                values, failures = (sum(each.values for each in decrypted), sum(each.failures for each in decrypted))
                tables = tuple(each.table for each in decrypted)
                every_value = EveryValueRead(entry.at, "keyrotation verify", tables, values, failures)
            case StepFinished(step=Step.ZERO_OLD_ROWS_PROOF, facts=facts):
                proof, by = read(Proven, facts), f"the proof of {entry.request}"
                every_value = EveryValueRead(entry.at, by, tuple(proof.swept_rows), proof.values_decrypted, 0)
            case UndeclaredColumnsSearched(findings=findings, not_searched=not_searched):
                undeclared = UndeclaredSearched(entry.at, tuple(map(_finding, findings)), not_searched)
    return DataRead(
        tuple(map(_counted, counted.tables)), counted.not_counted, every_value, undeclared, plaintext_known(entries)
    )


def _counted(table: CountedTable) -> TableCounted:
    return TableCounted(
        table=table.table,
        columns=table.columns,
        rows=table.rows,
        values_by_version=table.values_by_version,
        unencrypted=table.unencrypted,
        unreadable=table.unreadable,
        counted_at=table.counted_at,
    )


def _finding(found: UndeclaredValues) -> str:
    versions = ", ".join(map(str, found.versions)) or "no version"
    return (
        f"{found.relation}.{found.column}: {counted(found.values, 'value')} under {versions}, "
        f"{counted(found.near_misses, 'near-miss')}"
    )
