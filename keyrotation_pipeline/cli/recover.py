"""`recover`: from backups and the recovery key alone to a database, a home and keys."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.recover import (
    HomeHere,
    by_officers,
    by_signer,
    own_signer,
    passphrase_in,
    place_of_backups,
    recovery_key_at,
    signatures_in,
)
from keyrotation_pipeline.backups.recover import Recovered, RecoverySource, recover
from keyrotation_pipeline.backups.restore_checks import joined, require_complete
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.recovery import asked_passphrase, undumped, unread
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.model.audit import instant, names
from keyrotation_pipeline.model.tables import MEMBER_NAME
from keyrotation_pipeline.model.undumped import RoleSQL

_MOST_SHOWN = 20  # whoever writes to a place can add any number of sets
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_SOURCE = typer.Option("--from", metavar="DIR|s3://BUCKET/PREFIX", help="Where the backups are.", show_default=False)
_KEY = typer.Option(
    "--key",
    metavar="FILE",
    help="Exported OpenPGP secret key of a recipient, or the GnuPG home whose card has it.",
    show_default=False,
)
_INTO = typer.Option("--into", metavar="NAME", help="Name of the new database.", show_default=False)
_DATABASE = typer.Option(
    "--database",
    metavar="MEMBER",
    help="Of a fleet: the member to restore, its database alone; else the home's own.",
    show_default=False,
)


def recover_command(
    *,
    source: Annotated[str, _SOURCE],
    key: Annotated[Path, _KEY],
    into: Annotated[str, _INTO],
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="The server that gets it, with a role that may create databases and roles; else as [database] url, "
            "or KEYROTATION_DATABASE_URL.",
            show_default=False,
        ),
    ] = None,
    signer: Annotated[
        str | None,
        typer.Option(
            "--signer",
            metavar="FINGERPRINT",
            help="Of the key that signed the backups, as `init`, `backup` and `status --json` print it; else that of "
            "the home, if it is not lost.",
            show_default=False,
        ),
    ] = None,
    trusted: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust-unsigned",
            metavar="FILE",
            help="Instead of --signer: an officer's signature over a manifest.",
            show_default=False,
        ),
    ] = None,
    officer: Annotated[
        list[Path] | None,
        typer.Option(
            "--officer",
            metavar="FILE",
            help="With --trust-unsigned: that officer's certificate, from elsewhere than the backups.",
            show_default=False,
        ),
    ] = None,
    member: Annotated[str, _DATABASE] = "",
    wanted: Annotated[
        str | None,
        typer.Option("--set", metavar="MANIFEST", help="Another set than the newest.", show_default=False),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="Passphrase of the key; else asked for.", show_default=False
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Restore everything from backups and the recovery key.

    Database, configuration and keys, with nothing else at hand. Also where only the database is lost: the home and the
    configuration that are there stay as they are. Everything is verified before it is used. Run it again with the same
    options after whatever stopped it; once it has finished, that changes nothing and prints the next steps again.
    """
    if member and not re.fullmatch(MEMBER_NAME, member):
        raise typer.BadParameter("write a name in [[databases]]", param_hint="--database")
    path = settings.config_path(config)
    here = HomeHere(path, _server(server, path, member), into, actor(), member)
    if (shown := here.finished) is not None and wanted in {None, shown["set"]}:
        output.show(here.database, shown, _finished(shown), as_json=as_json)
        require_complete(into, shown["failures"], shown["undecryptable"])
        return
    asked = None if passphrase_file or key.is_dir() else asked_passphrase(key)
    passphrase = passphrase_in(passphrase_file) if passphrase_file else asked
    with (
        ExitStack() as stack,
        recovery_key_at(key, passphrase) as opened,
        reporting(quiet=as_json) as report,
    ):
        found = _source(source, signer, trusted or [], officer or [], path, stack)
        done = recover(found, opened, here.databases, here, into, wanted, report, member)
    recorded = done.found.dump.undumped
    roles = None if recorded is None else here.role_sql(recorded.roles)
    steps = _next_of_member(done, here, roles) if member else _next(done, here, key, roles)
    value = _document(done, here, roles, tuple(steps))
    output.show(here.database, value, _lines(done, here, value), as_json=as_json)
    sys.stdout.flush()  # before a run of the same line only prints this again
    here.finish(value)
    done.require_complete()


def _server(given: str | None, path: Path, member: str) -> str:
    """The URL of the server; that of the configuration leads to the lost database's own."""
    if given is not None:
        return given
    if member:
        if path.exists() and (entry := settings.load(path).entry_of(member)) is not None:
            return entry.url.get_secret_value()
        raise ConfigurationError(f"no [[databases]] {member} is configured here; name the server with --server URL")
    if path.exists() and (url := settings.load(path).database.url) is not None:
        return url.get_secret_value()
    if (variable := settings.database_variable()) is not None:
        return variable
    raise ConfigurationError("no server is named that could get the database; name it with --server URL")


