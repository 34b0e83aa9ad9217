"""`init`: writes the configuration from the database, and sets up home, schema, roster and the keys in use."""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.home import create_home, search_database
from keyrotation_pipeline.assembly.keystores import keys_in_store, listed_keys, source_keys, transit_keys
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline, withhold_unsigned
from keyrotation_pipeline.audit.divergence import about_newcomer
from keyrotation_pipeline.backups.key_loss import lost_keys
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.template import configuration
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT
from keyrotation_pipeline.fieldcrypto.keyring import FIRST_KEY_VARIABLE, KeyRing, variable_of
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.model.key_trial import GivenKeys, KeyTrial
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.settings import Settings

FILL_IN = "fill in [approvals] (and check [[tables]]) there, then run `keyrotation init` again"


def init(
    *,
    convert: Annotated[
        bool,
        typer.Option(
            "--convert",
            help="Turn one plain key in AWS Secrets Manager into the versioned JSON that a rotation needs.",
            show_default=False,
        ),
    ] = False,
    scan: Annotated[
        bool,
        typer.Option(
            "--scan",
            help="Look for columns in other formats, too, and name them in the configuration as comments.",
            show_default=False,
        ),
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Set up configuration, home, schema, officers and keys.

    Writes a commented keyrotation.toml from what is found in the database, unless one is there. Then makes the schema
    `keyrotation`, pins the officers, and imports the keys in ENCRYPTION_MASTER_KEY, ENCRYPTION_MASTER_KEY_V2 … with
    ENCRYPTION_PRIMARY_VERSION. Running it again changes nothing, and no key is ever replaced by
    a different one.
    """
    path = settings.config_path(config)
    if not path.exists():
        with reporting(quiet=as_json) as report:
            written = _write_configuration(path, report, scan=scan)
        value = {"configuration": str(path), "written": True, "database": written}
        line = f"{path} is written from what was found, in a part of each large table; {FILL_IN}"
        output.show(written, value, [line], as_json=as_json)
        return
    if scan:
        raise ConfigurationError(f"{path} is there already; run `keyrotation scan`, or move the file away first")
    declared = settings.load(path)
    if not declared.approvals.officers:
        raise ConfigurationError(f"{path} names no officers yet; {FILL_IN}")
    withhold_unsigned(declared, actor=actor())
    given = _keys_in_use(declared)
    ring, place_of = (given.ring, given.place_of) if given is not None else (None, None)
    sources = source_keys(declared, settings.process_environment())
    trial = initialise(declared, ring, actor=actor(), place_of=place_of, convert=convert, sources=sources)
    with open_pipeline(declared, actor=actor()) as pipeline:
        newcomer = about_newcomer(pipeline.ledger.replayed())
        lost = lost_keys(pipeline.ledger, pipeline.keys.read(), pipeline.ledger.keys())
        tried = {"values_tried": trial.tried, "values_opened": trial.tried - trial.failed} if trial else {}
        signer = {"backup_signer": pipeline.backup_signer, "signer_named": newcomer is None}
        summary = {**_summary(pipeline, path, _key_setting(declared)), **tried, **signer}
    output.show(summary["database"], summary, _lines(summary, trial, lost, newcomer), as_json=as_json)


def _write_configuration(path: Path, report: Report, *, scan: bool) -> str:
    """Write the file from the database; return the database's name."""
    home, url = settings.home_of(path), settings.database_variable()
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no directory {path.parent}; create it, or correct --config")
    create_home(home)
    found = search_database(home, url, report, scan=scan)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(configuration(found, embedded=url is None), encoding="utf-8")
    # A link fails if the file has been written meanwhile, where a rename would replace it.
    try:
        os.link(unfinished, path)
    finally:
        unfinished.unlink()
    return found.name


def _keys_in_use(declared: Settings) -> GivenKeys | None:
    """The keys in the environment, else those already in the application's key store; None if there are none."""
    environment = settings.process_environment()
    if declared.key_variable is not None:
        return listed_keys(declared, environment)
    if declared.format.held_at is not None:
        return transit_keys(declared)
    if any(name.upper().startswith(FIRST_KEY_VARIABLE) and value.strip() for name, value in environment.items()):
        return GivenKeys(KeyRing.from_environment(environment), variable_of)
    return keys_in_store(declared, environment)


def _key_setting(declared: Settings) -> str:
    """What to set where there is no key."""
    if declared.key_variable is not None:
        return (
            f"{declared.key_variable} to the application's keys, the one that encrypts {declared.key_notation.encrypts}"
        )
    return f"{FIRST_KEY_VARIABLE} to the application's key (base64 of 32 bytes)"


def _summary(pipeline: Pipeline, path: Path, wanted: str) -> dict[str, Any]:
    roster = pipeline.ledger.pinned_roster()
    keys = pipeline.ledger.keys()
    primary = pipeline.keys.read().primary
    if not keys and primary != PLAINTEXT:
        raise ConfigurationError(
            f"the schema is ready and the roster pinned, but there is no key; set {wanted}, then run "
            "`keyrotation init` again"
        )
    return {
        "configuration": str(path),
        "written": False,
        "database": pipeline.environment.identity().name,
        "key_versions": [{"version": str(key.version), "state": str(key.state)} for key in keys],
        "primary": str(primary) if primary else None,
        "tables": [
            {
                "table": str(count.table.name),
                "rows": count.rows,
                "counted_at": instant(count.counted_at),
                "values_by_version": {str(version): number for version, number in count.values_by_version.items()},
            }
            for count in pipeline.ledger.counts(pipeline.tables)
        ],
        "officers": [officer.name for officer in roster.officers] if roster else [],
        "approvals_required": roster.required if roster else 0,
    }


def _lines(
    summary: dict[str, Any], trial: KeyTrial | None, lost: Sequence[str], newcomer: str | None
) -> Iterator[output.Line]:
    versions = ", ".join(f"{key['version']} ({key['state']})" for key in summary["key_versions"]) or "none yet"
    yield f"keys      {versions}; primary {summary['primary']}"
    if trial is not None:
        yield from _tried(trial)
    officers = ", ".join(summary["officers"])
    yield f"officers  {officers}; {summary['approvals_required']} must approve; pinned"
    yield f"backups   are signed by {summary['backup_signer']}"
    yield "          keep that with the recovery key: by it an empty machine can tell your backups from forged ones"
    if not summary["tables"]:
        yield "tables    were not counted yet; `keyrotation status --count` counts them, and so does the first request"
    for table in summary["tables"]:
        values = ", ".join(f"{number:,} under {version}" for version, number in table["values_by_version"].items())
        counted = f"counted {output.minutes(datetime.fromisoformat(table['counted_at']))} UTC"
        yield f"table     {table['table']}: {table['rows']:,} rows, values {values or 'none'}, {counted}"
    for message in lost:
        yield output.Text(f"lost      {message}", output.BAD)
    if newcomer is not None:
        yield output.Text(f"signer    {newcomer}; {'then ' if lost else ''}run `keyrotation reconcile`", output.BAD)
    elif not lost:
        yield 'next      `keyrotation inventory`, `keyrotation request --reason "…"`'


def _tried(trial: KeyTrial) -> Iterator[output.Line]:
    for version in trial.versions:
        tried, opened = trial.of_version(version)
        found = (
            f"decrypts {opened:,} of {tried:,} values, a sample of every column"
            if tried
            else "no value under it was found"
        )
        yield f"          {version} {found}"
    for phrase in trial.damaged():
        yield output.Text(f"damaged   {phrase} do not decrypt; `keyrotation verify` names each", output.BAD)
    for phrase in trial.encrypted_twice():
        yield output.Text(f"twice     {phrase} are encrypted twice; `keyrotation verify` names each", output.BAD)
