"""Checks a pack with what its `verify.py` has: this package's own judgement of the audit, gpg, ssh-keygen and openssl.

Nothing of it is believed before the pipeline's own key, which a text that officers have signed names, has signed for
every file. Whatever should be checked and cannot be is a difference, like anything that differs, is missing or is not
known.
"""

import json
import os
import stat
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from keyrotation_pipeline.audit.event_signatures import EventSignature
from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState, whole_history
from keyrotation_pipeline.errors import KeyRotationError, TimestampError
from keyrotation_pipeline.model.approval import signed_fields, signer_in
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, PAYLOAD_TYPE, payload_of, to_sign
from keyrotation_pipeline.model.backup_events import AuditTimestamped, BackupKeyPinned, BackupSealed
from keyrotation_pipeline.model.backups import signature_name
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.request_events import RolloutConfirmed, RosterPinned, SignatureAdded, StatusChanged
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.reporting.compliance import Parameters
from keyrotation_pipeline.reporting.document import render_json
from keyrotation_pipeline.reporting.from_audit import compliance_report
from keyrotation_pipeline.reporting.pack_files import (
    AUDIT,
    CHECKPOINT,
    MANIFEST,
    OWN,
    REPORT,
    SIGNATURE,
    PackedFile,
    PackManifest,
    certificate_name,
    events_in,
    extracts,
    refusal_name,
)
from keyrotation_pipeline.reporting.retirement_statement import dead_keys, statement_of
from keyrotation_pipeline.reporting.verify_checkpoints import Ask, check_checkpoints

# Of all files together: audits of a million events are smaller, and sparse files may be of any size.
MOST_BYTES = 1 << 30
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
NEVER_COVERED = (
    "the backups themselves, which are not in the pack; that a set is whole shows where it lies",
    "which backups still need a dead key: a certificate says what was kept when it was made",
    "since when a certificate or key that is revoked now was: a revocation can carry any date",
    "whether the officers' certificates are those of the officers: compare the fingerprints with ones you know",
    "this program: compare it with a release that you trust, as its first lines say",
)


