"""`recovery-test` proves that backups restore; `restore-key` puts a lost key back in the store."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups, read_backup, recovery_key
from keyrotation_pipeline.assembly.keystores import create_key_store
from keyrotation_pipeline.audit.divergence import about_newcomer
from keyrotation_pipeline.backups.catalog import BackupContext, key_in
from keyrotation_pipeline.backups.key_loss import (
    KeyRestored,
    LossSurvey,
    ReadableValues,
    RegisteredKey,
    newest_key,
    restore_key,
    survey,
)
from keyrotation_pipeline.backups.recovery_test import RecoveryReport, recovery_test, require_recipient
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.errors import BackupError, RecoveryError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.keys import restore_command
from keyrotation_pipeline.model.records import json_safe
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.regular_files import read_typed
from keyrotation_pipeline.settings import Settings

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Exported OpenPGP secret key of a recipient, used only this time; else that of [recovery].",
        show_default=False,
    ),
]

Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust-unsigned",
        metavar="FILE",
        help="An officer's signature over the manifest of a set that is not signed by this pipeline.",
        show_default=False,
    ),
]


def recovery_test_command(*, key: KeyFile = None, config: Config = None, as_json: Json = False) -> None:
    """Prove that the newest backup restores.

    Restores it in a scratch server, and decrypts every value there.
    """
    declared = settings.load(config)
    with opened_with_key(declared, key) as (site, opened), reporting(quiet=as_json) as progress:
        database = site.pipeline.environment.identity().name
        if key is not None:  # one that is configured makes every test fail
            require_recipient(site, opened)
        report = recovery_test(site, opened, progress)
        note_newcomer(site.pipeline.ledger.replayed())
    value = {"database": database, "passed": True, **json_safe(report.facts())}
    output.show(database, value, _tested(report), as_json=as_json)
    if report.missed:
        raise RecoveryError(f"everything was recovered, but {'; '.join(report.missed)}")


def note_newcomer(state: AuditState) -> None:
    """Say that what was recorded just now counts for nothing, where officers have not named the key of this home."""
    if (newcomer := about_newcomer(state)) is not None:
        output.note(f"{newcomer}, so what it recorded just now counts for nothing; run `keyrotation reconcile`")


def restore_key_command(
    versions: Annotated[
        list[str] | None, typer.Argument(metavar="VERSION...", help="Lost versions, such as v1.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|s3://…", help="Encrypted backup; else the newest that opens.", show_default=False
        ),
    ] = None,
    *,
    trusted: Trusted = None,
    look: Annotated[
        bool, typer.Option("--survey", help="Only show what can be read, and from where.", show_default=False)
    ] = False,
    key: KeyFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Restore lost keys from backups, or survey them.

    The survey names every registered key, which backups hold those that are lost, and what cannot be read meanwhile.
    """
    wanted = [KeyVersion.parse(name) for name in versions or ()]
    if look == bool(wanted):
        raise typer.BadParameter("name the lost versions, or ask for --survey", param_hint="VERSION / --survey")
    if source is not None and len(wanted) != 1:
        raise typer.BadParameter("one backup holds one key: name one version", param_hint="--from")
    declared = settings.load(config)
    if look:
        _survey(declared, as_json=as_json)
        return
    with opened_with_key(declared, key, trusted) as (site, opened):
        create_key_store(declared)
        database = site.pipeline.environment.identity().name
        done = [_restore(declared, site, version, source, opened) for version in wanted]
        note_newcomer(site.pipeline.ledger.replayed())
    value = {"database": database, "restored": [_restored_document(each) for each in done]}
    output.show(database, value, map(_restored, done), as_json=as_json)


@contextmanager
def opened_with_key(
    declared: Settings, key: Path | None, trusted: list[Path] | None = None
) -> Iterator[tuple[BackupContext, RecoveryKey]]:
    """The backups, and the recovery key in a file or as configured; its passphrase is asked for before they are opened.

    Args:
        trusted: officers' signatures over manifests.
    """
    passphrase = _passphrase_for(declared, key)
    with (
        open_backups(declared, actor=actor(), vouching=_vouching(trusted)) as site,
        recovery_key(declared, key, passphrase) as opened,
    ):
        yield site, opened


