"""Opens what `recover` needs, where there may be neither configuration nor home nor database.

That is: the backups, the recovery key, whose sets count, and the directory that gets everything.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keyrotation_pipeline.adapters.backups.anchors import advance_head
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory, write_new
from keyrotation_pipeline.adapters.backups.encrypted_files import unpacked
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey, verifies
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import agent_key, imported_key
from keyrotation_pipeline.adapters.postgres.server.connection import connect, display_name
from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.adapters.postgres.server.restoring_role import RestoringRole, is_unfinished
from keyrotation_pipeline.adapters.postgres.server.role_sql import role_sql
from keyrotation_pipeline.adapters.postgres.server.roles import roles_of_server
from keyrotation_pipeline.adapters.process import harden_process
from keyrotation_pipeline.adapters.secret_directories import held, wipe_abandoned
from keyrotation_pipeline.assembly.backups import S3_SCHEME
from keyrotation_pipeline.assembly.home import SIGNING_KEY, create_home
from keyrotation_pipeline.assembly.keystores import create_key_store, opened_bucket, sealing_problem, signing_key
from keyrotation_pipeline.assembly.pipeline import open_pipeline, upgrade_restored
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust, signed_manifest
from keyrotation_pipeline.backups.recover import RecoverySource
from keyrotation_pipeline.backups.versions import first_verified
from keyrotation_pipeline.errors import (
    ApprovalError,
    AuditError,
    BackupError,
    ConfigurationError,
    DatabaseExistsError,
    DatabaseUnavailableError,
    HomeError,
    UnsignedBackupError,
)
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import (
    BackupSet,
    pipeline_id,
    pipeline_in,
    signer_fingerprint,
    stamp_in,
)
from keyrotation_pipeline.model.manifest import parse
from keyrotation_pipeline.model.records import as_json, read
from keyrotation_pipeline.model.undumped import Roles, RoleSQL
from keyrotation_pipeline.ports.backup_places import BackupPlace, LocalPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.recovery import RestoredSet, WrittenFiles
from keyrotation_pipeline.regular_files import read_bytes, read_text, read_typed
from keyrotation_pipeline.requests.roster import name_home
from keyrotation_pipeline.settings import Settings, home_of
from keyrotation_pipeline.settings.backups import S3Settings
from keyrotation_pipeline.settings.recovered import (
    FORMER_AUDIT,
    BackedUpConfiguration,
    backed_up,
    over_database,
    schema_named,
    to_provide,
    url_assignment,
    without_seal,
)


def place_of_backups(source: str) -> BackupPlace:
    """Returns a directory, or the bucket and prefix of ``s3://BUCKET/PREFIX``, as boto3 finds its credentials.

    Of a bucket what was deleted or overwritten is read, too.

    Raises:
        BackupError: there is no such directory, or the bucket does not answer.
    """
    if source.startswith(S3_SCHEME):
        bucket, _, prefix = source.removeprefix(S3_SCHEME).partition("/")
        return opened_bucket(S3Settings(bucket=bucket, prefix=prefix), SystemClock()).with_versions()
    if not (directory := Path(source)).is_dir():
        raise BackupError(f"there is no directory {directory}; correct --from")
    return BackupDirectory(directory.absolute())


def own_signer(path: Path) -> str | None:
    """Returns the fingerprint of the key that signs backups in the home of a configuration, if that is not lost."""
    key = home_of(path) / SIGNING_KEY
    return signer_fingerprint(SigningKey(key).public) if key.is_file() else None


def by_signer(place: BackupPlace, signer: str) -> RecoverySource:
    """Returns a source whose sets count if this key signed them; `signer` is its fingerprint, 64 hex digits."""

    def accepted(name: str) -> BackupSet:
        if (pipeline := pipeline_in(stamp_in(name) or "")) != pipeline_id(signer):  # before it is read
            raise UnsignedBackupError(name, place.description, f"is named as a set of the pipeline {pipeline}")
        return first_verified(
            place,
            name,
            lambda: signed_manifest(place, name, place.read(name), signers={signer}, verifies=verifies),
        )

    return RecoverySource(place, accepted, f"signed by {signer}", SystemClock())


@contextmanager
def by_officers(
    place: BackupPlace, signatures: Sequence[bytes], certificates: Sequence[Path]
) -> Iterator[RecoverySource]:
    """Yields a source whose sets count if one of these officers signed their manifest.

    Args:
        signatures: detached ones.
        certificates: the officers' public certificates, from where whoever recovers trusts them to be theirs.

    Raises:
        OpenPGPError: a certificate cannot be read, or gpg is missing.
    """
    with tempfile.TemporaryDirectory(prefix="keyrotation-") as home:
        gpg = GnuPG(Path(home), SystemClock())
        named = [(str(each), gpg.read_certificate(each)) for each in certificates]
        officers = OfficerSignatures(gpg, [OfficerFiles(str(each), each) for each in certificates], 1, ())
        roster = [Officer(name, each.fingerprint, "") for name, each in named]

        def vouched(name: str) -> BackupSet:
            text = place.read(name)
            for signature in signatures:
                with suppress(ApprovalError):
                    officers.verify(text, signature, roster)
                    return parse(name, text)
            raise UnsignedBackupError(name, place.description, "is signed by none of the officers named")

        def accepted(name: str) -> BackupSet:
            return first_verified(place, name, lambda: vouched(name))

        trusted = f"signed by an officer: {', '.join(each.fingerprint for each in roster)}"
        yield RecoverySource(place, accepted, trusted, SystemClock())


@contextmanager
def recovery_key_at(path: Path, passphrase: bytes | None) -> Iterator[RecoveryKey]:
    """Yields the recovery key in a file, or the one that the agent or card of a GnuPG home has.

    Raises:
        BackupError: the file cannot be read.
        RecoveryKeyError: it holds no key that can be used.
    """
    if path.is_dir():
        yield agent_key(path, passphrase)
        return
    with imported_key(_content(path, "--key"), passphrase) as key:
        yield key


def passphrase_in(path: Path) -> bytes:
    """Returns the first line of a file.

    Raises:
        BackupError: it cannot be read.
    """
    return _content(path, "--passphrase-file").partition(b"\n")[0].rstrip(b"\r")


def signatures_in(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """Returns officers' signatures; raises as `passphrase_in`."""
    return tuple(_content(path, "--trust-unsigned") for path in paths)


