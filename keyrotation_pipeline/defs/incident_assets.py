"""What there is to show of incidents: the report of each unfinished one, and what it is presumed to be."""

import dagster as dg

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.backups.remaining_copies import exposed_copies
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import COMPLIANCE_OFFICERS, SECURITY_OFFICERS
from keyrotation_pipeline.defs.performing import actor_of
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.incidents.access import AccessAudit, bars
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.incidents.report import kept_backups, kept_report
from keyrotation_pipeline.model.breach import Deadline
from keyrotation_pipeline.rotation.report import clock_of, rate_of

_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("incident", "string"),
        dg.TableColumn("stage", "string"),
        dg.TableColumn("due", "string"),
        dg.TableColumn("reached", "string"),
        dg.TableColumn("hours_left", "float"),
    ]
)


def incident_report_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `incident_report`."""

    @dg.asset(
        key_prefix=naming.prefix,
        group_name=naming.name("evidence"),
        kinds={"report"},
        owners=[SECURITY_OFFICERS],
    )
    def incident_report(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """The report of every unfinished incident, and the time left per stage: 4, 8, 24, 48 hours from discovery."""
        with refusals(), keyrotation.open_backups(actor_of(context)) as site:
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
        return dg.MaterializeResult(
            metadata={
                "incidents_open": len(reports),
                "clock": dg.MetadataValue.table(rows, schema=_SCHEMA),
                **{f"pace of {name}": str(pace) for name, pace in paces.items() if pace is not None},
                **{name: dg.MetadataValue.md(text) for name, text in reports.items()},
            }
        )

    return incident_report


def breach_decision_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `breach_decision`."""

    @dg.asset(
        key_prefix=naming.prefix,
        group_name=naming.name("evidence"),
        kinds={"report"},
        owners=[COMPLIANCE_OFFICERS],
    )
    def breach_decision(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """What each unfinished incident is by 45 CFR 164.402, so far as it is answered, with each notice's date."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            told = {each.id: assessment_of(opened, each).lines() for each in incidents(opened.ledger).unfinished}
        return dg.MaterializeResult(
            metadata={
                "incidents_open": len(told),
                **{name: dg.MetadataValue.md("\n".join(f"- {line}" for line in lines)) for name, lines in told.items()},
            }
        )

    return breach_decision


def access_audit_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `access_audit`."""

    @dg.asset(
        key_prefix=naming.prefix,
        group_name=naming.name("evidence"),
        kinds={"report"},
        owners=[SECURITY_OFFICERS],
    )
    def access_audit(context: dg.AssetExecutionContext, keyrotation: PipelineParameter) -> dg.MaterializeResult[None]:
        """Who read the key and the records while each unfinished incident lasted, the unusual first, with a chart."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            found = {each.id: keyrotation.access_audit(each, opened) for each in incidents(opened.ledger).unfinished}
        return dg.MaterializeResult(
            metadata={
                "incidents_open": len(found),
                **{name: dg.MetadataValue.md(_access_text(audit)) for name, audit in found.items()},
            }
        )

    return access_audit


def _access_text(audit: AccessAudit) -> str:
    chart = "\n".join(bars(audit))
    return "\n".join(
        (
            f"From {audit.since:%Y-%m-%d %H:%M} to {audit.until:%Y-%m-%d %H:%M} UTC.",
            "\nReads of the key, who came seldom first:\n",
            *(f"- {_cell(each.who)} from {_cell(each.address)}, {each.at:%Y-%m-%d %H:%M:%S} UTC, {each.event}"
              f"{f' (refused: {_cell(each.refused)})' if each.refused else ''}" for each in audit.key_reads or ()),
            "(no place is named to look for them)" if audit.key_reads is None else f"\n```\n{chart}\n```",
            "\nReads of records, the seldom first:\n",
            *(f"- {each.reads} of {_cell(each.resource_type)} ({_cell(each.event_type)}) by {_cell(each.who)} from "
              f"{_cell(each.address)}" for each in audit.record_reads or ()),
            "(no place is named to look for them)" if audit.record_reads is None else "",
        )
    )  # fmt: skip


def _cell(text: str) -> str:
    """What others wrote, as plain text in Markdown."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#" else each for each in text if each.isprintable())


def _row(name: str, deadline: Deadline, seconds_left: int | None) -> dg.TableRecord:
    reached = "" if deadline.reached_at is None else f"{deadline.reached_at:%Y-%m-%d %H:%M} UTC"
    return dg.TableRecord(
        {
            "incident": name,
            "stage": str(deadline.stage),
            "due": f"{deadline.due_at:%Y-%m-%d %H:%M} UTC",
            "reached": reached,
            "hours_left": 0.0 if seconds_left is None else round(seconds_left / 3600, 2),
        }
    )
