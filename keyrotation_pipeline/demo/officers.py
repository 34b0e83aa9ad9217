"""Creates the demo's officers: invented people with real OpenPGP keys, who sign with the same gpg as real officers."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline.adapters.openpgp.officer_keys import key_parameters
from keyrotation_pipeline.adapters.openpgp.runner import run
from keyrotation_pipeline.errors import OpenPGPError


@dataclass(frozen=True, slots=True)
class DemoOfficer:
    """One invented officer.

    Args:
        home: a GnuPG home with the secret key, mode 0700; its path may be of any length.
        certificate: the exported public certificate, armored.
    """

    name: str
    home: Path
    certificate: Path

    @classmethod
    def create(cls, directory: Path, name: str, expires: str = "0", extra: Sequence[str] = ()) -> "DemoOfficer":
        """Creates an officer in `directory`, or returns the existing one.

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
        # A home without a certificate was never finished: start over.
        shutil.rmtree(officer.home, ignore_errors=True)
        officer.home.mkdir(mode=0o700, parents=True)
        officer.gpg(*extra, "--generate-key", text=key_parameters(name, f"{slug}@clinic.invalid", expires))
        officer.export()
        return officer

    def sign(self, text: bytes, *extra: str) -> bytes:
        """Signs exactly `text`; returns an armored detached signature, as ``gpg -ab`` makes it."""
        return self.gpg(*extra, "--armor", "--detach-sign", text=text)

    def export(self) -> Path:
        """Writes the certificate as it is now; returns its path."""
        exported = self.gpg("--armor", "--export")
        temporary = self.certificate.with_suffix(".tmp")
        temporary.write_bytes(exported)
        temporary.replace(self.certificate)
        return self.certificate

    def decrypt(self, message: bytes) -> bytes:
        """Decrypts a message to this officer."""
        return self.gpg("--decrypt", text=message)

    def gpg(self, *arguments: str, text: bytes = b"") -> bytes:
        """Runs gpg non-interactively in this officer's home; returns its output.

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
    """Yields the home under a short name: gpg-agent needs one, since its socket path has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kr-") as directory:
        short = Path(directory) / "g"
        short.symlink_to(home.resolve())
        try:
            yield short
        finally:
            if (gpgconf := shutil.which("gpgconf")) is not None:
                kill = [gpgconf, "--homedir", str(short), "--kill", "gpg-agent"]
                subprocess.run(kill, capture_output=True, check=False, env={"LC_ALL": "C"})  # noqa: S603
