"""The procedure's checklist for one rotation, as it was performed: each line by the event of the audit that shows it.

What no event shows is not recorded, whoever may have done it. Only signatures of officers prove who acted: the name
of an event is that of the account which appended it.

Source: the source procedure, appendix A.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note, counted
from keyrotation_pipeline.model.backup_events import BackupFacts, BackupSealed, ReportWritten
from keyrotation_pipeline.model.backups import BACKUP_STALE_AFTER
from keyrotation_pipeline.model.data_events import Counted
from keyrotation_pipeline.model.fleet import TargetKind
from keyrotation_pipeline.model.incident_events import AlertDelivered
from keyrotation_pipeline.model.key_events import KeyCreationIntended, KeyRegistered, KeyRetired
from keyrotation_pipeline.model.keys import KeyMade
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.request_events import Rehearsed, RolloutConfirmed, RotationAuditWritten, StepFinished
from keyrotation_pipeline.model.requests import Step, Walk, announced_key
from keyrotation_pipeline.reporting.keys_in_audit import is_held
from keyrotation_pipeline.reporting.wording import lasting

Entries = Sequence[HistoryEntry]
Record = TypeVar("Record")
Shown = tuple[HistoryEntry | None, str]


class RotationTrace:
    """The events of one rotation, and those around it."""

    def __init__(self, walk: Walk, entries: Entries) -> None:
        self.walk = walk
        self._entries = entries
        self._own = [each for each in entries if each.request == walk.id]
        self._steps = {
            each.fact.step: (each, each.fact.facts)
            for each in self._own
            if isinstance(each.fact, StepFinished) and each.fact.table is None
        }
        self._begun, self._held = walk.started_at, is_held(self._own)
        self._before = [each for each in entries if self._begun is None or each.at <= self._begun]
        self._backups = tuple(_backups(entries))

    def _of(self, kind: type[Record]) -> list[tuple[HistoryEntry, Record]]:
        """Its own events of a kind, oldest first."""
        return [(each, each.fact) for each in self._own if isinstance(each.fact, kind)]

    def _read(self, step: Step, record: type[Record], say: Callable[[Record], str]) -> Shown:
        if step not in self._steps:
            return None, ""
        entry, facts = self._steps[step]
        with suppress(AuditError):
            return entry, say(read(record, facts))
        return None, f"event {entry.seq} does not say what an event of its kind must"

    def backup_of_source(self) -> Shown:
        """The newest encrypted copy of the old key that was made before the rotation began."""
        copies = [
            (each, f"{each.fact.facts['backup']}, encrypted")
            for each in self._before
            if isinstance(each.fact, Note)
            and each.fact.kind is EventKind.KEY_BACKED_UP
            and each.fact.facts.get("version") == str(self.walk.source)
            and isinstance(each.fact.facts.get("backup"), str)
        ]
        sets = [
            (entry, f"{made.manifest}, encrypted to {counted(len(made.recipients), 'certificate')}")
            for entry, made in self._backups
            if made.keys.get(str(self.walk.source)) == self.walk.source_fingerprint
            and (self._begun is None or entry.at <= self._begun)
        ]
        return max((*copies, *sets), key=lambda each: each[0].seq, default=(None, ""))

    def _rehearsal(self) -> tuple[HistoryEntry, Rehearsed] | None:
        return next(
            (
                (each, each.fact)
                for each in reversed(self._before)
                if isinstance(each.fact, Rehearsed)
                and each.fact.request in {None, self.walk.id}
                and (each.fact.source, each.fact.target) == (self.walk.source, self.walk.target)
            ),
            None,
        )

    def staging(self) -> Shown:
        """A rehearsal is no staging environment: no application takes part."""
        unseen = "the pipeline sees no staging environment"
        if (found := self._rehearsal()) is None:
            return None, unseen
        entry, rehearsed = found
        how = f"with {counted(len(rehearsed.findings), 'finding')}" if rehearsed.findings else "without findings"
        said = f"the rotation was rehearsed {how} on a restored backup, without applications, on {_day(entry.at)}"
        return None, f"{unseen}; {said} (event {entry.seq})"

    def estimate(self) -> Shown:
        """The prediction of a rehearsal."""
        if (found := self._rehearsal()) is None:
            return None, ""
        entry, rehearsed = found
        seconds = rehearsed.predicted_seconds.get(str(Step.ROWS))
        if seconds is None:
            return None, f"the rehearsal of {_day(entry.at)} did not get that far (event {entry.seq})"
        return entry, f"a rehearsal predicted {lasting(seconds)} for {counted(rehearsed.rows_now, 'row')}"

    def announced(self) -> Shown:
        """An announcement that a channel has delivered."""
        key = announced_key(self.walk.id)
        delivered = [(each, each.fact) for each in self._before if isinstance(each.fact, AlertDelivered)]
        return next(
            ((each, f"announced by {fact.channel}") for each, fact in delivered if fact.alert == key), (None, "")
        )

    def current_backup(self) -> Shown:
        """A complete backup of at most 26 hours before the rotation began."""
        if self._begun is None:
            return None, ""
        made = [
            (entry, f"{facts.manifest}, with a dump of the database")
            for entry, facts in self._backups
            if facts.dump is not None and timedelta() <= self._begun - entry.at <= BACKUP_STALE_AFTER
        ]
        return made[-1] if made else (None, "no complete backup of the 26 hours before it began is on record")

    def generated(self) -> Shown:
        """The pipeline generated the key in this rotation."""
        for entry, made in self._of(KeyCreationIntended):
            if made.version == self.walk.target:
                maker = "made by the server that holds it" if self._held else "generated by the pipeline"
                return entry, f"{maker}; fingerprint {made.fingerprint[:16]}"
        return None, ""

    def stored(self) -> Shown:
        """The key was stored, read back and registered."""
        for entry, key in self._of(KeyRegistered):
            if key.version == self.walk.target:
                return entry, f"stored, read back, compared and registered; fingerprint {key.fingerprint[:16]}"
        return None, ""

    def rollout(self, step: Step, did: str) -> Shown:
        """A rollout that every instance was seen to have reached, or that an officer confirmed."""
        if step not in self._steps:
            return None, ""
        entry, facts = self._steps[step]
        seen, proven = facts.get("instances"), facts.get("proven")
        for each, confirmed in reversed(self._of(RolloutConfirmed)):
            if confirmed.rollout is _CONFIRMS[step] and each.seq < entry.seq:
                name = (each.roster.name_of(confirmed.officer) if each.roster else None) or "somebody"
                return each, f"{name} ({confirmed.officer}) signed that every instance was seen to {did}"
        if type(seen) is not int or seen < 1:
            return None, f"no instance was seen to {did} (event {entry.seq})"
        by_proof = proven if type(proven) is int else 0
        return entry, f"{counted(seen, 'instance')} seen to {did}, {by_proof} of them by reports with proof"

    def reencrypted(self) -> Shown:
        """All rows were walked."""
        return self._read(
            Step.ROWS,
            Rewritten,
            lambda done: f"{counted(done.rows, 'row')}, {counted(done.values, 'value')} re-encrypted",
        )

    def counted(self) -> Shown:
        """Counts of each table on every day from the promotion to the proof, or to now."""
        if Step.PRIMARY_KEY_ROLLOUT not in self._steps:
            return None, ""
        first, _ = self._steps[Step.PRIMARY_KEY_ROLLOUT]
        end, _ = self._steps.get(Step.ZERO_OLD_ROWS_PROOF, (self._entries[-1], None))
        counts = [each for each in self._entries if isinstance(each.fact, Counted) and first.seq < each.seq <= end.seq]
        on, days = {_day(each.at) for each in counts}, set(_days(first.at, end.at))
        if not days <= on:
            return None, f"counted on {len(days & on)} of {counted(len(days), 'day')}"
        return counts[-1], f"counted on {counted(len(days), 'day')}"

    def decrypted(self) -> Shown:
        """Every value was decrypted by the proof, which is more than a spot check."""
        return self._read(
            Step.ZERO_OLD_ROWS_PROOF,
            Proven,
            lambda proof: f"{counted(proof.values_decrypted, 'value')} read, and all of them decrypted",
        )

    def proven(self) -> Shown:
        """Nothing was left under the old key."""
        entry, said = self._read(Step.ZERO_OLD_ROWS_PROOF, Proven, _left)
        return (entry, said) if said.startswith("0 ") else (None, said)

    def retired(self) -> Shown:
        """The old key was withdrawn."""
        for entry, key in reversed(self._of(KeyRetired)):
            return entry, f"{_named(key.taken_from_applications)} withdrawn, with evidence taken again"
        return None, ""

    def archived(self) -> Shown:
        """The old key is in the archive of the key store, and backed up."""
        entry, facts = self._steps.get(Step.ARCHIVED_KEY, (None, {}))
        kept = facts.get("archived")
        copies = [each.get("backup") for each in kept if isinstance(each, dict)] if isinstance(kept, list) else []
        named = [each for each in copies if isinstance(each, str)]
        return (entry, f"archived in the key store, and backed up in {', '.join(named)}") if named else (None, "")

    def summed_up(self) -> Shown:
        """The last step ended."""
        entry, _ = self._steps.get(Step.COMPLIANCE_REPORT, (None, None))
        return entry, "the evidence of the rotation is summed up in the audit" if entry else ""

    def documented(self) -> Shown:
        """The row of `key_rotation_audit` is complete."""
        for entry, row in reversed(self._of(RotationAuditWritten)):
            if row.completion_date is not None:
                return entry, f"completed, with {counted(row.records_reencrypted, 'record')}"
        return None, ""

    def reported(self) -> Shown:
        """A report was written after the rotation ended."""
        end, _ = self._steps.get(Step.COMPLIANCE_REPORT, (None, None))
        if end is not None:
            for each in self._entries:
                if isinstance(each.fact, ReportWritten) and each.seq > end.seq:
                    return each, f"written as {each.fact.format}"
        return None, "no report was written between its end and this one" if end else ""

    def backup_of_target(self) -> Shown:
        """The first complete backup with the new key, or else the copy from before it was used."""
        new = {key.fingerprint for _, key in self._of(KeyRegistered)[:1]}
        for entry, made in self._backups:
            if made.keys.get(str(self.walk.target)) in new:
                return entry, f"{made.manifest}, encrypted to {counted(len(made.recipients), 'certificate')}"
        return self._read(Step.KEY_VERSION, KeyMade, lambda made: f"{made.backup}, before it was used")

    def scheduled(self) -> Shown:
        """The next rotation follows from the promotion; `status` and alerts remind of it."""
        entry, _ = self._steps.get(Step.PRIMARY_KEY_ROLLOUT, (None, None))
        return entry, "12 months after this promotion; the policy says when it is due now" if entry else ""


_CONFIRMS = {
    Step.DUAL_KEY_ROLLOUT: TargetKind.READS,
    Step.PRIMARY_KEY_ROLLOUT: TargetKind.WRITES,
    Step.ARCHIVED_KEY: TargetKind.WITHOUT,
}


def _backups(entries: Entries) -> Iterator[tuple[HistoryEntry, BackupFacts]]:
    """Every complete backup whose signed manifest is on record before it."""
    sealed = set[str]()
    for each in entries:
        if isinstance(each.fact, BackupSealed):
            sealed.add(each.fact.manifest)
        if isinstance(each.fact, Note) and each.fact.kind is EventKind.BACKUP_MADE:
            with suppress(AuditError):
                if (made := read(BackupFacts, each.fact.facts)).manifest in sealed:
                    yield each, made


def _left(proof: Proven) -> str:
    left = f"{counted(proof.old_values, 'value')} left under {_named(proof.retired)}{proof.identified_by.remark}"
    if proof.old_values:
        return left
    return f"{left}; the database refuses {'the old logins' if proof.identified_by.refuses_writers else 'more'}"


def _named(versions: Sequence[KeyVersion]) -> str:
    return ", ".join(map(str, versions))


def _day(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def _days(first: datetime, last: datetime) -> Iterator[str]:
    at = first
    while _day(at) < _day(last):
        yield _day(at)
        at += timedelta(days=1)
    yield _day(last)


BEFORE, FIRST_DAY, FIRST_WEEK = "Pre-rotation", "Day 1: deploy the dual-key application", "Days 1–7: re-encrypt data"
LAST_DAY, AFTER = "Day 8: retire the old key", "Post-rotation"


@dataclass(frozen=True, slots=True)
class ChecklistLine:
    """One line of the checklist.

    Args:
        evidence: what shows it, in words; or why nothing does.
        at, by, event: when, by which account, and the number of the event; None: not recorded.
    """

    group: str
    item: str
    evidence: str
    at: datetime | None = None
    by: str | None = None
    event: int | None = None


@dataclass(frozen=True, slots=True)
class Checklist:
    """The checklist of one rotation; `request` is its id."""

    request: str
    lines: tuple[ChecklistLine, ...]


def checklist_of(walk: Walk, entries: Entries) -> Checklist:
    """The checklist of a rotation by the events that count."""
    return Checklist(walk.id, tuple(_line(walk, *each) for each in _asked(RotationTrace(walk, entries))))


def _line(walk: Walk, group: str, item: str, shown: Shown) -> ChecklistLine:
    entry, said = shown
    if entry is None:
        return ChecklistLine(group, item, said or ("nothing records it" if walk.is_over else "not done yet"))
    return ChecklistLine(group, item, said, entry.at, entry.entry.actor, entry.seq)


def _asked(trace: RotationTrace) -> Iterator[tuple[str, str, Shown]]:
    """Every line in order: group, item, and what shows it."""
    source, target = trace.walk.source, trace.walk.target
    yield BEFORE, f"Back up the current encryption key ({source})", trace.backup_of_source()
    yield BEFORE, "Test dual-key mode in a staging environment", trace.staging()
    yield BEFORE, "Estimate the re-encryption time", trace.estimate()
    yield BEFORE, "Communicate the rotation schedule to the team", trace.announced()
    yield BEFORE, "Verify that database backups are current", trace.current_backup()
    yield FIRST_DAY, f"Generate the new encryption key ({target})", trace.generated()
    yield FIRST_DAY, f"Store {target} in the secrets manager", trace.stored()
    yield FIRST_DAY, "Give the application both keys", trace.rollout(Step.DUAL_KEY_ROLLOUT, f"read {target}")
    yield FIRST_DAY, "Deploy the dual-key application", trace.rollout(Step.DUAL_KEY_ROLLOUT, f"read {target}")
    yield FIRST_DAY, f"Verify that new writes use {target}", trace.rollout(Step.PRIMARY_KEY_ROLLOUT, f"write {target}")
    yield FIRST_DAY, f"Verify that old reads use {source}, without errors", (None, _NO_LOGS)
    yield FIRST_WEEK, "Run the re-encryption", trace.reencrypted()
    yield FIRST_WEEK, "Monitor progress daily by counts", trace.counted()
    yield FIRST_WEEK, "Check for errors in application logs", (None, _NO_LOGS)
    yield FIRST_WEEK, "Verify the integrity of the data", trace.decrypted()
    yield LAST_DAY, f"Verify that 100 % of the data is under {target}", trace.proven()
    yield LAST_DAY, f"Remove {source} from the secrets manager", trace.retired()
    without = f"be without {source}"
    yield LAST_DAY, "Deploy the single-key application", trace.rollout(Step.ARCHIVED_KEY, without)
    yield LAST_DAY, "Archive the old key in a secure vault", trace.archived()
    yield LAST_DAY, "Document that the rotation is complete", trace.summed_up()
    yield AFTER, "Update the key rotation audit table", trace.documented()
    yield AFTER, "Generate the compliance report", trace.reported()
    yield AFTER, f"Back up the new key ({target})", trace.backup_of_target()
    yield AFTER, "Update runbooks and documentation", (None, "no command records it; keep a signed note of it")
    yield AFTER, "Schedule the next rotation (12 months)", trace.scheduled()


_NO_LOGS = "the pipeline does not read application logs"
