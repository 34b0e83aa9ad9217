"""Every expected failure, each saying what to do next.

A message is one plain sentence, names things (a table, a version, a request) and never holds a key, a plaintext or
a ciphertext. The command line prints the message alone; anything that is not a `KeyRotationError` is a defect.
"""

from typing import Any


class KeyRotationError(Exception):
    """Base of every failure that a user can cause, meet or mend."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Travels between processes by its sentence: some subclasses build theirs from other arguments.
        return restored, (type(self), self.args, self.__dict__)


def restored(kind: type[KeyRotationError], args: tuple[object, ...], attributes: dict[str, object]) -> KeyRotationError:
    """An error as it was when another process pickled it."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


# --- what applications meet -----------------------------------------------------------------------------------------


class MalformedCiphertextError(KeyRotationError):
    """A stored value does not follow the value grammar."""

    def __init__(self) -> None:
        super().__init__(
            "a stored value is not of the form v<N>:<nonce>:<ciphertext>; run `keyrotation inventory` to find it"
        )


class UnknownKeyVersionError(KeyRotationError):
    """A ciphertext names a key version that the ring does not hold."""

    def __init__(self, version: str) -> None:
        self.version = version
        super().__init__(
            f"key version {version} is not in the key ring; restore it to the key store, then reload the key ring"
        )


class DecryptionError(KeyRotationError):
    """A ciphertext fails authentication under the key that it names."""

    def __init__(self, version: str) -> None:
        self.version = version
        super().__init__(
            f"a value under key version {version} fails authentication (damaged, or another key); "
            "run `keyrotation verify` to find it"
        )


class PlaintextEncodingError(KeyRotationError):
    """A text that UTF-8 cannot carry, or a value that decrypts to something else than UTF-8."""


class PlaintextTypeError(KeyRotationError):
    """Something other than a string was to be encrypted, or read as a stored value."""


class EncryptedComparisonError(KeyRotationError):
    """A query compares or sorts an encrypted column, which can never find what is meant."""


class EncryptedExpressionError(KeyRotationError):
    """A statement has the database compute with, or into, an encrypted column, of which it sees only ciphertext."""


class KeyRingUnavailableError(KeyRotationError):
    """The application's key-ring provider failed."""


class InvalidKeyError(KeyRotationError):
    """Key material, a version name or a key ring that cannot be right."""


class UnencryptedValueError(KeyRotationError):
    """A column of encrypted values holds one that is not encrypted."""

    def __init__(self) -> None:
        super().__init__(
            "a value in an encrypted column is not encrypted; encrypt it, or read it with "
            "EncryptedType(legacy='passthrough')"
        )


# --- what operators meet --------------------------------------------------------------------------------------------


class ConfigurationError(KeyRotationError):
    """`keyrotation.toml` or a variable that it names is missing or wrong."""


class HomeError(KeyRotationError):
    """KEYROTATION_HOME is missing, is not a demo's, or cannot be used."""


class DatabaseUnavailableError(KeyRotationError):
    """The database cannot be reached, or the connection was lost."""


class PreflightError(KeyRotationError):
    """The database or a table cannot be rotated as it is; the message says what to change."""


class ApprovalError(KeyRotationError):
    """A signature, a roster or a request that does not authorise what is asked."""


class RequestError(KeyRotationError):
    """A request that cannot be opened, found, cancelled or continued."""


class LaunchError(KeyRotationError):
    """A run of Dagster was launched with something that decides."""


class OutOfOrderError(KeyRotationError):
    """A step was asked for that the rotation is not at."""


class KeyStoreError(KeyRotationError):
    """The key store does not take a change, or one of the kinds below."""


class KeyStoreUnavailableError(KeyStoreError):
    """The key store does not answer or does not let us in; nothing is known to be wrong with the keys. Try again."""


class KeyStoreConflictError(KeyStoreError):
    """The key store was changed between reading and changing it; nothing was changed. Read and decide again."""


class KeyStoreDamagedError(KeyStoreError):
    """The key store is lost, or holds something else than the keys that must be there. Stop until it is mended."""


class WrongKeyError(KeyStoreError):
    """A key is missing, or is not the one that the values under its version were encrypted under."""


class BackupError(KeyRotationError):
    """A backup cannot be written or checked."""


