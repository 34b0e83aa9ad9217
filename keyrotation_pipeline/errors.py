"""Every expected failure, each saying what to do next.

A message is one plain sentence, names things (a table, a version, a request) and never holds a key, a plaintext or
a ciphertext. The command line prints the message alone; anything that is not a `KeyRotationError` is a defect.
"""

from typing import Any


class KeyRotationError(Exception):
    """Base of every failure that a user can cause, meet or fix."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled with its message: some subclasses build theirs from other arguments.
        return restored, (type(self), self.args, self.__dict__)


def restored(kind: type[KeyRotationError], args: tuple[object, ...], attributes: dict[str, object]) -> KeyRotationError:
    """Restores an error that another process pickled."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


# --- raised in applications -----------------------------------------------------------------------------------------


class MalformedCiphertextError(KeyRotationError):
    """A stored value does not follow the value grammar."""

    def __init__(self) -> None:
        super().__init__(
            "a stored value is not of the form v<N>:<nonce>:<ciphertext>; run `keyrotation inventory` to find it"
        )


class DeterministicValueError(KeyRotationError):
    """A declared column holds values that queries look for, and the configuration does not say so."""

    def __init__(self) -> None:
        super().__init__(
            "a declared column holds deterministic values, which queries would no longer find; set [format] "
            "deterministic = true where their key is, or leave the column out"
        )


class NothingEncryptedYetError(KeyRotationError):
    """A column encrypts at once, and the primary is still plaintext."""

    def __init__(self) -> None:
        super().__init__(
            "the primary is plaintext, under which nothing is encrypted; give the column encrypted_from=1 until its "
            "rotation is over"
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
    """A text cannot be encoded as UTF-8, or a value does not decrypt to UTF-8."""


class AlreadyEncryptedError(KeyRotationError):
    """A text to encrypt is itself a stored value, which no application would decrypt twice."""

    def __init__(self) -> None:
        super().__init__(
            "a text to encrypt is an encrypted value already; read it through the column's type, and encrypt what it "
            "decrypts to"
        )


class PlaintextTypeError(KeyRotationError):
    """A value to encrypt, or a stored value, is not a string."""


class EncryptedComparisonError(KeyRotationError):
    """A query compares or sorts an encrypted column, which never gives the intended result."""


class EncryptedExpressionError(KeyRotationError):
    """A statement computes with an encrypted column, or into one, in the database, which sees only ciphertext."""


class KeyRingUnavailableError(KeyRotationError):
    """The application's key-ring provider failed."""


class InvalidKeyError(KeyRotationError):
    """Key material, a version name or a key ring is invalid."""


class BrokenSealError(InvalidKeyError):
    """A sealed key can never be opened as what it is stored as; the message goes on from the name of its place."""


class InvalidLayoutError(KeyRotationError):
    """A declared layout of values is not one, or is ambiguous."""


class InvalidBindingError(KeyRotationError):
    """What a value is bound to is not known, or cannot be written unambiguously."""


class UnencryptedValueError(KeyRotationError):
    """An encrypted column holds a value that is not encrypted."""

    def __init__(self) -> None:
        super().__init__(
            "a value in an encrypted column is not encrypted; encrypt it, or read it with "
            "EncryptedType(legacy='passthrough')"
        )


class LegacyValueError(KeyRotationError):
    """A column that comes from another library holds what neither a key of ours nor the former one opens."""

    def __init__(self) -> None:
        super().__init__(
            "a value is neither encrypted under a key version nor opened by its column's LegacyKey; compare format, "
            "key and options with the former library"
        )


# --- shown to operators ---------------------------------------------------------------------------------------------


class ConfigurationError(KeyRotationError):
    """`keyrotation.toml` or a variable that it names is missing or wrong."""


class HomeError(KeyRotationError):
    """KEYROTATION_HOME is missing, is not a demo's, or cannot be used."""


class DatabaseUnavailableError(KeyRotationError):
    """The database cannot be reached, or the connection was lost."""


class MemberUnavailableError(KeyRotationError):
    """A member of a fleet cannot be reached or used, which keeps the others from nothing."""


class PreflightError(KeyRotationError):
    """The database or a table cannot be rotated in its present state; the message says what to change."""


class CopyAheadError(PreflightError):
    """The copy of the audit in a member of a fleet holds events that the audit does not."""


class ApprovalError(KeyRotationError):
    """A signature, a roster or a request that does not authorise the requested action."""


class RequestError(KeyRotationError):
    """A request that cannot be opened, found, cancelled or continued."""


class DatabaseExistsError(RequestError):
    """There is a database of the name that a new one was to get."""


class LaunchError(KeyRotationError):
    """A Dagster run was launched with input that would decide something, which no launch may do."""


class OutOfOrderError(KeyRotationError):
    """A step was requested that is not the rotation's current one."""


class KeyStoreError(KeyRotationError):
    """The key store rejects a change; the subclasses are other failures of it."""


class MissingSourceKeyError(KeyStoreError):
    """A column comes from another library, whose key was not imported."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the key store holds no key imported from {name}; set {name} and run `keyrotation init`, or, once no such "
            "value is left, remove `from`"
        )


class KeyStoreUnavailableError(KeyStoreError):
    """The key store does not answer or denies access; nothing is known to be wrong with the keys. Try again."""


class KeyStoreConflictError(KeyStoreError):
    """The key store was changed between reading and changing it; nothing was changed. Read and decide again."""


class KeyStoreDamagedError(KeyStoreError):
    """The key store is lost, or does not hold the keys that must be there. Stop until it is fixed."""


class NotOurKeyStoreError(KeyStoreError):
    """The key store is another home's, was changed by another copy of this one, or does not say whose it is."""


class WrongKeyError(KeyStoreError):
    """A key is missing, or is not the one that the values under its version were encrypted under."""


class BackupError(KeyRotationError):
    """A backup cannot be written or checked."""


class AbsentBackupError(BackupError):
    """A file is not in a place of backups; any other `BackupError` of a reader says that nobody knows what is in it."""


class VersionRightError(BackupError):
    """The account may not read the versions of a deleted or overwritten file, so nobody knows what it was."""


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


class MissingFormatError(ManifestSchemaError):
    """A backup holds values in a format of a package that is not installed here."""

    def __init__(self, name: str, value_format: str, package: str) -> None:
        self.name = name
        BackupError.__init__(
            self,
            f"the manifest {name} names values in the format {value_format}, which the package {package} brings; "
            "install that",
        )


class FutureBackupError(ManifestError):
    """A backup says that it was made in the future."""

    def __init__(self, name: str, now: str) -> None:
        self.name = name
        BackupError.__init__(
            self,
            f"the manifest {name} is dated in the future: this machine's clock says {now}; set the clock, or remove a "
            "set made while one was wrong",
        )


class RecoveryError(KeyRotationError):
    """Something cannot be restored from a backup unchanged; each cause is a subclass with its own message."""


class DamagedBackupError(RecoveryError):
    """A backup file is truncated, corrupt, or differs from its manifest."""


class UnsignedBackupError(RecoveryError):
    """A backup is not known to be ours: the pipeline did not sign its manifest, or the audit records another."""

    def __init__(self, name: str, place: str, reason: str) -> None:
        super().__init__(
            f"the manifest {name} in {place} {reason}, so the set may be forged; use another, or, if an officer "
            "vouches for it, `--trust-unsigned FILE`"
        )


class WrongRecipientError(RecoveryError):
    """A backup is not encrypted to the recovery key that was given."""


class RecoveryKeyError(RecoveryError):
    """There is no recovery key, it cannot be used, or it is one that must not be on this machine."""


class SigningRecoveryKeyError(RecoveryKeyError):
    """The recovery key that stays on this machine can sign, or is an officer's."""


class MissingVersionError(RecoveryError):
    """A value or a stored dump needs a key version that no backup holds."""


class FingerprintMismatchError(RecoveryError):
    """A backup holds a different key from the registered one."""


class UndecryptableError(RecoveryError):
    """Stored values do not decrypt with the recovered keys."""


class LostRowsError(RecoveryError):
    """A restored table is empty, or is missing rows or values."""


class IncompleteRestoreError(RecoveryError):
    """A dump cannot be restored completely on this host, or pg_restore could not restore all of it."""


class RestoreTimeoutError(RecoveryError):
    """A dump's own SQL did not finish in the time allowed for a restore."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"{name} was not restored within {seconds:,.0f} s; raise [recovery] longest_restore_seconds, or use a "
            "backup without the function or view that does not end"
        )


class TimestampError(KeyRotationError):
    """A time-stamping authority returns no time stamp, or one that does not verify."""


class WitnessError(KeyRotationError):
    """A witness does not sign a checkpoint of the audit, or its signature does not verify."""


class WitnessConflictError(WitnessError):
    """A witness has signed another history than the audit has now."""

    def __init__(self, name: str, signed: int, here: int) -> None:
        self.signed = signed
        if signed > here:
            sentence = f"{name} has signed {signed:,} events of this audit, which has {here:,}"
        else:
            sentence = f"{name} has signed {signed:,} events of this audit, which are not the first {signed:,} here"
        super().__init__(f"{sentence}: it was cut, restored or rewritten; run `keyrotation reconcile`")


class RestoredQueryTimeoutError(RecoveryError):
    """A statement over a restored dump did not finish in the time allowed for a restore."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"{name} was restored, but a statement over it took over {seconds:,.0f} s; raise [recovery] "
            "longest_restore_seconds, or find the function in its indexes or triggers"
        )


