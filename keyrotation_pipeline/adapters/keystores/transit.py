"""Keeps what names the versions of a key that Vault or OpenBao holds, and has that server do what it alone can.

The files are those of the key store in files, with references instead of keys: what each version is recognised by, the
primary, the archive, compromised versions and the owner. The server makes versions, withdraws them
(`min_decryption_version`) and destroys them (trim). It is asked before a version counts as usable again, and after one
counts as withdrawn, and every read compares the two: a process may die between them.
"""

from collections.abc import Iterator
from dataclasses import replace

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import KINDS, TransitPolicy, server_at
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, TransitKey
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry, StoredKeys, StoreOwner

_CHECK = "keys_can_be_archived"


class TransitKeyStore:
    """`ports.KeyStore` over a key of a transit engine.

    Args:
        files: holds the references.
        address: of the key; see `TransitServer`.
    """

    def __init__(self, files: FileKeyStore, address: str) -> None:
        self._files, self._address = files, address

    @property
    def description(self) -> str:
        """See `KeyStore.description`."""
        return f"{self._address}, and {self._files.description} for what its versions are known by"

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        return (
            f"{self._address} trims it, with every older version that it still has; backups and snapshots of that "
            "server hold it until they are gone, and so does a key that was exported there"
        )

    def place_of(self, version: KeyVersion) -> str:
        """See `KeyStore.place_of`."""
        return f"version {version.number} of {self._address}"

    def preflight(self) -> tuple[Problem, ...]:
        """See `KeyStore.preflight`."""
        server, stored = server_at(self._address), self._files.read()
        policy = server.policy()
        server.configure()  # changes nothing; retirement needs the right
        problems = [*problems_of(self._address, policy), _unknown(self._address, policy, stored)]
        found = [Problem(each, fatal=True, check=_CHECK) for each in problems if each]
        if policy.exportable:
            message = f"{self._address} may be exported, or backed up in plaintext; use a key that may not"
            found.append(Problem(message, fatal=False, check=_CHECK))
        return tuple(found)

    def made(self, version: KeyVersion) -> KeyMaterial:
        """See `KeyStore.made`."""
        server = server_at(self._address)
        policy = server.policy()
        if problem := next(problems_of(self._address, policy), None):
            raise KeyStoreError(problem)
        if policy.latest == version.number - 1:
            server.rotate()
            policy = server.policy()
        if policy.latest != version.number:
            raise KeyStoreError(
                f"{self._address} is at version {policy.latest}, so {version} cannot be made; find out who "
                "rotates it, run `keyrotation init`, which imports it, and request the next version"
            )
        return server.reference(version.number)

    def read(self) -> StoredKeys:
        """Reads the references, and has the server show that it still holds each live version.

        A server that officers have not signed is not asked, so that they can sign it.
        """
        return self._compared(self._files.read())

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """See `KeyStore.add`."""
        if not isinstance(material, TransitKey) or material.name != str(version):
            raise KeyStoreError(
                f"what is given for {version} does not name that version of {self._address}, which holds the keys "
                "itself; give nothing, and run `keyrotation init`"
            )
        if server_at(self._address).unknown_keys([material]) and not archived:
            raise KeyStoreError(
                f"{self._address} does not decrypt under {version}, or is another key; have "
                "min_decryption_version or the key put back there, then run this again"
            )
        return self._compared(self._files.add(version, material, revision, archived=archived))

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:  # noqa: ARG002
        """See `KeyStore.replace`."""
        raise KeyStoreError(f"{self._address} holds the keys itself, so none is replaced; use `keyrotation request`")

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """See `KeyStore.set_primary`."""
        latest = server_at(self._address).policy().latest
        if version.number != latest:
            raise KeyStoreError(
                f"{self._address} encrypts with its newest version, v{latest}, so {version} cannot be the primary; "
                "request a rotation to the next version with `keyrotation request`"
            )
        return self._compared(self._files.set_primary(version, revision, description))

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """See `KeyStore.archive`: the server then refuses it, too."""
        if version.number == server_at(self._address).policy().latest:
            raise KeyStoreError(
                f"{self._address} encrypts with {version}, its newest version, which cannot be withdrawn; finish the "
                "rotation, or request the next one with `keyrotation request`"
            )
        stored = self._files.archive(version, revision, description)
        self._withdraw_before(min(stored.live))
        return self._compared(stored)

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """See `KeyStore.restore`."""

        def accepted_again(_: StoredKeys) -> None:
            policy = server_at(self._address).policy()
            if version.number < policy.min_available:
                raise KeyStoreError(f"{self._address} has destroyed {version}; it cannot be restored by anybody here")
            if policy.min_decryption > version.number:
                server_at(self._address).configure(min_decryption_version=version.number)

        return self._compared(self._files.restore(version, revision, accepted_again))

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """See `KeyStore.destroy`: the server trims it, and all older ones with it."""

        def trimmed(stored: StoredKeys) -> None:
            if (oldest := stored.versions[0]) < version:
                raise KeyStoreError(f"{self._address} destroys older versions first; destroy {oldest} before {version}")
            if server_at(self._address).policy().min_available <= version.number:
                self._withdraw_before(version.next())
                server_at(self._address).trim(version.number + 1)

        return self._compared(self._files.destroy(version, revision, trimmed))

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """See `KeyStore.publish_compromised`."""
        return self._compared(self._files.publish_compromised(versions, revision))

    @property
    def sealed_by(self) -> str:
        """See `KeyStore.sealed_by`."""
        return ""

    def wrapping_key(self) -> None:
        """See `KeyStore.wrapping_key`: keys that never leave their server have no seal."""
        return

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:  # noqa: ARG002
        """See `KeyStore.offer_canary`."""
        raise KeyStoreError(f"{self._address} holds the keys itself, so none is sealed; leave out [keys.seal]")

    def reseal(self, revision: str) -> StoredKeys:  # noqa: ARG002
        """See `KeyStore.reseal`."""
        raise KeyStoreError(f"{self._address} holds the keys itself, so none is sealed; leave out [keys.seal]")

    def name_owner(self, owner: StoreOwner, revision: str) -> StoredKeys:
        """See `KeyStore.name_owner`."""
        return self._compared(self._files.name_owner(owner, revision))

    def _withdraw_before(self, version: KeyVersion) -> None:
        """Has the server refuse everything older, for decryption and encryption."""
        server, number = server_at(self._address), version.number
        policy = server.policy()
        if policy.min_decryption < number or policy.min_encryption < number:
            server.configure(
                min_decryption_version=max(policy.min_decryption, number),
                min_encryption_version=max(policy.min_encryption, number),
            )

    def _compared(self, stored: StoredKeys) -> StoredKeys:
        """Marks as damaged what the server no longer has, and names archived versions that it still opens."""
        server = server_at(self._address)
        live = [entry for entry in stored.live.values() if isinstance(entry, KeyMaterial)]
        if not live or server.withheld is not None:
            return stored
        lost = server.unknown_keys(live)
        entries: dict[KeyVersion, KeyEntry] = {
            version: DamagedKey(
                f"{self._address} does not decrypt under {version}, or is another key than the registered one; have "
                "min_decryption_version or the key put back there"
            )
            if entry in lost
            else entry
            for version, entry in stored.live.items()
        }
        policy = server.policy()
        left = {
            version: f"{self._address} still decrypts under {version}; have min_decryption_version set to "
            f"{min(stored.live).number} there"
            for version in stored.archived
            if version.number >= policy.min_decryption
        }
        return replace(stored, live=entries, left_behind=left, foreign=_unknown(self._address, policy, stored))


def problems_of(address: str, policy: TransitPolicy) -> Iterator[str]:
    """What stands against rotating a key of a transit engine here, a sentence each."""
    if policy.kind not in KINDS:
        yield f"{address} is of the kind {policy.kind}; have values encrypted with one of {', '.join(sorted(KINDS))}"
    if policy.derived:
        yield (
            f"{address} derives a key for each value, with a context that this version cannot give; leave out tables "
            "with such values"
        )
    if policy.deletion_allowed:
        yield f"{address} may be deleted as a whole; set its deletion_allowed to false"
    if policy.rotates_itself:
        yield f"{address} makes versions by itself, which nobody signs; set its auto_rotate_period to 0"


def _unknown(address: str, policy: TransitPolicy, stored: StoredKeys) -> str | None:
    """What to do where the server encrypts with a version that was not made here."""
    if not stored.versions or policy.latest <= max(each.number for each in stored.versions):
        return None
    return (
        f"{address} encrypts with version {policy.latest}, which is not known here; continue the rotation that "
        "made it, or find out who did, then run `keyrotation init`"
    )
