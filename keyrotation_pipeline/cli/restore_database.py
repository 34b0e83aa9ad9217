"""`restore-database`: a backup of the database, restored beside the one in use, and read whole."""

from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.backups.restore_to_new_database import RestoredBeside, restore_beside
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.recovery import KeyFile, Trusted, passphrase_for, vouching


def restore_database_command(
    *,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="File name of the dump; else the newest.", show_default=False),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="DATABASE", help="Name of the new database; else made.", show_default=False),
    ] = None,
    key: KeyFile = None,
    trusted: Trusted = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Restore a backup beside the database, and read every value."""
    declared = settings.load(config)
    passphrase = passphrase_for(declared, key)
    with (
        assembly.side_databases(declared) as databases,
        assembly.open_backups(declared, actor=actor(), vouching=vouching(trusted)) as site,
        recovery_key(declared, key, passphrase) as opened,
        reporting(quiet=as_json) as report,
    ):
        name = site.pipeline.database.identity().name
        new = into or f"{name.partition('@')[0][:40]}_restored_{site.pipeline.clock.now():%Y%m%d_%H%M%S}"
        done = restore_beside(site, databases, opened, new, source, report)
    if as_json:
        output.document({"beside": name, **done.facts()})
    else:
        _show(name, done)


def _show(name: str, done: RestoredBeside) -> None:
    output.heading(name)
    output.line(f"restored  {done.dump} of {done.made_at:%Y-%m-%d %H:%M} UTC from {done.place}")
    output.line(f"into      {done.database}; {name} is as it was")
    for table, rows in done.rows.items():
        output.line(f"table     {table}: {rows:,} rows, all {done.values[table]:,} values decrypt")
    output.line("Owners, privileges and tablespaces are not restored: set them as your application needs them.")
    output.line("To switch:")
    output.line(f"  stop the application; let it and [database] url name {done.database}; then")
    output.line("  keyrotation reconcile     since approvals, key states and audit are of an earlier time there")
