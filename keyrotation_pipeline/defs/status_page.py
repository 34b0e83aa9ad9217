"""The asset `status`, whose page people open first: what needs attention, the open rotation, and what to do next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from textwrap import wrap
from typing import Any

import dagster as dg

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.console.headline import headline
from keyrotation_pipeline.defs.assets import Asset
from keyrotation_pipeline.defs.outside_reports import CORRECTED, SEAL, Seal, report_at
from keyrotation_pipeline.defs.partitions import SITE_RELIABILITY, Naming
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.step_runner import actor_of
from keyrotation_pipeline.defs.summaries import SHOWN_WITHOUT_A_CLICK_CHARS, WIDTH_CHARS, asset_link, plain, runs_link
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.incidents.assessing import unsettled_in_words
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.fleet_summary import FleetSummary
from keyrotation_pipeline.model.progress import duration
from keyrotation_pipeline.model.requests import PendingRequest, Step, with_short_ids
from keyrotation_pipeline.model.status import NO_BACKUP_KNOWN, OpenIncident, RotationStatus, Status
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.settings.loading import console_path

STATUS, AUDIT_SEQ = "status", "audit_seq"
GROUPS = ("status", "inventory", "new_key", "rows", "old_key", "evidence", "backups")
_MOST_MESSAGES = 5
_AN_HOUR_SECONDS = 3600


def lineage_path(naming: Naming) -> str:
    """The graph of all assets with every group open, from left to right as a rotation goes."""
    return f"/asset-groups?expanded={','.join(f'global@global:{naming.name(group)}' for group in GROUPS)}"


def status_now(pipeline: Pipeline) -> Status:
    """What `keyrotation status` says now."""
    return overview(pipeline, duties=unsettled_in_words(pipeline))


def status_metadata(status: Status, naming: Naming) -> Mapping[str, dg.MetadataValue]:
    """The status in the order in which people need it."""
    links = (
        f"[the walk, step by step]({lineage_path(naming)})",
        asset_link(naming.asset("encrypted_columns")),
        asset_link(naming.asset("database_backup")),
        *([runs_link(status.rotation.walk)] if status.rotation else []),
        "[all runs](/runs)",
        "[sensors and schedules](/automation)",
    )
    return {
        "now": _short("  \n".join(_wrapped(_now(status)))),
        "needs_attention": _messages(status.attention, "Nothing is overdue, blocked or stale."),
        "rotation": _short("  \n".join(_rotation(naming, status.rotation))),
        **({"databases": _short("  \n".join(_databases(status)))} if status.members else {}),
        "where_to_look": dg.MetadataValue.md("  \n".join(links)),
        "incidents": _messages([_incident(each) for each in status.incidents], "None is open."),
        "to_be_signed": _messages([_unsigned(each) for each in status.other_requests], "No other request is open."),
        "soon": _messages(status.warnings, "Nothing is due soon."),
        "keys": dg.MetadataValue.md(",  \n".join(f"**{each.version}** {each.state}" for each in status.key_versions)),
        "last_backup": dg.MetadataValue.text(
            NO_BACKUP_KNOWN if status.last_backup is None else utc_minute(status.last_backup)
        ),
        "last_recovery_test": dg.MetadataValue.text(
            _on(status.last_recovery_test)
            if status.recovery_test_failed is None
            else f"FAILED, {_on(status.recovery_test_failed)}; passed before: {_on(status.last_recovery_test)}"
        ),
        AUDIT_SEQ: dg.MetadataValue.int(status.audit.seq),
    }


def unknown_metadata(error: KeyRotationError) -> Mapping[str, dg.MetadataValue]:
    """Why nothing is known now, instead of what was known before."""
    return {"needs_attention": _messages([str(error)], "")}


def renew(instance: dg.DagsterInstance, naming: Naming, metadata: Mapping[str, dg.MetadataValue], seal: Seal) -> None:
    """Reports the status, sealed and without a run, if the page says something else.

    The number of the audit's events grows with every count and alert, so that it alone is no reason.
    """
    key = naming.asset(STATUS)
    last = instance.get_latest_materialization_event(key)
    shown = last.asset_materialization.metadata if last is not None and last.asset_materialization else {}
    names = {*shown, *metadata} - {AUDIT_SEQ, SEAL, CORRECTED}
    if not shown or any(shown.get(name) != metadata.get(name) for name in names):
        report_at(instance, seal, dg.AssetMaterialization(key, metadata=metadata), SystemClock().now())


def _materialize(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    with keyrotation.open(actor_of(context)) as opened:
        return status_metadata(status_now(opened), keyrotation.naming)


def _now(status: Status) -> str:
    """The console's sentence, without the time left, of which the page has a rounded one."""
    rotation = status.rotation and replace(status.rotation, eta_seconds=None)
    return headline(replace(status, rotation=rotation), None).sentence


