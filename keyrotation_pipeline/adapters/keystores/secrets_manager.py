"""The calls to AWS Secrets Manager, each failing with one of our sentences.

Credentials come from where boto3 looks for them. Retries are botocore's adaptive ones, bounded; each goes out with the
same client request token, by which AWS knows that it is the same request.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError

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
