"""A witness without a server: each checkpoint is an object that S3 locks, and that the next one must continue.

An object holds the home's verifier key and the signed note. Whoever may write there can hide an object behind another
version, but not remove one before its lock ends; so every version is read. What no key of the home has signed counts
for nothing.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from keyrotation_pipeline.adapters.deadline import within
from keyrotation_pipeline.errors import BackupError, DamagedBackupError, WitnessConflictError, WitnessError
from keyrotation_pipeline.model.backups import signer_fingerprint
from keyrotation_pipeline.model.checkpoints import SignedCheckpoint, VerifierKey, VerifySignature
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.witnesses import Witness
from keyrotation_pipeline.ports.backup_places import BackupPlace

LONGEST_SECONDS = 60.0
_LARGEST_BYTES = 10_000


@dataclass(frozen=True)
class LockedCheckpoints:
    """`CheckpointWitness` in a folder of a bucket.

    Args:
        open_bucket: opens the folder.
        signers: the fingerprints of the keys of the home, as the audit names them.
        public: the key that signs now, base64 of its SubjectPublicKeyInfo.
        verify: verifies an Ed25519 signature.
    """

    witness: Witness
    open_bucket: Callable[[], BackupPlace]
    signers: Callable[[], Collection[str]]
    public: Callable[[], str]
    verify: VerifySignature

    def sign(self, note: SignedCheckpoint, tree: EventTree, known: int) -> SignedCheckpoint:
        """See `CheckpointWitness.sign`: writes the object, locked, unless one says something else."""
        late = WitnessError(f"{self.witness.name} takes too long; check [backup.s3]")
        signers = self.signers()  # not below: abandoned work must not read the audit while others append to it
        return within(LONGEST_SECONDS, lambda: self._signed(note, tree, known, signers), late)

    def _signed(
        self, note: SignedCheckpoint, tree: EventTree, known: int, signers: Collection[str]
    ) -> SignedCheckpoint:
        origin = note.checkpoint.origin
        try:
            bucket = self.open_bucket()
            versions = bucket.with_versions()
            if versions.older.unexamined is not None:
                raise WitnessError(versions.older.unexamined)
            for found in self._newest(versions, origin, known, signers):
                if not found.checkpoint.is_of(tree):
                    raise WitnessConflictError(self.witness.name, found.checkpoint.size, tree.size)
            self._write(bucket, f"{_prefix(origin)}-{note.checkpoint.size:012d}.txt", note)
        except BackupError as error:
            raise WitnessError(str(error)) from None
        return note

    def _newest(
        self, bucket: BackupPlace, origin: str, known: int, signers: Collection[str]
    ) -> Iterator[SignedCheckpoint]:
        """Every checkpoint of a tree, of as many events as are known to be locked, or more."""
        for name in sorted({*bucket.names(), *bucket.older.by_name}):
            of, _, size = name.removesuffix(".txt").rpartition("-")
            if of != _prefix(origin) or not size.isdecimal() or int(size) < known:
                continue
            for version in bucket.older.of(name):
                read = self._own(_content(bucket, name, version), signers)
                if read is not None and read.checkpoint.origin == origin:
                    yield read

    def _own(self, content: bytes, signers: Collection[str]) -> SignedCheckpoint | None:
        """A checkpoint that a key of the home has signed; None: it is none."""
        line, _, text = content.decode("utf-8", "replace").partition("\n")
        key, note = VerifierKey.parse(line), SignedCheckpoint.parse(text)
        if key is None or note is None or signer_fingerprint(key.public) not in signers:
            return None
        return note if note.is_by_home(key.public, self.verify) else None

    def _write(self, bucket: BackupPlace, name: str, note: SignedCheckpoint) -> None:
        key = VerifierKey.of_home(note.checkpoint.origin, self.public())
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / name
            source.write_text(f"{key}\n{note}", encoding="utf-8")
            bucket.put(name, source)
        if bucket.locked_until(name) is None:
            raise WitnessError(
                f"{self.witness.name} locks no object, so that nothing keeps a checkpoint there; give the bucket "
                "object lock, or name another witness"
            )


def _prefix(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()[:32]


def _content(bucket: BackupPlace, name: str, version: str | None) -> bytes:
    """An object in a version; empty where it is larger than any that the home has written."""
    try:
        with bucket.older.reading(name, version):
            return bucket.read(name, _LARGEST_BYTES)
    except DamagedBackupError:
        return b""
