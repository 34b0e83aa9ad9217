"""The assets that show incidents: the report of each unfinished one, whether it is a breach, and who had access."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.backups.remaining_copies import exposed_copies
from keyrotation_pipeline.defs.assets import Asset
from keyrotation_pipeline.defs.partitions import COMPLIANCE_OFFICERS, SECURITY_OFFICERS
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.step_runner import actor_of
from keyrotation_pipeline.defs.summaries import plain
from keyrotation_pipeline.incidents.access import AccessAudit, bars
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.incidents.report import kept_backups, kept_report
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.breach import Deadline
from keyrotation_pipeline.rotation.report import clock_of, rate_of

_COLUMNS = {"incident": "string", "stage": "string", "due": "string", "reached": "string", "hours_left": "float"}


def _reports(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    with keyrotation.open_backups(actor_of(context)) as site:
        opened = site.pipeline
        now, requests = opened.clock.now(), opened.ledger.requests()
        unfinished = incidents(opened.ledger).unfinished
        reports = {
            each.id: kept_report(opened, each.id).markdown
            + kept_backups(exposed_copies(site, each.versions)).markdown()
            for each in unfinished
        }
        paces = {each.id: rate_of(opened, each, requests, now) for each in unfinished}
        clocks = [(each.id, stage) for each in unfinished for stage in clock_of(opened, each, requests)]
    rows = [_row(name, stage, stage.seconds_left(now)) for name, stage in clocks]
    schema = dg.TableSchema([dg.TableColumn(*column) for column in _COLUMNS.items()])
    return {
        "incidents_open": len(reports),
        "clock": dg.MetadataValue.table(rows, schema=schema),
        **{f"pace of {name}": str(pace) for name, pace in paces.items() if pace is not None},
        **{name: dg.MetadataValue.md(text) for name, text in reports.items()},
    }


def _breach_decisions(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    with keyrotation.open(actor_of(context)) as opened:
        shown = {each.id: assessment_of(opened, each).lines() for each in incidents(opened.ledger).unfinished}
    return {
        "incidents_open": len(shown),
        **{name: dg.MetadataValue.md("\n".join(f"- {line}" for line in lines)) for name, lines in shown.items()},
    }


def _accesses(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    with keyrotation.open(actor_of(context)) as opened:
        found = {each.id: keyrotation.access_audit(each, opened) for each in incidents(opened.ledger).unfinished}
    return {
        "incidents_open": len(found),
        **{name: dg.MetadataValue.md(_access_text(audit)) for name, audit in found.items()},
    }


def _access_text(audit: AccessAudit) -> str:
    chart = "\n".join(bars(audit))
    return "\n".join(
        (
            f"From {audit.since:%Y-%m-%d %H:%M} to {audit.until:%Y-%m-%d %H:%M} UTC.",
            "\nReads of the key, rare readers first:\n",
            *(f"- {plain(each.who)} from {plain(each.address)}, {each.at:%Y-%m-%d %H:%M:%S} UTC, {each.event}"
              f"{f' (refused: {plain(each.refused)})' if each.refused else ''}" for each in audit.key_reads or ()),
            "(no source of key accesses is configured)" if audit.key_reads is None else f"\n```\n{chart}\n```",
            "\nReads of records, rare ones first:\n",
            *(f"- {each.reads} of {plain(each.resource_type)} ({plain(each.event_type)}) by {plain(each.who)} from "
              f"{plain(each.address)}" for each in audit.record_reads or ()),
            "(no source of record accesses is configured)" if audit.record_reads is None else "",
        )
    )  # fmt: skip


def _row(name: str, deadline: Deadline, seconds_left: int | None) -> dg.TableRecord:
    reached = "" if deadline.reached_at is None else utc_minute(deadline.reached_at)
    return dg.TableRecord(
        {
            "incident": name,
            "stage": str(deadline.stage),
            "due": utc_minute(deadline.due_at),
            "reached": reached,
            "hours_left": 0.0 if seconds_left is None else round(seconds_left / 3600, 2),
        }
    )


INCIDENT_ASSETS = (
    Asset(
        "incident_report", "evidence", {"report"}, SECURITY_OFFICERS,
        "The report of every unfinished incident, and the time left per stage: 4, 8, 24, 48 hours from discovery.",
        _reports,
    ),
    Asset(
        "breach_decision", "evidence", {"report"}, COMPLIANCE_OFFICERS,
        "Whether each unfinished incident is a breach by 45 CFR 164.402, as far as it is assessed, and when each "
        "notice is due.",
        _breach_decisions,
    ),
    Asset(
        "access_audit", "evidence", {"report"}, SECURITY_OFFICERS,
        "Who read the key and the records during each unfinished incident. The unusual stands first, with a chart.",
        _accesses,
    ),
)  # fmt: skip
