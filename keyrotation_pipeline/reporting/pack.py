"""The pack: the report with all that it rests on, and a program that checks it without us."""

import hashlib
import json
import re
import shutil
import tempfile
import textwrap
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.model.audit import AuditEvent
from keyrotation_pipeline.model.backup_events import AuditTimestamped, BackupSealed
from keyrotation_pipeline.model.backups import CertificateStanding, signature_name
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.request_events import RequestOpened, RolloutConfirmed, RosterPinned, SignatureAdded
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.reporting.document import render_json
from keyrotation_pipeline.reporting.gathering import ReportEvidence
from keyrotation_pipeline.reporting.rendering import render_html
from keyrotation_pipeline.reporting.retirement_certificate import RetirementCertificate

# What the audit names becomes a file's name here, and must never be a path.
_PLAIN = re.compile(r"([a-z]+/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)


def pack(
    evidence: ReportEvidence,
    places: Sequence[BackupPlace],
    now: Iterable[CertificateStanding],
    certificates: Iterable[RetirementCertificate] = (),
) -> Mapping[str, bytes]:
    """Every file of the pack, by its name in it.

    Args:
        places: where manifests of backups may be; one that is in none is left out, which `verify.py` says.
        certificates: of keys that are dead.
        now: the configured certificates as they are now: officers' may be extended, or revoked, since they were pinned.

    Raises:
        AuditError: the audit names something that cannot be the name of a file.
    """
    told = [entry_of(event) for event in evidence.events]
    content = {
        "report.json": render_json(evidence.report),
        "report.html": render_html(evidence.report),
        "audit.jsonl": "".join(map(_line, evidence.events)).encode("ascii"),
        "report.schema.json": _shipped("report.schema.json"),
        "verify.py": _shipped("verify_pack.py"),
    }
    for entry in told:
        content |= dict(_signed(entry))
    content |= dict(_manifests(told, places))
    pinned = {each.fingerprint for entry in told for each in _officers(entry)}
    for each in now:
        if not each.encrypts and each.fingerprint in pinned:
            content[f"officers/{each.fingerprint}.now.pgp"] = each.content
    content |= {f"certificates/{each.rotation}.dsse.json": each.envelope for each in certificates}
    for name in content:
        if not _PLAIN.fullmatch(name):
            raise AuditError("the audit names what cannot be the name of a file; run `keyrotation audit verify`")
    return content


def _shipped(name: str) -> bytes:
    return files("keyrotation_pipeline.reporting").joinpath(name).read_bytes()


def is_free(target: Path) -> bool:
    """Whether there is nothing at a path, or an empty directory."""
    if target.is_symlink() or not target.exists():
        return not target.is_symlink()
    return target.is_dir() and not any(target.iterdir())


def write_directory(target: Path, content: Mapping[str, bytes]) -> bool:
    """Write a pack beside, and give it its name when it is whole; False if the name was taken meanwhile."""
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.resolve().parent))
    try:
        for name, each in content.items():
            file = beside / name
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.write_bytes(each)
        if not is_free(target):
            return False
        beside.replace(target)  # which the system refuses over a directory that is not empty
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def _line(event: AuditEvent) -> str:
    stored = {"seq": event.seq, "previous": event.previous, "hash": event.hash, "body": event.body}
    return f"{json.dumps(stored, separators=(',', ':'), ensure_ascii=True)}\n"


def _officers(entry: AuditEntry) -> Sequence[Officer]:
    fact = entry.fact()
    return fact.officers if isinstance(fact, RosterPinned) else ()


def _signed(entry: AuditEntry) -> Iterator[tuple[str, bytes]]:
    """Texts, signatures, time stamps and certificates, as the audit has them."""
    match entry.fact():
        case RequestOpened() as opened:
            yield f"approvals/{entry.request}.txt", opened.approval_text.encode()
        case SignatureAdded() as added:
            yield f"approvals/{entry.request}.{added.officer}.sig", bytes.fromhex(added.signature)
        case RolloutConfirmed() as confirmed:
            yield f"confirmations/{entry.seq}.txt", confirmed.text.encode()
            yield f"confirmations/{entry.seq}.{confirmed.officer}.sig", bytes.fromhex(confirmed.signature)
        case AssessmentSigned() as assessed:
            yield f"assessments/{entry.seq}.txt", assessed.text.encode()
            yield f"assessments/{entry.seq}.{assessed.officer}.sig", bytes.fromhex(assessed.signature)
        case RosterPinned() as pinned:
            for officer in pinned.officers:
                yield f"officers/{officer.fingerprint}.{entry.seq}.pgp", b64decode(officer.certificate)
        case AuditTimestamped() as stamped:
            yield f"timestamps/{entry.seq}.tsr", b64decode(stamped.response)
            yield f"timestamps/{entry.seq}.pem", "".join(map(_pem, stamped.trusted)).encode("ascii")


def _pem(certificate: str) -> str:
    """A certificate for `openssl`, from the base64 of its DER."""
    lines = "\n".join(textwrap.wrap(certificate, 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def _manifests(told: Sequence[AuditEntry], places: Sequence[BackupPlace]) -> Iterator[tuple[str, bytes]]:
    """Every manifest that a place still holds as the audit recorded it, with its signature."""
    for entry in told:
        fact = entry.fact()
        if not isinstance(fact, BackupSealed) or not _PLAIN.fullmatch(f"backups/{fact.manifest}"):
            continue
        for place in places:
            with suppress(BackupError):
                text = place.read(fact.manifest)
                if hashlib.sha256(text).hexdigest() == fact.sha256:
                    yield f"backups/{fact.manifest}", text
                    yield f"backups/{signature_name(fact.manifest)}", place.read(signature_name(fact.manifest))
                    break
