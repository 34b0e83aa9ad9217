"""The archives for keys of a Kubernetes Secret: a second Secret, or AWS Secrets Manager."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from keyrotation_pipeline.adapters.keystores.aws_archive import Archives, AwsArchive
from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import (
    MissingSecretError,
    Secret,
    SecretName,
    Secrets,
    require_mutable,
)
from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager, request_token
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import KeyEntry
from keyrotation_pipeline.model.surroundings import Problem
from keyrotation_pipeline.ports.clock import Clock

# An annotation of the archive for each key in it.
_ABOUT = "keyrotation/description-"


class Archived(Protocol):
    """The archive as it was read, and the changes that are decided from that state."""

    @property
    def revision(self) -> str:
        """Differs for every other content."""

    @property
    def entries(self) -> Mapping[KeyVersion, KeyEntry]:
        """Every archived key, including those that are also live."""

    def require_mutable(self) -> None:
        """Refuses an archive that cannot be changed."""

    def keep(self, version: KeyVersion, material: KeyMaterial, description: str = "") -> None:
        """Ensures that a key is in the archive and reads back from there; `description` is for people."""

    def destroy(self, version: KeyVersion) -> None:
        """Removes a key; repeating it changes nothing."""


class ArchivePlace(Protocol):
    """An archive."""

    @property
    def description(self) -> str:
        """The place in plain words."""

    @property
    def residual_copies(self) -> str | None:
        """See `KeyStore.residual_copies`; None: no more than in Kubernetes itself."""

    def problems(self) -> Iterable[Problem]:
        """See `KeyStore.preflight`."""

    def create(self) -> None:
        """Creates it without a key, unless it exists."""

    def read(self) -> Archived:
        """Reads the archive as it is now."""


@dataclass(frozen=True, slots=True)
class InAws:
    """An archive in AWS: the prefix of its secrets' names, and the rest as boto3 takes it."""

    prefix: str
    clock: Clock
    region_name: str | None = None
    endpoint_url: str | None = None


def open_archive(place: SecretName | InAws, secrets: Secrets) -> ArchivePlace:
    """Returns the archive of a place; connects to nothing yet."""
    return _SecretArchive(place, secrets) if isinstance(place, SecretName) else _AwsArchive(place)


class _SecretArchive:
    """A Secret with the entries v1, v2 …; its revision is the resource version."""

    residual_copies = None

    def __init__(self, name: SecretName, secrets: Secrets) -> None:
        self._name = name
        self._secrets = secrets

    @property
    def description(self) -> str:
        return f"{self._name.namespace}/{self._name.name}"

    def problems(self) -> Iterable[Problem]:
        return ()

    def create(self) -> None:
        try:
            self._secrets.read(self._name)
        except MissingSecretError:
            self._secrets.make(self._name)

    def read(self) -> Archived:
        return _SecretArchived(self._secrets.read(self._name), self._secrets)


class _SecretArchived:
    def __init__(self, secret: Secret, secrets: Secrets) -> None:
        self._secret = secret
        self._secrets = secrets
        self.entries = _entries(secret)

    @property
    def revision(self) -> str:
        return self._secret.revision

    def require_mutable(self) -> None:
        require_mutable(self._secret)

    def keep(self, version: KeyVersion, material: KeyMaterial, description: str = "") -> None:
        name = self._secret.name
        if version not in self.entries:
            self.require_mutable()
            about = {f"{_ABOUT}{version}": description} if description else {}
            self._secrets.patch(self._secret, {str(version): base64_of(material)}, about)
        if _entries(self._secrets.read(name)).get(version) != material:
            raise KeyStoreDamagedError(
                f"{name} holds something else as {version} than the key to be archived; find out which one "
                f"encrypted the values under {version}, and remove the other"
            )

    def destroy(self, version: KeyVersion) -> None:
        if version in self.entries or self._secret.last_applied(str(version)):
            self.require_mutable()
            self._secrets.patch(self._secret, {str(version): None}, {})


class _AwsArchive:
    """Secrets of AWS, each with one key, as `AwsArchive` stores them for a live secret in AWS.

    Since there is no live secret here, a secret ``<prefix>index``, which holds no key, has the tags that name them.
    """

    def __init__(self, place: InAws) -> None:
        self._place = place
        self._index = f"{place.prefix}index"
        self._aws = SecretsManager(place.clock, place.region_name, place.endpoint_url)
        self._archive = AwsArchive(self._aws, self._index, place.prefix, place.clock)

    @property
    def description(self) -> str:
        region = f" in {self._place.region_name}" if self._place.region_name else ""
        return f"AWS Secrets Manager {self._place.prefix}*{region}"

    @property
    def residual_copies(self) -> str:
        return self._archive.residual_copies

    def problems(self) -> Iterable[Problem]:
        return self._archive.problems()

    def create(self) -> None:
        text = "no key is here; the tags name the secrets with archived keys"
        self._aws.create(self._index, text, request_token("index", self._index), {})

    def read(self) -> Archived:
        return _AwsArchived(self._archive, self._archive.names(self._aws.describe(self._index).tags))


class _AwsArchived:
    def __init__(self, archive: AwsArchive, archives: Archives) -> None:
        self._archive = archive
        self._archives = archives
        self.entries = archive.read(archives)

    @property
    def revision(self) -> str:
        return " ".join(map(str, sorted(self.entries)))

    def require_mutable(self) -> None:
        """Does nothing: a secret in AWS cannot be immutable."""

    def keep(self, version: KeyVersion, material: KeyMaterial, description: str = "") -> None:
        self._archive.keep(version, material, self._archives.get(version, ()), description)

    def destroy(self, version: KeyVersion) -> None:
        self._archive.destroy(version, self._archives.get(version, ()))


def _entries(secret: Secret) -> dict[KeyVersion, KeyEntry]:
    entries: dict[KeyVersion, KeyEntry] = {}
    for name in secret.data:
        try:
            version = KeyVersion.parse(name)
        except InvalidKeyError:
            continue
        entries[version] = secret.key(name, version)
    return entries
