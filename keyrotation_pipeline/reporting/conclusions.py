"""The objectives of the source procedure's sections 2, 7 and 8.3, and what the report concludes from them.

No answer says that a control of NIST SP 800-53 is met: each says whether one statement is true, by the records that
it names. What nobody recorded is not satisfied: absence is no evidence that something was done, nor that it was not. A
section is met if every objective that applies is satisfied, and there is one; not met if a record contradicts one; not
shown if none does, and something is not on record; not applicable if there is none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.reporting import answers, backup_answers
from keyrotation_pipeline.reporting.answers import Answer, Record
from keyrotation_pipeline.reporting.compliance import ComplianceReport


@dataclass(frozen=True, slots=True)
class Objective:
    """One question.

    Args:
        control: of NIST SP 800-53 revision 5, that it belongs to.
        source: section of the source procedure.
        wanted: the statement that should be true.
        answer: from a report.
    """

    name: str
    control: str
    source: str
    title: str
    wanted: str
    answer: Callable[[ComplianceReport], Answer]


@dataclass(frozen=True, slots=True)
class Assessed:
    """An objective as a report answers it.

    Args:
        shown: whether records decide it, either way; False: it is not on record, or there is nothing to be about.
        applies: False: there is nothing yet that it could be about, as `remark` says.
        remark: what is not on record; empty: the evidence says everything.
    """

    name: str
    control: str
    source: str
    title: str
    wanted: str
    satisfied: bool
    shown: bool
    applies: bool
    evidence: tuple[Record, ...]
    remark: str


def assessed(report: ComplianceReport) -> Iterator[Assessed]:
    """Every objective with its answer, in order."""
    for each in OBJECTIVES:
        answer = each.answer(report)
        yield Assessed(
            name=each.name,
            control=each.control,
            source=each.source,
            title=each.title,
            wanted=each.wanted,
            satisfied=answer.holds,
            shown=answer.applies and (answer.holds or any(not each.holds and each.known for each in answer.evidence)),
            applies=answer.applies,
            evidence=answer.evidence,
            remark=answer.remark,
        )


OBJECTIVES = (
    Objective("procedure-reviewed", "pl-2", "2.1", "The procedure was reviewed within 12 months",
              "The rotation procedure and its documentation were reviewed within the last 12 months.",
              answers.procedure_reviewed),
    Objective("key-age-known", "sc-12", "2.1", "The age of the key in use is known",
              "The pipeline promoted the active key itself, or somebody declared since when it has been in use.",
              answers.key_age_known),
    Objective("cryptoperiod", "sc-12", "2.1", "The key in use is within its cryptoperiod",
              "The active key's age is known, and its next rotation is not overdue.", answers.in_cryptoperiod),
    Objective("old-keys-retired", "sc-12", "2.1", "Every finished rotation left nothing under the old key",
              "Every finished rotation found no value under the old key when it retired it, and nothing that was read "
              "later found one.", answers.old_keys_retired),
    Objective("rotations-documented", "au-12", "2.1", "Every finished rotation is documented",
              "Every finished rotation has a completed row in key_rotation_audit.", answers.rotations_documented),
    Objective("incidents-in-time", "ir-4", "2.2", "Incidents were answered in time",
              "Every incident reached each stage of the response (4, 8, 24 and 48 hours) in time, as far as it is due.",
              answers.incidents_in_time),
    Objective("incidents-closed", "ir-4", "2.2", "Every incident is closed",
              "Every incident on record is closed.", answers.incidents_closed),
    Objective("notices-given", "ir-6", "2.2", "No notice of a breach is outstanding",
              "No notice is due that nobody has reported as given.", answers.notices_given),
    Objective("backup-complete", "cp-9", "7.1", "The newest backup is complete",
              "The newest backup holds keys and database of one moment, in every place.",
              backup_answers.backup_complete),
    Objective("backup-elsewhere", "cp-6", "7.1", "The newest backup was stored in several places",
              "The newest complete backup was stored in at least two places.", backup_answers.backup_elsewhere),
    Objective("backup-found", "cp-9", "7.2", "The newest backup was found where it is said to be",
              "Within the last day the newest complete backup was found in each of its places: its signed "
              "manifest, and every other file by name and size.", backup_answers.backup_found),
    Objective("backup-has-active-key", "cp-9", "7.1", "The key in use is backed up",
              "The newest complete backup holds exactly the active key.", backup_answers.backup_has_active_key),
    Objective("backup-after-rotation", "cp-9", "7.1", "A backup followed the last rotation",
              "A complete backup was begun after the last finished rotation.", backup_answers.backup_after_rotation),
    Objective("backup-daily", "cp-9", "7.2", "The newest backup is of the last day",
              "The newest complete backup is at most 26 hours old.", backup_answers.backup_daily),
    Objective("backup-encrypted", "cp-9.8", "7.2", "The newest backup is encrypted",
              "The newest complete backup is encrypted to named certificates.", backup_answers.backup_encrypted),
    Objective("recovery-tested", "cp-4", "7.3", "The newest recovery test passed",
              "The newest recovery test restored a set that the audit has into a server of its own, and read every "
              "value.", backup_answers.recovery_tested),
    Objective("recovery-tested-quarterly", "cp-4", "7.3", "A recovery test passed within the last quarter",
              "A recovery test passed within the last 100 days.", backup_answers.recovery_tested_quarterly),
    Objective("policy-pinned", "ac-3.2", "8.3.1", "At least two officers must sign",
              "A roster is pinned by which at least two officers must sign.", answers.policy_pinned),
    Objective("two-officers", "ac-3.2", "8.3.1", "Enough officers signed every request that began",
              "Every request that began carries good signatures of enough different officers, at least two, over its "
              "exact text.", answers.two_officers),
    Objective("audit-verified", "au-9", "8.3.2", "The audit verifies",
              "The audit chain verifies from its first event to its last, against every anchor that is kept.",
              answers.audit_verified),
    Objective("audit-time-stamped", "au-8", "8.3.2", "An authority outside has seen the audit",
              "The audit has time stamps by an outside authority, and each verifies with the configured certificates.",
              answers.time_stamped),
    Objective("audit-witnessed", "au-10", "8.3.2", "A witness outside has signed that the audit only grew",
              "A witness that officers named has signed a checkpoint of the audit, and contradicts nothing in it.",
              answers.witnessed),
    Objective("key-access-logged", "au-6", "8.3.2", "The log of key reads is included",
              "The report includes the log of who read the key.", answers.key_access_logged),
    Objective("key-generation-known", "sc-12", "8.3.3", "The pipeline generated the key in use",
              "The pipeline generated the active key from random bytes of the operating system.",
              answers.key_generation_known),
    Objective("values-encrypted", "sc-28", "8.3.3", "Counts of the last 7 days found only encrypted values",
              "Every declared table, and every one of the last retirement, was counted within the last 7 days, without"
              " unencrypted or unreadable values.",
              answers.values_encrypted),
    Objective("every-value-decrypts", "sc-13", "8.3.3", "The last reading decrypted every value",
              "The newest reading of every value of these tables found none that does not decrypt.",
              answers.every_value_decrypts),
    Objective("undeclared-searched", "sc-28", "8.3.3", "The last search found no undeclared encrypted values",
              "An inventory searched what is not declared, found nothing, and covers what the last retirement did not "
              "read again.", answers.undeclared_searched),
    Objective("recovery-objectives-met", "cp-10", "8.3.4", "The last test that passed met RTO and RPO",
              "The newest passed recovery test measured RTO and RPO, both within their objectives.",
              backup_answers.recovery_objectives_met),
)  # fmt: skip


REASONS_SHOWN = 3


class Verdict(StrEnum):
    """A conclusion in one word or two."""

    MET = "met"
    NOT_MET = "not met"
    NOT_SHOWN = "not shown"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the report.

    Args:
        source: sections of the source procedure.
        cfr: paragraphs of 45 CFR that ask for it.
        objectives: names of those that decide it.
    """

    name: str
    title: str
    source: str
    cfr: tuple[str, ...]
    objectives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The conclusion about one section.

    Args:
        why: sentences.
        examined: how many statements were judged, and by how many records, in words.
        oldest_at, newest_at: when the records were made; None: there is none.
        objectives: names of those that were judged.
    """

    name: str
    title: str
    source: str
    cfr: tuple[str, ...]
    verdict: Verdict
    why: tuple[str, ...]
    examined: str
    oldest_at: datetime | None
    newest_at: datetime | None
    objectives: tuple[str, ...]


def concluded(report: ComplianceReport) -> tuple[Conclusion, ...]:
    """Every section in order, with its conclusion."""
    answers = {each.name: each for each in assessed(report)}
    return tuple(_concluded(each, [answers[name] for name in each.objectives]) for each in SECTIONS)


def _concluded(section: Section, asked: Sequence[Assessed]) -> Conclusion:
    applying = [each for each in asked if each.applies]
    failed = [each for each in applying if not each.satisfied]
    verdict = Verdict.MET if applying else Verdict.NOT_APPLICABLE
    if failed:
        verdict = Verdict.NOT_MET if any(each.shown for each in failed) else Verdict.NOT_SHOWN
    records = [record for each in asked for record in each.evidence]
    times = sorted(each.at for each in records)
    return Conclusion(
        name=section.name,
        title=section.title,
        source=section.source,
        cfr=section.cfr,
        verdict=verdict,
        why=tuple(_why(asked, failed)),
        examined=_examined(len(applying), len(asked), len(records)),
        oldest_at=times[0] if times else None,
        newest_at=times[-1] if times else None,
        objectives=section.objectives,
    )


def _examined(applying: int, asked: int, records: int) -> str:
    statements = counted(asked, "statement")
    if applying < asked:
        statements = f"{statements}, of which {applying or 'none'} {'apply' if applying != 1 else 'applies'}"
    return f"{statements}; {counted(records, 'record') if records else 'no record'}"


def _why(asked: Sequence[Assessed], failed: Sequence[Assessed]) -> Iterator[str]:
    missed: dict[tuple[str, str], list[str]] = {}
    for each in sorted(failed, key=lambda each: not each.shown):  # what is false comes before what nobody recorded
        beginning = "Not true" if each.shown else "Not shown"
        missed.setdefault((beginning, _reasons(each)), []).append(f"that {_lower(each.title)}")
    for (beginning, reasons), titles in missed.items():
        yield f"{beginning} {', '.join(titles[:-1])}{' and ' if titles[1:] else ''}{titles[-1]}: {reasons}."
    holding = [each.title for each in asked if each.applies and each.satisfied]
    if holding and not failed:
        yield f"{'; '.join([holding[0], *map(_lower, holding[1:])])}."
    for remark in dict.fromkeys(each.remark for each in asked if not each.applies):
        yield f"Not applicable yet: {remark}." if holding or failed else f"{remark[:1].upper()}{remark[1:]}."


def _reasons(objective: Assessed) -> str:
    """Why a statement is not shown to be true: by its records, or the first of many, and what is missing."""
    said = [each.said for each in objective.evidence if not each.holds]
    more = [f"and {len(said) - REASONS_SHOWN} more"] if len(said) > REASONS_SHOWN else []
    return "; ".join([*said[:REASONS_SHOWN], *more, *([objective.remark] if objective.remark else [])])


def _lower(title: str) -> str:
    return f"{title[:1].lower()}{title[1:]}"


SECTIONS = (
    Section("policy", "Key rotation policy", "8.3.1", ("164.308(a)(3)(ii)(A)", "164.316(b)(1)(i)"),
            ("policy-pinned",)),
    Section("review", "Review of the procedure", "2.1", ("164.308(a)(8)", "164.316(b)(2)(iii)"),
            ("procedure-reviewed",)),
    Section("keys", "Keys and encryption standards", "8.3.3", ("164.312(a)(2)(iv)",),
            ("key-generation-known", "key-age-known", "cryptoperiod")),
    Section("data", "Encrypted data", "8.3.3", ("164.312(a)(2)(iv)", "164.312(c)(1)"),
            ("values-encrypted", "every-value-decrypts", "undeclared-searched")),
    Section("rotations", "Rotations and other decisions", "2.1, 8.3.1", ("164.308(a)(3)(ii)(A)", "164.316(b)(1)(ii)"),
            ("two-officers", "old-keys-retired", "rotations-documented")),
    Section("access", "Key access logs", "8.3.2", ("164.308(a)(1)(ii)(D)", "164.312(b)"), ("key-access-logged",)),
    Section("audit", "Audit trail", "8.2, 8.3.2", ("164.312(b)",),
            ("audit-verified", "audit-time-stamped", "audit-witnessed")),
    Section("backups", "Backups", "7.1, 7.2", ("164.308(a)(7)(ii)(A)",),
            ("backup-complete", "backup-elsewhere", "backup-found", "backup-has-active-key", "backup-after-rotation",
             "backup-daily", "backup-encrypted")),
    Section("recovery", "Recovery tests", "7.3, 8.3.4", ("164.308(a)(7)(ii)(B)", "164.308(a)(7)(ii)(D)"),
            ("recovery-tested", "recovery-tested-quarterly", "recovery-objectives-met")),
    Section("incidents", "Incidents and notices of breaches", "2.2, 5", ("164.308(a)(6)(ii)", "164.404–164.410"),
            ("incidents-in-time", "incidents-closed", "notices-given")),
)  # fmt: skip
