"""The archives for keys of a Kubernetes Secret: a second Secret, or AWS Secrets Manager."""

from collections.abc import Iterable
from dataclasses import dataclass

from keyrotation_pipeline.adapters.keystores.aws_archive import Archives, AwsArchive
from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import (
    LAST_APPLIED,
    MissingSecretError,
    Secret,
    SecretName,
    Secrets,
    require_mutable,
)
from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager, request_token
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import KeyEntry
from keyrotation_pipeline.ports.clock import Clock

# An annotation of the archive for each key in it.
_ABOUT = "keyrotation/description-"


@dataclass(frozen=True, slots=True)
class InAws:
    """An archive in AWS: the prefix of its secrets' names, and the rest as boto3 takes it."""

    prefix: str
    clock: Clock
    region_name: str | None = None
    endpoint_url: str | None = None


class SecretArchived:
    """A Secret as it was read, and the changes that are decided from that."""

    def __init__(self, secret: Secret, secrets: Secrets, seal: Seal) -> None:
        self._secret = secret
        self._secrets = secrets
        self._seal = seal
        self.entries = _entries(secret, seal)
        self.unsealed = tuple(each for each in self.entries if not seal.is_under(secret.text(str(each))))

    @property
    def revision(self) -> str:
        """Differs for every other content."""
        return self._secret.revision

    def require_mutable(self) -> None:
        """Refuses an archive that cannot be changed."""
        require_mutable(self._secret)

    def keep(self, version: KeyVersion, material: KeyMaterial, description: str = "") -> None:
        """Ensures that a key is in the archive and reads back from there; `description` is for people."""
        name = self._secret.name
        if version not in self.entries:
            self.require_mutable()
            about = {f"{_ABOUT}{version}": description} if description else {}
            self._secrets.patch(self._secret, {str(version): self._seal.text_of(version, material)}, about)
        if _entries(self._secrets.read(name), self._seal).get(version) != material:
            raise KeyStoreDamagedError(
                f"{name} holds something else as {version} than the key to be archived; find out which one "
                f"encrypted the values under {version}, and remove the other"
            )

    def reseal(self, version: KeyVersion) -> None:
        """Seals a key that is in the archive otherwise."""
        entry = self.entries.get(version)
        if version in self.unsealed and isinstance(entry, KeyMaterial):
            self.require_mutable()
            copied = {LAST_APPLIED: None} if self._secret.last_applied(str(version)) else {}
            self._secrets.patch(self._secret, {str(version): self._seal.text_of(version, entry)}, copied)

    def destroy(self, version: KeyVersion) -> None:
        """Removes a key; repeating it changes nothing."""
        if version in self.entries or self._secret.last_applied(str(version)):
            self.require_mutable()
            self._secrets.patch(self._secret, {str(version): None}, {})


class SecretArchive:
    """A Secret with the entries v1, v2 …; its revision is the resource version."""

    residual_copies = None  # no more than in Kubernetes itself

    def __init__(self, name: SecretName, secrets: Secrets, seal: Seal) -> None:
        self._name = name
        self._secrets = secrets
        self._seal = seal

    @property
    def description(self) -> str:
        """The place in plain words."""
        return f"{self._name.namespace}/{self._name.name}"

    def problems(self) -> Iterable[Problem]:
        """See `KeyStore.preflight`."""
        return ()

    def create(self) -> None:
        """Creates it without a key, unless it exists."""
        try:
            self._secrets.read(self._name)
        except MissingSecretError:
            self._secrets.make(self._name)

    def read(self) -> SecretArchived:
        """Reads the archive as it is now."""
        return SecretArchived(self._secrets.read(self._name), self._secrets, self._seal)


class AwsArchived:
    """The secrets of AWS as they were read, and the changes that are decided from that."""

    def __init__(self, archive: AwsArchive, archives: Archives) -> None:
        self._archive = archive
        self._archives = archives
        self.entries = archive.read(archives)
        self.unsealed = tuple(archive.unsealed)

    @property
    def revision(self) -> str:
        """Differs for every other content."""
        return " ".join(map(str, sorted(self.entries)))

    def require_mutable(self) -> None:
        """Does nothing: a secret in AWS cannot be immutable."""

    def keep(self, version: KeyVersion, material: KeyMaterial, description: str = "") -> None:
        """Ensures that a key is in the archive and reads back from there; `description` is for people."""
        self._archive.keep(version, material, self._archives.get(version, ()), description)

    def reseal(self, version: KeyVersion) -> None:
        """Seals a key that is in the archive otherwise."""
        self._archive.reseal(version, self._archives.get(version, ()))

    def destroy(self, version: KeyVersion) -> None:
        """Removes a key; repeating it changes nothing."""
        self._archive.destroy(version, self._archives.get(version, ()))


class AwsArchivePlace:
    """Secrets of AWS, each with one key, as `AwsArchive` stores them for a live secret in AWS.

    Since there is no live secret here, a secret ``<prefix>index``, which holds no key, has the tags that name them.
    """

    def __init__(self, place: InAws, seal: Seal = UNSEALED) -> None:
        self._place = place
        self._index = f"{place.prefix}index"
        self._aws = SecretsManager(place.clock, place.region_name, place.endpoint_url)
        self._archive = AwsArchive(self._aws, self._index, place.prefix, place.clock, seal)

    @property
    def description(self) -> str:
        """The place in plain words."""
        region = f" in {self._place.region_name}" if self._place.region_name else ""
        return f"AWS Secrets Manager {self._place.prefix}*{region}"

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        return self._archive.residual_copies

    def problems(self) -> Iterable[Problem]:
        """See `KeyStore.preflight`."""
        return self._archive.problems()

    def create(self) -> None:
        """Creates it without a key, unless it exists."""
        text = "no key is here; the tags name the secrets with archived keys"
        self._aws.create(self._index, text, request_token("index", self._index), {})

    def read(self) -> AwsArchived:
        """Reads the archive as it is now."""
        return AwsArchived(self._archive, self._archive.names(self._aws.describe(self._index).tags))


ArchivePlace = SecretArchive | AwsArchivePlace
Archived = SecretArchived | AwsArchived
"""The archive as it was read, and the changes that are decided from that state."""


def open_archive(place: SecretName | InAws, secrets: Secrets, seal: Seal) -> ArchivePlace:
    """Returns the archive of a place; connects to nothing yet."""
    return SecretArchive(place, secrets, seal) if isinstance(place, SecretName) else AwsArchivePlace(place, seal)


def _entries(secret: Secret, seal: Seal) -> dict[KeyVersion, KeyEntry]:
    entries: dict[KeyVersion, KeyEntry] = {}
    for name in secret.data:
        try:
            version = KeyVersion.parse(name)
        except InvalidKeyError:
            continue
        entries[version] = secret.key(name, version, seal)
    return entries
