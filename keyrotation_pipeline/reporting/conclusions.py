"""What the report concludes about each of its sections, in words, and no further than its objectives were examined.

A section is met if every objective that applies is satisfied, and there is one; not applicable if there is none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.objectives import Assessed, assessed
from keyrotation_pipeline.reporting.wording import several

REASONS_SHOWN = 3


class Verdict(StrEnum):
    """A conclusion in one word or two."""

    MET = "met"
    NOT_MET = "not met"
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
    verdict = Verdict.NOT_MET if failed else Verdict.MET if applying else Verdict.NOT_APPLICABLE
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
    statements = several(asked, "statement")
    if applying < asked:
        statements = f"{statements}, of which {applying or 'none'} {'apply' if applying != 1 else 'applies'}"
    return f"{statements}; {several(records, 'record') if records else 'no record'}"


def _why(asked: Sequence[Assessed], failed: Sequence[Assessed]) -> Iterator[str]:
    missed: dict[str, list[str]] = {}
    for each in failed:
        missed.setdefault(_reasons(each), []).append(f"that {_lower(each.title)}")
    for reasons, titles in missed.items():
        yield f"Not shown {', '.join(titles[:-1])}{' and ' if titles[1:] else ''}{titles[-1]}: {reasons}."
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
            ("audit-verified", "audit-time-stamped")),
    Section("backups", "Backups", "7.1, 7.2", ("164.308(a)(7)(ii)(A)",),
            ("backup-complete", "backup-elsewhere", "backup-has-active-key", "backup-after-rotation", "backup-daily",
             "backup-encrypted")),
    Section("recovery", "Recovery tests", "7.3, 8.3.4", ("164.308(a)(7)(ii)(B)", "164.308(a)(7)(ii)(D)"),
            ("recovery-tested", "recovery-tested-quarterly", "recovery-objectives-met")),
    Section("incidents", "Incidents and notices of breaches", "2.2, 5", ("164.308(a)(6)(ii)", "164.404–164.410"),
            ("incidents-in-time", "incidents-closed", "notices-given")),
)  # fmt: skip