def _vouching(files: list[Path] | None) -> tuple[bytes, ...]:
    """Officers' signatures over manifests.

    Raises:
        BackupError: a file cannot be read.
    """
    try:
        return tuple(read_typed(file) for file in files or ())
    except OSError as error:
        raise BackupError(f"file {error.filename} cannot be read; correct --trust-unsigned") from None


def _restore(
    declared: Settings, site: BackupContext, version: KeyVersion, source: str | None, key: RecoveryKey
) -> KeyRestored:
    if source is None:
        material, where = newest_key(site, version, key)
    else:
        name, message = read_backup(declared, source, site.pipeline.clock)
        material, where = key_in(name, version, message, key), source
    return restore_key(site.pipeline, version, material, where)


def _passphrase_for(declared: Settings, key: Path | None) -> bytes | None:
    """Ask an officer for the passphrase of their key; None where there is no terminal to ask on."""
    return None if key is None or declared.recovery.passphrase is not None else asked_passphrase(key)


def asked_passphrase(key: Path) -> bytes | None:
    """Ask for the passphrase of a key; None: it has none, or there is no terminal to ask on."""
    if not sys.stdin.isatty():
        return None
    typed: str = typer.prompt(
        f"Passphrase of {key.name} (empty: none)", hide_input=True, default="", show_default=False, err=True
    )
    return typed.encode() or None


def _restored(each: KeyRestored) -> str:
    state = "archived" if each.place == "archive" else "live"
    return (
        f"{each.version} ({each.fingerprint[:16]}) is {state} again, from {each.source}; {each.decrypted:,} values "
        "decrypted with it before"
    )


def unread(undecryptable: Sequence[str], unencrypted: Mapping[str, int]) -> Iterator[output.Line]:
    """A line for each thing in a restored database that did not decrypt."""
    for each in undecryptable:
        yield output.Text(f"          {each} do not decrypt", output.BAD)
    for table, number in unencrypted.items():
        yield f"          {number:,} values of {table} are not encrypted, as in the backup"


def undumped(phrases: Sequence[str]) -> Iterator[output.Line]:
    """A line for each thing that was lost with the server, since no dump has it."""
    for each in phrases:
        yield f"undumped  {each}"
    if phrases:
        yield "          no dump has this: set again what the database needs"


def _tested(report: RecoveryReport) -> Iterator[output.Line]:
    yield f"fetched   {report.made.name} and its files from {report.place}"
    for name, version in report.versions.items():
        yield output.Text(f"version   {name} is deleted or overwritten there; read in version {version}", output.BAD)
    keys = ", ".join(f"{key.version} ({key.fingerprint[:16]})" for key in report.made.keys)
    yield f"keys      {keys}: fingerprints as registered, opened by {report.recovery_key}"
    members = (dump for each in report.members for dump in (each.dump, each.older, each.rekeyed))
    for tested in filter(None, (report.newest, report.older, report.rekeyed, *members)):
        rows = ", ".join(f"{number:,} {table}" for table, number in tested.rows.items())
        values = sum(tested.read.by_table().values())
        yield f"restored  {tested.name}: {rows}; every encrypted value decrypts, {values:,} in all"
        yield from unread((), tested.read.unencrypted)
        yield f"          in {tested.server}; all {tested.relations:,} relations with every row, catalogue as dumped"
        for table in tested.compared:
            yield f"compared  {table.table}: {table.equal:,} present values as in this backup; {table}"
        for each in tested.not_compared:
            yield output.Text(f"          not compared: {each}", output.BAD)
        for each in tested.left_out:
            yield f"left out  {each}: only a superuser can restore it"
        yield from undumped(tested.undumped)
        if tested.warning is not None:
            output.note(f"warning: {tested.warning}")
    if report.older is None:
        yield "          there is no older dump under an archived key, so none was tested"
    yield f"recovery  {report.rto_seconds:,.1f} s of {report.objectives.rto_seconds:,} s allowed"
    yield f"data loss {report.rpo_seconds:,.1f} s of {report.objectives.rpo_seconds:,} s allowed"


