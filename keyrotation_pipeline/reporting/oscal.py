"""The compliance report as OSCAL assessment results, for the tools of assessors.

The same report gives the same bytes: every UUID is derived from the audit's head, the moment and what it names.

Source: NIST OSCAL 1.1.3, assessment results model; RFC 9562, section 5.5 (UUID version 5).
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from keyrotation_pipeline.reporting.answers import Record
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.conclusions import SECTIONS, Assessed, assessed

OSCAL_VERSION = "1.1.3"
NAMESPACE = "https://keyrotation-pipeline.invalid/oscal"  # a name, not a place
NOT_CLAIMED = (
    "Only the named records were examined. No finding says that a control is met as a whole; `satisfied` says that "
    "one sentence is true by these records. What nobody recorded is not satisfied, with the reason `other`; what a "
    "record contradicts has the reason `fail`."
)

CFR = {name: section.cfr for section in SECTIONS for name in section.objectives}


class _Ids:
    """UUIDs of one report."""

    def __init__(self, report: ComplianceReport) -> None:
        period = report.parameters.period
        span = f"{period.since}/{period.until}" if period else "all"
        what = f"{report.database}:{report.audit.head}:{span}:{report.generated_at.isoformat()}"
        self._base: UUID = uuid5(NAMESPACE_URL, f"{NAMESPACE}:{what}")

    def of(self, *what: str) -> str:
        return str(uuid5(self._base, "/".join(what)))


def render_oscal(report: ComplianceReport) -> bytes:
    """The assessment results as a JSON file."""
    return f"{json.dumps(assessment_results(report), indent=2, ensure_ascii=False)}\n".encode()


def assessment_results(report: ComplianceReport) -> dict[str, Any]:
    """The document, whose only key is ``assessment-results``."""
    ids = _Ids(report)
    asked = tuple(assessed(report))
    return {
        "assessment-results": {
            "uuid": ids.of("assessment-results"),
            "metadata": _metadata(report),
            "import-ap": {
                "href": f"#{ids.of('plan')}",
                "remarks": "There is no assessment plan in OSCAL: the objectives are defined in this document.",
            },
            "local-definitions": {"objectives-and-methods": list(map(_objective, asked))},
            "results": [_result(report, ids, asked)],
            "back-matter": {"resources": _resources(report, ids)},
        }
    }


def _metadata(report: ComplianceReport) -> dict[str, Any]:
    return {
        "title": f"Key management of {report.database}",
        "last-modified": _at(report.generated_at),
        "version": f"audit event {report.audit.seq}",
        "oscal-version": OSCAL_VERSION,
        "props": [
            {"name": "audit-seq", "ns": NAMESPACE, "value": str(report.audit.seq)},
            {"name": "audit-head", "ns": NAMESPACE, "value": report.audit.head},
        ],
        "remarks": f"Made by keyrotation_pipeline from its verified audit, whose newest event is of "
        f"{_at(report.audit_ends_at)}; last-modified is when the report was made.",
    }


def _objective(objective: Assessed) -> dict[str, Any]:
    return {
        "control-id": objective.control,
        "description": objective.title,
        "parts": [{"id": objective.name, "name": "objective", "prose": objective.wanted}],
        "remarks": f"Section {objective.source} of the key rotation procedure.",
    }


def _result(report: ComplianceReport, ids: _Ids, asked: Sequence[Assessed]) -> dict[str, Any]:
    period, system = report.parameters.period, ids.of("system")
    start = period.since if period and period.since else report.since
    return {
        "uuid": ids.of("result"),
        "title": f"Key management of {report.database} up to audit event {report.audit.seq}",
        "description": NOT_CLAIMED,
        "start": _at(start),
        "end": _at(report.as_of),
        "local-definitions": {"components": [_component(report, system)]},
        "reviewed-controls": {
            "control-selections": [
                {
                    "description": "Controls of NIST SP 800-53 revision 5 to which the objectives belong.",
                    "include-controls": [{"control-id": each} for each in sorted({each.control for each in asked})],
                }
            ],
            "remarks": "Not included: " + "; ".join(report.not_included),
        },
        "observations": [_observation(ids, system, each, found) for each in asked for found in each.evidence],
        "findings": [_finding(ids, each) for each in asked],
    }


def _component(report: ComplianceReport, uuid: str) -> dict[str, Any]:
    algorithm = report.algorithm
    return {
        "uuid": uuid,
        "type": "service",
        "title": report.database,
        "description": f"A database whose declared columns are encrypted by the application with {algorithm.cipher}, "
        f"keys of {algorithm.key_bits or 'its'} bits, nonces of {algorithm.nonce_bits or 'its'} bits.",
        "status": {"state": "operational"},
    }


def _observation(ids: _Ids, system: str, objective: Assessed, found: Record) -> dict[str, Any]:
    return {
        "uuid": ids.of("observation", objective.name, found.about, found.at.isoformat(), found.said),
        "title": f"{objective.title}: {found.about}",
        "description": found.said,
        "methods": ["EXAMINE"],
        "types": ["control-objective"],
        "subjects": [{"subject-uuid": system, "type": "component"}],
        "relevant-evidence": [{"href": f"#{ids.of('report')}", "description": "The compliance report of this audit."}],
        "collected": _at(found.at),
    }


def _finding(ids: _Ids, objective: Assessed) -> dict[str, Any]:
    observed = [
        {"observation-uuid": ids.of("observation", objective.name, each.about, each.at.isoformat(), each.said)}
        for each in objective.evidence
    ]
    return {
        "uuid": ids.of("finding", objective.name),
        "title": objective.title,
        "description": objective.wanted,
        "props": [{"name": "cfr", "ns": NAMESPACE, "value": f"45 CFR {each}"} for each in CFR[objective.name]],
        "target": {
            "type": "objective-id",
            "target-id": objective.name,
            "status": {
                "state": "satisfied" if objective.satisfied else "not-satisfied",
                "reason": "other" if not objective.shown else "pass" if objective.satisfied else "fail",
                **({"remarks": _remark(objective)} if objective.remark else {}),
            },
        },
        **({"related-observations": observed} if observed else {}),
    }


def _remark(objective: Assessed) -> str:
    remark = f"{objective.remark[:1].upper()}{objective.remark[1:]}."
    return remark if objective.applies else f"Not applicable. {remark}"


def _resources(report: ComplianceReport, ids: _Ids) -> list[dict[str, Any]]:
    return [
        {
            "uuid": ids.of("report"),
            "title": "Compliance report",
            "description": f"`keyrotation report --format json`, up to audit event {report.audit.seq} with the hash "
            f"{report.audit.head}. The pack (`--format pack`) has it with all that it rests on.",
        },
        {
            "uuid": ids.of("plan"),
            "title": "Objectives",
            "description": "The objectives of local-definitions, each a question to the audit of key rotation, from "
            "sections 2, 7 and 8.3 of the key rotation procedure.",
        },
    ]


def _at(at: datetime) -> str:
    return at.isoformat()
