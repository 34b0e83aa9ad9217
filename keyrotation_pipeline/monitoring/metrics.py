"""The status as text that Prometheus reads, in OpenMetrics and in its own older format alike.

Every metric is a gauge, since the older format, which node_exporter reads from files, knows no info metrics.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.model.status import RotationStatus, Status
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.model.visible_text import visible

PREFIX = "keyrotation_"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Metric:
    """One gauge.

    Args:
        name: without prefix; ends with its unit.
        help: one line.
        samples: label values (in the order of `labels`) and the number.
    """

    name: str
    help: str
    samples: tuple[tuple[tuple[object, ...], float], ...]
    labels: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The same for programs that do not read OpenMetrics; the name with its prefix."""
        samples = [
            {"labels": {label: str(value) for label, value in zip(self.labels, values, strict=True)}, "value": number}
            for values, number in self.samples
        ]
        return {"name": f"{PREFIX}{self.name}", "help": self.help, "samples": samples}


def in_open_metrics(status: Status) -> str:
    """The whole text, up to ``# EOF``; each sample is labelled with the database."""
    lines = [line for metric in metrics_of(status) for line in _lines(metric, status.database)]
    return "\n".join([*lines, "# EOF", ""])


def metrics_of(status: Status) -> Iterator[Metric]:
    """Every metric that the status has samples of."""
    yield _one("status_timestamp_seconds", "When this was taken.", status.generated_at.timestamp())
    yield _one("attention", "Things that are overdue, blocked or stale.", len(status.attention))
    yield _one("warnings", "Things that will need attention.", len(status.warnings))
    yield _one(
        "primary_version", "Version that applications encrypt with, 0: none.",
        status.primary.number if status.primary else 0,
    )  # fmt: skip
    if status.next_rotation_due is not None:
        yield _one("next_rotation_due_timestamp_seconds", "When it is due.", status.next_rotation_due.timestamp())
    yield _one("audit_head_seq", "Events in the audit; never fewer than before.", status.audit.seq)
    yield _one(
        "last_backup_timestamp_seconds",
        "When it was made, 0: none is known to be complete.",
        _timestamp(status.last_backup),
    )
    yield _one(
        "last_recovery_test_timestamp_seconds", "When one last passed, 0: never.", _timestamp(status.last_recovery_test)
    )
    yield _one("recovery_test_failed", "1: the last one failed.", int(status.recovery_test_failed is not None))
    yield from _incidents(status)
    yield from _requests(status)
    yield from _tables(status)
    if status.rotation is not None:
        yield from _rotation(status.rotation, {str(each.table.name): each.count for each in status.tables})


def _incidents(status: Status) -> Iterator[Metric]:
    yield _one("incidents_open", "Incidents that nobody has closed.", len(status.incidents))
    due = tuple(
        ((each.incident.id, deadline.stage), deadline.due_at.timestamp())
        for each in status.incidents
        for deadline in each.clock
        if deadline.reached_at is None
    )
    yield Metric("incident_due_timestamp_seconds", "When a stage is due that is not reached.", due,
                 ("incident", "stage"))  # fmt: skip


def _requests(status: Status) -> Iterator[Metric]:
    labels = ("request", "action", "type")
    listed = [((each.request.id, each.request.action, each.request.type), each) for each in status.requests]
    signed = tuple((of, len(each.signed_by)) for of, each in listed)
    required = tuple((of, each.required) for of, each in listed)
    until = tuple((of, each.request.finish_by.timestamp()) for of, each in listed)
    yield _one("requests_pending", "Requests that are not over.", len(listed))
    yield Metric("request_approvals", "Officers who have signed.", signed, labels)
    yield Metric("request_approvals_required", "Officers who must sign.", required, labels)
    yield Metric("request_finish_by_timestamp_seconds", "When it is to be finished.", until, labels)


def _tables(status: Status) -> Iterator[Metric]:
    counted = [(str(each.table.name), each, each.count) for each in status.tables if each.count is not None]
    values = tuple(
        ((name, version), number) for name, each, _ in counted for version, number in each.values_by_version.items()
    )
    yield Metric("table_rows", "Rows when last counted.", _each({name: count.rows for name, _, count in counted}),
                 ("table",))  # fmt: skip
    yield Metric("table_values", "Values under a version when last counted.", values, ("table", "version"))
    yield Metric("table_unreadable", "Values that do not decrypt.",
                 _each({name: count.unreadable for name, _, count in counted}), ("table",))  # fmt: skip
    yield Metric("table_unencrypted", "Values that are not encrypted.",
                 _each({name: count.unencrypted for name, _, count in counted}), ("table",))  # fmt: skip
    yield Metric("table_counted_timestamp_seconds", "When it was last counted.",
                 _each({name: count.counted_at.timestamp() for name, _, count in counted}), ("table",))  # fmt: skip


def _rotation(rotation: RotationStatus, counts: Mapping[str, TableCount | None]) -> Iterator[Metric]:
    walk = rotation.walk
    what = (walk.id, walk.kind, walk.source, walk.target, rotation.phase)
    yield Metric(
        "rotation_info", "The open rotation, always 1.", ((what, 1),), ("request", "type", "from", "to", "phase")
    )
    yield _one("rotation_progress_ratio", "Of all steps, 0 to 1.", rotation.progress)
    yield _one("rotation_at_work", "1: a process works at it now.", int(rotation.at_work))
    if rotation.eta_seconds is not None:
        yield _one("rotation_eta_seconds", "Time left, without waits for people.", rotation.eta_seconds)
    code = () if rotation.pending is None else (((rotation.pending.code,), 1),)
    yield Metric("rotation_waiting", "The kind of reason why it does not proceed, always 1.", code, ("code",))
    failed = () if rotation.blocked_by is None else (((rotation.blocked_by,), 1),)
    yield Metric("rotation_blocked", "What stopped the last attempt, always 1.", failed, ("reason",))
    done, left = {}, {}
    for each in rotation.tables:
        if (count := counts.get(each.table)) is not None:
            done[each.table] = round(each.share * count.rows)
            left[each.table] = count.rows - done[each.table]
    yield Metric("rotation_rows_done", "Rows that were passed.", _each(done), ("table",))
    yield Metric("rotation_rows_left", "Rows that are left.", _each(left), ("table",))
    pace = {each.table: (each.rows_per_second or 0.0) if rotation.at_work and each.share < 1 else 0.0
            for each in rotation.tables}  # fmt: skip
    yield Metric("rotation_rows_per_second", "Rows that are rewritten now.", _each(pace), ("table",))


def _one(name: str, help_text: str, value: float) -> Metric:
    return Metric(name, help_text, (((), value),))


def _each(values: Mapping[str, float]) -> tuple[tuple[tuple[object, ...], float], ...]:
    return tuple(((name,), value) for name, value in values.items())


def _timestamp(at: datetime | None) -> float:
    return 0.0 if at is None else at.timestamp()


def _lines(metric: Metric, database: str) -> Iterator[str]:
    if not metric.samples:
        return
    name = f"{PREFIX}{metric.name}"
    yield f"# TYPE {name} gauge"
    yield f"# HELP {name} {metric.help}"
    for values, number in metric.samples:
        pairs = zip(("database", *metric.labels), (database, *values), strict=True)
        labels = ",".join(f'{label}="{visible(str(value)).translate(_ESCAPES)}"' for label, value in pairs)
        yield f"{name}{{{labels}}} {_number(number)}"


def _number(value: float) -> str:
    """Whole numbers without a point, others to the millisecond."""
    return str(int(value)) if value == int(value) else str(round(value, 4))