class OfflineCrypto(Protocol):
    """Verifies what is not OpenPGP."""

    def verifies(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Returns whether these are an Ed25519 key's 64 bytes over a message; `public` is DER."""

    def stamped_at(self, digest: bytes, response: bytes, trusted: Sequence[bytes]) -> datetime:
        """Returns when a digest was stamped.

        Raises:
            TimestampError: none of these certificates vouches for it.
        """


@dataclass
class Findings:
    """What was checked, what a pack cannot show, and what differs."""

    checked: Counter[str] = field(default_factory=Counter)
    not_covered: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    without_head: bool = False

    def check(self, what: str, difference: str, *, holds: bool) -> bool:
        """Counts one check; notes the difference where it does not hold."""
        self.checked[what] += 1
        if not holds:
            self.differences.append(difference)
        return holds

    @contextmanager
    def readable(self, what: str) -> Iterator[None]:
        """Notes whatever cannot be read, or checked here, as a difference, in one sentence."""
        try:
            yield
        except KeyRotationError as error:
            # Whoever checks a pack has none of our commands.
            self.differences.append(str(error).partition("; run `keyrotation ")[0])
        except _UNREADABLE as error:
            self.differences.append(f"not all of {what} can be read ({type(error).__name__})")

    def lines(self) -> Iterator[str]:
        """All of it for a terminal, the verdict first; what the pack says cannot steer it."""
        forgery = "; without a head from elsewhere, all of it may be forged" if self.without_head else ""
        lines = ["the pack does NOT hold" if self.differences else f"everything that was checked holds{forgery}"]
        lines += [f"DIFFERENT    {difference}" for difference in dict.fromkeys(self.differences)]
        lines += [f"checked      {number:>6}  {what}" for what, number in self.checked.items()]
        lines += [f"not covered  {what}" for what in self.not_covered]
        yield from (line.encode("unicode_escape").decode("ascii") for line in lines)


@dataclass(frozen=True)
class Judged:
    """The audit of a pack, judged.

    Args:
        keys: the pipeline's own keys that the audit names, DER, each with the seq of its event.
        signed: fingerprints of those that a text which enough officers have signed names.
    """

    entries: Sequence[HistoryEntry]
    state: LedgerState
    keys: Sequence[tuple[int, bytes]]
    signed: frozenset[str]

    @classmethod
    def of(cls, entries: Sequence[HistoryEntry], state: LedgerState) -> "Judged":
        """The keys that a judged audit names."""
        counted = [each for each in entries if each.fault is None]
        pinned = ((e.seq, e.fact.public) for e in counted if isinstance(e.fact, BackupKeyPinned))
        wrote = ((e.seq, signed.public) for e in counted if (signed := EventSignature.parse(e.event.signature)))
        first: dict[str, int] = {}
        for seq, public in sorted((*pinned, *wrote)):
            first.setdefault(public, seq)
        keys = [(seq, b64decode(public)) for public, seq in first.items()]
        begun = [
            signer_in(signed_fields(each.text))
            for each in counted
            if isinstance(each.fact, StatusChanged) and each.fact.after is RequestStatus.RUNNING
        ]
        return cls(entries, state, keys, frozenset(chain.from_iterable(begun)))

    def vouched_keys(self, before: int | None = None) -> list[bytes]:
        """The keys that count: the first, and those that signed texts name.

        Whoever can append to the audit can name another key, which counts for nothing. A home made again has another
        one, too; so more than one is always shown.
        """
        counting = self.state.signers
        named = ((seq, public) for seq, public in self.keys if sha256(public).hexdigest() in counting)
        return [public for seq, public in named if before is None or seq < before]


def check_pack(
    pack: Path,
    heads: Sequence[str],
    signatures: Callable[[Mapping[str, bytes]], SignatureVerifier],
    openssl: Callable[[], OfflineCrypto],
    now: datetime,
    asked: Mapping[str, Ask] = MappingProxyType({}),
) -> Findings:
    """Checks everything in a directory.

    Args:
        heads: hashes that the chain must lead through, as somebody typed them.
        signatures: opens gpg and ssh-keygen, with the officers' certificates of these files as they are now.
        openssl: opens it; raises a `KeyRotationError` where there is none.
        asked: the URL of each witness that is to be asked, and how.
    """
    found = Findings()
    files: Mapping[str, bytes] = {}
    with found.readable("the pack"):
        files = _regular_files(pack, found)
    with found.readable(AUDIT):
        judged = check_audit(files.get(AUDIT, b""), heads, signatures(files), openssl, now, found)
        checks: Sequence[tuple[str, Callable[[], None]]] = (
            (MANIFEST, lambda: _check_manifest(files, judged, openssl(), found)),
            ("the texts, signatures and certificates", lambda: _check_extracts(files, judged, found)),
            ("the manifests of backups", lambda: _check_backups(files, judged, openssl(), found)),
            ("the certificates of key death", lambda: _check_certificates(files, judged, openssl(), found)),
            ("the checkpoints of witnesses", lambda: check_checkpoints(files, judged, openssl(), asked, found)),
            ("the time stamps", lambda: _check_timestamps(judged, openssl(), found)),
            (REPORT, lambda: _check_report(files, judged, now, found)),
        )
        # Each by itself: what one stumbles over must not hide what another finds.
        for what, check in checks:
            with found.readable(what):
                check()
    found.not_covered += NEVER_COVERED
    return found


def _regular_files(pack: Path, found: Findings) -> Mapping[str, bytes]:
    """Every regular file, by its name in the pack; anything else, such as a link, is a difference.

    So is a file that makes the pack larger than any is, which is not read.
    """
    files: dict[str, bytes] = {}
    left = MOST_BYTES
    for folder, folders, names in os.walk(pack):
        for name in (*folders, *names):
            path = Path(folder) / name
            status, shown = path.lstat(), path.relative_to(pack).as_posix()
            if stat.S_ISREG(status.st_mode):
                if status.st_size > left:
                    found.differences.append(
                        f"{shown} makes the pack larger than {MOST_BYTES >> 30} GiB; it was not read"
                    )
                    continue
                left -= status.st_size
                with path.open("rb") as file:
                    files[shown] = file.read(status.st_size)
            elif not stat.S_ISDIR(status.st_mode):
                found.differences.append(f"{shown} is not a regular file")
    return files


def check_audit(
    content: bytes,
    heads: Sequence[str],
    signatures: SignatureVerifier,
    openssl: Callable[[], OfflineCrypto],
    now: datetime,
    found: Findings,
) -> Judged:
    """Checks the chain and judges each event, as `keyrotation audit verify` does.

    Raises:
        AuditError: it is no chain of events.
    """

    def verify_event(public: str, message: bytes, signature: bytes) -> bool:
        return openssl().verifies(b64decode(public), message, signature)

    judged = Judged.of(*whole_history(events_in(content), signatures.verify_as_of, verify_event))
    found.checked["events of the audit, each by its hash, the rules and the signatures of its moment"] = len(
        judged.entries
    )
    signed = sum(isinstance(each.fact, SignatureAdded | AssessmentSigned | RolloutConfirmed) for each in judged.entries)
    found.checked["signatures of officers, each over the text of its moment, by gpg or ssh-keygen"] = signed
    found.differences += judged.state.faults
    if (since := judged.state.signed_from) is None:
        found.not_covered.append("who wrote the audit: it is of a version that did not sign its events")
    elif since > 1:
        found.not_covered.append(f"who wrote the events before {since}: the pipeline has signed those since then")
    if judged.entries[-1].at > now + EVENTS_DIFFER_BY:
        found.differences.append(f"an event is dated {judged.entries[-1].at:%Y-%m-%d %H:%M:%S}, which is in the future")
    if not heads:
        found.without_head = True
        found.not_covered.append("whether this audit is the one you know: give the hash of a head that you have")
    for head in heads:
        leads = any(each.event.hash == head.strip().lower() for each in judged.entries)
        missing = f"the chain does not lead through {head[:64]}; give a head from before the pack was written"
        found.check("heads given by you", missing, holds=leads)
    unusable = [each.unusable for each in signatures.certificates() if each.unusable]
    found.not_covered += [f"what was signed before then, though {sentence}" for sentence in unusable]
    return judged


def _check_manifest(files: Mapping[str, bytes], judged: Judged, openssl: OfflineCrypto, found: Findings) -> None:
    """Exactly the files that the manifest names, as it names them; and the pipeline's signature on it."""
    content = files.get(MANIFEST, b"")
    keys, signature = judged.vouched_keys(), files.get(SIGNATURE, b"")
    signed = [key for key in keys if openssl.verifies(key, content, signature)]
    sentence = f"{SIGNATURE} is not a signature on {MANIFEST} by the pipeline's key"
    if found.check(f"{MANIFEST}, signed by the pipeline's key", sentence, holds=bool(signed)):
        shown = sha256(signed[0]).hexdigest()
        if shown not in judged.signed:
            sentence = f"whether {shown} is the pipeline's key: no text that officers have signed names it"
            found.not_covered.append(sentence)
    if len(keys) > 1:
        named = ", ".join(sha256(key).hexdigest() for key in keys)
        found.not_covered.append(
            f"whether each of these is the pipeline's key, as a home made again has another: {named}"
        )
    manifest = PackManifest.decode(content)
    head = judged.state.head
    found.check(f"head in {MANIFEST}", f"{MANIFEST} is of another audit", holds=manifest.audit == head)
    for name in sorted(manifest.files.keys() | OWN | files.keys() - {MANIFEST, SIGNATURE}):
        listed, given = manifest.files.get(name), files.get(name)
        sentence = f"{name} is missing" if given is None else f"{name} does not belong to the pack"
        if listed is not None and given is not None:
            sentence = f"{name} is not the file that {MANIFEST} names"
        same = listed is not None and given is not None and PackedFile.of(given) == listed
        found.check(f"files, as {MANIFEST} names them", sentence, holds=same)


def _check_extracts(files: Mapping[str, bytes], judged: Judged, found: Findings) -> None:
    """Texts, signatures and certificates are those of the audit; other files are of a kind that a pack has."""
    expected = {name: content for each in judged.entries for name, content in extracts(each.entry)}
    for name, content in expected.items():
        same = files.get(name) == content
        found.check("texts, signatures, time stamps and certificates", f"{name} is not what the audit says", holds=same)
    officers = {
        officer.fingerprint
        for each in judged.entries
        if isinstance(each.fact, RosterPinned)
        for officer in each.fact.officers
    }
    checkpoint = [] if judged.state.origin is None else [CHECKPOINT]
    known = {*OWN, *checkpoint, MANIFEST, SIGNATURE, *expected, *(f"officers/{each}.now.pgp" for each in officers)}
    for name in sorted(files.keys() - known):
        if not name.startswith(("backups/", "certificates/")):
            found.differences.append(f"{name} does not belong to the pack")


def _check_backups(files: Mapping[str, bytes], judged: Judged, openssl: OfflineCrypto, found: Findings) -> None:
    """Every manifest of a backup is the one that was sealed, and signed by a key that the audit named before."""
    absent, known = 0, set[str]()
    for entry in judged.entries:
        if not isinstance(sealed := entry.fact, BackupSealed):
            continue
        names = f"backups/{sealed.manifest}", f"backups/{signature_name(sealed.manifest)}"
        known.update(names)
        manifest, signature = map(files.get, names)
        if manifest is None and signature is None:
            absent += 1
            continue
        content = manifest or b""
        good = sha256(content).hexdigest() == sealed.sha256 and any(
            openssl.verifies(key, content, signature or b"") for key in judged.vouched_keys(entry.seq)
        )
        sentence = f"{names[0]} is not the manifest that was sealed, or not signed by the pipeline's key"
        found.check("manifests of backups, with their signatures", sentence, holds=good)
    for name in sorted(each for each in files.keys() - known if each.startswith("backups/")):
        found.differences.append(f"{name} does not belong to the pack")
    if absent:
        found.not_covered.append(f"manifests of backups that no place held when the pack was made: {absent}")


def _check_certificates(files: Mapping[str, bytes], judged: Judged, openssl: OfflineCrypto, found: Findings) -> None:
    """A signed certificate for each rotation whose key is dead: what the audit says, but for backups; or why none."""
    keys = {sha256(key).hexdigest(): key for key in judged.vouched_keys()}
    by_rotation = {dead.entry.request or "": dead for dead in dead_keys(judged.entries)}
    refused = {each: text for each in by_rotation if (text := files.get(refusal_name(each))) is not None}
    expected = {certificate_name(each): dead for each, dead in by_rotation.items() if each not in refused}
    for rotation, text in refused.items():
        found.not_covered.append(f"the key of rotation {rotation}, which got no certificate: {text.decode().strip()}")
    named = {each for each in files if each.startswith("certificates/")} - {*map(refusal_name, refused)}
    for name in sorted(expected.keys() | named):
        if name not in expected or name not in files:
            found.differences.append(f"{name} {'is missing' if name in expected else 'does not belong to the pack'}")
            continue
        with found.readable(name):
            payload, signed = _opened(files[name])
            said = json.loads(payload)["predicate"]
            kept = said["backups_that_need_it"], said.get("plaintext", {}).get("backups_kept", [])
            same = payload == payload_of(statement_of(judged.entries, judged.state, expected[name], *kept))
            found.check("certificates of key death, by the audit", f"{name} says what the audit does not", holds=same)
            good = any(openssl.verifies(keys[by], to_sign(payload), each) for by, each in signed if by in keys)
            sentence = f"{name} is not signed by the pipeline's key"
            found.check("certificates of key death, by openssl", sentence, holds=good)


def _opened(envelope: bytes) -> tuple[bytes, Sequence[tuple[str, bytes]]]:
    """The payload of an envelope, and each signature with the id of its key."""
    stored = json.loads(envelope)
    if stored["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(PAYLOAD_TYPE)
    signed = [(each["keyid"], b64decode(each["sig"], validate=True)) for each in stored["signatures"]]
    return b64decode(stored["payload"], validate=True), signed


def _check_timestamps(judged: Judged, openssl: OfflineCrypto, found: Findings) -> None:
    """Every time stamp: over a head of this audit, by an authority that its certificates vouch for, of that time."""
    stamped = [(each.seq, each.fact) for each in judged.entries if isinstance(each.fact, AuditTimestamped)]
    authorities = set[str]()
    for seq, fact in stamped:
        own = 0 < fact.seq < seq and judged.entries[fact.seq - 1].event.hash == fact.hash
        found.check("time stamps over a head of this audit", f"the time stamp of event {seq} is not", holds=own)
        trusted = [b64decode(each) for each in fact.trusted]
        try:
            at = openssl.stamped_at(bytes.fromhex(fact.hash), b64decode(fact.response), trusted)
            same = at == fact.stamped_at.replace(microsecond=0)
        except TimestampError:
            same = False
        found.check("time stamps, by openssl", f"the time stamp of event {seq} does not verify", holds=same)
        authorities |= {sha256(each).hexdigest() for each in trusted}
    if not stamped:
        found.not_covered.append("when this audit was written: no authority outside has time-stamped it")
        return
    newest = stamped[-1][1].seq
    found.not_covered.append(f"by when the events after {newest} were written: the newest time stamp is of that event")
    found.not_covered += [
        f"whether you trust the time-stamping authority of the certificate with SHA-256 {each}"
        for each in sorted(authorities)
    ]


def _check_report(files: Mapping[str, bytes], judged: Judged, now: datetime, found: Findings) -> None:
    """The report is, byte for byte, the one that the audit gives for its moment, of the whole audit."""
    said = json.loads(files[REPORT])
    parameters, at = read(Parameters, said["parameters"]), datetime.fromisoformat(said["generated_at"])
    report = compliance_report((judged.entries, judged.state), at, parameters)
    in_time = judged.entries[-1].at - EVENTS_DIFFER_BY <= at <= now + EVENTS_DIFFER_BY
    whole = parameters.period is None and in_time
    same = whole and render_json(report) == files[REPORT]
    found.check(f"{REPORT}, made again from the audit", f"{REPORT} is not what the audit gives", holds=same)
