"""Calls AWS Secrets Manager, with errors as sentences.

Its answers may be some seconds old. A change takes effect at once, but whoever reads may still see what was there
before, so every change here waits until it is seen (`until_seen`), and names versions by their ids.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from botocore.config import Config
from botocore.exceptions import ClientError

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.ports.clock import Clock, attempts

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
# The most that AWS accepts in one secret.
MOST_BYTES = 65_536
LONGEST_DESCRIPTION_CHARS = 2048
# How long a change may take to be seen, and the pause between two looks.
PATIENCE_SECONDS, PAUSE_SECONDS = 60.0, 0.5
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


@dataclass(frozen=True, slots=True)
class SecretFacts:
    """What AWS says about a secret, without its text.

    Args:
        labels: of each version that has any, by its id.
        kms_key: None: AWS's own.
        replicas: the status of each other region that has a copy, by its name.
        rotated_by_aws: AWS puts new versions there by itself.
    """

    tags: Mapping[str, str]
    labels: Mapping[str, tuple[str, ...]]
    kms_key: str | None = None
    replicas: Mapping[str, str] = field(default_factory=dict)
    rotated_by_aws: bool = False


class SecretsManager:
    """Secrets Manager of one region.

    Args:
        clock: for waits.
        region_name, endpoint_url: as boto3 takes them; None: as boto3 finds them.
    """

    def __init__(self, clock: Clock, region_name: str | None = None, endpoint_url: str | None = None) -> None:
        self._clock = clock
        self._region_name = region_name
        self._endpoint_url = endpoint_url

    def read(self, secret: str, label: str = CURRENT) -> SecretVersion:
        """Reads the version under a label. Versions without one are never read: our policies deny that.

        Raises:
            MissingSecretError: there is no such secret, or the label is on no version.
        """
        answer = self._call("get_secret_value", secret, {"VersionStage": label})
        if "SecretString" not in answer:
            raise KeyStoreDamagedError(f"secret {secret} holds bytes instead of text; put the keys there as JSON text")
        return SecretVersion(str(answer["VersionId"]), str(answer["SecretString"]))

    def describe(self, secret: str) -> SecretFacts:
        """Returns what is known of a secret."""
        answer = self._call("describe_secret", secret)
        return SecretFacts(
            {str(tag["Key"]): str(tag["Value"]) for tag in answer.get("Tags", ())},
            {str(version): tuple(map(str, labels)) for version, labels in answer["VersionIdsToStages"].items()},
            answer.get("KmsKeyId") or None,
            {str(each["Region"]): str(each.get("Status", "")) for each in answer.get("ReplicationStatus", ())},
            bool(answer.get("RotationEnabled")),
        )

    def versions_since(self, secret: str, since: datetime) -> int:
        """Returns how many versions were put since a moment, with a label or without."""
        pages = self._pages("list_secret_version_ids", secret, {"IncludeDeprecated": True})
        return sum(each["CreatedDate"] >= since for page in pages for each in page["Versions"])

    def names(self, prefix: str) -> Iterator[str]:
        """Yields secrets with a prefix; AWS may leave out those of the last five minutes."""
        pages = self._pages("list_secrets", None, {"Filters": [{"Key": "name", "Values": [prefix]}]})
        found = (str(each["Name"]) for page in pages for each in page["SecretList"])
        yield from (name for name in found if name.startswith(prefix))

    def create(
        self,
        secret: str,
        text: str,
        token: str,
        tags: Mapping[str, str],
        description: str = "",
        kms_key: str | None = None,
    ) -> bool:
        """Creates a secret, and waits until it can be read; returns False if the name exists."""
        about = {"Description": description[:LONGEST_DESCRIPTION_CHARS]} if description else {}
        about |= {"KmsKeyId": kms_key} if kms_key else {}
        request = {"SecretString": text, "ClientRequestToken": token, "Tags": _tags(tags), **about}
        try:
            self._call("create_secret", None, {"Name": secret, **request}, subject=secret)
        except _ExistsError:
            return False
        self.until_seen(secret, lambda: bool(self.read(secret).id))
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

    def unlabel_previous(self, secret: str, current: str) -> None:
        """Removes AWSPREVIOUS, under which AWS leaves the old text readable, and waits until it is seen to be gone.

        Args:
            current: the version that is known to have AWSCURRENT: no answer that does not show it there is relied on.
        """

        def is_gone() -> bool:
            labels = self.describe(secret).labels
            previous = [version for version, of_it in labels.items() if PREVIOUS in of_it]
            for version in previous:
                self.take_off(secret, PREVIOUS, version)
            return not previous and CURRENT in labels.get(current, ())

        self.until_seen(secret, is_gone)

    def until_seen(self, secret: str, is_seen: Callable[[], bool]) -> None:
        """Waits until AWS's answers show a change.

        Raises:
            KeyStoreUnavailableError: they did not in time.
        """
        for _ in attempts(self._clock, pause_seconds=PAUSE_SECONDS, patience_seconds=PATIENCE_SECONDS):
            with suppress(MissingSecretError):  # what was created just now
                if is_seen():
                    return
        raise KeyStoreUnavailableError(
            f"AWS accepted a change of secret {secret}, but does not show it after {PATIENCE_SECONDS:.0f} s, or "
            "it was changed again; wait a minute, then run this again"
        )

    def tag(self, secret: str, tags: Mapping[str, str]) -> None:
        """Sets tags, and leaves the others unchanged."""
        self._call("tag_resource", secret, {"Tags": _tags(tags)})

    def set_description(self, secret: str, description: str) -> None:
        """Sets a secret's description for people; its text and its versions do not change."""
        self._call("update_secret", secret, {"Description": description[:LONGEST_DESCRIPTION_CHARS]})

    def set_kms_key(self, secret: str, kms_key: str | None) -> None:
        """Encrypts a secret under another KMS key; None: AWS's own."""
        self._call("update_secret", secret, {"KmsKeyId": kms_key or "alias/aws/secretsmanager"})

    def untag(self, secret: str, name: str) -> None:
        """Removes a tag; repeating it changes nothing."""
        self._call("untag_resource", secret, {"TagKeys": [name]})

    def _pages(self, operation: str, secret: str | None, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yields each page of a list; botocore has a paginator for one of the two alone."""
        token: dict[str, str] = {}
        while True:
            page = self._call(operation, secret, {**request, **token})
            yield page
            if not page.get("NextToken"):
                return
            token = {"NextToken": str(page["NextToken"])}

    def _call(
        self, operation: str, secret: str | None, request: Mapping[str, Any] | None = None, *, subject: str = ""
    ) -> Mapping[str, Any]:
        named = {"SecretId": secret} if secret else {}
        with _failing_plainly(operation, secret or subject or "the archive"):
            answer: Mapping[str, Any] = getattr(self._client, operation)(**named, **(request or {}))
            return answer

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401
        return aws.client(
            "secretsmanager", region_name=self._region_name, endpoint_url=self._endpoint_url, config=_CONFIG
        )


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
    except aws.FAILURES as error:
        failure = KeyStoreUnavailableError(
            f"AWS Secrets Manager cannot be reached for {secret} ({aws.code_of(error)}); check network, region and "
            "credentials, and try again"
        )
    else:
        return
    raise failure from None


def _refusal(operation: str, secret: str, error: ClientError) -> KeyStoreError:
    code = aws.code_of(error)
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


def request_token(*parts: str) -> str:
    """Derives a client request token from the request. It reveals nothing of keys, which have 256 random bits."""
    return str(UUID(bytes=hashlib.sha256("\n".join(parts).encode()).digest()[:16]))