def _source(
    source: str, signer: str | None, trusted: list[Path], officers: list[Path], path: Path, stack: ExitStack
) -> RecoverySource:
    if (signer is not None and trusted) or bool(trusted) != bool(officers):
        raise typer.BadParameter(
            "give the signer's fingerprint, or an officer's signature together with that officer's certificate",
            param_hint="--signer / --trust-unsigned / --officer",
        )
    if trusted:
        place = place_of_backups(source)
        return stack.enter_context(by_officers(place, signatures_in(trusted), officers))
    fingerprint = re.sub(r"[\s:]", "", signer).lower() if signer is not None else own_signer(path)
    if fingerprint is None:
        raise ConfigurationError(
            "nothing says which backups are yours; give the fingerprint stored with the recovery key as --signer, or "
            "an officer's signature over the manifest: `--trust-unsigned FILE --officer CERTIFICATE`"
        )
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise typer.BadParameter("a fingerprint has 64 hex digits", param_hint="--signer")
    return by_signer(place_of_backups(source), fingerprint)


def _chosen(done: Recovered) -> Iterator[output.Line]:
    """Which set was restored, why no newer one, and which of its files had been deleted or overwritten."""
    made = done.found.made
    rejected = tuple(done.found.rejected.values())
    for why in rejected[:_MOST_SHOWN]:
        yield output.Text(f"rejected  {why}", output.BAD)
    if len(rejected) > _MOST_SHOWN:
        yield output.Text(f"rejected  {len(rejected) - _MOST_SHOWN:,} more, which --json names", output.BAD)
    if done.not_examined is not None:
        yield output.Text(f"not read  {done.not_examined}", output.BAD)
    yield f"restored  {made.name} of {output.minutes(made.made_at)} UTC from {done.place}"
    for name, id_ in done.found.versions.items():
        yield output.Text(f"version   {name} is deleted or overwritten there; read in version {id_}", output.BAD)


def _lines(done: Recovered, here: HomeHere, value: Mapping[str, Any]) -> Iterator[output.Line]:
    yield from _chosen(done)
    yield f"into      the new database {here.database}"
    for table, rows in done.restored.rows.items():
        yield f"table     {table}: {rows:,} rows, {done.restored.values[table]:,} values decrypt"
    yield from unread(done.restored.undecryptable, done.restored.unencrypted)
    for each in done.restored.left_out:
        yield f"left out  {each}"
    yield from undumped(done.restored.undumped)
    for version, fingerprint in done.keys.items():
        where = done.keys_here.put_back.get(version)
        yield f"key       {version} ({fingerprint[:16]}){f', in the key store again ({where})' if where else ''}"
    for name in done.files.written:
        yield f"written   {name}"
    for phrase in done.files.kept:
        yield f"kept      {phrase}"
    if here.is_new and not done.found.dump.member:
        yield f"signer    backups are signed by {here.signer} from now on; keep that with the recovery key"
    yield from _to_do(value)


def _finished(shown: Mapping[str, Any]) -> Iterator[output.Line]:
    yield f"finished  {shown['set']} was restored before, and nothing is changed now; the next steps were:"
    yield from undumped(shown.get("undumped") or ())
    yield from _to_do(shown)


def _to_do(shown: Mapping[str, Any]) -> Iterator[output.Line]:
    """What gives roles what they had, whole so that it can be pasted, and the next steps."""
    if statements := shown.get("role_statements"):
        yield "roles     what they had on the lost server, for a superuser to paste into psql:"
        yield from (output.Text(f"          {each}", whole=True) for each in statements)
    for each in shown.get("roles_to_decide") or ():
        yield output.Text(f"decide    {each}; none of the statements changes that", output.BAD)
    for number, step in enumerate(shown["next"], 1):
        yield f"{'next' if number == 1 else '':<10}{number}. {step}"


def _next_at_server(done: Recovered, here: HomeHere, roles: RoleSQL | None) -> Iterator[str]:
    """What is left to do for the new database, in order."""
    if (file := done.restored.for_superuser) is not None:
        yield (
            f"read {file}: it restores what is left out, for a superuser to run with "
            f"`psql -X -v ON_ERROR_STOP=1 -d {done.restored.database} -f {file}`"
        )
    yield from _roles_lost(done, here) if roles is None else _roles_next(roles)


