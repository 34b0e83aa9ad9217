"""Checkpoints: what a witness outside signs of an audit, as C2SP has it.

A checkpoint is a note of three lines: the origin, which names the audit, the number of its events, and the root of
their tree. The home signs it, and a witness adds a signature of its own with the time (a cosignature), only if the
checkpoint continues the last one that it has signed.

Source: C2SP signed-note, tlog-checkpoint, tlog-cosignature (v1, Ed25519).
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Self

from keyrotation_pipeline.model.merkle import EventTree

ED25519, COSIGNATURE = 1, 4
# What stands before the 32 bytes of a public key in its SubjectPublicKeyInfo (RFC 8410).
_DER = bytes.fromhex("302a300506032b6570032100")
_RAW_BYTES, _TIME_BYTES = 32, 8
_DASH = "\N{EM DASH}"
_NAME = re.compile(r"[!-*,-~]{1,200}", re.ASCII)  # neither space nor plus
_VKEY = re.compile(r"([!-*,-~]{1,200})\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})", re.ASCII)
_BODY = re.compile(r"([!-*,-~]{1,200})\n(0|[1-9][0-9]{0,17})\n([A-Za-z0-9+/]{43}=)\n", re.ASCII)
_LINE = re.compile(rf"{_DASH} ([!-*,-~]{{1,200}}) ([A-Za-z0-9+/]{{1,8000}}={{0,2}})")
# As `EventSignature`: base64 of a SubjectPublicKeyInfo, message, signature.
VerifySignature = Callable[[str, bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public Ed25519 key with the name under which it signs notes, as C2SP writes it: ``name+id+base64``.

    Args:
        kind: what it signs: `ED25519` notes, or `COSIGNATURE`.
        raw: its 32 bytes.
    """

    name: str
    kind: int
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what ``str`` gives; None for anything else."""
        if (found := _VKEY.fullmatch(text)) is None:
            return None
        kind, raw = (content := b64decode(found[3]))[0], content[1:]
        key = cls(found[1], kind, raw)
        return key if len(raw) == _RAW_BYTES and key.id.hex() == found[2] else None

    @classmethod
    def of_home(cls, origin: str, public: str) -> Self:
        """The key of a home, which signs its checkpoints under the name of their origin."""
        return cls(origin, ED25519, b64decode(public)[-_RAW_BYTES:])

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.raw).digest()[:4]

    @property
    def public(self) -> str:
        """Base64 of its SubjectPublicKeyInfo."""
        return b64encode(_DER + self.raw).decode()

    def __str__(self) -> str:
        """As a witness, or who trusts one, is told it."""
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes([self.kind]) + self.raw).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The number of events of an audit, and the root of their tree."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def of(cls, origin: str, tree: EventTree) -> Self:
        """The checkpoint of all these events."""
        return cls(origin, tree.size, tree.root(tree.size))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read the text of a note; None: it is not exactly what `text` gives."""
        if (found := _BODY.fullmatch(text)) is None:
            return None
        parsed = cls(found[1], int(found[2]), b64decode(found[3]))
        return parsed if parsed.text == text else None

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    def is_of(self, tree: EventTree) -> bool:
        """Whether it is of the first events of this tree."""
        return 0 < self.size <= tree.size and tree.root(self.size) == self.root


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with the signatures on it.

    Args:
        lines: each signature, with its line break.
    """

    checkpoint: Checkpoint
    lines: tuple[str, ...]

    @classmethod
    def parse(cls, note: str) -> Self | None:
        """Read a signed note; None: it is none, or not of a checkpoint."""
        text, _, signed = note.rpartition("\n\n")
        checkpoint, lines = Checkpoint.parse(f"{text}\n"), tuple(signed.splitlines(keepends=True))
        if checkpoint is None or not lines or not all(_LINE.fullmatch(each[:-1]) for each in lines):
            return None
        found = cls(checkpoint, lines)
        return found if str(found) == note else None

    @classmethod
    def by_home(cls, checkpoint: Checkpoint, public: str, signature: bytes) -> Self:
        """The checkpoint as the home has signed its text."""
        return cls(checkpoint, (signature_line(VerifierKey.of_home(checkpoint.origin, public), signature),))

    def __str__(self) -> str:
        """The note."""
        return f"{self.checkpoint.text}\n{''.join(self.lines)}"

    def with_line(self, line: str) -> Self:
        """The same with one more signature."""
        return type(self)(self.checkpoint, (*self.lines, line))

    def is_by_home(self, public: str, verify: VerifySignature) -> bool:
        """Whether the home that has this key signed it."""
        key, message = VerifierKey.of_home(self.checkpoint.origin, public), self.checkpoint.text.encode()
        return any(verify(public, message, each) for each in signatures_by(key, self.lines))

    def cosigned_at(self, key: VerifierKey, verify: VerifySignature) -> datetime | None:
        """When a witness signed it, by the witness's own clock; None: it did not."""
        return next((at for line in self.lines if (at := cosigned_at(self.checkpoint, line, key, verify))), None)


def signature_line(key: VerifierKey, signature: bytes) -> str:
    """A signature as it stands under a note."""
    return f"{_DASH} {key.name} {b64encode(key.id + signature).decode()}\n"


def signatures_by(key: VerifierKey, lines: tuple[str, ...]) -> Iterator[bytes]:
    """The signatures in these lines that say to be by a key."""
    for line in lines:
        if (found := _LINE.fullmatch(line.removesuffix("\n"))) is None or found[1] != key.name:
            continue
        try:
            content = b64decode(found[2], validate=True)
        except (ValueError, binascii.Error):
            continue
        if content[:4] == key.id:
            yield content[4:]


def cosigned_message(checkpoint: Checkpoint, seconds: int) -> bytes:
    """The bytes that a witness signs at a time, in seconds since 1970."""
    return f"cosignature/v1\ntime {seconds}\n{checkpoint.text}".encode()


def cosigned_at(checkpoint: Checkpoint, line: str, key: VerifierKey, verify: VerifySignature) -> datetime | None:
    """When the witness with this key signed a checkpoint by this line; None: it is no good signature of its."""
    for content in signatures_by(key, (line,)):
        seconds, signature = int.from_bytes(content[:_TIME_BYTES]), content[_TIME_BYTES:]
        if verify(key.public, cosigned_message(checkpoint, seconds), signature):
            try:
                return datetime.fromtimestamp(seconds, UTC)
            except (ValueError, OverflowError, OSError):
                return None
    return None
