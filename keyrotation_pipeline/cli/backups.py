"""`backup`: every key, and the database beside them, encrypted and read again; and what is kept."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.backups.backup import BackupMade, back_up
from keyrotation_pipeline.backups.catalog import BackupSite, KeptSets, kept_sets
from keyrotation_pipeline.backups.rekey import rekey
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.recovery import KeyFile, passphrase_for
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.audit import json_safe
from keyrotation_pipeline.settings import Settings


def backup(
    *,
    keys_only: Annotated[
        bool, typer.Option("--keys-only", help="Back up keys, not the database.", show_default=False)
    ] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="Show what is kept, and which keys each needs.", show_default=False)
    ] = False,
    rekeyed: Annotated[
        bool,
        typer.Option("--rekey", help="Make an old set anew under the present key instead.", show_default=False),
    ] = False,
    old: Annotated[
        str | None,
        typer.Argument(
            metavar="[SET]", help="With --rekey: the set; else the newest under a compromised key.", show_default=False
        ),
    ] = None,
    key: KeyFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Back up all keys and the database at one moment."""
    if sum((keys_only, listed, rekeyed)) > 1:
        raise typer.BadParameter("they do different things: take one", param_hint="--keys-only / --list / --rekey")
    if not rekeyed and (old is not None or key is not None):
        raise typer.BadParameter("a set and its recovery key are for --rekey", param_hint="SET / --key")
    declared = settings.load(config)
    if rekeyed:
        _rekey(declared, old, key, as_json=as_json)
        return
    with assembly.open_backups(declared, actor=actor()) as site:
        database = site.pipeline.database.identity().name
        if listed:
            _list(database, *_kept(site), as_json=as_json)
            return
        made = back_up(site, database=not keys_only)
    if as_json:
        output.document({"database": database, **json_safe(made.facts())})
    else:
        _show(database, made, site)


def _rekey(declared: Settings, old: str | None, file: Path | None, *, as_json: bool) -> None:
    passphrase = passphrase_for(declared, file)
    with (
        assembly.open_backups(declared, actor=actor()) as site,
        recovery_key(declared, file, passphrase) as key,
        reporting(quiet=as_json) as report,
    ):
        database = site.pipeline.database.identity().name
        done = rekey(site, key, old, report)
    if as_json:
        output.document({"database": database, **done.record.as_json(), "left": list(done.left)})
        return
    record = done.record
    output.heading(database)
    output.line(
        f"rekeyed   {record.made_from}: every value under {record.target}, none under {_needs(record.left_behind)}"
    )
    for table, values in record.values.items():
        output.line(f"table     {table}: all {values:,} values decrypt to what they were, every row as it was")
    output.line(f"manifest  {record.manifest}, whose rows are of {output.minutes(done.made.made_at)} UTC")
    for place in record.places:
        output.line(f"kept in   {place}, read again there")
    for each in record.left_out:
        output.line(f"left out  {each}: it holds no row, and needs power or another server")
    if done.left:
        output.line(
            f"next      keyrotation backup --rekey: {len(done.left)} more need a compromised key, {done.left[0]} first"
        )


def _show(database: str, done: BackupMade, site: BackupSite) -> None:
    made = done.made
    output.heading(database)
    keys = ", ".join(f"{key.version} ({key.fingerprint[:16]})" for key in made.keys)
    output.line(f"keys      {keys}")
    if made.dump is not None:
        output.line(
            f"database  {made.dump.file.name}, {made.dump.file.size_bytes:,} bytes; needs {_needs(made.dump.versions)}"
        )
    output.line(f"manifest  {made.name}, for {site.recipients} recipient(s)")
    for place in done.places:
        output.line(f"kept in   {place}, read again there")
    if done.uploaded_later:
        output.line(f"caught up {len(done.uploaded_later)} older set(s), made while a place did not answer")
    if done.removed:
        output.line(f"removed   {len(done.removed)} older local file(s)")
    for warning in done.warnings:
        output.note(f"warning: {warning}")


def _kept(site: BackupSite) -> tuple[list[KeptSets], list[str]]:
    """What each place keeps that answers, and a sentence for each that does not.

    Raises:
        BackupError: none does.
    """
    kept, silent = [], []
    for place in site.places:
        try:
            kept.append(kept_sets(place, site.seals))
        except BackupError as error:
            silent.append(str(error))
    if not kept:
        raise BackupError("; ".join(silent))
    return kept, silent


def _list(database: str, kept: list[KeptSets], silent: list[str], *, as_json: bool) -> None:
    if as_json:
        output.document({"database": database, "sets": [_document(each) for each in kept], "silent": silent})
        return
    output.heading(database)
    rows = [
        (
            made.name,
            output.minutes(made.made_at),
            ", ".join(output.names(key.version for key in made.keys)),
            f"{made.dump.file.size_bytes:,} bytes" if made.dump else "-",
            _needs(made.dump.versions) if made.dump else "-",
            each.place.description,
        )
        for each in kept
        for made in each.sets
    ]
    output.table(("Manifest", "Made (UTC)", "Keys", "Database", "Needs", "Place"), rows)
    for each in kept:
        for why in each.refused.values():
            output.line(str(why), style="bold red")
    for sentence in silent:
        output.line(sentence, style="bold red")


def _document(kept: KeptSets) -> dict[str, Any]:
    return {
        "place": kept.place.description,
        "refused": {name: str(why) for name, why in kept.refused.items()},
        "sets": [
            {
                "manifest": made.name,
                "made_at": output.instant(made.made_at),
                "database": made.database,
                "keys": {str(key.version): key.file.name for key in made.keys},
                "dump": made.dump.file.name if made.dump else None,
                "needs": output.names(made.dump.versions) if made.dump else [],
            }
            for made in kept.sets
        ],
    }


def _needs(versions: tuple[Any, ...]) -> str:
    return ", ".join(map(str, versions)) or "no key"