class ManifestError(BackupError):
    """A backup's manifest is damaged, or was not written by this program."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"the manifest {name} is damaged ({reason}); use another copy or an older backup")


class ManifestSchemaError(ManifestError):
    """A backup's manifest has a schema that this version does not know."""

    def __init__(self, name: str) -> None:
        self.name = name
        BackupError.__init__(
            self,
            f"the manifest {name} has a schema that this version of keyrotation does not read; use the version that "
            "wrote it",
        )


class FutureBackupError(ManifestError):
    """A backup says that it was made in the future."""

    def __init__(self, name: str, now: str) -> None:
        self.name = name
        BackupError.__init__(
            self,
            f"the manifest {name} is of the future, since this machine's clock says {now}; set the clock, or remove "
            "the set if it was made while a clock was wrong",
        )


class RecoveryError(KeyRotationError):
    """Something does not come back from a backup as it was; each way to fail is a subclass with its own sentence."""


class DamagedBackupError(RecoveryError):
    """A backup file is truncated, corrupt, or holds something else than its manifest says."""


class UnsignedBackupError(RecoveryError):
    """A backup is not known to be ours: its manifest is not signed by the pipeline, or is another than was recorded."""

    def __init__(self, name: str, place: str, reason: str) -> None:
        super().__init__(
            f"the manifest {name} in {place} {reason}, so the set may be forged and is not touched; find out who wrote "
            "it, and use another set. In a disaster an officer may vouch for it: `gpg -ab` over the manifest, then "
            "--trust-unsigned FILE"
        )


class WrongRecipientError(RecoveryError):
    """A backup is not encrypted to the recovery key at hand."""


class RecoveryKeyError(RecoveryError):
    """There is no recovery key, it cannot be used, or it is one that must not be on this machine."""


class SigningRecoveryKeyError(RecoveryKeyError):
    """The recovery key that stays on this machine can sign, or is an officer's."""


class MissingVersionError(RecoveryError):
    """A value or a kept dump needs a key version of which no backup is there."""


class FingerprintMismatchError(RecoveryError):
    """A backup holds another key than the one that was registered."""


class UnreadableSampleError(RecoveryError):
    """A stored value does not decrypt with the recovered key."""


class LostRowsError(RecoveryError):
    """A restored table is empty, or short of rows or values that it held."""


class IncompleteRestoreError(RecoveryError):
    """A dump cannot be restored whole on this host, or pg_restore could not restore all of it."""


class RestoreTimeoutError(RecoveryError):
    """A dump's own SQL did not end in the time that a restore may take."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"{name} was not restored in the {seconds:,.0f} s that [recovery] longest_restore_seconds allows, and was "
            "ended; raise that if the database is so large, else find the function, check or view in it that does not "
            "end, and use an older backup"
        )


class TimestampError(KeyRotationError):
    """A time-stamping authority gives no time stamp, or one that does not verify."""


class OvertimeError(RecoveryError):
    """A statement over a restored dump did not end in the time that a restore may take."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"{name} was restored, but a statement over it did not end in the {seconds:,.0f} s that [recovery] "
            "longest_restore_seconds allows, so its server was ended; find the function in its indexes, checks or "
            "triggers that does not end, or raise that"
        )


class RehearsalError(KeyRotationError):
    """A rehearsal found what would stop the rotation, or cannot be held."""


class BlockedError(KeyRotationError):
    """The rotation must wait for something outside it, which the message names."""


class AtWorkError(BlockedError):
    """Another process is at this very thing, and has its lock."""


class StaleWriterError(BlockedError):
    """Something still writes values under the old key version."""


class ProofError(BlockedError):
    """Evidence for retiring a key is missing; the message names table, column and count."""


class FenceError(ProofError):
    """A fence is missing, altered, younger than the proof, or did not hold: the proof must be repeated."""


class AuditError(KeyRotationError):
    """The audit chain does not verify, or does not contain an anchor."""


class OpenPGPError(KeyRotationError):
    """gpg is missing or refuses a certificate, a signature or a message."""


class IncidentError(KeyRotationError):
    """A flag or an incident that cannot be right, or that does not take what is asked."""


class AlertError(KeyRotationError):
    """A channel did not take an alert."""