def _next_of_member(done: Recovered, here: HomeHere, roles: RoleSQL | None) -> Iterator[str]:
    """What is left to do for a member of a fleet, in order."""
    dump = done.found.dump
    yield from _next_at_server(done, here, roles)
    yield f"{here.url_to_set}, with the pipeline's role and its password"
    yield (
        f"unless it is {dump.place} again, under that name on that server: `keyrotation policy --reason TEXT`, which "
        "officers sign; then `keyrotation init`"
    )
    yield f"applications: let them use the database {done.restored.database}"
    if dump.versions:
        yield (
            f"it has values under {', '.join(map(str, dump.versions))}: if one is retired, `keyrotation reconcile`, "
            "which officers sign, makes it readable again; then `keyrotation request` re-encrypts them"
        )
    yield "`keyrotation backup`"


def _next(done: Recovered, here: HomeHere, key: Path, roles: RoleSQL | None) -> Iterator[str]:
    """What is left to do, in order."""
    yield from _next_at_server(done, here, roles)
    yield f"{here.url_to_set}, with the pipeline's role and its password"
    yield from done.files.to_provide
    versions = " ".join(map(str, done.keys))
    if here.is_new and not here.holds_keys:
        yield (
            f"the key store is {here.key_store}: if it is lost, `keyrotation restore-key {versions} --key {key}`; "
            "`keyrotation restore-key --survey` says what it lacks"
        )
    elif not here.is_new:
        yield f"`keyrotation status`, which names keys that the key store lacks: `keyrotation restore-key --key {key}`"
    for member in done.found.made.members:
        yield (
            f"if database {member.member} ({member.place}) is lost, too: the same with `--database {member.member} "
            "--into NAME`; if not, its url is enough"
        )
    if done.keys_here.findings == ():
        yield "`keyrotation audit verify`"
    else:
        yield "`keyrotation reconcile`, which officers sign, and the same again; then `keyrotation audit verify`"
    if done.found.versions:
        yield (
            f"find out who deleted or overwrote files in {done.place}, and take the rights to write there from them: "
            "`keyrotation incident open`"
        )
    yield f"applications: let them use the database {done.restored.database}, with the keys of the key store"
    if done.keys_here.absent:
        absent = " ".join(map(str, done.keys_here.absent))
        yield (
            f"`keyrotation restore-key {absent} --key {key}`, from older sets: {done.found.made.name} does "
            "without, and the next backup is incomplete without them, unless officers destroyed them"
        )
    yield "`keyrotation backup`"


def _roles_lost(done: Recovered, here: HomeHere) -> Iterator[str]:
    if roles := here.without_login(done.found.dump.definition.roles):
        yield (
            f"the roles {', '.join(roles)} cannot log in on this server; for each that did: "
            "ALTER ROLE … LOGIN PASSWORD …"
        )
    yield (
        f"{done.found.made.name} does not record roles: give each its attributes and memberships again; "
        "deploy/sql/pipeline-role.sql has those of the pipeline's"
    )


def _roles_next(roles: RoleSQL) -> Iterator[str]:
    if roles.statements:
        yield "the statements under `roles`, as a superuser in psql"
    if roles.logins:
        yield rf"`\password ROLE` in psql for each that logs in by one: {joined(roles.logins)}"


def _document(done: Recovered, here: HomeHere, roles: RoleSQL | None, next_steps: tuple[str, ...]) -> dict[str, Any]:
    made, keys_here = done.found.made, done.keys_here
    return {
        "database": here.database,
        "set": made.name,
        "made_at": instant(made.made_at),
        "place": done.place,
        "rejected": dict(done.found.rejected),
        "versions": dict(done.found.versions),
        "not_examined": done.not_examined,
        "rows": dict(done.restored.rows),
        "values_decrypted": dict(done.restored.values),
        "undecryptable": list(done.restored.undecryptable),
        "unencrypted": dict(done.restored.unencrypted),
        "failures": list(done.restored.failures),
        "left_out": list(done.restored.left_out),
        "undumped": list(done.restored.undumped),
        "for_superuser": done.restored.for_superuser,
        "keys": {str(version): fingerprint for version, fingerprint in done.keys.items()},
        "put_back": {str(version): where for version, where in keys_here.put_back.items()},
        "not_registered": names(keys_here.not_registered),
        "written": list(done.files.written),
        "kept": list(done.files.kept),
        "to_provide": list(done.files.to_provide),
        "reconcile": None if keys_here.findings is None else list(keys_here.findings),
        "backup_signer": here.signer if here.is_new and not done.found.dump.member else None,
        "role_statements": None if roles is None else list(roles.statements),
        "roles_to_decide": None if roles is None else list(roles.apart),
        "next": list(next_steps),
        **({"member": done.found.dump.member, "place_dumped": done.found.dump.place} if done.found.dump.member else {}),
    }
