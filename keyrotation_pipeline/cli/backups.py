"""`backup`, `restore-database` and `rehearse`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import RestoredStages, new_databases, open_backups
from keyrotation_pipeline.backups.backup import BackupMade, back_up
from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets, kept_sets, unknown_sets
from keyrotation_pipeline.backups.rehearsal import rehearse
from keyrotation_pipeline.backups.rekey import Rekeyed, rekey
from keyrotation_pipeline.backups.restore_to_new_database import RestoredDatabase, restore_to_new_database
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, actor
from keyrotation_pipeline.cli.output import show
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.recovery import KeyFile, Trusted, opened_with_key, undumped, unread
from keyrotation_pipeline.errors import BackupError, RehearsalError
from keyrotation_pipeline.model.audit import counted, instant, names, utc_minute
from keyrotation_pipeline.model.backups import BackupSet
from keyrotation_pipeline.model.records import json_safe
from keyrotation_pipeline.model.request_events import NOT_REHEARSED, ROLLOUTS, Rehearsed
from keyrotation_pipeline.settings import Settings


def backup(
    *,
    keys_only: Annotated[
        bool, typer.Option("--keys-only", help="Back up keys, not the database.", show_default=False)
    ] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="List the stored backups and the keys that each needs.", show_default=False)
    ] = False,
    rekeyed: Annotated[
        bool,
        typer.Option("--rekey", help="Make an old set again under the present key instead.", show_default=False),
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
    """Back up all keys and the database at one moment.

    An audit with faults stops no backup: it is made, and the command ends with exit code 1.
    """
    if sum((keys_only, listed, rekeyed)) > 1:
        raise typer.BadParameter(
            "these options exclude each other; give one", param_hint="--keys-only / --list / --rekey"
        )
    if not rekeyed and (old is not None or key is not None):
        raise typer.BadParameter("a set and its recovery key are for --rekey", param_hint="SET / --key")
    declared = settings.load(config)
    if rekeyed:
        _rekey(declared, old, key, as_json=as_json)
        return
    with open_backups(declared, actor=actor()) as site:
        database = site.pipeline.environment.identity().name
        if listed:
            kept, unknown, silent = _kept(site)
            sets = [_document(each) for each in kept]
            value: dict[str, Any] = {"database": database, "sets": sets, "unknown": unknown, "silent": silent}
            output.show(database, value, _listed(kept, [*unknown, *silent]), as_json=as_json)
            return
        made = back_up(site, database=not keys_only)
    value = {"database": database, **json_safe(made.facts()), "backup_signer": site.trust.own_signer}
    output.show(database, value, _made(made, site), as_json=as_json)
    made.require_sound_audit()


def _rekey(declared: Settings, old: str | None, file: Path | None, *, as_json: bool) -> None:
    with opened_with_key(declared, file) as (site, key), reporting(quiet=as_json) as report:
        database = site.pipeline.environment.identity().name
        done = rekey(site, key, old, report)
    value = {"database": database, **done.record.as_json(), "left": list(done.left)}
    output.show(database, value, _rekeyed(done), as_json=as_json)


def _rekeyed(done: Rekeyed) -> Iterator[str]:
    record = done.record
    under, left = record.target, _needs(record.left_behind)
    yield f"rekeyed   {record.made_from}: every value under {under}, none under {left}"
    for table, values in record.values.items():
        yield f"table     {table}: all {values:,} values decrypt to the same plaintext, and every row is unchanged"
    yield f"manifest  {record.manifest}, whose rows are of {output.minutes(done.made.made_at)} UTC"
    for place in record.places:
        yield f"stored in {place}, read back there"
    for each in record.left_out:
        yield f"left out  {each}: only a superuser can restore it"
    if done.left:
        more = f"{len(done.left)} more need a compromised key, {done.left[0]} first"
        yield f"next      `keyrotation backup --rekey`: {more}"


def _made(done: BackupMade, site: BackupContext) -> Iterator[output.Line]:
    made = done.made
    keys = ", ".join(f"{key.version} ({key.fingerprint[:16]})" for key in made.keys)
    yield f"keys      {keys}"
    for dump in made.dumps:
        of = f"{dump.member}: " if dump.member else ""
        yield f"database  {of}{dump.file.name}, {dump.file.size_bytes:,} bytes; needs {_needs(dump.versions)}"
    yield f"manifest  {made.name}, for {counted(site.recipients, 'recipient')}"
    yield output.field("signed by", f"{site.trust.own_signer}; keep that with the recovery key")
    for place in done.places:
        yield output.field("stored in", f"{place}, read back there")
    if done.uploaded_later:
        yield output.field(
            "caught up", f"{counted(len(done.uploaded_later), 'older set')}, which a place did not have whole"
        )
    if done.removed:
        yield f"removed   {counted(len(done.removed), 'older local file')}"
    for warning in done.warnings:
        output.note(f"warning: {warning}")


def _kept(site: BackupContext) -> tuple[list[KeptSets], list[str], list[str]]:
    """The backups in each place that answers, a sentence for each unknown pipeline, and for each place that does not.

    Raises:
        BackupError: no place answers.
    """
    kept, unknown, silent = [], list[str](), list[str]()
    for place in site.places:
        try:
            kept.append(kept_sets(place.with_versions(), site.trust))
            unknown += unknown_sets(place, place.names(), site.trust)
        except BackupError as error:
            silent.append(str(error))
    if not kept:
        raise BackupError("; ".join(silent))
    return kept, unknown, [*silent, *filter(None, (each.place.older.unexamined for each in kept))]


def _listed(kept: list[KeptSets], others: list[str]) -> Iterator[output.Line]:
    rows = [
        (
            made.name,
            output.minutes(made.made_at),
            ", ".join(names(key.version for key in made.keys)),
            _databases(made),
            _needs(tuple(sorted({version for dump in made.dumps for version in dump.versions}))) if made.dumps else "-",
            each.place.older.where(made.name, each.place.description),
        )
        for each in kept
        for made in each.sets
    ]
    yield output.Table(("Manifest", "Made (UTC)", "Keys", "Database", "Needs", "Place"), rows)
    for why in (*(str(why) for each in kept for why in each.refused.values()), *others):
        yield output.Text(why, output.BAD)


def _databases(made: BackupSet) -> str:
    sizes = (f"{dump.member} {dump.file.size_bytes:,} bytes".strip() for dump in made.dumps)
    return ", ".join(sizes) or "-"


def _document(kept: KeptSets) -> dict[str, Any]:
    return {
        "place": kept.place.description,
        "refused": {name: str(why) for name, why in kept.refused.items()},
        "sets": [
            {
                "manifest": made.name,
                "made_at": instant(made.made_at),
                "database": made.database,
                "keys": {str(key.version): key.file.name for key in made.keys},
                "dump": made.dump.file.name if made.dump else None,
                "needs": names(made.dump.versions) if made.dump else [],
                "members": {
                    dump.member: {"dump": dump.file.name, "place": dump.place, "needs": names(dump.versions)}
                    for dump in made.members
                },
                "version": kept.place.older.used.get(made.name),
            }
            for made in kept.sets
        ],
    }


def _needs(versions: tuple[Any, ...]) -> str:
    return ", ".join(map(str, versions)) or "no key"


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
    """Restore a backup into a new database.

    Reads every value there; the database in use stays as it is.
    """
    declared = settings.load(config)
    with (
        opened_with_key(declared, key, trusted) as (site, opened),
        new_databases(declared) as databases,
        reporting(quiet=as_json) as report,
    ):
        name = site.pipeline.environment.identity().name
        new = into or f"{name.partition('@')[0][:38]}_restored_{site.pipeline.clock.now():%Y%m%d_%H%M%S}"
        done = restore_to_new_database(site, databases, opened, new, source, report)
    file = for_superuser(done.database, done.for_superuser)
    value = {"beside": name, **done.facts(), "for_superuser": str(file) if file else None}
    show(name, value, _lines(name, done, file), as_json=as_json)
    done.require_complete()


def for_superuser(database: str, text: str) -> Path | None:
    """Write what a restore leaves to a superuser next to where one stands; returns the file, None if there is nothing.

    Raises:
        BackupError: it cannot be written.
    """
    if not text:
        return None
    path = Path(f"{database}-for-superuser.sql")
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, errors="surrogateescape")
    except OSError as error:
        raise BackupError(
            f"{path} cannot be written ({error.strerror}); run this again in a directory of your own"
        ) from None
    return path


def _lines(name: str, done: RestoredDatabase, file: Path | None) -> Iterator[output.Line]:
    yield f"restored  {done.dump} of {utc_minute(done.made_at)} from {done.place}"
    yield f"into      {done.database}; {name} is unchanged"
    values = done.read.by_table()
    for table, rows in done.rows.items():
        yield f"table     {table}: {rows:,} rows, {values[table]:,} values decrypt"
    yield from unread(done.read.undecryptable, done.read.unencrypted)
    for each in done.left_out:
        yield f"left out  {each}"
    yield from undumped(done.undumped)
    if file is not None:
        yield f"Read {file}: it restores what is left out, for a superuser to run with"
        yield output.Text(f"  psql -X -v ON_ERROR_STOP=1 -d {done.database} -f {file}", whole=True)
    yield "To switch:"
    yield f"  stop the application; let it and [database] url name {done.database}; then"
    yield "  `keyrotation reconcile`, since approvals, key states and audit are of an earlier time there"


def rehearse_command(
    request_id: RequestId,
    *,
    members: Annotated[
        list[str] | None,
        typer.Option(
            "--database",
            metavar="NAME",
            help="Of a fleet: rehearse this member with the home's own database, and no others; repeatable.",
            show_default=False,
        ),
    ] = None,
    key: KeyFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run a rotation on a copy of the newest backup.

    In a scratch server for each database, without touching production. Finds what would stop it and how long it would
    take. Exit code 1 if it would stop.
    """
    declared = settings.load(config)
    with opened_with_key(declared, key) as (site, opened), reporting(quiet=as_json) as report:
        database = site.pipeline.environment.identity().name
        request = site.pipeline.ledger.request(request_id)
        done = rehearse(site, opened, RestoredStages(declared), request, report, members or ())
        left_out = [f"database {each}" for each in site.members if each not in done.members]
    document = {"database": database, **_rehearsal_document(done, left_out)}
    show(database, document, _rehearsal_lines(done, left_out), as_json=as_json)
    if done.findings:
        first, *more = done.findings
        others = f" ({counted(len(more), 'more finding')} above)" if more else ""
        raise RehearsalError(f"the rotation would stop at {first.step}: {first.sentence}{others}")


