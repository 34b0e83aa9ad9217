"""A virtual smartcard: a SoftHSM token whose keys cannot be read, reached by a gpg-agent of its own.

Debian: softhsm2 is the token, opensc has `pkcs11-tool`, gnupg-pkcs11-scd stands where scdaemon does for a real card.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from keyrotation_pipeline.demo.officers import DemoOfficer

PROGRAMS = ("softhsm2-util", "pkcs11-tool", "gnupg-pkcs11-scd", "gpg-agent", "gpg-connect-agent", "gpgconf")
LIBRARY = next(Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"), None) or Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "123456"
MISSING = [name for name in PROGRAMS if shutil.which(name) is None] + ([] if LIBRARY.exists() else [LIBRARY.name])
# As a person at a terminal: types what stands in a file, and notes what was asked.
PINENTRY = """#!/bin/sh
echo OK
while read -r command rest; do
    case $command in
        SETDESC) echo "$rest" >> {directory}/asked; echo OK;;
        GETPIN) if [ -s {directory}/pin ]; then echo "D $(cat {directory}/pin)"; echo OK
                    if [ -e {directory}/next ]; then mv {directory}/next {directory}/pin; fi
                else echo 'ERR 83886179 Operation cancelled'; fi;;
        CONFIRM) echo 'ERR 83886179 Operation cancelled';;
        BYE) echo OK; exit 0;;
        *) echo OK;;
    esac
done
"""
PARAMETERS = """
%no-protection
Key-Type: RSA
Key-Grip: {certify}
Key-Usage: cert
Subkey-Type: RSA
Subkey-Grip: {encrypt}
Subkey-Usage: encrypt
Name-Real: Recovery Card
Name-Email: recovery-card@clinic.invalid
Expire-Date: 0
%commit
"""


def pinentry(directory: Path, pin: str) -> Path:
    """A pinentry that types what the file ``pin`` next to it says (nothing: cancels), then what ``next`` says."""
    program = directory / "pinentry"
    program.write_text(PINENTRY.format(directory=directory))
    program.chmod(0o700)
    (directory / "pin").write_text(pin)
    return program


@dataclass(frozen=True)
class Card:
    """A token, and a GnuPG home whose agent reaches it: no secret key is in a file of either that gpg could read."""

    directory: Path

    @property
    def home(self) -> Path:
        return self.directory / "g"

    @property
    def certificate(self) -> Path:
        return self.directory / "card.asc"

    @classmethod
    def make(cls, directory: Path) -> "Card":
        """A new token with two keys of its own, and the OpenPGP certificate of these."""
        card = cls(directory)
        card.home.mkdir(mode=0o700)
        (directory / "tokens").mkdir()
        (directory / "softhsm2.conf").write_text(
            f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        card._run("softhsm2-util", "--init-token", "--free", "--label", "recovery", "--pin", PIN, "--so-pin", "8765")
        for number in ("a1", "a2"):
            card._add_key(number)
        (card.home / "gnupg-pkcs11-scd.conf").write_text(f"providers p\nprovider-p-library {LIBRARY}\n")
        (card.home / "gpg-agent.conf").write_text(
            f"scdaemon-program {shutil.which('gnupg-pkcs11-scd')}\npinentry-program {pinentry(directory, PIN)}\n"
        )
        card.start()
        reported = card._run(
            "gpg-connect-agent", "--homedir", str(card.home), "SCD LEARN --force", "LEARN --force", "/bye"
        )
        certify, encrypt = (
            line.split()[2].decode() for line in reported.splitlines() if line.startswith(b"S KEYPAIRINFO")
        )
        card._run(
            "gpg", "--homedir", str(card.home), "--batch", "--generate-key",
            text=PARAMETERS.format(certify=certify, encrypt=encrypt).encode(),
        )  # fmt: skip
        card.stop()
        card.start()
        card.certificate.write_bytes(card._run("gpg", "--homedir", str(card.home), "--armor", "--export"))
        return card

    def officer(self) -> DemoOfficer:
        return DemoOfficer("Recovery Card", self.home, self.certificate)

    def start(self) -> None:
        """The agent; it is told where the token is by its environment, which what starts gpg does not have."""
        self._run("gpg-agent", "--homedir", str(self.home), "--daemon")

    def stop(self) -> None:
        """The agent and what reaches the card: from then on a PIN has to be typed again."""
        self._run("gpg-connect-agent", "--homedir", str(self.home), "--no-autostart", "KILLAGENT", "/bye")

    def _add_key(self, number: str) -> None:
        """A key made inside the token; the certificate next to it only says which one it is."""
        login = ("--module", str(LIBRARY), "--token-label", "recovery", "--login", "--pin", PIN)
        self._run("pkcs11-tool", *login, "--keypairgen", "--key-type", "rsa:2048", "--id", number, "--label", number)
        public, file = self.directory / f"{number}.pub", self.directory / f"{number}.der"
        self._run("pkcs11-tool", *login, "--read-object", "--type", "pubkey", "--id", number, "-o", str(public))
        file.write_bytes(_certificate(public.read_bytes(), number))
        self._run("pkcs11-tool", *login, "--write-object", str(file), "--type", "cert", "--id", number)

    def _run(self, *command: str, text: bytes = b"") -> bytes:
        # The agent stays: it must not hold a pipe of ours.
        with (self.directory / "said").open("w+b") as said:
            subprocess.run(
                command,
                input=text,
                stdout=said,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=60,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")},
            )
            said.seek(0)
            return said.read()


def _certificate(public: bytes, number: str) -> bytes:
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, number)]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key)
    builder = builder.serial_number(int(number, 16)).not_valid_before(now).not_valid_after(now + timedelta(days=9))
    return builder.sign(rsa.generate_private_key(65537, 2048), SHA256()).public_bytes(Encoding.DER)
