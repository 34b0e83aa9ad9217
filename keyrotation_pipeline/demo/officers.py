"""Officers of the demo: made-up people with real OpenPGP keys, which sign with the same gpg that real officers use."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline.adapters.openpgp.runner import run
from keyrotation_pipeline.errors import OpenPGPError

# `%no-protection`: the demo signs while nobody is there to type a passphrase. Real officers have one.
_PARAMETERS = """
%no-protection
Key-Type: EDDSA
Key-Curve: ed25519
Key-Usage: sign cert
Subkey-Type: ECDH
Subkey-Curve: cv25519
Subkey-Usage: encrypt
Name-Real: {name}
Name-Email: {email}
Expire-Date: {expires}
%commit
"""


@dataclass(frozen=True, slots=True)
class DemoOfficer:
    """One made-up officer.

    Args:
        home: a GnuPG home with the secret key, mode 0700; its path may be of any length.
        certificate: the exported public certificate, armored.
    """

    name: str
    home: Path
    certificate: Path

    @classmethod
    def create(cls, directory: Path, name: str, expires: str = "0", extra: Sequence[str] = ()) -> "DemoOfficer":
        """Make an officer in `directory`, or give back the one who is there.

        Args:
            directory: gets ``<slug>.asc`` and ``<slug>.gnupg``, the slug being the name in lower case with hyphens.
            name: shown to people and in the certificate.
            expires: as gpg's key generation takes it: ``0`` (never), ``20300101T000000``, ``1y``.
            extra: further options of gpg, for tests.

        Raises:
            OpenPGPError: gpg is missing or refuses.
        """
        slug = name.lower().replace(" ", "-")
        officer = cls(name, directory / f"{slug}.gnupg", directory / f"{slug}.asc")
        if officer.certificate.exists():
            return officer
        # A home without a certificate is one that was not finished: begin again.
        shutil.rmtree(officer.home, ignore_errors=True)
        officer.home.mkdir(mode=0o700, parents=True)
        parameters = _PARAMETERS.format(name=name, email=f"{slug}@clinic.invalid", expires=expires)
        officer.gpg(*extra, "--generate-key", text=parameters.encode())
        officer.export()
        return officer

    def sign(self, text: bytes, *extra: str) -> bytes:
        """An armored detached signature over exactly `text`, as ``gpg -ab`` makes it."""
        return self.gpg(*extra, "--armor", "--detach-sign", text=text)

    def export(self) -> Path:
        """Write the certificate as it is now; gives back its path."""
        exported = self.gpg("--armor", "--export")
        beside = self.certificate.with_suffix(".tmp")
        beside.write_bytes(exported)
        beside.replace(self.certificate)
        return self.certificate

    def decrypt(self, message: bytes) -> bytes:
        """What a message to this officer says."""
        return self.gpg("--decrypt", text=message)

    def gpg(self, *arguments: str, text: bytes = b"") -> bytes:
        """Run gpg in this officer's home, without questions; gives back its output.

        Raises:
            OpenPGPError: gpg is missing or refuses.
        """
        with short_path(self.home) as home:
            done = run(home, ["--yes", *arguments], text)
        if done.exit_code:
            raise OpenPGPError(
                f"gpg refused to work for the demo officer {self.name}; run `keyrotation demo` in a new home"
            )
        return done.output


@contextmanager
def short_path(home: Path) -> Iterator[Path]:
    """The home under a short name: a secret key takes gpg-agent, whose socket's path has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kr-") as directory:
        short = Path(directory) / "g"
        short.symlink_to(home.resolve())
        try:
            yield short
        finally:
            if (gpgconf := shutil.which("gpgconf")) is not None:
                kill = [gpgconf, "--homedir", str(short), "--kill", "gpg-agent"]
                subprocess.run(kill, capture_output=True, check=False, env={"LC_ALL": "C"})  # noqa: S603