def _content(path: Path, option: str) -> bytes:
    try:
        return read_typed(path)
    except OSError as error:
        raise BackupError(f"file {path} cannot be read ({error.strerror}); correct {option}") from None


_WORKSPACE, _NOTE, _DONE = "recovery", "recovering.json", "recovered.json"
# Of a URL; the others may be secret, or are of the role that restores.
_SHOWN = ("dbname", "host", "hostaddr", "port", "sslmode", "sslrootcert")
_WITHOUT_LOGIN = "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND NOT rolcanlogin ORDER BY rolname"
_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || oid FROM pg_database WHERE datname = %s
"""
_OF_BACKUP = ".from-backup"


@dataclass(frozen=True, slots=True)
class _Note:
    """What an unfinished recovery has stored: ``name@host`` of the new database, and whether it makes the home."""

    database: str
    new_home: bool
    restored: RestoredSet


class HomeHere:
    """`RecoveredHome` over the directory of a configuration.

    Args:
        path: where `keyrotation.toml` is, or will be.
        server: URL of the server that gets the new database.
        database: its name.
        actor: for the audit.
        member: of a fleet, whose database it is; "": the home's own.
    """

    def __init__(self, path: Path, server: str, database: str, actor: str, member: str = "") -> None:
        harden_process()
        self._path = path
        self._home = home_of(path)
        self._server = server
        self._url = make_conninfo(server, dbname=database)
        self._actor = actor
        self._member = member
        self._note, self._done = (self._home / (f"{member}-{name}" if member else name) for name in (_NOTE, _DONE))
        self._configuration = BackedUpConfiguration("", {})
        self._text = ""
        self._unsealed: str | None = None
        noted = self._noted()
        self.is_new = noted.new_home if noted else not (self._home / SIGNING_KEY).exists()

    @property
    def databases(self) -> RestoreToNewDatabase:
        """The server, as `recover` restores there.

        Raises:
            DatabaseUnavailableError: it does not answer.
            DatabaseExistsError: there is a database of the name.
        """
        server = _url_that_answers(self._server)
        self._require_free(server)
        return RestoreToNewDatabase(server, None, schema=lambda: schema_named(self._text))

    def _require_free(self, server: str) -> None:
        """Refuses the name of a database that no recovery began here, before anything is copied."""
        name = str(conninfo_to_dict(self._url)["dbname"])
        with closing(connect(server)) as connection:
            is_there = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchall()
            is_left = is_unfinished(connection, RestoringRole.of(name))
        if is_there and not is_left and self.restored is None:
            raise DatabaseExistsError(f"there is a database {name} already; name another with --into")

    @property
    def database(self) -> str:
        """``name@host`` of the new database."""
        return display_name(self._url)

    @property
    def signer(self) -> str:
        """The fingerprint of the home's own key, which signs backups from now on."""
        return signer_fingerprint(SigningKey(self._home / SIGNING_KEY).public)

    @property
    def holds_keys(self) -> bool:
        """See `RecoveredHome.holds_keys`."""
        return self._settings().keys.store == "file"

    @property
    def key_store(self) -> str:
        """The kind of key store that the configuration names."""
        return self._settings().keys.store

    @property
    def url_to_set(self) -> str:
        """What to do so that the configuration names the new database; without role and password."""
        parts = conninfo_to_dict(self._url)
        shown = make_conninfo("", **{name: parts[name] for name in _SHOWN if name in parts})
        return f"{url_assignment(self._text, self._member)}'{shown} user=…'"

    def role_sql(self, recorded: Roles) -> RoleSQL:
        """Returns how roles of the lost server get on this one what they had."""
        with closing(connect(self._url)) as connection:
            return role_sql(recorded, roles_of_server(connection), connection.info.server_version)

    def without_login(self, roles: Sequence[str]) -> tuple[str, ...]:
        """Returns which of the roles that the dump names cannot log in, as those that were created with it."""
        with closing(connect(self._url)) as connection:
            found = connection.execute(_WITHOUT_LOGIN, (list(roles),)).fetchall()
        return tuple(str(name) for (name,) in found)

    @contextmanager
    def workspace(self) -> Iterator[LocalPlace]:
        """See `RecoveredHome.workspace`."""
        try:
            with held(self._new_workspace) as directory:
                yield BackupDirectory(directory)
        finally:
            with suppress(OSError):  # unless something is in it
                self._home.rmdir()

    def _new_workspace(self) -> Path:
        directory = self._home / _WORKSPACE
        wipe_abandoned([directory])
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
        except FileExistsError:
            raise HomeError(f"another recovery is under way in {directory}; wait until it has ended") from None
        return directory

    def read_configuration(self, name: str, packed: bytes, *, sealed: bool) -> None:
        """See `RecoveredHome.read_configuration`."""
        self._configuration = backed_up(unpacked(name, packed))
        with suppress(FileNotFoundError):
            self._text = read_text(self._path)
        self._text = self._text or self._configuration.text
        try:
            # Where keys are in a store elsewhere, recovery puts none there.
            if not sealed and self.holds_keys and (problem := sealing_problem(self._settings())) is not None:
                self._do_without_seal(problem)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{error}; or move {self._path} away, so that the backup's configuration is used"
                if self._path.exists()
                else f"in the backup's configuration, {error}; name an older backup with --set"
            ) from None

    def _do_without_seal(self, problem: str) -> None:
        """Leaves the seal out where its key is not usable, since the set's keys open without it."""
        self._text = without_seal(self._text)
        self._configuration = replace(self._configuration, text=without_seal(self._configuration.text))
        self._unsealed = f"keys lie unsealed here ({problem}); put [keys.seal] back and run `keyrotation reseal`"

    @property
    def restored(self) -> RestoredSet | None:
        """See `RecoveredHome.restored`."""
        noted = self._noted()
        return noted.restored if noted and noted.database == display_name(self._url) else None

    def _noted(self) -> _Note | None:
        try:
            return read(_Note, json.loads(read_text(self._note)))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, AuditError):
            raise HomeError(f"{self._note} is damaged; remove it and run this again with another --into") from None

    def note_restored(self, done: RestoredSet, for_superuser: str) -> None:
        """See `RecoveredHome.note_restored`."""
        if done.for_superuser is not None:
            content = for_superuser.encode(errors="surrogateescape")
            BackupDirectory(self._path.parent).write(done.for_superuser, content)
        noted = _Note(display_name(self._url), self.is_new, done)
        BackupDirectory(self._home).write(self._note.name, json.dumps(as_json(noted)).encode())

    def finish(self, shown: Mapping[str, Any]) -> None:
        """See `RecoveredHome.finish`."""
        done = {"database": self.database, "identity": self._identity(), "shown": shown}
        BackupDirectory(self._home).write(self._done.name, json.dumps(done).encode())
        BackupDirectory(self._home).remove(self._note.name)

    @property
    def finished(self) -> dict[str, Any] | None:
        """What the recovery that made this very database showed at its end, if home and configuration are there."""
        of_home = () if self._member else (self._path, self._home / SIGNING_KEY)
        if not all(each.exists() for each in (*of_home, self._done)):
            return None
        try:
            done = json.loads(read_text(self._done))
            known, shown = (done["database"], done["identity"]), dict(done["shown"])
        except (ValueError, RecursionError, KeyError, TypeError):
            return None  # a recovery into a database that is there is then refused
        is_unfinished = self.restored is not None
        return None if is_unfinished or known != (self.database, self._identity()) else shown

    def _identity(self) -> str | None:
        """The cluster's identifier and the new database's OID, which another one of its name does not have."""
        with closing(connect(_url_that_answers(self._server))) as connection:
            found = connection.execute(_IDENTITY, (conninfo_to_dict(self._url)["dbname"],)).fetchone()
        return None if found is None else str(found[0])

    def write_configuration(self) -> WrittenFiles:
        """See `RecoveredHome.write_configuration`."""
        written, kept = list[str](), list[str]()
        texts = {self._path.name: self._configuration.text.encode(), **self._configuration.files}
        for name, content in texts.items():
            target = self._path.parent / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if write_new(target, content):
                written.append(name)
            elif read_bytes(target) != content:
                write_new(other := target.with_name(f"{target.name}{_OF_BACKUP}"), content)
                kept.append(f"{name} was here and stays; the backup's is {other.name}")
        former = BackupDirectory(self._home / FORMER_AUDIT)
        for name, content in self._configuration.former_audit.items():
            former.write(name, content)
        missing = to_provide(self._text, self._path.parent)
        return WrittenFiles(tuple(written), tuple(kept), (*missing, *([self._unsealed] if self._unsealed else [])))

    @contextmanager
    def opened(self, anchor: AuditHead) -> Iterator[Pipeline]:
        """See `RecoveredHome.opened`."""
        settings = self._settings()
        create_home(self._home)
        if self.holds_keys:
            create_key_store(settings)
        signer = signing_key(settings)
        signer.create()
        advance_head(self._home / "anchors", anchor, lambda known: known.seq < anchor.seq)
        upgrade_restored(settings, actor=self._actor)
        with open_pipeline(settings, actor=self._actor) as pipeline:
            name_home(pipeline)  # which a backup of an earlier version has not
            ManifestTrust(signer, pipeline.ledger, pipeline.signatures, pipeline.clock).pin()
            yield pipeline

    def _settings(self) -> Settings:
        return over_database(self._text, self._path, self._url)


def _url_that_answers(server: str) -> str:
    """Returns the given URL, or one of the server's own database if it names the one that is lost."""
    try:
        connect(server).close()
    except DatabaseUnavailableError:
        try:
            connect(own := make_conninfo(server, dbname="postgres")).close()
        except DatabaseUnavailableError:
            pass
        else:
            return own
        raise
    return server
