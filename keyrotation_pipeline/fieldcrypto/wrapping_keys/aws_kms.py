"""Seals keys under a symmetric key of AWS KMS, whose encryption context names home, version and fingerprint.

Source: AWS KMS API reference, Encrypt, Decrypt and DescribeKey.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from keyrotation_pipeline.errors import BrokenSealError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.fork_guard import LIBRARIES
from keyrotation_pipeline.fieldcrypto.wrapping_keys import (
    AWS_KMS,
    IMPORTED,
    Context,
    Origin,
    WrappingKeyState,
    require_same,
)

ARN = re.compile(r"arn:aws[a-z-]{0,10}:kms:([a-z]{2}[a-z0-9-]{3,30}):[0-9]{12}:key/((mrk-)?[0-9a-f-]{32,36})", re.ASCII)
_BROKEN = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_HELD = frozenset({"CiphertextBlob", "Plaintext", "KeyMetadata"})
_ORIGIN = ("Origin", "KeyManager", "MultiRegion")
_TRY_AGAIN = "wait a minute and run the same again"
_WHAT_TO_DO = {
    "AccessDeniedException": "give this role that right in the key's policy",
    "DisabledException": "enable the key with `aws kms enable-key`",
    "KMSInvalidStateException": "if it is to be deleted, run `aws kms cancel-key-deletion`",
    "NotFoundException": "that region has no such key: correct region and key",
    "ThrottlingException": _TRY_AGAIN,
    "LimitExceededException": _TRY_AGAIN,
    "KMSInternalException": _TRY_AGAIN,
    "DependencyTimeoutException": _TRY_AGAIN,
    "KeyUnavailableException": _TRY_AGAIN,
}


@dataclass(frozen=True, slots=True)
class AwsKmsKey:
    """`WrappingKey` in AWS KMS.

    Args:
        name: the key's ARN; no alias, which whoever may update it moves to another key.
        region_name: which is asked, unless the key is a multi-Region one and the process has a region (AWS_REGION);
            None: the ARN's.
        endpoint_url: as boto3 takes it.
    """

    name: str
    region_name: str | None = None
    endpoint_url: str | None = None

    @classmethod
    def of(cls, arn: str) -> "AwsKmsKey":
        """Returns the key that a sealed text names, as the environment reaches it.

        Raises:
            BrokenSealError: the text names none.
        """
        if ARN.fullmatch(arn) is None:
            raise BrokenSealError("is sealed by aws-kms and names no key by its ARN")
        return cls(arn)

    @property
    def kind(self) -> str:
        """See `WrappingKey.kind`."""
        return AWS_KMS

    @property
    def asked(self) -> str:
        """The ARN in the region that is asked."""
        parts = self.name.split(":")
        return ":".join([*parts[:3], self._region, *parts[4:]])

    @property
    def _region(self) -> str:
        own = _own_region() if ":key/mrk-" in self.name else None
        return own or self.region_name or self.name.split(":")[3]

    def encrypt(self, plaintext: bytes, context: Context) -> bytes:
        """See `WrappingKey.encrypt`."""
        answer = self._call("Encrypt", Plaintext=plaintext, EncryptionContext=dict(context))
        ciphertext = bytes(answer["CiphertextBlob"])
        require_same(self.decrypt(ciphertext, context), plaintext)
        return ciphertext

    def decrypt(self, ciphertext: bytes, context: Context) -> bytes:
        """See `WrappingKey.decrypt`."""
        return bytes(self._call("Decrypt", CiphertextBlob=ciphertext, EncryptionContext=dict(context))["Plaintext"])

    def state(self, *, alone: bool) -> WrappingKeyState:
        """See `WrappingKey.state`."""
        about = self._call("DescribeKey")["KeyMetadata"]
        said = {name: about[name] for name in _ORIGIN if name in about}
        exposed = [IMPORTED] if said.get("Origin") == "EXTERNAL" else []
        return WrappingKeyState(tuple(self._problems(about, alone=alone)), Origin.of(said, exposed))

    def _problems(self, about: Mapping[str, Any], *, alone: bool) -> Iterator[str]:
        state, subject = about.get("KeyState"), f"AWS KMS key {self.asked}"
        if state == "PendingDeletion":
            at = about.get("DeletionDate")
            when = f"on {at:%Y-%m-%d}" if isinstance(at, datetime) else "soon"
            yield f"{subject} is deleted {when}, and every key sealed by it; run `aws kms cancel-key-deletion`"
        elif state != "Enabled":
            yield f"{subject} is in the state {state}; have it enabled: `aws kms enable-key`"
        if about.get("KeySpec", about.get("CustomerMasterKeySpec")) != "SYMMETRIC_DEFAULT":
            yield f"{subject} is not symmetric; name one of the kind SYMMETRIC_DEFAULT"
        if alone and not (about.get("MultiRegionConfiguration") or {}).get("ReplicaKeys"):
            yield f'{subject} has no replica, and recovery = "sealed" needs one: `aws kms replicate-key`'

    def _call(self, operation: str, **request: Any) -> Mapping[str, Any]:  # noqa: ANN401
        """Drops the text of AWS's errors and their causes: they may repeat what was sent."""
        with LIBRARIES:
            _require_boto3()
            from botocore import xform_name  # noqa: PLC0415  see `_require_boto3`
            from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            with LIBRARIES:  # which imports, too
                client, asked = _client(self._region, self.endpoint_url), self.asked
            answer: Mapping[str, Any] = getattr(client, xform_name(operation))(KeyId=asked, **request)
            if answer.keys().isdisjoint(_HELD):
                failure: Exception = self._unreachable(operation, "the answer is not from AWS")
            else:
                return answer
        except ClientError as error:
            failure = self._refusal(operation, str(error.response.get("Error", {}).get("Code", "unknown")))
        # An address that is none, and an answer that is not base64, are a ValueError.
        except (BotoCoreError, ValueError) as error:
            failure = self._unreachable(operation, type(error).__name__)
        raise failure from None

    def _refusal(self, operation: str, code: str) -> Exception:
        if code in _BROKEN:
            return BrokenSealError(
                f"does not open under {self.name} ({code}): it was changed or moved; restore that key"
            )
        do = _WHAT_TO_DO.get(code, "find out why, and run the same again")
        return KeyStoreUnavailableError(f"AWS KMS refuses {operation} with {self.asked} ({code}); {do}")

    def _unreachable(self, operation: str, why: str) -> KeyStoreUnavailableError:
        return KeyStoreUnavailableError(
            f"AWS KMS cannot be reached for {operation} with {self.asked} ({why}); check network and credentials"
        )


def _require_boto3() -> None:
    try:
        import boto3  # noqa: F401, PLC0415  takes a second, and only an application with sealed keys has it
    except ImportError:
        raise KeyStoreUnavailableError(
            "the keys are sealed by AWS KMS, and boto3 is missing; install keyrotation-pipeline[kms]"
        ) from None


@cache
def _own_region() -> str | None:
    import boto3  # noqa: PLC0415  see `_require_boto3`
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        found: str | None = boto3.session.Session().region_name
    except BotoCoreError:  # such as a profile that does not exist, which the call itself meets
        return None
    return found


@cache
def _client(region_name: str, endpoint_url: str | None) -> Any:  # noqa: ANN401  boto3 makes its methods at run time
    import encodings.idna  # noqa: F401, PLC0415  which connecting imports

    import boto3  # noqa: PLC0415  see `_require_boto3`
    from botocore.config import Config  # noqa: PLC0415

    config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    # A session of its own: they are not thread-safe, and a client is.
    return boto3.session.Session().client("kms", region_name=region_name, endpoint_url=endpoint_url, config=config)


# The child of a fork would share the connections of its parent.
os.register_at_fork(after_in_child=_client.cache_clear)
