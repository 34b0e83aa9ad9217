"""Opens what backups, recovery tests and rehearsals need from settings: the ports of a rotation and more.

A rehearsal gets a pipeline over a restored database, with throw-away keys and officers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import SecretStr

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.encrypted_files import EncryptedConfiguration, EncryptedDumps, EncryptedKeys
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.fleet.dumps import MemberDump, naming_in_backup
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import agent_key, imported_key
from keyrotation_pipeline.adapters.openpgp.officer_keys import TemporaryOfficers
from keyrotation_pipeline.adapters.openssh import read_ssh_key
from keyrotation_pipeline.adapters.own_schema import schema_of
from keyrotation_pipeline.adapters.postgres.ledger.mirror import require_member
from keyrotation_pipeline.adapters.postgres.member import connect_at, named_url
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.dump import PostgresDump
from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchServers
from keyrotation_pipeline.adapters.secret_directories import has_memory, secret_home
from keyrotation_pipeline.assembly.fleet import SignedPlaces
from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.assembly.keystores import (
    backup_seal,
    every_key,
    offsite,
    opened_bucket,
    recipients,
    scratch,
    signing_key,
)
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.backups.catalog import BackupContext, Objectives
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import BackupError, HomeError, RecoveryKeyError, RehearsalError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.ports.backups import MemberSource, RecoveryKey
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.recovery import RehearsalStage
from keyrotation_pipeline.regular_files import read_typed
from keyrotation_pipeline.settings import FILE_NAME, Settings
from keyrotation_pipeline.settings.backups import BackupSettings, RecoverySettings, S3Settings, SecretPlace
from keyrotation_pipeline.settings.key_stores import KeysSettings
from keyrotation_pipeline.settings.recovered import FORMER_AUDIT
from keyrotation_pipeline.settings.secrets import backed_up_fingerprints, require_no_key
from keyrotation_pipeline.settings.sections import (
    ApprovalsSettings,
    AuditSettings,
    DatabaseSettings,
    MemberSettings,
    OfficerSettings,
    RolloutSettings,
)

S3_SCHEME = "s3://"


@contextmanager
def open_backups(settings: Settings, *, actor: str, vouching: Sequence[bytes] = ()) -> Iterator[BackupContext]:
    """Yields every port, and what backups and recovery need in addition; raises as `open_pipeline`.

    Args:
        vouching: officers' signatures over manifests that they accept as ours in a disaster.
    """
    with database_url(settings) as url, open_pipeline(settings, actor=actor) as pipeline:
        yield backup_site(settings, url, pipeline, vouching)


def backup_site(settings: Settings, url: str, pipeline: Pipeline, vouching: Sequence[bytes] = ()) -> BackupContext:
    """Returns everything that a backup, a recovery test and a restored key need.

    Args:
        url: of the application's database.
        vouching: see `ManifestTrust`.
    """
    local = BackupDirectory(settings.backup_directory)
    # One officer's expired certificate must not prevent a backup for the others; it is reported all the same.
    readers = recipients(settings, pipeline.ledger, pipeline.clock)
    source = PostgresDump(
        url, partial(connect, url), settings.backup.postgres_binaries, partial(every_key, pipeline.keys)
    )
    return BackupContext(
        pipeline=pipeline,
        local=local,
        key_files=EncryptedKeys(local, readers, partial(backup_seal, settings, pipeline.ledger)),
        trust=ManifestTrust(signing_key(settings), pipeline.ledger, pipeline.signatures, pipeline.clock, vouching),
        offsite=offsite(settings, pipeline.clock),
        dumps=EncryptedDumps(local, source, readers),
        configurations=EncryptedConfiguration(local, readers, partial(_configuration, settings, pipeline.clock)),
        restorer=ScratchServers(
            scratch(settings),
            settings.backup.postgres_binaries,
            settings.recovery.superuser_extensions,
            settings.recovery.longest_restore_seconds,
            settings.database.schema_name,
        ),
        recipients=len(set(settings.recipients)),
        keep_local_days=settings.backup.keep_local_days,
        objectives=Objectives(settings.recovery.rto_seconds, settings.recovery.rpo_seconds),
        members={name: partial(_member, settings, pipeline, name) for name in pipeline.members},
    )


def _member(settings: Settings, pipeline: Pipeline, name: str) -> MemberSource:
    """Finds a member where officers have signed it to be; each of the dump's connections is asked again.

    An empty database that somebody made in its place is not dumped as the member: its dump would supersede the others.
    """
    places = SignedPlaces(settings, pipeline.ledger)
    with naming_in_backup(name), closing(connect(url := places.url(name))) as connection:
        places.require_signed(name, url, connection)
        require_member(connection, pipeline.ledger.replayed().home or "", name)
        place, url = places.place(name, url, connection), named_url(url, connection)
    keys = partial(every_key, pipeline.keys)
    source = PostgresDump(url, partial(connect_at, place, url), settings.backup.postgres_binaries, keys)
    return MemberSource(place, MemberDump(name, source))


@contextmanager
def recovery_key(
    settings: Settings, file: Path | None = None, passphrase: bytes | None = None
) -> Iterator[RecoveryKey]:
    """Yields the key that decrypts backups.

    Args:
        file: an officer's exported secret key, used only this time; None: the one of `[recovery]`.
        passphrase: None: the one of `[recovery]`, if it names one.

    Raises:
        RecoveryKeyError: there is none, or one that cannot or must not be used.
        ConfigurationError: `[recovery]` names a place where no key is.
    """
    recovery = settings.recovery
    if passphrase is None and recovery.passphrase is not None:
        passphrase = _recovery_secret(settings, recovery.passphrase, "passphrase").rstrip(b"\r\n")
    if file is not None:
        with imported_key(_read(file), passphrase) as key:
            yield key
    elif recovery.secret_key is not None:
        elsewhere = "give it with `--key /dev/stdin < recovery.asc`"
        secret = _recovery_secret(settings, recovery.secret_key, "secret_key", elsewhere)
        gpg = GnuPG(settings.home / "gnupg", SystemClock())
        officers = [gpg.read_certificate(each).fingerprint for each in settings.officers_certificates]
        with imported_key(secret, passphrase, officers=officers, decrypts_only=True) as key:
            yield key
    elif recovery.gnupg_home is not None:
        yield agent_key(recovery.gnupg_home, passphrase)
    else:
        raise RecoveryKeyError(
            "no recovery key is named; give one with --key FILE, or name it in [recovery] secret_key or gnupg_home"
        )


def _recovery_secret(settings: Settings, place: SecretPlace, name: str, otherwise: str = "name another") -> bytes:
    secret = place.read(setting := f"[recovery] {name}", otherwise)
    require_no_key(setting, secret, backed_up_fingerprints(settings))
    return secret


def read_backup(settings: Settings, source: str, clock: Clock) -> tuple[str, bytes]:
    """Reads an encrypted file named by path or as ``s3://bucket/key``; returns its name and content.

    Raises:
        BackupError: there is no such file.
    """
    if not source.startswith(S3_SCHEME):
        return Path(source).name, _read(Path(source))
    bucket, _, key = source.removeprefix(S3_SCHEME).partition("/")
    folder, _, name = key.rpartition("/")
    known = settings.backup.s3 or S3Settings(bucket=bucket)
    return name, opened_bucket(known.model_copy(update={"bucket": bucket, "prefix": folder}), clock).read(name)


def _configuration(settings: Settings, clock: Clock) -> Mapping[str, bytes]:
    """Returns the configuration as `keyrotation.toml`, the public certificates that it names, and our public key.

    Files next to the configuration keep their relative path; others go under ``elsewhere/`` with their path. What
    only copies of the audit in members of a fleet had goes under ``former-audit/``.
    """
    gpg = GnuPG(settings.home / "gnupg", clock)
    certificates = {*settings.recipients, *settings.officers_certificates}
    # gpg and ssh-keygen read each: a file that holds a secret key by mistake is refused.
    found = {_place(settings.path, path): gpg.read_certificate(path).content for path in certificates}
    ssh_keys = {each.ssh_key for each in settings.approvals.officers if each.ssh_key is not None}
    found |= {_place(settings.path, path): f"{read_ssh_key(path).line}\n".encode() for path in ssh_keys}
    public = f"{signing_key(settings).public}\n".encode()
    former = (settings.home / FORMER_AUDIT).glob("*.jsonl")
    found |= {f"{FORMER_AUDIT}/{each.name}": _read(each) for each in former}
    return {FILE_NAME: _read(settings.path), **found, "backup-key.txt": public}


def _place(configuration: Path, path: Path) -> str:
    folder, absolute = configuration.resolve().parent, path.resolve()
    if absolute.is_relative_to(folder):
        return str(absolute.relative_to(folder))
    return f"elsewhere/{str(absolute).lstrip('/')}"


def _read(path: Path) -> bytes:
    try:
        return read_typed(path)
    except OSError:
        raise BackupError(f"file {path} cannot be read; correct its name or its rights") from None


@contextmanager
def new_databases(settings: Settings) -> Iterator[RestoreToNewDatabase]:
    """Returns what creates databases next to the configured one, on the same server."""
    with database_url(settings) as url:
        yield RestoreToNewDatabase(url, settings.backup.postgres_binaries, settings.recovery.longest_restore_seconds)


_REHEARSAL = "rehearsal"


@dataclass(frozen=True, slots=True)
class RestoredStages:
    """`Stages` that follow a configuration in everything that affects duration: tables, shards, workers, throttles."""

    settings: Settings

    @contextmanager
    def opened(self, urls: Mapping[str, str], ring: KeyRing) -> Iterator[RehearsalStage]:
        """See `Stages.opened`."""
        if not has_memory():
            raise HomeError(
                "a rehearsal holds keys in memory alone, and this machine has no writable /dev/shm; rehearse on "
                "one that has"
            )
        with secret_home() as memory:
            home = memory / "pipeline"
            home.mkdir(mode=0o700)
            officers = TemporaryOfficers(memory, home)
            declared = _for_rehearsal(self.settings, urls, home, officers)
            for url in urls.values():
                _forget_requests(url)
            sources = {name: key for name, (_, key) in ring.sources.items()}
            keys = None if ring.primary == PLAINTEXT else ring
            initialise(declared, keys, actor=_REHEARSAL, sources=sources)
            with open_pipeline(declared, actor=_REHEARSAL) as pipeline:
                yield RehearsalStage(pipeline, officers.sign)

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """See `Stages.plainly`."""
        try:
            yield
        except psycopg.Error as error:
            # Only names from the catalog: the message could quote a row.
            where = ", ".join(filter(None, (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)))
            raise RehearsalError(
                f"the database refuses with {type(error).__name__} (SQLSTATE {error.sqlstate or 'none'}"
                f"{f': {where}' if where else ''}); fix that before the rotation"
            ) from None


def _for_rehearsal(settings: Settings, urls: Mapping[str, str], home: Path, officers: TemporaryOfficers) -> Settings:
    """Returns the configuration with nothing in it that reaches anything real, and without hours to wait for."""
    url, members = urls[""], [name for name in urls if name]
    roster = tuple(OfficerSettings(name=name, certificate=file) for name, file in officers.certificates)
    return settings.model_copy(
        update={
            "home": home,
            "database": DatabaseSettings.model_construct(url=SecretStr(url), schema_name=settings.database.schema_name),
            "databases": tuple(
                MemberSettings.model_construct(name=each, url=SecretStr(urls[each])) for each in members
            ),
            "tables": settings.tables_of_members(members),
            "keys": KeysSettings(),
            "approvals": ApprovalsSettings(required=len(roster), officers=roster),
            "rollout": RolloutSettings(mode=RolloutMode.NONE),
            "backup": BackupSettings(),
            "recovery": RecoverySettings(),
            "audit": AuditSettings(),
            "reencryption": settings.reencryption.model_copy(update={"hours": None}),
        }
    )


def _forget_requests(url: str) -> None:
    """Drops what the restored database holds of requests: they were signed for another database, by other officers.

    Updates statistics and visibility, as in a database that has been in use for a while.
    """
    with closing(connect(url)) as connection:
        schema = sql.Identifier(schema_of(connection))
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))
        connection.execute("VACUUM (ANALYZE)")
