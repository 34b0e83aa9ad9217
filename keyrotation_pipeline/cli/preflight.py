"""`preflight`: is everything ready for a rotation?"""

from functools import partial

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.model.status import Light, Readiness
from keyrotation_pipeline.monitoring.readiness import readiness

_STYLES = {Light.RED: "bold red", Light.AMBER: "yellow"}


def preflight(*, config: Config = None, as_json: Json = False) -> None:
    """Check all that a rotation needs: keys, backups, officers, tables, room, time.

    Red is what `request` would refuse, what would keep its rotation from beginning, and a recovery key here that can
    sign; amber is to be known before, or could not be seen. Exit code 1 if any is red.
    """
    declared = settings.load(config)
    recovery = None if declared.recovery.secret_key is None else partial(recovery_key, declared)
    with assembly.open_backups(declared, actor=actor()) as site:
        database, now = site.pipeline.database.identity().name, site.pipeline.clock.now()
        found = readiness(site, assembly.alert_channels(declared).in_words, recovery)
    if as_json:
        output.document({"database": database, "generated_at": instant(now), **found.as_json()})
    else:
        output.heading(database)
        _show(found)
    if not found.ready:
        raise typer.Exit(1)


def _show(found: Readiness) -> None:
    for light in (Light.RED, Light.AMBER, Light.GREEN):
        for check in found.of(light):
            output.line(f"{light:<6} {check.name.replace('_', ' ')}: {check.value}", style=_STYLES.get(light))
            if check.do:
                output.line(f"       do: {check.do}")
    lights = ", ".join(f"{len(found.of(light))} {light}" for light in Light)
    output.line(f"{'ready' if found.ready else 'not ready'}: {lights}", style="bold")
