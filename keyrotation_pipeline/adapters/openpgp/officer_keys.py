"""Makes OpenPGP keys of officers who are no people: for a rehearsal, and for the demo."""

from pathlib import Path

from keyrotation_pipeline.adapters.openpgp.runner import run
from keyrotation_pipeline.errors import OpenPGPError

NAMES = ("First throw-away officer", "Second throw-away officer")


def key_parameters(name: str, email: str | None = None, expires: str = "0") -> bytes:
    """Returns what ``gpg --generate-key`` reads: a key that signs, with a subkey for encryption, without a passphrase.

    Nobody is there to type one, and the signatures of such an officer are worthless elsewhere.

    Args:
        expires: as gpg takes it: ``0`` (never), ``20300101T000000``, ``1y``.
    """
    address = f"Name-Email: {email}\n" if email else ""
    return f"""
%no-protection
Key-Type: EDDSA
Key-Curve: ed25519
Key-Usage: sign cert
Subkey-Type: ECDH
Subkey-Curve: cv25519
Subkey-Usage: encrypt
Name-Real: {name}
{address}Expire-Date: {expires}
%commit
""".encode()


class TemporaryOfficers:
    """The officers, and their certificates as files.

    Args:
        home: an empty GnuPG home, whose path is short enough for an agent's socket.
        directory: gets the certificates.

    Raises:
        OpenPGPError: gpg is missing or refuses.
    """

    def __init__(self, home: Path, directory: Path) -> None:
        self._home = home
        self._gpg("--generate-key", text=b"".join(map(key_parameters, NAMES)))
        self.certificates = tuple((name, self._exported(name, directory)) for name in NAMES)

    def sign(self, text: bytes) -> tuple[bytes, ...]:
        """Returns one detached signature of each."""
        return tuple(self._gpg("--local-user", f"={name}", "--detach-sign", text=text) for name in NAMES)

    def _exported(self, name: str, directory: Path) -> Path:
        file = directory / f"{name.split(maxsplit=1)[0].lower()}.asc"
        file.write_bytes(self._gpg("--armor", "--export", f"={name}"))
        return file

    def _gpg(self, *arguments: str, text: bytes = b"") -> bytes:
        done = run(self._home, arguments, text)
        if done.exit_code:
            raise OpenPGPError("gpg refused to make or use a throw-away key for the rehearsal; run it again")
        return done.output
