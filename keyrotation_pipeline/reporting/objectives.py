"""The objectives of the source procedure's sections 2, 7 and 8.3, each answered by the facts of the report.

No answer says that a control of NIST SP 800-53 is met: each says whether one statement is true, by the records that it
names. What nobody recorded is not satisfied: absence is no evidence that something was done.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keyrotation_pipeline.reporting import answers, backup_answers, incident_answers
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
        applies: False: there is nothing yet that it could be about, as `remark` says.
        remark: what is not on record; empty: the evidence says everything.
    """

    name: str
    control: str
    source: str
    title: str
    wanted: str
    satisfied: bool
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
              incident_answers.incidents_in_time),
    Objective("incidents-closed", "ir-4", "2.2", "Every incident is closed",
              "Every incident on record is closed.", incident_answers.incidents_closed),
    Objective("notices-given", "ir-6", "2.2", "No notice of a breach is outstanding",
              "No notice is due that nobody has reported as given.", incident_answers.notices_given),
    Objective("backup-complete", "cp-9", "7.1", "The newest backup is complete",
              "The newest backup holds keys and database of one moment, in every place.",
              backup_answers.backup_complete),
    Objective("backup-elsewhere", "cp-6", "7.1", "The newest backup is in several places",
              "The newest complete backup is in at least two places.", backup_answers.backup_elsewhere),
    Objective("backup-has-active-key", "cp-9", "7.1", "The key in use is backed up",
              "The newest complete backup holds exactly the active key.", backup_answers.backup_has_active_key),
    Objective("backup-after-rotation", "cp-9", "7.1", "A backup followed the last rotation",
              "A complete backup was begun after the last finished rotation.", backup_answers.backup_after_rotation),
    Objective("backup-daily", "cp-9", "7.2", "The newest backup is of the last day",
              "The newest complete backup is at most 26 hours old.", backup_answers.backup_daily),
    Objective("backup-encrypted", "cp-9.8", "7.2", "The newest backup is encrypted",
              "The newest complete backup is encrypted to named certificates.", backup_answers.backup_encrypted),
    Objective("recovery-tested", "cp-4", "7.3", "The newest recovery test passed",
              "The newest recovery test restored, decrypted and read a backup.", backup_answers.recovery_tested),
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
