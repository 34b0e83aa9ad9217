"""The procedure's checklist for one rotation, as it was performed: each line by the event of the audit that shows it.

What no event shows is not recorded, whoever may have done it. Only signatures of officers prove who acted: the name of
an event is that of the account which appended it.

Source: the source procedure, appendix A.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.reporting.rotation_trace import Entries, RotationTrace, Shown

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
