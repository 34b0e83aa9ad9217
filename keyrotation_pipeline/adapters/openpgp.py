"""OpenPGP is gpg: certificates, officers' signatures, and encryption to recipients. It never holds a secret key."""

import shutil

from keyrotation_pipeline.errors import OpenPGPError


def gpg_binary() -> str:
    """Path of gpg.

    Raises:
        OpenPGPError: it is not installed.
    """
    if (found := shutil.which("gpg")) is None:
        raise OpenPGPError("gpg is not installed; install GnuPG 2.2 or later (on Debian: apt install gpg gpg-agent)")
    return found
