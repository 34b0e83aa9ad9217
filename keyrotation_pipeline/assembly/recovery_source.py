"""Opens the backups and the recovery key of a recovery, and says whose sets count."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey, verifies
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import agent_key, imported_key
from keyrotation_pipeline.assembly.backups import S3_SCHEME
from keyrotation_pipeline.assembly.home import SIGNING_KEY
from keyrotation_pipeline.assembly.keystores import opened_bucket
from keyrotation_pipeline.backups.recover import RecoverySource
from keyrotation_pipeline.backups.signed_manifest import signed_manifest
from keyrotation_pipeline.errors import ApprovalError, BackupError, UnsignedBackupError
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.model.backups import (
    BackupSet,
    pipeline_id,
    pipeline_in,
    signature_name,
    signer_fingerprint,
    stamp_in,
)
from keyrotation_pipeline.model.manifest import parse
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.settings import home_of
from keyrotation_pipeline.settings.backups import S3Settings

_LARGEST_SIGNATURE_BYTES = 1 << 20


def place_of_backups(source: str) -> BackupPlace:
    """Returns a directory, or the bucket and prefix of ``s3://BUCKET/PREFIX``, as boto3 finds its credentials.

    Raises:
        BackupError: there is no such directory.
    """
    if source.startswith(S3_SCHEME):
        bucket, _, prefix = source.removeprefix(S3_SCHEME).partition("/")
        return opened_bucket(S3Settings(bucket=bucket, prefix=prefix), SystemClock())
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
        text = place.read(name)
        try:
            signature = place.read(signature_name(name), _LARGEST_SIGNATURE_BYTES)
        except BackupError:
            raise UnsignedBackupError(name, place.description, "has no signature") from None
        return signed_manifest(name, place.description, text, signature, signers={signer}, verifies=verifies)

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

        def accepted(name: str) -> BackupSet:
            text = place.read(name)
            for signature in signatures:
                with suppress(ApprovalError):
                    officers.verify(text, signature, roster)
                    return parse(name, text)
            raise UnsignedBackupError(name, place.description, "is signed by none of the officers named")

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
        return path.read_bytes()
    except OSError as error:
        raise BackupError(f"file {path} cannot be read ({error.strerror}); correct {option}") from None
