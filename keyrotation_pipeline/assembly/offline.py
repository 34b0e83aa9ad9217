"""Checks a pack offline: opens gpg and openssl over its files. A pack's `verify.py` runs `main`."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openssl import OpenSSL
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.reporting.verify_pack import check_pack

_OFFICERS, _NOW = "officers/", ".now.pgp"


def main(program: str, heads: Sequence[str]) -> int:
    """Check the pack that a program lies in, print what was found, and return the exit code."""
    # As it was typed: a program that is a link must not have another directory checked.
    pack = Path(program).absolute().parent
    with tempfile.TemporaryDirectory(prefix="verify-") as home:
        signatures, now = partial(officers_of, home=Path(home)), SystemClock().now()
        found = check_pack(pack, heads, signatures, cache(OpenSSL.found), now)
    for line in found.lines():
        sys.stdout.write(f"{line}\n")
    return 1 if found.differences else 0


def officers_of(files: Mapping[str, bytes], home: Path) -> SignatureVerifier:
    """Open gpg and ssh-keygen, with the officers' certificates of a pack as they were when it was made.

    Args:
        home: an empty directory of our own.
    """
    certificates = []
    for name, content in sorted(files.items()):
        if name.startswith(_OFFICERS) and name.endswith(_NOW):
            file = home / Path(name).name
            file.write_bytes(content)
            certificates.append(OfficerFiles(name, file))
    return OfficerSignatures(GnuPG(home / "gpg", SystemClock()), certificates, 1, ())
