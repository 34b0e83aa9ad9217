"""What `status` shows a person: whole at 80 and at 60 columns, ages instead of dates, nothing that is all zero."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.overall import HOUR_SECONDS, MINUTE_SECONDS, duration
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.status import SHOWN_FINGERPRINT_CHARS, Heartbeat, RotationStatus, Status, TableStatus
from keyrotation_pipeline.model.tables import BlindSpots
from keyrotation_pipeline.monitoring.scheduler_health import conductor_at_work

DAY_SECONDS = 86400
_STYLES = {"blocked": "bold red", "waits": "yellow"}  # who is awaited has not failed


def show(shown: Status, blind_spots: BlindSpots, ticks: Sequence[Heartbeat], address: str | None) -> None:
    """Print it.

    Args:
        ticks: the last looks of Dagster's sensors.
        address: of Dagster's UI, without its token; None: not known.
    """
    field, now = output.field, shown.generated_at
    output.heading(f"{shown.database}  {output.minutes(now)} UTC")
    output.line()
    field("Primary", f"{shown.primary or 'none'}, next rotation due by {output.minutes(shown.next_rotation_due)}")
    if shown.next_rotation_rule is not None:
        field("", shown.next_rotation_rule)
    for key in shown.key_versions:
        output.line(f"Key       {key.version!s:<4} {key.state:<15} {key.fingerprint[:SHOWN_FINGERPRINT_CHARS]}")
    held = f", holds {', '.join(output.names(shown.last_backup_versions))}" if shown.last_backup_versions else ""
    field("Backup", f"{age(shown.last_backup, now)}{held}; proven to restore {age(shown.last_recovery_test, now)}")
    if shown.rehearsal is not None:
        field("Rehearsed", f"{age(shown.rehearsal.at, now)}: {shown.rehearsal.in_words}")
    field("Audit", f"{shown.audit.seq:,} events, head {shown.audit.hash[:SHOWN_FINGERPRINT_CHARS]}")
    output.line()
    _show_tables(shown)
    output.wrapped(f"Not searched: {'; '.join(map(str, blind_spots.unsearched))}")
    output.line()
    for label, text in _rotation(shown.rotation, carried_on(ticks, now, address)):
        field(label, text, style=_STYLES.get(text.partition(":")[0]))
    for each in shown.incidents:
        told = f"{each.incident.id}, {each.incident.type}, {each.incident.status}; {each.clock_in_words}"
        field("Incident", told, style="bold red")
    for listed in shown.other_requests:
        request, missing = listed.request, ", ".join(listed.missing) or "nobody"
        field("Request", f"{request.id}, {request.action} of {request.source}; not signed by {missing}")
    for contact in shown.contacts:
        field("Contact", str(contact))
    for sentence in shown.attention:
        field("Attention", sentence, style="bold red")
    for sentence in shown.warnings:
        field("Warning", sentence, style="yellow")


def age(at: datetime | None, now: datetime) -> str:
    """``never``, ``40 s ago``, ``3 h ago``, ``12 days ago``: short enough for a column."""
    if at is None:
        return "never"
    seconds = max((now - at).total_seconds(), 0.0)
    for size, unit in ((2 * DAY_SECONDS, "days"), (HOUR_SECONDS, "h"), (MINUTE_SECONDS, "min")):
        if seconds >= size:
            return f"{seconds // min(size, DAY_SECONDS):.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def carried_on(ticks: Sequence[Heartbeat], now: datetime, address: str | None) -> str | None:
    """That Dagster carries rotations on at this moment, and where that can be seen; None: not as far as is known."""
    look = conductor_at_work(ticks, now)
    if look is None:
        return None
    place = f"; see {address}" if address else ""
    return f"Dagster carries it on, its conductor looked {age(look.at, now)}{place}"


def _show_tables(shown: Status) -> None:
    used, empty = _versions(shown)
    faults = [
        (title, name)
        for title, name in (("Unencrypted", "unencrypted"), ("Unreadable", "unreadable"))
        if any(table.count and getattr(table.count, name) for table in shown.tables)
    ]
    output.table(
        ("Table", "Rows", *output.names(used), *(title for title, _ in faults), "Refuses", "Counted"),
        [_row(table, used, [name for _, name in faults], shown.generated_at) for table in shown.tables],
    )
    if empty and any(table.count for table in shown.tables):
        output.wrapped(f"No value under {', '.join(output.names(empty))}.")


def _versions(shown: Status) -> tuple[list[KeyVersion], list[KeyVersion]]:
    """Versions with values, and registered ones without any."""
    counted = {version for table in shown.tables for version, number in table.values_by_version.items() if number}
    known = counted | {key.version for key in shown.key_versions}
    return sorted(counted), sorted(known - counted)


def _row(
    table: TableStatus, versions: Sequence[KeyVersion], faults: Sequence[str], now: datetime
) -> tuple[object, ...]:
    count, fenced = table.count, ", ".join(output.names(table.fenced_against)) or "-"
    if count is None:
        return (table.table.name, "-", *("-" * (len(versions) + len(faults))), fenced, "never")
    values = (table.values_by_version.get(version, 0) for version in versions)
    wrong = (getattr(count, name) for name in faults)
    return (table.table.name, count.rows, *values, *wrong, fenced, age(count.counted_at, now))


def _rotation(rotation: RotationStatus | None, carried: str | None) -> Iterator[tuple[str, str]]:
    if rotation is None:
        yield "Rotation", 'none is open; the next begins with: keyrotation request --reason "…"'
        return
    walk = rotation.walk
    yield "Rotation", f"{walk.id}, {walk.kind}, {walk.source} to {walk.target}"
    eta = "" if rotation.eta_seconds is None else f", about {duration(rotation.eta_seconds)} left"
    yield "", f"phase {rotation.phase}, {rotation.progress:.0%}{eta}"
    yield "", f"approvals {len(walk.approvals)} of {rotation.approvals_required}"
    if rotation.pace:
        yield "", f"pace: {rotation.pace}"
    if rotation.blocked_by:
        yield "", f"blocked: {rotation.blocked_by}"
    if rotation.waiting_for:
        yield "", f"waits: {rotation.waiting_for}"
    elif carried:
        since = f" since {output.minutes(walk.started_at)} UTC" if walk.started_at else ""
        yield "", f"in progress{since}: {carried}"
    else:
        yield "", f"next: keyrotation rotate {walk.id}"
