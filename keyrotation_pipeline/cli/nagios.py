"""`status --nagios`: one line with performance data, and an exit code, as Nagios and Icinga expect of a plugin."""

from collections.abc import Callable, Iterator
from enum import IntEnum

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.failures import sentence_of
from keyrotation_pipeline.model.status import Status


class Service(IntEnum):
    """The state of a service; its value is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def check(take: Callable[[], Status]) -> Service:
    """Print the line for a status, or why there is none.

    Args:
        take: takes the status.
    """
    try:
        shown = take()
    except Exception as error:  # noqa: BLE001  a plugin that ends with 1 would be taken for a warning
        service, said = Service.UNKNOWN, sentence_of(error) or f"a defect ({type(error).__name__})"
    else:
        service, said = _state(shown), f"{_sentence(shown)} | {' '.join(_performance(shown))}"
    output.line(output.Text(f"KEYROTATION {service.name} - {said}", whole=True))
    return service


def _state(shown: Status) -> Service:
    if shown.attention:
        return Service.CRITICAL
    return Service.WARNING if shown.warnings else Service.OK


def _sentence(shown: Status) -> str:
    """The first thing to know; without the character behind which performance data begin."""
    first, *more = [*shown.attention, *shown.warnings] or [_calm(shown)]
    others = f" ({len(more)} more: keyrotation status)" if more else ""
    return f"{shown.database}: {first}{others}".replace("|", "/")


def _calm(shown: Status) -> str:
    if shown.rotation is None:
        return f"primary {shown.primary}, no rotation is open"
    walk = shown.rotation.walk
    return f"{walk.kind} {walk.source} to {walk.target}, {shown.rotation.phase}, {shown.rotation.progress:.0%}"


def _performance(shown: Status) -> Iterator[str]:
    """``label=value[unit];warning;critical;minimum;maximum``."""
    yield f"attention={len(shown.attention)};;0;0"
    yield f"warnings={len(shown.warnings)};0;;0"
    yield f"incidents={len(shown.incidents)};;;0"
    yield f"audit_seq={shown.audit.seq};;;0"
    for label, at in (("backup_age", shown.last_backup), ("recovery_test_age", shown.last_recovery_test)):
        if at is not None:
            yield f"{label}={(shown.generated_at - at).total_seconds():.0f}s;;;0"
    if (rotation := shown.rotation) is not None:
        yield f"rotation_progress={rotation.progress:.2%};;;0;100"
        yield f"approvals={len(rotation.walk.approvals)};;;0;{rotation.approvals_required}"
        if rotation.eta_seconds is not None:
            yield f"rotation_eta={rotation.eta_seconds}s;;;0"
