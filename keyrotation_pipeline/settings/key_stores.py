"""Defines `[keys]` and its sections: where the keys are kept."""

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.wrapping_keys.aws_kms import ARN
from keyrotation_pipeline.settings.values import Endpoint, Section, SettingPath, Text

_KUBERNETES_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class FileStoreSettings(Section):
    """`[keys.file]`: a directory with one file per version.

    Args:
        directory: default ``keys`` in the home.
    """

    directory: SettingPath | None = None


class AwsStoreSettings(Section):
    """`[keys.aws-secrets-manager]`: the secret, and how archived ones are named.

    Args:
        secret_id: the secret that applications read.
        archive_prefix: of the names of archived keys; default: `secret_id` and a hyphen.
        region_name, endpoint_url: as boto3 takes them.
    """

    secret_id: Text
    archive_prefix: Text | None = None
    region_name: Text | None = None
    endpoint_url: Endpoint | None = None


def kubernetes_name(text: str) -> str:
    """Checks the name of an object or a namespace."""
    if not _KUBERNETES_NAME.fullmatch(text):
        raise ConfigurationError(f"{text!r} cannot be a name in Kubernetes; write lower-case letters, digits, - and .")
    return text


KubernetesName = Annotated[Text, AfterValidator(kubernetes_name)]


class AwsArchiveSettings(Section):
    """`[keys.kubernetes-secret.aws-archive]`: archives keys in AWS, instead of in a second Secret.

    Args:
        prefix: of the names of archived keys.
        region_name, endpoint_url: as boto3 takes them.
    """

    prefix: Text
    region_name: Text | None = None
    endpoint_url: Endpoint | None = None


class KubernetesStoreSettings(Section):
    """`[keys.kubernetes-secret]`: the Secret, and the one for archived keys, which may be in another namespace.

    With `[keys.kubernetes-secret.aws-archive]` there is no second Secret: archived keys are in AWS Secrets Manager.

    Args:
        namespace: of the Secret that Pods get.
        name: of that Secret.
        archive_name: of the Secret for archived keys; default: `name` and ``-archive``.
        archive_namespace: of that one; default: `namespace`.
        kubeconfig, context: as kubectl takes them; without both: in the cluster, else as KUBECONFIG says.
    """

    namespace: KubernetesName
    name: KubernetesName
    archive_name: KubernetesName | None = None
    archive_namespace: KubernetesName | None = None
    aws_archive: AwsArchiveSettings | None = Field(default=None, alias="aws-archive")
    kubeconfig: SettingPath | None = None
    context: Text | None = None

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.archive == (self.namespace, self.name):
            raise ConfigurationError(
                "[keys.kubernetes-secret] archive_name is that of the Secret which applications get; name another"
            )
        if self.aws_archive is not None and (self.archive_name or self.archive_namespace):
            raise ConfigurationError(
                "[keys.kubernetes-secret] names two archives; leave out archive_name and archive_namespace, or "
                "[keys.kubernetes-secret.aws-archive]"
            )
        return self

    @property
    def archive(self) -> tuple[str, str]:
        """Namespace and name of the archive."""
        return self.archive_namespace or self.namespace, self.archive_name or f"{self.name}-archive"


def _arn(text: str) -> str:
    if ARN.fullmatch(text) is None:
        raise ConfigurationError(
            "[keys.seal] names a key by something else than its ARN; write arn:aws:kms:REGION:ACCOUNT:key/ID (an alias "
            "can be moved to another key)"
        )
    return text


KeyArn = Annotated[Text, AfterValidator(_arn)]


class SealSettings(Section):
    """`[keys.seal]`: the key of a KMS under which keys lie in the store, and applications hold them.

    Args:
        kind: of the key.
        key_id: its ARN.
        earlier: ARNs of keys that sealed keys which are still stored, until `keyrotation reseal`.
        recovery: ``officers``: backups hold keys that the officers' certificates open, so that recovery works without
            the KMS, and its key's end destroys nothing; ``sealed``: backups hold sealed keys only. Officers sign it.
        region_name, endpoint_url: as boto3 takes them; default: the ARN's region.
    """

    kind: Literal["aws-kms"]
    key_id: KeyArn
    earlier: tuple[KeyArn, ...] = ()
    recovery: Literal["officers", "sealed"] = "officers"
    region_name: Text | None = None
    endpoint_url: Endpoint | None = None


class KeysSettings(Section):
    """`[keys]`: the key store of the applications.

    Args:
        store: which one.
        activated_at: the day since which the key that `init` imports has been in use; else its age is unknown.
    """

    store: Literal["file", "aws-secrets-manager", "kubernetes-secret"] = "file"
    activated_at: date | None = None
    file: FileStoreSettings = FileStoreSettings()
    aws: AwsStoreSettings | None = Field(default=None, alias="aws-secrets-manager")
    kubernetes: KubernetesStoreSettings | None = Field(default=None, alias="kubernetes-secret")
    seal: SealSettings | None = None

    @model_validator(mode="after")
    def _available(self) -> Self:
        if self.store == "aws-secrets-manager" and self.aws is None:
            raise ConfigurationError(
                '[keys] store = "aws-secrets-manager" needs to know which secret; add [keys.aws-secrets-manager] '
                'with secret_id = "…"'
            )
        if self.store == "kubernetes-secret" and self.kubernetes is None:
            raise ConfigurationError(
                '[keys] store = "kubernetes-secret" needs to know which Secret; add [keys.kubernetes-secret] with '
                'namespace = "…" and name = "…"'
            )
        return self


# Entries of a key store in a service: `live_secret` in AWS, `keyring` in Kubernetes.
_OURS = re.compile(
    r"primary|compromised|v[0-9]+x?|ENCRYPTION_(MASTER_KEY|PRIMARY_VERSION|COMPROMISED_VERSIONS).*", re.IGNORECASE
)


def is_entry_of_ours(name: str) -> bool:
    """Returns whether the name of an entry is one that we write keys under."""
    return _OURS.fullmatch(name) is not None
