"""The pack: the report with all that it rests on, and a program that checks it without us."""

import hashlib
import shutil
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from importlib.resources import files
from pathlib import Path

from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backup_events import BackupSealed
from keyrotation_pipeline.model.backups import CertificateStatus, signature_name
from keyrotation_pipeline.model.checkpoints import Checkpoint, SignedCheckpoint
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.request_events import RosterPinned
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.reporting.bundle import bundle
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.document import render_json
from keyrotation_pipeline.reporting.gathering import ReportEvidence
from keyrotation_pipeline.reporting.pack_files import (
    AUDIT,
    CHECKPOINT,
    MANIFEST,
    PAGE,
    PROGRAM,
    README,
    REPORT,
    SCHEMA,
    SIGNATURE,
    PackManifest,
    certificate_name,
    encoded,
    extracts,
    is_plain,
    refusal_name,
)
from keyrotation_pipeline.reporting.rendering import render_html
from keyrotation_pipeline.reporting.retirement_certificate import RefusedCertificate, RetirementCertificate
from keyrotation_pipeline.reporting.verify_pack import Judged
from keyrotation_pipeline.templates import render_text


def pack(
    evidence: ReportEvidence,
    places: Sequence[BackupPlace],
    now: Iterable[CertificateStatus],
    sign: Callable[[bytes], tuple[str, bytes]],
    judged: Judged,
    certificates: Iterable[RetirementCertificate | RefusedCertificate] = (),
) -> Mapping[str, bytes]:
    """Every file of the pack, by its name in it.

    Args:
        places: where manifests of backups may be; one that is in none is left out, which `verify.py` says.
        now: the configured certificates as they are now: officers' may be extended, or revoked, since they were pinned.
        sign: signs with the pipeline's own key, which the audit names.
        judged: these events, which say whether that key counts.
        certificates: of keys that are dead, or why there is none.

    Raises:
        AuditError: the audit names something that cannot be the name of a file, or no signed text names the key.
        BackupError: the pipeline's key is not here.
    """
    checkpoint = _checkpoint(judged, sign)
    entries, head = [entry_of(event) for event in evidence.events], evidence.report.audit
    content = {
        REPORT: render_json(evidence.report),
        PAGE: render_html(evidence.report),
        AUDIT: b"".join(map(encoded, evidence.events)),
        SCHEMA: files("keyrotation_pipeline.reporting").joinpath(SCHEMA).read_bytes(),
        PROGRAM: bundle(),
        README: _readme(evidence.report),
        **({} if checkpoint is None else {CHECKPOINT: checkpoint}),
    }
    for entry in entries:
        content |= dict(extracts(entry))
    content |= dict(_manifests(entries, places))
    pinned = {each.fingerprint for entry in entries for each in _officers(entry)}
    for officer in now:
        if not officer.encrypts and officer.fingerprint in pinned:
            content[f"officers/{officer.fingerprint}.now.pgp"] = officer.content
    for each in certificates:
        if isinstance(each, RetirementCertificate):
            content[certificate_name(each.rotation)] = each.envelope
        else:
            content[refusal_name(each.rotation)] = f"{each.reason}\n".encode()
    manifest = PackManifest.of(AuditHead(head.seq, head.head), content).encode()
    public, signature = sign(manifest)
    if b64decode(public) not in judged.vouched_keys():
        raise AuditError(
            "officers have not signed the pipeline's own key yet, so nobody could check a pack; have the next request "
            "signed, then make the pack"
        )
    return {**content, MANIFEST: manifest, SIGNATURE: signature}


def _readme(report: ComplianceReport) -> bytes:
    """What the pack is, how it is checked, and which fingerprints to ask for elsewhere."""
    page = render_text(
        "pack_readme.txt.j2",
        database=report.database,
        at=f"{report.generated_at.astimezone(UTC):%Y-%m-%d %H:%M}",
        organisation=report.parameters.stated.organisation,
        officers=report.policy.officers,
        required=report.policy.required,
        head=report.audit,
    )
    return page.encode()


def _checkpoint(judged: Judged, sign: Callable[[bytes], tuple[str, bytes]]) -> bytes | None:
    """What `verify.py` shows a witness; None: the home has no id."""
    if (origin := judged.state.origin) is None:
        return None
    checkpoint = Checkpoint.of(origin, EventTree(judged.state.hashes))
    return str(SignedCheckpoint.by_home(checkpoint, *sign(checkpoint.text.encode()))).encode()


def is_free(target: Path) -> bool:
    """Whether there is nothing at a path, or an empty directory."""
    if target.is_symlink() or not target.exists():
        return not target.is_symlink()
    return target.is_dir() and not any(target.iterdir())


def write_directory(target: Path, content: Mapping[str, bytes]) -> bool:
    """Writes a pack under its name, once it is whole; False if the name was taken meanwhile."""
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.resolve().parent))
    try:
        for name, each in content.items():
            file = staged / name
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.write_bytes(each)
        if not is_free(target):
            return False
        staged.replace(target)  # which the system refuses over a directory that is not empty
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return True


def _officers(entry: AuditEntry) -> Sequence[Officer]:
    fact = entry.fact()
    return fact.officers if isinstance(fact, RosterPinned) else ()


def _manifests(entries: Sequence[AuditEntry], places: Sequence[BackupPlace]) -> Iterator[tuple[str, bytes]]:
    """Every manifest that a place still holds as the audit recorded it, with its signature."""
    for entry in entries:
        fact = entry.fact()
        if not isinstance(fact, BackupSealed) or not is_plain(f"backups/{fact.manifest}"):
            continue
        for place in places:
            with suppress(BackupError):
                text = place.read(fact.manifest)
                if hashlib.sha256(text).hexdigest() == fact.sha256:
                    yield f"backups/{fact.manifest}", text
                    yield f"backups/{signature_name(fact.manifest)}", place.read(signature_name(fact.manifest))
                    break
