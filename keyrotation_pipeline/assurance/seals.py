"""Which sets are ours: those whose manifest is signed by a pinned key, and is not another than the audit recorded.

Anybody can encrypt to public certificates, and whoever owns a bucket can put anything there. So nothing of a set is
read before its manifest is known to be ours.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import ApprovalError, BackupError, UnsignedBackupError
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, BackupSealed
from keyrotation_pipeline.model.backups import BackupSet, signature_name
from keyrotation_pipeline.model.events import EventKind, Note
from keyrotation_pipeline.model.manifest import parse, render
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backups import BackupPlace, LocalPlace, ManifestSigner
from keyrotation_pipeline.ports.ledger import Ledger


class Seals:
    """Signs manifests, and tells ours from others.

    Args:
        ledger: has the public keys that were pinned, and the hash of every manifest that was signed.
        officers: checks `vouching`.
        vouching: officers' detached signatures over manifests that they take for ours without our own, in a disaster.
    """

    def __init__(
        self, signer: ManifestSigner, ledger: Ledger, officers: SignatureVerifier, vouching: Sequence[bytes] = ()
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._officers = officers
        self._vouching = tuple(vouching)
        self._told: set[str] = set()

    def pin(self) -> str:
        """Have the audit name our public key, if it does not yet; gives back the key."""
        if (public := self._signer.public) not in self._pinned:
            self._ledger.append(BackupKeyPinned(public))
            self._pinned.add(public)
        return public

    def write(self, local: LocalPlace, made: BackupSet) -> None:
        """Make files of the local place a set. The manifest comes last: what has none is not a set.

        Raises:
            BackupError: it cannot be signed or written.
        """
        text = render(made)
        local.write(signature_name(made.name), self._signer.sign(text))
        local.write(made.name, text)
        self._hashes[made.name] = hashlib.sha256(text).hexdigest()
        self._ledger.append(BackupSealed(made.name, self._hashes[made.name], made.dump is not None))

    def read(self, place: BackupPlace, name: str) -> BackupSet:
        """The set of a manifest, if it is ours.

        Raises:
            UnsignedBackupError: it is not.
            ManifestError: it is damaged.
            BackupError: it cannot be read.
        """
        text = place.read(name)
        self._require_ours(place, name, text)
        return parse(name, text)

    @property
    def newest_with_dump(self) -> str | None:
        """Name of the last manifest that was signed for a set with a dump, by the audit; None: there is none."""
        return next(iter(self.sealed_with_dump), None)

    @property
    def sealed_with_dump(self) -> tuple[str, ...]:
        """Names of all manifests that were signed for sets with a dump, by the audit, newest first."""
        return tuple(each.manifest for each in reversed(self._sealed()) if each.has_dump)

    def _require_ours(self, place: BackupPlace, name: str, text: bytes) -> None:
        if self._vouched(name, text):
            return
        wanted = self._hashes.get(name)
        if wanted not in {None, hashlib.sha256(text).hexdigest()}:
            raise UnsignedBackupError(name, place.description, "is not the one that the audit recorded")
        try:
            signature = place.read(signature_name(name))
        except BackupError:
            raise UnsignedBackupError(name, place.description, "has no signature") from None
        if not any(self._signer.verifies(public, text, signature) for public in self._pinned):
            raise UnsignedBackupError(name, place.description, "has a signature that is not this pipeline's")

    def _vouched(self, name: str, text: bytes) -> bool:
        """Whether an officer of the pinned roster signed this manifest; the audit names who and what, once."""
        roster = self._ledger.pinned_roster()
        for signature in self._vouching:
            try:
                signed = self._officers.verify(text, signature, roster.officers if roster else ())
            except ApprovalError:
                continue
            if name not in self._told:
                facts = {"manifest": name, "sha256": hashlib.sha256(text).hexdigest(), "officer": signed.officer}
                self._ledger.append(Note(EventKind.UNSIGNED_BACKUP_TRUSTED, facts))
                self._told.add(name)
            return True
        return False

    @cached_property
    def _pinned(self) -> set[str]:
        return {each.public for each in recorded(self._ledger, BackupKeyPinned)}

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {each.manifest: each.sha256 for each in self._sealed()}

    def _sealed(self) -> Sequence[BackupSealed]:
        return tuple(recorded(self._ledger, BackupSealed))
