"""Which sets are ours: those whose manifest one of our keys has signed, and is not another than the audit recorded.

Anybody can encrypt to public certificates, and whoever owns a bucket can put anything there. So nothing of a set is
read before its manifest is known to be ours. Our keys are this home's own, the first that the audit names (the one
that `init` made together with the roster), and each that stands in the text of a request that officers have signed:
whoever owns the database can append an event that names another one, which does not make it ours.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property

from keyrotation_pipeline.audit.events import entries, newest_first, recorded
from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.backups.member_dumps import lacking
from keyrotation_pipeline.backups.versions import first_verified
from keyrotation_pipeline.errors import (
    AbsentBackupError,
    ApprovalError,
    BackupError,
    FutureBackupError,
    UnsignedBackupError,
)
from keyrotation_pipeline.model.audit import EventKind, Note, utc_minute
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, BackupSealed
from keyrotation_pipeline.model.backups import (
    BackupSet,
    MadeFrom,
    in_order,
    pipeline_id,
    pipeline_in,
    signature_name,
    signer_fingerprint,
    stamp_in,
)
from keyrotation_pipeline.model.manifest import parse, render, require_whole, signer_of
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backup_places import BackupPlace, LocalPlace
from keyrotation_pipeline.ports.backups import ManifestSigner
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.ledger import Ledger

# As `ManifestSigner.verifies`: a public key (base64 of its SubjectPublicKeyInfo), the signed bytes, the signature.
Verifies = Callable[[str, bytes, bytes], bool]
_LARGEST_SIGNATURE_BYTES = 1 << 20
_SIGNATURE_BYTES = 64  # Ed25519
_CLOCKS_DIFFER_BY = timedelta(minutes=10)


def signed_manifest(
    place: BackupPlace, name: str, text: bytes, *, signers: Collection[str], verifies: Verifies
) -> BackupSet:
    """The set of a manifest that one of these keys has signed.

    Args:
        place: where it is, with its `.sig` file.
        name: the manifest's file name.
        text: its content.
        signers: fingerprints of public keys, 64 hex digits each; see `signer_fingerprint`.

    Raises:
        UnsignedBackupError: none of them has signed exactly this.
        ManifestError: it is cut off, or one has, but it is damaged, or has another name than it says.
        BackupError: the signature cannot be read, so nobody knows.
    """
    require_whole(name, text)
    public = signer_of(text)
    try:
        signer = None if public is None else signer_fingerprint(public)
    except ValueError:
        signer = None
    if public is None or signer is None:
        raise UnsignedBackupError(name, place.description, "does not name its signer")
    if signer not in signers:
        raise UnsignedBackupError(name, place.description, f"names the signer {signer}, which is not this pipeline's")

    file = signature_name(name)

    def verified() -> None:
        # Whoever adds versions of both makes every pair of them a candidate.
        signature = place.older.once(file, lambda: place.read(file, _LARGEST_SIGNATURE_BYTES))
        if not verifies(public, text, signature):
            raise UnsignedBackupError(name, place.description, "has a signature that is not this pipeline's")

    try:
        first_verified(place, file, verified, _SIGNATURE_BYTES)
    except AbsentBackupError:
        raise UnsignedBackupError(name, place.description, "has no signature") from None
    return parse(name, text)


def require_past(made: BackupSet, clock: Clock) -> None:
    """Refuse a set that is dated in the future, by more than clocks differ.

    Raises:
        FutureBackupError: it is.
    """
    now = clock.now()
    if made.made_at > now + _CLOCKS_DIFFER_BY:
        raise FutureBackupError(made.name, utc_minute(now))


class ManifestTrust:
    """Signs manifests, and tells ours from others.

    Args:
        ledger: has the keys that signed texts name, and the hash of every manifest that was signed.
        officers: checks `vouching`.
        clock: says which sets are of the future.
        vouching: officers' detached signatures over manifests that they take for ours without our own, in a disaster.
    """

    def __init__(
        self,
        signer: ManifestSigner,
        ledger: Ledger,
        officers: SignatureVerifier,
        clock: Clock,
        vouching: Sequence[bytes] = (),
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._officers = officers
        self._clock = clock
        self._vouching = tuple(vouching)
        self._recorded: set[str] = set()

    @property
    def own_signer(self) -> str | None:
        """The fingerprint of this home's key; None: it cannot be read."""
        with suppress(BackupError):
            return signer_fingerprint(self._signer.public)
        return None

    @property
    def pipeline(self) -> str:
        """The id of this pipeline, which is in the names of its sets.

        Raises:
            BackupError: there is no key here.
        """
        return pipeline_id(signer_fingerprint(self._signer.public))

    @cached_property
    def signers(self) -> frozenset[str]:
        """The fingerprints of the keys whose sets are ours."""
        own = self.own_signer
        return frozenset({*self._ledger.replayed().signers, *([] if own is None else [own])})

    def knows(self, manifest: str) -> bool:
        """Whether a manifest may be of a set of ours, by the id of the pipeline in its name; officers may name any."""
        return bool(self._vouching) or pipeline_in(stamp_in(manifest) or "") in map(pipeline_id, self.signers)

    def pin(self) -> str:
        """Have the audit name our public key, if it does not yet; gives back the key."""
        if (public := self._signer.public) not in self._pinned:
            self._ledger.append(BackupKeyPinned(public))
            self._pinned.add(public)
        return public

    def signed(self, content: bytes) -> tuple[str, bytes]:
        """Our public key, which the audit names, and its signature over what is no manifest.

        Raises:
            BackupError: there is no key here, or the audit does not name it.
        """
        if (public := self._signer.public) not in self._pinned:
            raise BackupError("the audit does not name the pipeline's own key; run `keyrotation init`")
        return public, self._signer.sign(content)

    def write(self, local: LocalPlace, made: BackupSet) -> BackupSet:
        """Make files of the local place a set, and return it as one of this home.

        The manifest comes last: what has none is not a set.

        Raises:
            BackupError: it cannot be signed or written.
        """
        made = replace(made, home=self._ledger.replayed().home)
        text = render(made, self._signer.public)
        local.write(signature_name(made.name), self._signer.sign(text))
        local.write(made.name, text)
        source = made.made_from
        sealed = BackupSealed(
            made.name, hashlib.sha256(text).hexdigest(), made.dump is not None, source.manifest if source else None
        )
        seq = self._ledger.append(sealed).seq
        self._sealed[made.name] = (source.seq if source else seq, sealed.sha256)
        return made

    def read(self, place: BackupPlace, name: str) -> BackupSet:
        """The set of a manifest, if it is ours.

        Raises:
            UnsignedBackupError: it is not.
            ManifestError: it is damaged, or of the future.
            BackupError: it cannot be read.
        """
        if not self.knows(name):
            raise UnsignedBackupError(name, place.description, "is of a pipeline that is not known here")

        def verified() -> BackupSet:
            made = self._ours(place, name, place.read(name))
            require_past(made, self._clock)
            return made

        return first_verified(place, name, verified)

    @property
    def sealed_with_dump(self) -> Iterator[str]:
        """Names of the manifests that were signed for dumps of the database, by the audit, newest first.

        Without those that were made from an older set: they hold nothing that is newer.
        """
        for entry in newest_first(self._ledger, EventKind.BACKUP_SEALED):
            sealed = entry.fact()
            if isinstance(sealed, BackupSealed) and sealed.has_dump and sealed.made_from is None:
                yield sealed.manifest

    def seal_of(self, made: BackupSet) -> MadeFrom:
        """A set as one that is made from it names it.

        Raises:
            BackupError: the audit does not have it, so that it is not known to be among ours by more than a signature.
        """
        if made.name not in self._sealed:
            raise BackupError(
                f"the audit does not have {made.name}, so its place among others is unknown; name a set made since the "
                "database was last restored"
            )
        seq, sha256 = self._sealed[made.name]
        return MadeFrom(made.name, sha256, seq)

    def lacking(self, made: BackupSet) -> Iterator[str]:
        """A phrase for each member of a fleet that a set lacks, as `member_dumps.lacking`."""
        return lacking(self._ledger, made)

    @property
    def names(self) -> frozenset[str]:
        """Of every manifest that was signed, by the audit; of sets that are gone, too."""
        return frozenset(self._sealed)

    def was_stored(self, manifest: str, place: str) -> bool:
        """Whether the audit records that a set was complete in a place, by its description."""
        return any(
            place in each.facts.get("places", ())
            and manifest in (each.facts.get("set"), *each.facts.get("uploaded_later", ()))
            for each in entries(self._ledger, EventKind.BACKUP_MADE, EventKind.BACKUP_INCOMPLETE)
        )

    def order(self, made: BackupSet) -> tuple[bool, int, tuple[str, int]]:
        """What sets sort by, the newest last: by the audit's sequence, whatever a clock said meanwhile.

        A set that the audit does not have was sealed after the backup that the database was restored from: its own
        anchor says where. Once the restored database was reconciled, what is sealed since is newer than any of those.
        """
        source = made.made_from
        seq, _ = self._sealed.get(made.name, (source.seq if source else made.anchor.seq, ""))
        # Of the two of one moment the one that everything was dumped into is the newer one.
        moment = ("", 0) if source else in_order(made.stamp)
        return made.name in self._sealed and seq > self._reconciled_seq, seq, moment

    def is_after(self, manifest: str, made: BackupSet) -> bool:
        """Whether a manifest, which may be damaged or gone, was signed after a set.

        By the audit; only for a manifest that it does not have by the name, which is what a clock said.
        """
        if manifest not in self._sealed:
            return in_order(stamp_in(manifest) or "") > in_order(made.stamp)
        seq, _ = self._sealed[manifest]
        return manifest != made.name and (seq > self._reconciled_seq, seq) > self.order(made)[:2]

    def _ours(self, place: BackupPlace, name: str, text: bytes) -> BackupSet:
        if self._vouched(name, text):
            return parse(name, text)
        require_whole(name, text)
        _, wanted = self._sealed.get(name, (0, None))
        if wanted not in {None, hashlib.sha256(text).hexdigest()}:
            raise UnsignedBackupError(name, place.description, "is not the one that the audit recorded")
        made = signed_manifest(place, name, text, signers=self.signers, verifies=self._signer.verifies)
        home = self._ledger.replayed().home
        if home is not None and made.home not in {None, home}:  # the key that signs was copied
            raise UnsignedBackupError(name, place.description, f"is of another home ({made.home})")
        return made

    def _vouched(self, name: str, text: bytes) -> bool:
        """Whether an officer of the pinned roster signed this manifest; the audit names who and what, once."""
        roster = self._ledger.pinned_roster()
        for signature in self._vouching:
            try:
                signed = self._officers.verify(text, signature, roster.officers if roster else ())
            except ApprovalError:
                continue
            if name not in self._recorded:
                facts = {"manifest": name, "sha256": hashlib.sha256(text).hexdigest(), "officer": signed.officer}
                self._ledger.append(Note(EventKind.UNSIGNED_BACKUP_TRUSTED, facts))
                self._recorded.add(name)
            return True
        return False

    @cached_property
    def _pinned(self) -> set[str]:
        return {each.public for each in recorded(self._ledger, BackupKeyPinned)}

    @cached_property
    def _sealed(self) -> dict[str, tuple[int, str]]:
        """Of every manifest that the audit has: the seq of its event, and its SHA-256."""
        found = ((entry.seq, entry.fact()) for entry in entries(self._ledger, EventKind.BACKUP_SEALED))
        sealed: dict[str, tuple[int, str]] = {}
        for seq, fact in found:
            if isinstance(fact, BackupSealed):
                # What was made from another set stands where that one does.
                place, _ = sealed.get(fact.made_from or "", (seq, ""))
                sealed[fact.manifest] = (place, fact.sha256)
        return sealed

    @cached_property
    def _reconciled_seq(self) -> int:
        reconciled = history(self._ledger, EventKind.DATABASE_RECONCILED)
        return max((entry.seq for entry in reconciled if entry.fault is None), default=0)
