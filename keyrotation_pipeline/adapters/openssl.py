"""Verifies Ed25519 signatures and RFC 3161 time stamps by the program openssl, where there are no libraries."""

import re
import shutil
import subprocess
import tempfile
import textwrap
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from keyrotation_pipeline.errors import BackupError, TimestampError

# Where Homebrew has it; macOS itself has LibreSSL.
_ELSEWHERE = ("/opt/homebrew/opt/openssl@3/bin/openssl", "/usr/local/opt/openssl@3/bin/openssl")
# RFC 8032, section 7.1, test 2, with what stands before the 32 bytes of a public key in DER (RFC 8410).
_DER = bytes.fromhex("302a300506032b6570032100")
_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
# Its own settings could name other certificates, or load code.
_ENVIRONMENT = {"LC_ALL": "C", "OPENSSL_CONF": "/dev/null"}


class OpenSSL:
    """The program openssl.

    Args:
        binary: its path.
    """

    def __init__(self, binary: str) -> None:
        self._binary = binary

    @classmethod
    def found(cls) -> "OpenSSL":
        """Returns the first openssl that accepts RFC 8032's own example, and not for another message.

        Raises:
            BackupError: there is none.
        """
        for binary in (shutil.which("openssl"), *map(shutil.which, _ELSEWHERE)):
            if binary is not None and (one := cls(binary)).knows_the_example():
                return one
        raise BackupError("openssl is not installed, or is one before 3.0; install OpenSSL 3.0 or later")

    def knows_the_example(self) -> bool:
        """Returns whether it accepts the example's signature, and not for another message."""
        key = _DER + _PUBLIC
        return self.verifies(key, b"\x72", _SIGNATURE) and not self.verifies(key, b"\x73", _SIGNATURE)

    def verifies(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Returns whether these bytes are a key's Ed25519 signature over a message (RFC 8032).

        Args:
            public: the key's SubjectPublicKeyInfo, DER.
        """
        with _files(key=public, text=message, signature=signature) as (key, text, signed):
            code, _ = self._run(
                "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", str(key), "-rawin", "-in", str(text),
                "-sigfile", str(signed),
            )  # fmt: skip
        return code == 0

    def stamped_at(self, digest: bytes, response: bytes, trusted: Sequence[bytes]) -> datetime:
        """Returns when a digest was stamped; certificates count as they were at that time.

        Args:
            response: TimeStampResp of RFC 3161, DER.
            trusted: certificates, DER each.

        Raises:
            TimestampError: it is over something else, or none of these certificates vouches for it.
        """
        roots = "".join(map(_pem, trusted)).encode()
        with _files(answer=response, roots=roots) as (answer, authorities):
            _, lines = self._run("ts", "-reply", "-in", str(answer), "-text")
            said = [line.partition(": ")[2] for line in lines if line.startswith("Time stamp: ")]
            if len(said) != 1:
                raise TimestampError("the answer is not a time stamp")
            at = _time(said[0])
            code, _ = self._run(
                "ts", "-verify", "-digest", digest.hex(), "-in", str(answer), "-CAfile", str(authorities),
                "-attime", str(int(at.timestamp())),
            )  # fmt: skip
        if code:
            raise TimestampError("the time stamp does not verify")
        return at

    def _run(self, *arguments: str) -> tuple[int, list[str]]:
        try:
            done = subprocess.run(  # noqa: S603  arguments of our own
                [self._binary, *arguments],
                check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                env=_ENVIRONMENT,
            )  # fmt: skip
        except OSError:
            return -1, []
        return done.returncode, done.stdout.decode("utf-8", "replace").splitlines()


@contextmanager
def _files(**content: bytes) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="verify-") as directory:
        paths = [Path(directory) / name for name in content]
        for path, each in zip(paths, content.values(), strict=True):
            path.write_bytes(each)
        yield paths


def _pem(certificate: bytes) -> str:
    lines = "\n".join(textwrap.wrap(b64encode(certificate).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def _time(said: str) -> datetime:
    """Returns openssl's way to write a time, with or without parts of a second, in whole seconds."""
    plain = re.sub(r"\.\d+ ", " ", " ".join(said.split()))
    try:
        return datetime.strptime(plain, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    except ValueError:
        raise TimestampError("the time stamp names no time") from None
