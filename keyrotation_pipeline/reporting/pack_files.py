"""The files of a pack: what of it the audit itself gives, and the manifest that names every file."""

import hashlib
import json
import re
import textwrap
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.records import as_json, read
from keyrotation_pipeline.model.request_events import RequestOpened, RolloutConfirmed, RosterPinned, SignatureAdded

AUDIT, REPORT, PAGE, SCHEMA, PROGRAM = "audit.jsonl", "report.json", "report.html", "report.schema.json", "verify.py"
README = "README.txt"
OWN = frozenset({AUDIT, REPORT, PAGE, SCHEMA, PROGRAM, README})
# The whole audit of the pack, as its home signs it for witnesses.
CHECKPOINT = "checkpoint.txt"
MANIFEST, SIGNATURE = "pack.json", "pack.json.sig"
# What the audit names becomes a file's name here, and must never be a path.
_PLAIN = re.compile(r"([a-z]+/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)


def file_name_of(fingerprint: str) -> str:
    """An officer's fingerprint as the name of a file; that of an SSH key has colon, plus and slash in its own form."""
    return fingerprint.replace(":", "-").replace("+", "-").replace("/", "_")


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file in a pack."""
    return _PLAIN.fullmatch(name) is not None


def certificate_name(rotation: str) -> str:
    """The name of a certificate of key death in a pack."""
    return f"certificates/{rotation}.dsse.json"


def refusal_name(rotation: str) -> str:
    """The name of the sentence that says why there is none."""
    return f"certificates/{rotation}.refused.txt"


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file: its SHA-256 in hex, and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Those of a content."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True, slots=True)
class PackManifest:
    """Every file of a pack but the manifest and its signature, which is by the pipeline's own key."""

    pack: int
    audit: AuditHead
    files: Mapping[str, PackedFile]

    @classmethod
    def of(cls, head: AuditHead, content: Mapping[str, bytes]) -> Self:
        """The manifest of these files.

        Raises:
            AuditError: one has a name that could be another file's, or a path.
        """
        if not all(map(is_plain, content)):
            raise AuditError("the audit names what cannot be the name of a file; run `keyrotation audit verify`")
        return cls(1, head, {name: PackedFile.of(each) for name, each in content.items()})

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Reads a manifest.

        Raises:
            AuditError: it is not exactly what `encode` writes.
        """
        try:
            found = read(cls, json.loads(content))
        except (AuditError, ValueError, RecursionError):
            raise AuditError(f"{MANIFEST} is not a manifest") from None
        if found.pack != 1 or found.encode() != content or not all(map(is_plain, found.files)):
            raise AuditError(f"{MANIFEST} is not a manifest of this version")
        return found

    def encode(self) -> bytes:
        """The bytes that are signed. They are no manifest of a backup, and no envelope: those begin otherwise."""
        return f"{json.dumps(as_json(self), indent=2, sort_keys=True)}\n".encode()


def encoded(event: AuditEvent) -> bytes:
    """The line of an event in the pack."""
    stored = {"seq": event.seq, "previous": event.previous, "hash": event.hash, "body": event.body}
    if event.signature is not None:
        stored["signature"] = event.signature
    return f"{json.dumps(stored, separators=(',', ':'), ensure_ascii=True)}\n".encode("ascii")


def events_in(content: bytes) -> tuple[AuditEvent, ...]:
    """The events of the pack; whether they form a chain is for the history to say.

    Raises:
        AuditError: a line is not exactly what `encoded` writes, or there is none.
    """
    events = tuple(_decoded(number, line) for number, line in enumerate(content.splitlines(keepends=True), 1))
    if not events:
        raise AuditError(f"{AUDIT} has no event")
    return events


def _decoded(number: int, line: bytes) -> AuditEvent:
    try:
        stored = json.loads(line)
        read_as = AuditEvent(stored["seq"], stored["body"], stored["previous"], stored["hash"], "", None)
        entry = entry_of(read_as)
        event = replace(read_as, kind=entry.kind, request=entry.request, signature=stored.get("signature"))
        if encoded(event) == line:
            return event
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise AuditError(f"line {number} of {AUDIT} is not an event")


def extracts(entry: AuditEntry) -> Iterator[tuple[str, bytes]]:
    """Texts, signatures, time stamps and certificates, as an event has them: files for other programs to check."""
    match entry.fact():
        case RequestOpened() as opened:
            yield f"approvals/{entry.request}.txt", opened.approval_text.encode()
        case SignatureAdded() as added:
            yield f"approvals/{entry.request}.{file_name_of(added.officer)}.sig", bytes.fromhex(added.signature)
        case RolloutConfirmed() as confirmed:
            yield f"confirmations/{entry.seq}.txt", confirmed.text.encode()
            yield f"confirmations/{entry.seq}.{file_name_of(confirmed.officer)}.sig", bytes.fromhex(confirmed.signature)
        case AssessmentSigned() as assessed:
            yield f"assessments/{entry.seq}.txt", assessed.text.encode()
            yield f"assessments/{entry.seq}.{file_name_of(assessed.officer)}.sig", bytes.fromhex(assessed.signature)
        case RosterPinned() as pinned:
            for officer in pinned.officers:
                name = f"officers/{file_name_of(officer.fingerprint)}.{entry.seq}"
                if officer.certificate:
                    yield f"{name}.pgp", b64decode(officer.certificate)
                if officer.ssh_key:
                    yield f"{name}.pub", f"{officer.ssh_key}\n".encode()
        case AuditTimestamped() as stamped:
            yield f"timestamps/{entry.seq}.tsr", b64decode(stamped.response)
            yield f"timestamps/{entry.seq}.pem", "".join(map(_pem, stamped.trusted)).encode("ascii")


def _pem(certificate: str) -> str:
    """A certificate for `openssl`, from the base64 of its DER."""
    lines = "\n".join(textwrap.wrap(certificate, 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