def _rehearsal_document(done: Rehearsed, left_out: Sequence[str]) -> dict[str, Any]:
    predicted = {step: round(seconds, 1) for step, seconds in done.predicted_seconds.items()}
    total = None if done.total_seconds is None else round(done.total_seconds, 1)
    return json_safe(
        {
            **done.as_json(),
            "predicted_seconds": predicted,
            "predicted_total_seconds": total,
            "not_rehearsed": [*left_out, *NOT_REHEARSED],
        }
    )


def _rehearsal_lines(done: Rehearsed, left_out: Sequence[str]) -> Iterator[str]:
    yield (f"rehearsed {done.source} to {done.target} on {done.dump} of {utc_minute(done.made_at)}, in {done.server}")
    for member, dump in done.members.items():
        yield f"with      {member}: {dump}"
    yield f"rows      {done.dump_rows:,} in the backup, {done.rows_now:,} in the database now"
    for step, seconds in done.seconds.items():
        predicted = done.predicted_seconds.get(step)
        expected = "up to the applications" if step in ROLLOUTS else f"predicted {predicted:,.1f} s"
        yield f"  {step:<22}{seconds:>8.1f} s  {expected}"
    for finding in done.findings:
        yield f"stops at  {finding.step}: {finding.sentence}"
    if done.total_seconds is not None:
        yield f"nothing stopped it; the real one is predicted to take {done.total_seconds:,.1f} s plus the rollouts"
    for each in [*left_out, *NOT_REHEARSED]:
        yield f"not rehearsed: {each}"
