"""Creates officers for one rehearsal: two OpenPGP keys in a home that is wiped afterwards."""

from pathlib import Path

from keyrotation_pipeline.adapters.openpgp.runner import run
from keyrotation_pipeline.errors import OpenPGPError

NAMES = ("First throw-away officer", "Second throw-away officer")
# Nobody is there to type a passphrase, and their signatures are worthless elsewhere.
_PARAMETERS = """
%no-protection
Key-Type: EDDSA
Key-Curve: ed25519
Key-Usage: sign cert
Subkey-Type: ECDH
Subkey-Curve: cv25519
Subkey-Usage: encrypt
Name-Real: {name}
Expire-Date: 0
%commit
"""


class ThrowAwayOfficers:
    """The officers, and their certificates as files.

    Args:
        home: an empty GnuPG home, whose path is short enough for an agent's socket.
        directory: gets the certificates.

    Raises:
        OpenPGPError: gpg is missing or refuses.
    """

    def __init__(self, home: Path, directory: Path) -> None:
        self._home = home
        self._gpg("--generate-key", text="".join(_PARAMETERS.format(name=name) for name in NAMES).encode())
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
