"""Calls AWS Secrets Manager, with errors as sentences, and parses the texts of the secrets."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import versions_in
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
# The most that AWS accepts in one secret.
MOST_BYTES = 65_536
LONGEST_DESCRIPTION_CHARS = 2048
_CONFIG = Config(connect_timeout=5, read_timeout=10, retries={"mode": "adaptive", "total_max_attempts": 4})
_THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})


class MissingSecretError(KeyStoreDamagedError):
    """The secret does not exist, or it has no version under that label."""


class StaleVersionError(KeyStoreError):
    """The label has moved from the version that the call named."""


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of a secret. Its text may hold keys, and is never printed."""

    id: str
    text: str

    def __repr__(self) -> str:
        return f"SecretVersion({self.id})"


class SecretsManager:
    """Secrets Manager of one region.

    Args:
        region_name, endpoint_url: as boto3 takes them; None: as boto3 finds them.
    """

    def __init__(self, region_name: str | None = None, endpoint_url: str | None = None) -> None:
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._opened: Any = None

    def read(self, secret: str, version: str | None = None) -> SecretVersion:
        """Reads the version under AWSCURRENT, or the given one regardless of its labels.

        Raises:
            MissingSecretError: there is no such secret or version.
        """
        which = {"VersionId": version} if version else {"VersionStage": CURRENT}
        answer = self._call("get_secret_value", secret, which)
        if "SecretString" not in answer:
            raise KeyStoreDamagedError(f"secret {secret} holds bytes instead of text; put the keys there as JSON text")
        return SecretVersion(str(answer["VersionId"]), str(answer["SecretString"]))

    def describe(self, secret: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Returns the tags of a secret, and the labels of each of its versions."""
        answer = self._call("describe_secret", secret)
        tags = {str(tag["Key"]): str(tag["Value"]) for tag in answer.get("Tags", ())}
        return tags, {str(version): list(stages) for version, stages in answer["VersionIdsToStages"].items()}

    def names(self, prefix: str) -> Iterator[str]:
        """Yields secrets with a prefix; AWS may leave out those of the last five minutes."""
        token: dict[str, str] = {}
        while True:
            request = {"Filters": [{"Key": "name", "Values": [prefix]}], **token}
            answer = self._call("list_secrets", None, request)
            yield from (str(each["Name"]) for each in answer["SecretList"] if str(each["Name"]).startswith(prefix))
            if "NextToken" not in answer:
                return
            token = {"NextToken": str(answer["NextToken"])}

    def create(self, secret: str, text: str, token: str, tags: Mapping[str, str], description: str = "") -> bool:
        """Creates a secret; returns False if the name exists."""
        about = {"Description": description[:LONGEST_DESCRIPTION_CHARS]} if description else {}
        request = {"SecretString": text, "ClientRequestToken": token, "Tags": _tags(tags), **about}
        try:
            self._call("create_secret", None, {"Name": secret, **request}, subject=secret)
        except _ExistsError:
            return False
        return True

    def put(self, secret: str, text: str, token: str, stage: str) -> None:
        """Puts a version under a label, which the version that had it loses."""
        request = {"SecretString": text, "ClientRequestToken": token, "VersionStages": [stage]}
        self._call("put_secret_value", secret, request)

    def move(self, secret: str, stage: str, *, source: str, target: str | None = None) -> None:
        """Moves a label from one version to another, or removes it: only if it is where `source` says.

        Raises:
            StaleVersionError: it is not.
        """
        request = {"VersionStage": stage, "RemoveFromVersionId": source}
        self._call("update_secret_version_stage", secret, request | ({"MoveToVersionId": target} if target else {}))

    def take_off(self, secret: str, stage: str, version: str) -> None:
        """Removes a label from a version; it is no error if the label has already been removed."""
        with suppress(StaleVersionError):
            self.move(secret, stage, source=version)

    def forget_previous(self, secret: str) -> None:
        """Removes AWSPREVIOUS: AWS leaves the old text readable under it."""
        _, stages = self.describe(secret)
        for version, labels in stages.items():
            if PREVIOUS in labels:
                self.take_off(secret, PREVIOUS, version)

    def tag(self, secret: str, tags: Mapping[str, str]) -> None:
        """Sets tags, and leaves the others unchanged."""
        self._call("tag_resource", secret, {"Tags": _tags(tags)})

    def set_description(self, secret: str, description: str) -> None:
        """Sets a secret's description for people; its text and its versions do not change."""
        self._call("update_secret", secret, {"Description": description[:LONGEST_DESCRIPTION_CHARS]})

    def untag(self, secret: str, name: str) -> None:
        """Removes a tag; repeating it changes nothing."""
        self._call("untag_resource", secret, {"TagKeys": [name]})

    def _call(
        self, operation: str, secret: str | None, request: Mapping[str, Any] | None = None, *, subject: str = ""
    ) -> Mapping[str, Any]:
        named = {"SecretId": secret} if secret else {}
        with _failing_plainly(operation, secret or subject or "the archive"):
            answer: Mapping[str, Any] = self._method(operation)(**named, **(request or {}))
            return answer

    def _method(self, operation: str) -> Callable[..., Mapping[str, Any]]:
        if self._opened is None:
            self._opened = aws.client(
                "secretsmanager", region_name=self._region_name, endpoint_url=self._endpoint_url, config=_CONFIG
            )
        method: Callable[..., Mapping[str, Any]] = getattr(self._opened, operation)
        return method


class _ExistsError(KeyStoreError):
    """A secret of that name exists."""


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


@contextmanager
def _failing_plainly(operation: str, secret: str) -> Iterator[None]:
    """Drops the text of AWS's errors and their causes: they may repeat what was sent."""
    try:
        yield
    except ClientError as error:
        failure = _refusal(operation, secret, error)
    except BotoCoreError as error:
        failure = KeyStoreUnavailableError(
            f"AWS Secrets Manager cannot be reached for {secret} ({type(error).__name__}); check network, region and "
            "credentials, and try again"
        )
    else:
        return
    raise failure from None


def _refusal(operation: str, secret: str, error: ClientError) -> KeyStoreError:
    code = str(error.response["Error"]["Code"])
    message = str(error.response["Error"].get("Message", ""))
    if code == "ResourceNotFoundException":
        return MissingSecretError(
            f"there is no secret {secret}; if it was deleted, restore its keys with `keyrotation restore-key`, "
            "else check [keys.aws-secrets-manager]"
        )
    if code == "ResourceExistsException":
        return _ExistsError(f"there is a secret {secret} already; check what it holds")
    if code == "InvalidParameterException" and operation == "update_secret_version_stage":
        return StaleVersionError(f"secret {secret} was changed in the meantime; run the same again")
    if code == "InvalidRequestException" and ("deleted" in message or "deletion" in message):
        return KeyStoreDamagedError(
            f"secret {secret} is scheduled for deletion; run `aws secretsmanager restore-secret --secret-id {secret}`"
        )
    if code in _THROTTLED:
        return KeyStoreUnavailableError(f"AWS throttles calls to secret {secret}; wait a minute and try again")
    return KeyStoreUnavailableError(
        f"AWS refuses {operation} on secret {secret} ({code}); find out why (rights, KMS key, limits), and try again"
    )


PRIMARY = "primary"
COMPROMISED = "compromised"
# Replaces a destroyed key in an archive.
DESTROYED = "destroyed"
_VERSION = re.compile(VERSION_PATTERN)


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """The live secret as it is: its version, and the entries of its text, including those that are not ours.

    Args:
        name: of the secret, for messages.
        version: its id in AWS.
        plain: the source procedure's form, one key without a version.
    """

    name: str
    version: str
    entries: dict[str, Any] = field(repr=False)
    plain: bool

    @classmethod
    def of(cls, name: str, current: SecretVersion) -> "LiveSecret":
        """Parses a version's text in either form.

        Raises:
            KeyStoreDamagedError: it has neither form.
        """
        if not isinstance(entry(name, "v1", current.text), DamagedKey):
            return cls(name, current.id, {"v1": current.text.strip(), PRIMARY: "v1"}, plain=True)
        return cls.of_json(name, current)

    @classmethod
    def of_json(cls, name: str, current: SecretVersion) -> "LiveSecret":
        """Parses a version's text as JSON.

        Raises:
            KeyStoreDamagedError: it is not JSON.
        """
        try:
            entries = json.loads(current.text)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise KeyStoreDamagedError(
                f'secret {name} is not JSON of the form {{"v1": "<base64>", "primary": "v1"}}; correct it'
            )
        return cls(name, current.id, entries, plain=False)

    def keys(self) -> dict[KeyVersion, KeyEntry]:
        """Returns the key of each version, or the error that its entry is not a key."""
        return {
            KeyVersion.parse(name): entry(f"entry {name} of secret {self.name}", name, text)
            for name, text in self.entries.items()
            if _VERSION.fullmatch(name)
        }

    def primary(self) -> KeyVersion | None:
        """Returns the version that is named as the primary.

        Raises:
            KeyStoreDamagedError: the named one is not a version.
        """
        named = self.entries.get(PRIMARY)
        try:
            return None if named is None else KeyVersion.parse(str(named))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{PRIMARY} of secret {self.name} does not name a key version; write v1, v2, … there"
            ) from None

    def compromised(self) -> frozenset[KeyVersion]:
        """Returns the versions that applications never encrypt under again.

        Raises:
            KeyStoreDamagedError: the named ones are not versions.
        """
        try:
            return versions_in(str(self.entries.get(COMPROMISED, "")))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{COMPROMISED} of secret {self.name} does not name key versions; write them there as v1,v2"
            ) from None


def entry(place: str, version: str, text: object) -> KeyEntry:
    """Returns the key that a text holds, or an error that names the place."""
    try:
        return key_from_base64(str(text))
    except InvalidKeyError:
        return DamagedKey(
            f"{place} is not the base64 of 32 bytes; remove it, then run `keyrotation restore-key {version}`"
        )


def request_token(*parts: str) -> str:
    """Derives a client request token from the request. It reveals nothing of keys, which have 256 random bits."""
    return str(UUID(bytes=hashlib.sha256("\n".join(parts).encode()).digest()[:16]))
