"""`rehearse`: a whole rotation on the newest backup, in a scratch server, before the real one."""

from collections.abc import Iterator
from typing import Any

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.assembly.rehearsals import RestoredStages
from keyrotation_pipeline.backups.rehearsal import rehearse
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.recovery import KeyFile, passphrase_for
from keyrotation_pipeline.errors import RehearsalError
from keyrotation_pipeline.model.audit import json_safe
from keyrotation_pipeline.model.request_events import NOT_REHEARSED, ROLLOUTS, Rehearsed


def rehearse_command(
    request_id: RequestId, *, key: KeyFile = None, config: Config = None, as_json: Json = False
) -> None:
    """Carry a rotation out on the newest backup, in a scratch server.

    Finds what would stop it and how long it would take; touches nothing real. Exit code 1 if it would be stopped.
    """
    declared = settings.load(config)
    passphrase = passphrase_for(declared, key)
    with (
        assembly.open_backups(declared, actor=actor()) as site,
        recovery_key(declared, key, passphrase) as opened,
        reporting(quiet=as_json) as report,
    ):
        database = site.pipeline.database.identity().name
        request = site.pipeline.ledger.request(request_id)
        done = rehearse(site, opened, RestoredStages(declared), request, report)
    if as_json:
        output.document({"database": database, **document(done)})
    else:
        output.heading(database)
        for line in lines(done):
            output.line(line)
    if done.findings:
        first, *more = done.findings
        others = f" ({len(more)} more finding(s) above)" if more else ""
        raise RehearsalError(f"the rotation would stop at {first.step}: {first.sentence}{others}")


def document(done: Rehearsed) -> dict[str, Any]:
    """As ``--json`` prints it."""
    predicted = {step: round(seconds, 1) for step, seconds in done.predicted_seconds.items()}
    total = None if done.total_seconds is None else round(done.total_seconds, 1)
    return json_safe(
        {
            **done.as_json(),
            "predicted_seconds": predicted,
            "predicted_total_seconds": total,
            "not_rehearsed": list(NOT_REHEARSED),
        }
    )


def lines(done: Rehearsed) -> Iterator[str]:
    """For people."""
    yield (
        f"rehearsed {done.source} to {done.target} on {done.dump} of {done.made_at:%Y-%m-%d %H:%M} UTC, "
        f"in {done.server}"
    )
    yield f"rows      {done.dump_rows:,} in the backup, {done.rows_now:,} in the database now"
    for step, seconds in done.seconds.items():
        predicted = done.predicted_seconds.get(step)
        told = "up to the applications" if step in ROLLOUTS else f"predicted {predicted:,.1f} s"
        yield f"  {step:<22}{seconds:>8.1f} s  {told}"
    for finding in done.findings:
        yield f"stops at  {finding.step}: {finding.sentence}"
    if done.total_seconds is not None:
        yield f"nothing stopped it; the real one is predicted to take {done.total_seconds:,.1f} s besides the rollouts"
    for each in NOT_REHEARSED:
        yield f"not rehearsed: {each}"