def _rotation(naming: Naming, rotation: RotationStatus | None) -> Iterator[str]:
    """A line each, for Markdown."""
    if rotation is None:
        yield "None is open. The next begins with"
        yield '`keyrotation request --reason "…"`.'
        return
    walk = rotation.walk
    yield f"**{walk.source} → {walk.target}**, {walk.kind}, `{walk.id[:8]}`"
    eta = "" if rotation.eta_seconds is None else f", about {_left(rotation.eta_seconds)} left"
    at = asset_link(naming.step(Step(rotation.phase))) if rotation.phase in _WITH_A_PAGE else rotation.phase
    yield f"At {at}, {rotation.progress:.0%}{eta}"
    yield f"{len(walk.approvals)} of {rotation.approvals_required} approvals"
    if rotation.blocked_by:
        yield from _wrapped(f"BLOCKED: {rotation.blocked_by}")
    if rotation.is_slowed:
        yield from _wrapped(str(rotation.pending))
    elif rotation.waiting_for:
        yield from _wrapped(f"Waits: {rotation.waiting_for}")
    elif not rotation.at_work:
        yield from _wrapped(f"rotation_conductor starts the next step if it is on; else keyrotation rotate {walk.id}")


def _databases(status: Status) -> Iterator[str]:
    """Of a fleet: all in a sentence, and where each is."""
    yield from _wrapped(FleetSummary.of(status).in_words)
    yield from _link("each database", "console/databases")


def _link(text: str, page: str = "") -> Iterator[str]:
    """A link to a page of the console, where the server of this page has it."""
    if (console := console_path()) is not None:
        yield f"[{text}]({console}{page})"


def _left(seconds: float) -> str:
    """Of hours to the quarter: the page is renewed whenever it says something else."""
    return duration(seconds if seconds < _AN_HOUR_SECONDS else round(4 * seconds / _AN_HOUR_SECONDS) * 15 * 60)


_WITH_A_PAGE = frozenset(Step) - {Step.ROWS}


def _messages(messages: Sequence[str], otherwise: str) -> dg.MetadataValue:
    shown = ["  \n  ".join(_wrapped(each)) for each in messages[:_MOST_MESSAGES]]
    if more := len(messages) - len(shown):
        shown.append(f"and {more} more: `keyrotation status`")
    return _short("\n".join(f"- {each}" for each in shown) or otherwise)


def _wrapped(message: str) -> list[str]:
    """In lines that the page does not cut off, also where a path is longer, with whatever people wrote as it is."""
    return [plain(line) for line in wrap(with_short_ids(message), WIDTH_CHARS - 1, break_on_hyphens=False)]


def _short(text: str) -> dg.MetadataValue:
    """Markdown that Dagster shows without a click."""
    cut = text if len(text) <= SHOWN_WITHOUT_A_CLICK_CHARS else f"{text[: SHOWN_WITHOUT_A_CLICK_CHARS - 1]}…"
    return dg.MetadataValue.md(cut)


def _unsigned(listed: PendingRequest) -> str:
    missing = ", ".join(listed.missing) or "nobody"
    return f"{listed.request.action} {listed.request.id}: not signed by {missing}"


def _incident(shown: OpenIncident) -> str:
    """With a date instead of the time left, which would be another each minute."""
    open_stages = [each for each in shown.clock if each.reached_at is None]
    stages = [f"{each.stage.replace('_', ' ')} by {_on(each.due_at)}" for each in open_stages[:1]]
    return f"{shown.incident.id}, {shown.incident.type}: {', '.join(stages) or 'every stage is reached'}"


def _on(at: datetime | None) -> str:
    return utc_minute(at) if at is not None else "never"


def described() -> str:
    """The asset's description, which Dagster shows above everything that a materialization says."""
    return f"**Where we stand**: see `now` below{''.join(f', or {each}' for each in _link('the console'))}."


STATUS_PAGE = Asset(STATUS, "status", {"report"}, SITE_RELIABILITY, described(), _materialize)
