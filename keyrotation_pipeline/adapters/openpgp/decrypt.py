"""Decrypts backups with a private key from an ephemeral GnuPG home, an agent or a smartcard."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from keyrotation_pipeline.adapters.openpgp.certificates import Listing, listing
from keyrotation_pipeline.adapters.openpgp.runner import Status, require_room, run, streaming
from keyrotation_pipeline.adapters.secret_directories import secret_home
from keyrotation_pipeline.errors import (
    DamagedBackupError,
    KeyRotationError,
    RecoveryKeyError,
    SigningRecoveryKeyError,
    WrongRecipientError,
)
from keyrotation_pipeline.regular_files import opened

_OPTIONS = ("--trust-model", "always", "--no-auto-key-locate")
# libgpg-error: the low 16 bits of the code in `ERROR pkdecrypt_failed`, and its source in seven bits above 24.
_BAD_PASSPHRASE, _NO_SECRET_KEY, _NO_PIN_ENTRY, _CANCELLED, _NO_PASSPHRASE = 11, 17, 86, 99, 177
_OF_PIN_ENTRY = 5
# gpg-agent takes 255; a pipe holds 64 KiB before anybody reads from it.
_LONGEST_PASSPHRASE_BYTES = 1024
# The field of `IMPORT_RES` (doc/DETAILS of GnuPG) that counts the given secret keys.
_SECRET_KEYS_READ = 9


class GpgRecoveryKey:
    """`RecoveryKey` over a GnuPG home that has the secret key or can reach it.

    Args:
        home: path short enough for an agent's socket.
        passphrase: given to gpg through a pipe; None lets the agent ask, if somebody is there.
    """

    def __init__(
        self, home: Path, label: str, passphrase: bytes | None, *, ask: bool, fingerprint: str | None = None
    ) -> None:
        self._home = home
        self._label = label
        self._passphrase = passphrase
        self._ask = ask
        self._fingerprint = fingerprint

    @property
    def label(self) -> str:
        """See `RecoveryKey.label`."""
        return self._label

    @property
    def fingerprint(self) -> str | None:
        """See `RecoveryKey.fingerprint`."""
        return self._fingerprint

    def decrypt(self, name: str, message: bytes) -> bytes:
        """See `RecoveryKey.decrypt`."""
        with tempfile.TemporaryFile() as encrypted:
            encrypted.write(message)
            encrypted.seek(0)
            with self._decrypting(name, encrypted) as plaintext:
                return plaintext.read()

    @contextmanager
    def decrypting(self, name: str, path: Path) -> Iterator[IO[bytes]]:
        """See `RecoveryKey.decrypting`."""
        with opened(path) as encrypted, self._decrypting(name, encrypted) as plaintext:
            yield plaintext

    @contextmanager
    def _decrypting(self, name: str, encrypted: IO[bytes]) -> Iterator[IO[bytes]]:
        with (
            self._passphrase_pipe() as descriptors,
            streaming(
                self._home,
                [*_OPTIONS, *_passphrase_options(descriptors), "--decrypt"],
                encrypted,
                pass_fds=descriptors,
                environment=_terminal() if self._ask else {},
            ) as stream,
        ):
            # gpg says this before the first byte of output: so nobody gets content that is not encrypted to this key.
            is_for_us = _is_encrypted(stream.status_until("DECRYPTION_INFO"))
            if is_for_us:
                yield stream.output
        status = stream.status
        if status.exit_code or not (is_for_us and status.says("DECRYPTION_OKAY") and status.says("GOODMDC")):
            raise self._refusal(name, status)

    @contextmanager
    def _passphrase_pipe(self) -> Iterator[tuple[int, ...]]:
        """Yields a pipe that holds the passphrase (empty if nobody can be asked): never in an argument or a file."""
        if self._passphrase is None and self._ask:
            yield ()
            return
        if len(passphrase := self._passphrase or b"") > _LONGEST_PASSPHRASE_BYTES:
            raise RecoveryKeyError(
                f"the passphrase given for the recovery key {self._label} has {len(passphrase):,} bytes, which no "
                "passphrase has; correct [recovery] passphrase"
            )
        reading, writing = os.pipe()
        try:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(passphrase + b"\n")
            yield (reading,)
        finally:
            os.close(reading)

    def _refusal(self, name: str, status: Status) -> KeyRotationError:
        codes = {int(code) for where, code, *_ in status.all("ERROR") if where == "pkdecrypt_failed"}
        reasons, sources = {code & 0xFFFF for code in codes}, {code >> 24 & 0x7F for code in codes}
        if _BAD_PASSPHRASE in reasons or status.says("MISSING_PASSPHRASE"):
            return RecoveryKeyError(
                f"the passphrase does not open the recovery key {self._label}; give the right one, "
                "or correct [recovery] passphrase"
            )
        if _NO_PASSPHRASE in reasons:
            return RecoveryKeyError(
                f"the recovery key {self._label} has a passphrase; run this at a terminal, which asks for it, or "
                "set [recovery] passphrase (`recover`: --passphrase-file)"
            )
        if reasons & {_CANCELLED, _NO_PIN_ENTRY} or _OF_PIN_ENTRY in sources:  # without a terminal, for one
            return RecoveryKeyError(
                f"nobody unlocked the recovery key {self._label}; run this again at a terminal, and enter its PIN or "
                "passphrase"
            )
        if reasons == {_NO_SECRET_KEY}:
            return WrongRecipientError(
                f"{name} is not encrypted to the recovery key {self._label}; use the key of one of its recipients, "
                "which its manifest lists"
            )
        return DamagedBackupError(
            f"{name} cannot be decrypted: it is damaged, or not an OpenPGP message that is encrypted to a key; use "
            "another copy or an older backup"
        )


def _is_encrypted(status: Status) -> bool:
    """Returns whether a message is encrypted to the public key that we have, with integrity protection.

    gpg also decrypts what is only compressed, signed, or encrypted under a passphrase.
    Source: doc/DETAILS of GnuPG, `DECRYPTION_KEY` and `DECRYPTION_INFO`.
    """
    methods = [(detection, aead[0] if aead else "0") for detection, _cipher, *aead in status.all("DECRYPTION_INFO")]
    return status.says("DECRYPTION_KEY") and any(method != ("0", "0") for method in methods)


@contextmanager
def imported_key(
    secret: bytes, passphrase: bytes | None, *, officers: Sequence[str] = (), decrypts_only: bool = False
) -> Iterator[GpgRecoveryKey]:
    """Yields a secret key in a home of its own, which is wiped when the context ends.

    Args:
        secret: as ``gpg --export-secret-keys`` (or ``--export-secret-subkeys``) gives it.
        officers: primary-key fingerprints of those who sign approvals.
        decrypts_only: refuse a key that can sign, as one that stays on this machine must not.

    Raises:
        RecoveryKeyError: it is not a secret key, or gpg has no agent.
        SigningRecoveryKeyError: it is one that must not be on this machine.
        OpenPGPError: gpg is missing, or the disk is full.
    """
    with secret_home() as home:
        _import(home, secret)
        fingerprint, usable = _described(home)
        if decrypts_only:
            _require_decrypts_only(fingerprint, usable, officers)
        yield GpgRecoveryKey(home, fingerprint[-16:], passphrase, ask=False, fingerprint=fingerprint)


def agent_key(home: Path, passphrase: bytes | None) -> GpgRecoveryKey:
    """Returns the key that a GnuPG home's agent or smartcard holds.

    Raises:
        RecoveryKeyError: the home does not exist.
    """
    if not home.is_dir():
        raise RecoveryKeyError(f"there is no GnuPG home {home}; correct [recovery] gnupg_home")
    return GpgRecoveryKey(home, f"of {home}", passphrase, ask=True)


def _import(home: Path, secret: bytes) -> None:
    imported = run(home, ["--import"], secret)
    # The exit code also reflects things that do not matter.
    if imported.says("IMPORT_OK") and _secret_keys(home):
        return
    require_room(home)
    if any(int(numbers[_SECRET_KEYS_READ]) for numbers in imported.all("IMPORT_RES")):
        raise RecoveryKeyError(
            "gpg has read the recovery key, but its agent refuses it; install gpg-agent (`apt install gpg-agent`), "
            "then run this again"
        )
    raise RecoveryKeyError("the recovery key is not an OpenPGP secret key; export it with `gpg --export-secret-keys`")


def _secret_keys(home: Path) -> Listing:
    return listing(run(home, ["--with-colons", "--list-secret-keys"]).output)


def _described(home: Path) -> tuple[str, Mapping[str, str]]:
    """Returns the fingerprint of the one secret key, and the usable capabilities of each key by fingerprint."""
    lines = _secret_keys(home)
    primary = [line for line in lines if line[0] == b"sec"]
    if len(primary) != 1:
        raise RecoveryKeyError(f"the recovery key file holds {len(primary)} secret keys; export exactly one")
    fingerprints = [line[9].decode() for line in lines if line[0] == b"fpr"]
    keys = zip(fingerprints, (line for line in lines if line[0] in {b"sec", b"ssb"}), strict=True)
    # `#`: a stub without its secret part. Upper-case letters describe the key as a whole.
    usable = {each: "".join(filter(str.islower, line[11].decode())) for each, line in keys if line[14] != b"#"}
    return fingerprints[0], usable


def _require_decrypts_only(fingerprint: str, usable: Mapping[str, str], officers: Sequence[str]) -> None:
    if fingerprint in officers:
        raise SigningRecoveryKeyError(
            "[recovery] secret_key is an officer's key, which could approve requests here; make a key for recovery "
            "alone, and add its certificate to [backup] recipients"
        )
    if not any("s" in letters for letters in usable.values()):
        return
    if decrypting := [each for each, letters in usable.items() if letters == "e"]:
        alone = " ".join(f"'{each}!'" for each in decrypting)
        raise SigningRecoveryKeyError(
            "[recovery] secret_key can sign; name one that can only decrypt, as `gpg --armor "
            f"--export-secret-subkeys {alone} > recovery.sec.asc` writes it"
        )
    raise SigningRecoveryKeyError(
        "[recovery] secret_key has no subkey that can only decrypt; add one to a key of usage cert (gpg "
        "--quick-add-key FINGERPRINT cv25519 encr), and its certificate to [backup] recipients"
    )


def _passphrase_options(descriptors: Sequence[int]) -> list[str]:
    return ["--pinentry-mode", "loopback", "--passphrase-fd", str(descriptors[0])] if descriptors else []


def _terminal() -> dict[str, str]:
    """Returns variables that tell gpg where to ask for a PIN."""
    try:
        return {"GPG_TTY": os.ttyname(sys.stdin.fileno())}
    except (OSError, ValueError):
        return {}
