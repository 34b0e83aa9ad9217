"""Calls to AWS Secrets Manager with errors as sentences, and the texts of the secrets."""

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
# What AWS takes at most in one secret.
MOST_BYTES = 65_536
LONGEST_DESCRIPTION_CHARS = 2048
_CONFIG = Config(connect_timeout=5, read_timeout=10, retries={"mode": "adaptive", "total_max_attempts": 4})
_THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})


class MissingSecretError(KeyStoreDamagedError):
    """There is no such secret, or it has no version under that label."""


class StaleVersionError(KeyStoreError):
    """The label is no longer where the call said that it is."""


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of a secret. Its text may hold keys, and is never shown."""

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
        """The version under AWSCURRENT, or the given one whatever labels it has.

        Raises:
            MissingSecretError: there is no such secret or version.
        """
        which = {"VersionId": version} if version else {"VersionStage": CURRENT}
        answer = self._call("get_secret_value", secret, which)
        if "SecretString" not in answer:
            raise KeyStoreDamagedError(f"secret {secret} holds bytes and no text; put the keys there as JSON text")
        return SecretVersion(str(answer["VersionId"]), str(answer["SecretString"]))

    def describe(self, secret: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The tags of a secret, and the labels of each of its versions."""
        answer = self._call("describe_secret", secret)
        tags = {str(tag["Key"]): str(tag["Value"]) for tag in answer.get("Tags", ())}
        return tags, {str(version): list(stages) for version, stages in answer["VersionIdsToStages"].items()}

    def names(self, prefix: str) -> Iterator[str]:
        """Secrets whose names begin so; AWS may leave out those of the last five minutes."""
        token: dict[str, str] = {}
        while True:
            request = {"Filters": [{"Key": "name", "Values": [prefix]}], **token}
            answer = self._call("list_secrets", None, request)
            yield from (str(each["Name"]) for each in answer["SecretList"] if str(each["Name"]).startswith(prefix))
            if "NextToken" not in answer:
                return
            token = {"NextToken": str(answer["NextToken"])}

    def create(self, secret: str, text: str, token: str, tags: Mapping[str, str], description: str = "") -> bool:
        """Make a secret; False if there is one of that name."""
        about = {"Description": description[:LONGEST_DESCRIPTION_CHARS]} if description else {}
        request = {"SecretString": text, "ClientRequestToken": token, "Tags": _tags(tags), **about}
        try:
            self._call("create_secret", None, {"Name": secret, **request}, subject=secret)
        except _ExistsError:
            return False
        return True

    def put(self, secret: str, text: str, token: str, stage: str) -> None:
        """Put a version under a label, which leaves the version that had it."""
        request = {"SecretString": text, "ClientRequestToken": token, "VersionStages": [stage]}
        self._call("put_secret_value", secret, request)

    def move(self, secret: str, stage: str, *, source: str, target: str | None = None) -> None:
        """Move a label from one version to another, or take it off: only if it is where `source` says.

        Raises:
            StaleVersionError: it is not.
        """
        request = {"VersionStage": stage, "RemoveFromVersionId": source}
        self._call("update_secret_version_stage", secret, request | ({"MoveToVersionId": target} if target else {}))

    def take_off(self, secret: str, stage: str, version: str) -> None:
        """Take a label off a version; where it is not, an earlier attempt or somebody else has taken it off."""
        with suppress(StaleVersionError):
            self.move(secret, stage, source=version)

    def forget_previous(self, secret: str) -> None:
        """Take AWSPREVIOUS off: AWS leaves the old text readable under it."""
        _, stages = self.describe(secret)
        for version, labels in stages.items():
            if PREVIOUS in labels:
                self.take_off(secret, PREVIOUS, version)

    def tag(self, secret: str, tags: Mapping[str, str]) -> None:
        """Set tags, and leave the others."""
        self._call("tag_resource", secret, {"Tags": _tags(tags)})

    def set_description(self, secret: str, description: str) -> None:
        """Describe a secret for people; its text and its versions stay as they are."""
        self._call("update_secret", secret, {"Description": description[:LONGEST_DESCRIPTION_CHARS]})

    def untag(self, secret: str, name: str) -> None:
        """Take a tag off; again is no change."""
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
    """There is a secret of that name."""


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


@contextmanager
def _failing_plainly(operation: str, secret: str) -> Iterator[None]:
    """Neither the text of AWS's errors nor their causes go on: they may repeat what was sent."""
    try:
        yield
    except ClientError as error:
        failure = _refusal(operation, secret, error)
    except BotoCoreError as error:
        failure = KeyStoreUnavailableError(
            f"AWS Secrets Manager cannot be asked for {secret} ({type(error).__name__}); check network, region and "
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
            f"there is no secret {secret}; if it was deleted, put its keys back with `keyrotation restore-key`, "
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
        f"AWS refuses {operation} on secret {secret} ({code}); see to its cause (rights, KMS key, limits), "
        "and try again"
    )


PRIMARY = "primary"
COMPROMISED = "compromised"
# What stands in an archive in the place of a key that is gone for good.
DESTROYED = "destroyed"
_VERSION = re.compile(VERSION_PATTERN)


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """The live secret as it is: its version, and the entries of its text, also those that are not ours.

    Args:
        name: of the secret, for messages.
        version: its id in AWS.
        plain: it is the seed's form, one key without a version.
    """

    name: str
    version: str
    entries: dict[str, Any] = field(repr=False)
    plain: bool

    @classmethod
    def of(cls, name: str, current: SecretVersion) -> "LiveSecret":
        """Read a version's text in either form.

        Raises:
            KeyStoreDamagedError: it has neither.
        """
        if not isinstance(entry(name, "v1", current.text), DamagedKey):
            return cls(name, current.id, {"v1": current.text.strip(), PRIMARY: "v1"}, plain=True)
        return cls.of_json(name, current)

    @classmethod
    def of_json(cls, name: str, current: SecretVersion) -> "LiveSecret":
        """Read a version's text as JSON.

        Raises:
            KeyStoreDamagedError: it is none.
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
        """The key of each version, or that its entry is no key."""
        return {
            KeyVersion.parse(name): entry(f"entry {name} of secret {self.name}", name, text)
            for name, text in self.entries.items()
            if _VERSION.fullmatch(name)
        }

    def primary(self) -> KeyVersion | None:
        """The version that is named as the primary.

        Raises:
            KeyStoreDamagedError: what is named is no version.
        """
        named = self.entries.get(PRIMARY)
        try:
            return None if named is None else KeyVersion.parse(str(named))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{PRIMARY} of secret {self.name} does not name a key version; write v1, v2, … there"
            ) from None

    def compromised(self) -> frozenset[KeyVersion]:
        """The versions that applications never encrypt under again.

        Raises:
            KeyStoreDamagedError: what is named are no versions.
        """
        try:
            return versions_in(str(self.entries.get(COMPROMISED, "")))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{COMPROMISED} of secret {self.name} does not name key versions; write them there as v1,v2"
            ) from None


def entry(place: str, version: str, text: object) -> KeyEntry:
    """The key that a text is; a sentence about the place if it is none."""
    try:
        return key_from_base64(str(text))
    except InvalidKeyError:
        return DamagedKey(
            f"{place} is not the base64 of 32 bytes; take it away, then run `keyrotation restore-key {version}`"
        )


def request_token(*parts: str) -> str:
    """A client request token: the same for the same request. Keys have 256 random bits, so it tells nothing of them."""
    return str(UUID(bytes=hashlib.sha256("\n".join(parts).encode()).digest()[:16]))
