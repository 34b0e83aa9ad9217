"""Checks a pack offline: opens gpg and openssl over its files. A pack's `verify.py` runs `main`."""

import argparse
import re
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openssl import OpenSSL
from keyrotation_pipeline.adapters.witness_http import TlogWitness
from keyrotation_pipeline.model.checkpoints import SignedCheckpoint
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.witnesses import Witness
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.reporting.verify_pack import check_pack

_OFFICERS, _NOW = "officers/", ".now.pgp"


def main(program: str, arguments: Sequence[str]) -> int:
    """Check the pack that a program lies in, print what was found, and return the exit code.

    Args:
        arguments: hashes of heads, and ``--witness URL`` for each witness that is to be asked.
    """
    heads, urls = _parsed(arguments)
    # As it was typed: a program that is a link must not have another directory checked.
    pack = Path(program).absolute().parent
    with tempfile.TemporaryDirectory(prefix="verify-") as home:
        signatures, now = partial(officers_of, home=Path(home)), SystemClock().now()
        openssl = cache(OpenSSL.found)
        asked = {url: partial(_ask, openssl) for url in urls}
        found = check_pack(pack, heads, signatures, openssl, now, asked)
    for line in found.lines():
        sys.stdout.write(f"{line}\n")
    return 1 if found.differences else 0


def _parsed(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    parser = argparse.ArgumentParser(
        "verify.py",
        description="Check the pack in this directory: every signature, every event, every file. README.txt says how.",
        epilog="Exit code 0: everything that was checked holds; 1: something differs; 2: wrong usage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "heads", metavar="HEAD", nargs="*", type=_head,
        help="the hash of an audit head, 64 hex digits, that you got from elsewhere; the audit must lead through it",
    )  # fmt: skip
    parser.add_argument(
        "--witness", metavar="URL", action="append", default=[], type=_url,
        help="ask this witness for what it has signed last; may be given several times",
    )  # fmt: skip
    parsed = parser.parse_args(_joined(arguments))
    return parsed.heads, parsed.witness


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments, with each head as one that was copied with what stands before it, and without quotes."""
    joined: list[str] = []
    for each in arguments:
        if joined and re.fullmatch(r"audit|(?:audit head:)?(?: ?[0-9]{1,18})?", joined[-1].lower(), re.ASCII):
            joined[-1] += f" {each}"
        else:
            joined.append(each)
    return joined


def _head(text: str) -> str:
    """The hash, also of the whole line of a signed text or a report, which has the event's number before it."""
    found = re.fullmatch(r"(?:audit head: )?(?:[0-9]{1,18} )?([0-9a-f]{64})", text.strip().lower(), re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError("a head has 64 hex digits; copy them, or the whole line Audit head")
    return found[1]


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise argparse.ArgumentTypeError("a witness is given by its URL, such as https://witness.example")
    return text


def _ask(
    openssl: Callable[[], OpenSSL], witness: Witness, note: SignedCheckpoint, tree: EventTree, known: int
) -> SignedCheckpoint:
    def verify(public: str, message: bytes, signature: bytes) -> bool:
        return openssl().verifies(b64decode(public), message, signature)

    return TlogWitness(witness, SystemClock().now, verify).sign(note, tree, known)


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
