"""Defines `[keys]` and its sections: where the keys are kept."""

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.wrapping_keys import AWS_KMS, PKCS11
from keyrotation_pipeline.fieldcrypto.wrapping_keys.aws_kms import ARN
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import URI, uri_of
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.settings.values import Endpoint, Section, SettingPath, Text, secret_in

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


def _wrapping_key(text: str) -> str:
    return text if URI.fullmatch(text) else _arn(text)


def _label(text: str) -> str:
    if is_hidden(text) or len(text.encode()) > _LABEL_BYTES:
        raise ConfigurationError(f"[keys.seal] names a label of over {_LABEL_BYTES} bytes, or a hidden character in it")
    return text


KeyArn = Annotated[Text, AfterValidator(_arn)]
WrappingKeyName = Annotated[Text, AfterValidator(_wrapping_key)]
Label = Annotated[Text, AfterValidator(_label)]
_LABEL_BYTES = 32
# The settings that each kind needs, and those that it may have.
_SETTINGS = {
    AWS_KMS: (("key_id",), ("region_name", "endpoint_url")),
    PKCS11: (("module", "token_label", "key_label", "pin"), ("replica_token_label",)),
}


class SealSettings(Section):
    """`[keys.seal]`: the key of a KMS or a PKCS#11 token under which keys lie in the store, and applications hold them.

    Args:
        kind: of the key.
        key_id: of AWS KMS: its ARN.
        region_name, endpoint_url: of AWS KMS: as boto3 takes them; default: the ARN's region. A multi-Region key is
            asked in that of the process.
        module: of a token: its library.
        token_label, key_label: of a token, and of the AES key in it.
        pin: of a token.
        replica_token_label: of a second token with the key and the same PIN.
        earlier: ARNs, and ``pkcs11:token=LABEL;object=LABEL``, of keys that sealed what is still stored, until
            `keyrotation reseal`.
        recovery: ``officers``: backups hold keys that the officers' certificates open, so that recovery works without
            the wrapping key, and its end destroys nothing; ``sealed``: backups hold sealed keys only. Officers sign it.
    """

    kind: Literal["aws-kms", "pkcs11"]
    key_id: KeyArn | None = None
    region_name: Text | None = None
    endpoint_url: Endpoint | None = None
    module: SettingPath | None = None
    token_label: Label | None = None
    key_label: Label | None = None
    pin: Annotated[SecretStr, secret_in("keys.seal")] | None = None
    replica_token_label: Label | None = None
    earlier: tuple[WrappingKeyName, ...] = ()
    recovery: Literal["officers", "sealed"] = "officers"

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        needed, allowed = _SETTINGS[self.kind]
        for name in needed:
            if getattr(self, name) is None:
                raise ConfigurationError(f'[keys.seal] kind = "{self.kind}" lacks {name!r}; add it')
        for name in (each for of_kind in _SETTINGS.values() for each in (*of_kind[0], *of_kind[1])):
            if name not in {*needed, *allowed} and getattr(self, name) is not None:
                raise ConfigurationError(f'[keys.seal] kind = "{self.kind}" has no setting {name!r}; leave it out')
        return self

    @property
    def name(self) -> str:
        """The wrapping key's name in sealed texts."""
        return self.key_id or uri_of(self.token_label or "", self.key_label or "")


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