class RehearsalError(KeyRotationError):
    """A rehearsal found what would stop the rotation, or cannot be run."""


class BlockedError(KeyRotationError):
    """The rotation must wait for something outside it, which the message names."""


class PausedError(BlockedError):
    """Somebody paused the rotation: nothing failed."""


class RolloutPendingError(BlockedError):
    """Instances, or an officer who confirms a rollout, were waited for in vain: nothing failed."""


class AtWorkError(BlockedError):
    """Another process is doing the same thing and holds its lock."""


class StaleWriterError(BlockedError):
    """Something still writes values under the old key version."""


class ProofError(BlockedError):
    """Evidence for retiring a key is missing; the message names table, column and count."""


class FenceError(ProofError):
    """A fence is missing, altered, younger than the proof, or did not hold: the proof must be repeated."""


class DefinitionChangedError(FenceError):
    """What a fence rests on was changed since the proof, perhaps by something else than a change of the fence."""


class AuditError(KeyRotationError):
    """The audit chain does not verify, or does not contain an anchor."""


class OpenPGPError(KeyRotationError):
    """gpg is missing or refuses a certificate, a signature or a message."""


class OpenSSHError(KeyRotationError):
    """ssh-keygen is missing, cannot work, or refuses a public key."""


class IncidentError(KeyRotationError):
    """A flag or an incident is invalid, or does not allow the requested change."""


class AlertError(KeyRotationError):
    """A channel did not accept an alert."""
