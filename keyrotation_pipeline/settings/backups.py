"""Defines the sections about backups and recovery."""

import os
from typing import Self

from pydantic import model_validator

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.regular_files import read_bytes
from keyrotation_pipeline.settings.values import Endpoint, Positive, Section, SettingPath, Text


class S3Settings(Section):
    """`[backup.s3]`: a bucket; credentials as boto3 finds them.

    Args:
        bucket: it must be versioned.
        prefix: of every object.
        region_name, endpoint_url: as boto3 takes them.
        storage_class: of every object.
        object_lock_days: where the bucket has object lock.
    """

    bucket: Text
    prefix: str = "encryption-keys/"
    region_name: Text | None = None
    endpoint_url: Endpoint | None = None
    storage_class: Text = "STANDARD_IA"
    object_lock_days: Positive = 35


class BackupSettings(Section):
    """`[backup]`: where encrypted copies of keys and database are stored, and who can read them.

    Args:
        directory: the local one; default ``backups`` in the home.
        recipients: OpenPGP certificates; default: those of the officers. Name two: losing one must not lose all.
        keep_local_days: older local files are removed once newer ones are verified everywhere.
        postgres_binaries: the directory of `pg_dump` and `pg_restore`; default: those of the server's own version on
            this host, else those of the embedded PostgreSQL.
    """

    directory: SettingPath | None = None
    recipients: tuple[SettingPath, ...] = ()
    keep_local_days: Positive = 7
    postgres_binaries: SettingPath | None = None
    s3: S3Settings | None = None


class SecretPlace(Section):
    """The place of a secret that is read only when it is used: it may be on a medium that is rarely connected."""

    env: Text | None = None
    file: SettingPath | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ConfigurationError(
                '[recovery] says where a secret is by { env = "NAME" } or { file = "PATH" }; write one of them'
            )
        return self

    def read(self, setting: str, otherwise: str = "name another") -> bytes:
        """Reads the secret.

        Args:
            otherwise: what can be done where the file is not to be: it is mounted in some Pods and not in others.

        Raises:
            ConfigurationError: it is not there; names `setting` and the place.
        """
        if self.env is not None:
            if not (found := os.environ.get(self.env)):
                raise ConfigurationError(
                    f"{setting} names the environment variable {self.env}, which is not set; set it"
                )
            return found.encode()
        try:
            return read_bytes(self.file or "")
        except OSError:
            raise ConfigurationError(
                f"{setting} names the file {self.file}, which cannot be read here; put it there as a regular file, or "
                f"{otherwise}"
            ) from None


class RecoverySettings(Section):
    """`[recovery]`: the key that decrypts backups in recovery tests, and how fast and how fresh a recovery must be.

    Args:
        secret_key: an exported OpenPGP secret key that can decrypt and nothing else.
        passphrase: of that key.
        gnupg_home: instead of `secret_key`: a GnuPG home whose agent or smartcard decrypts.
        rehearse_nightly: rehearse the next rotation on every nightly backup, with that key.
        superuser_extensions: third-party extensions that a recovery test's server lets its superuser create.
        longest_restore_seconds: limit for restoring a dump, and for any one statement of a test or rehearsal on it,
            since SQL in the dump may never end.
        rto_seconds: recovery time objective.
        rpo_seconds: recovery point objective: how old the newest backup may be.
    """

    secret_key: SecretPlace | None = None
    passphrase: SecretPlace | None = None
    gnupg_home: SettingPath | None = None
    rehearse_nightly: bool = False
    superuser_extensions: tuple[Text, ...] = ()
    longest_restore_seconds: Positive = 12 * 3600
    rto_seconds: Positive = 4 * 3600
    rpo_seconds: Positive = 25 * 3600

    @property
    def names_a_key(self) -> bool:
        """Whether backups can be opened without an officer."""
        return self.secret_key is not None or self.gnupg_home is not None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.secret_key is not None and self.gnupg_home is not None:
            raise ConfigurationError("[recovery] names both secret_key and gnupg_home; remove one")
        if self.rehearse_nightly and not self.names_a_key:
            raise ConfigurationError(
                "[recovery] rehearse_nightly needs a key that decrypts backups; name it in secret_key or gnupg_home"
            )
        return self