def _survey(declared: Settings, *, as_json: bool) -> None:
    with open_backups(declared, actor=actor()) as site:
        database = site.pipeline.environment.identity().name
        found = survey(site)
    output.show(
        database,
        {"database": database, **_survey_document(found)},
        _surveyed(found, has_key=declared.recovery.names_a_key),
        as_json=as_json,
    )
    lost = sorted({f"{each.table} under {each.version}" for each in found.database if each.lost})
    if lost:
        raise BackupError(
            f"no key is known for values of {', '.join(lost)}; look for other backups and name them with "
            "`keyrotation restore-key VERSION --from FILE`"
        )


def _surveyed(found: LossSurvey, *, has_key: bool) -> Iterator[output.Line]:
    keys = [(str(each.version), str(each.state), _where(each)) for each in found.keys]
    yield output.Table(("Version", "State", "Key"), keys)
    yield ""
    tables = [(each.table, str(each.version), each.values, _how(each)) for each in found.database]
    yield output.Table(("Table", "Version", "Values", "Key"), tables)
    yield ""
    dumps = [
        (dump.name, dump.place, "as signed" if dump.intact else "damaged", *row)
        for dump in found.dumps
        for row in _by_key(dump.tables)
    ]
    yield output.Table(("Database backup", "Place", "File", "Version", "Values", "Tables", "Key"), dumps)
    yield "nothing was decrypted for this: backups are identified by hash and manifest, keys by fingerprint"
    for problem in found.problems:
        yield output.Text(f"problem   {problem}", output.BAD)
    if missing := [str(each.version) for each in found.keys if each.backups and not each.stored]:
        yield f"restore   {restore_command(*missing, recovery_key_named=has_key)}"


def _where(key: RegisteredKey) -> str:
    if key.stored or not key.backups:
        return "in the key store" if key.stored else "nowhere"
    more = f" and {len(key.backups) - 1} more" if len(key.backups) > 1 else ""
    return f"in {key.backups[0]}{more}"


def _by_key(tables: Sequence[ReadableValues]) -> Iterator[tuple[str, int, str, str]]:
    """Version, values, tables, and where the key is: a row for each version that is read alike in several tables."""
    alike: dict[tuple[str, str], list[ReadableValues]] = {}
    for each in tables:
        alike.setdefault((str(each.version), _how(each)), []).append(each)
    for (version, how), listed in alike.items():
        yield version, sum(each.values for each in listed), ", ".join(each.table for each in listed), how


def _how(readable: ReadableValues) -> str:
    if readable.stored:
        return "in the key store"
    return "in a backup" if readable.backups else "nowhere, so they cannot be read"


def _survey_document(found: LossSurvey) -> dict[str, Any]:
    return {
        "keys": [
            {
                "version": str(each.version),
                "state": str(each.state),
                "in_store": each.stored,
                "backups": list(each.backups),
            }
            for each in found.keys
        ],
        "tables": [_readable_document(each) for each in found.database],
        "database_backups": [
            {
                "file": dump.name,
                "place": dump.place,
                "intact": dump.intact,
                "tables": [_readable_document(each) for each in dump.tables],
            }
            for dump in found.dumps
        ],
        "problems": list(found.problems),
    }


def _readable_document(each: ReadableValues) -> dict[str, Any]:
    return {
        "table": each.table,
        "version": str(each.version),
        "values": each.values,
        "key_in_store": each.stored,
        "key_backups": list(each.backups),
        "lost": each.lost,
    }


def _restored_document(each: KeyRestored) -> dict[str, Any]:
    return {
        "version": str(each.version),
        "fingerprint": each.fingerprint,
        "from": each.source,
        "place": each.place,
        "values_decrypted": each.decrypted,
    }
