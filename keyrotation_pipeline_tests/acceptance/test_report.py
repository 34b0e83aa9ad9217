"""The compliance report, as a user types it, and the pack that an auditor checks without this program."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.rfc3161 import Rfc3161Authority
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.model.audit import GENESIS, hash_of, stamped_bytes
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers
from keyrotation_pipeline_tests.timestamp_authority import certified, serving

__all__ = ["clinic", "officers"]
CHECK_IT = "check it with python3 -I verify.py\n"
REASON = ("yearly rotation", "another reason")


def test_a_finished_rotation_is_reported_and_its_pack_is_checked_offline(clinic: Clinic, tmp_path: Path) -> None:
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    pack = clinic.folder.path / "pack"
    with serving(certified(tmp_path / "authority")) as authority:
        clinic.path.write_text(
            f'{clinic.path.read_text()}\n[audit]\ntimestamp_url = "{authority.url}"\n'
            f'timestamp_certificates = ["{authority.root}"]\n'
        )
        clinic.walk(request)
        clinic.run("report", "--format", "pack", "--output", str(pack))
        assert clinic.error == f"{pack}: the report up to audit event {audit_seq(pack)}; " + CHECK_IT
    assert "1 time stamp(s) verified with [audit] timestamp_certificates" in clinic.run("audit", "verify")
    report_tells_of(clinic, request, json.loads((pack / "report.json").read_text()))
    again = json.loads(clinic.run("report", "--format", "json"))
    made = json.loads((pack / "report.json").read_text())
    differs = {name for name in made if made[name] != again[name]}
    assert differs <= {"generated_at", "objectives"}, "the same audit gives the same report, at another moment"
    clinic.run("report", "--format", "pack", "--output", str(pack), expect=1)
    assert "already exists" in clinic.error
    assert no_content(pack)

    code, told = verified(pack)
    assert code == 0, told
    for line in ("2  signatures on manifests, by openssl", "not checked  the backups themselves"):
        assert line in told
    for line in ("2  manifests of backups", "2  signatures, by gpg", "1  requests that began, with enough signatures"):
        assert line in told
    for line in ("1  time stamps over a head of this audit", "1  time stamps, by openssl"):
        assert line in told
    for line in ("1  certificates of key death, by the audit", "1  certificates of key death, by openssl"):
        assert line in told
    envelope = json.loads(clinic.run("report", "--format", "certificate", "--rotation", request))
    assert envelope == json.loads((pack / "certificates" / f"{request}.dsse.json").read_text()), (
        "the same, signed alike"
    )
    certificate_tells_of(request, json.loads(base64.b64decode(envelope["payload"])))
    assert "not checked  whether this audit is the one you know" in told
    with open_pipeline(settings.load(clinic.path), actor="test") as pipeline:
        _, signed_over = pipeline.ledger.request(request).audit_head
    assert verified(pack, signed_over)[0] == 0
    assert verified(pack, "ab" * 32)[0] == 1

    for tamper, difference in TAMPERED.items():
        copy = clinic.folder.path / tamper.__name__
        shutil.copytree(pack, copy)
        tamper(copy)
        code, told = verified(copy)
        assert (code, difference in told) == (1, True), f"{tamper.__name__}\n{told}"


def report_tells_of(clinic: Clinic, request: str, shown: dict[str, Any]) -> None:
    assert shown["schema"] == 3
    (rotation,) = shown["requests"]
    assert (rotation["id"], rotation["status"], rotation["records_reencrypted"]) == (request, "finished", 600)
    assert [each["officer"] for each in rotation["approvals"]] == [officer.name for officer in clinic.officers]
    assert rotation["retirement"]
    assert {key["version"]: key["state"] for key in shown["keys"]} == {"v1": "archived", "v2": "active"}


def certificate_tells_of(request: str, statement: dict[str, Any]) -> None:
    said = statement["predicate"]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert [(key["version"], key["state"]) for key in said["keys"]] == [("v1", "archived")]
    assert [each["digest"]["sha256"] for each in statement["subject"]] == [key["fingerprint"] for key in said["keys"]]
    assert (said["rotation"], said["rows"]["old_values"], said["rows"]["fenced_against"]) == (request, 0, ["v1"])
    assert said["undeclared_columns"]["not_searched"]
    assert said["not_seen"]
    assert said["applications"]["taken_from_key_store"] == ["v1"]
    assert said["backups_that_need_it"] == [], "only keys were backed up"


def verified(pack: Path, *arguments: str) -> tuple[int, str]:
    """What `verify.py` of the pack says to a plain Python in an empty environment."""
    done = subprocess.run(
        [Path(sys.base_prefix) / "bin" / "python3", "-I", pack / "verify.py", *arguments],
        env={}, cwd="/", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert not done.stderr
    return done.returncode, done.stdout


def event_changed(pack: Path) -> None:
    rewrite(pack, REASON, rehashed=False)


def event_changed_and_hashed_anew(pack: Path) -> None:
    rewrite(pack, REASON, rehashed=True)


def rewrite(pack: Path, *changes: tuple[str, str], rehashed: bool = True) -> None:
    """Another text in the audit, and with `rehashed` a chain that is whole again, as in report and page."""
    chain = pack / "audit.jsonl"
    previous, lines, last = GENESIS, [], ""
    for line in chain.read_text().splitlines():
        event = json.loads(line)
        event["body"], last = replaced(event["body"], changes), event["hash"]
        if rehashed:
            event["previous"], event["hash"] = previous, hash_of(previous, event["body"])
        previous = event["hash"]
        lines.append(json.dumps(event))
    chain.write_text("\n".join(lines) + "\n")
    for name in ("report.json", "report.html"):
        (pack / name).write_text((pack / name).read_text().replace(last, previous))
    text = next((pack / "approvals").glob("*.txt"))
    text.write_text(replaced(text.read_text(), changes))


def replaced(text: str, changes: Sequence[tuple[str, str]]) -> str:
    for change in changes:
        text = text.replace(*change)
    return text


def signature_removed(pack: Path) -> None:
    next((pack / "approvals").glob("*.sig")).unlink()


def signature_never_made(pack: Path) -> None:
    """Not in the pack and not in the chain, which is whole again: nobody would know, but for the number of officers."""
    signature = next((pack / "approvals").glob("*.sig"))
    rewrite(pack, (json.dumps(signature.read_bytes().hex()), '""'))
    signature.write_bytes(b"")


def officer_replaced(pack: Path) -> None:
    """One officer signs for both: certificate and signature of the other are replaced, in the files and the chain."""
    changes: list[tuple[str, str]] = []
    for pattern, encode in (("officers/*.pgp", base64_text), ("approvals/*.sig", bytes.hex)):
        by: dict[str, bytes] = {}
        for file in sorted(pack.glob(pattern)):
            by[file.name] = file.read_bytes()
        names = {name: next(f for f in fingerprints(pack) if f in name) for name in by}
        good, bad = sorted(fingerprints(pack))
        (kept,) = {by[name] for name, whose in names.items() if whose == good and ".now." not in name}
        for name, whose in names.items():
            if whose == bad:
                changes.append((encode(by[name]), encode(kept)))
                (pack / pattern.partition("/")[0] / name).write_bytes(kept)
    rewrite(pack, *changes)


def base64_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def fingerprints(pack: Path) -> set[str]:
    return {file.name.partition(".")[0] for file in (pack / "officers").iterdir()}


def event_removed(pack: Path) -> None:
    chain = pack / "audit.jsonl"
    lines = chain.read_text().splitlines(keepends=True)
    chain.write_text("".join(lines[:5] + lines[6:]))


def end_cut_off(pack: Path) -> None:
    chain = pack / "audit.jsonl"
    chain.write_text("".join(chain.read_text().splitlines(keepends=True)[:-1]))


def signatures_swapped(pack: Path) -> None:
    first, second = sorted((pack / "approvals").glob("*.sig"))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def approval_text_changed(pack: Path) -> None:
    text = next((pack / "approvals").glob("*.txt"))
    text.write_text(text.read_text().replace("yearly", "weekly"))


def certificate_removed(pack: Path) -> None:
    for file in (pack / "officers").iterdir():
        file.unlink()


def certificate_says_more(pack: Path) -> None:
    envelope_changed(pack, lambda said: said["undeclared_columns"].update(not_searched=[]))


def certificate_forgets_its_limits(pack: Path) -> None:
    envelope_changed(pack, lambda said: said.update(not_claimed=[]))


def envelope_changed(pack: Path, change: Callable[[dict[str, Any]], None]) -> None:
    (file,) = (pack / "certificates").iterdir()
    envelope = json.loads(file.read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement["predicate"])
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    file.write_text(json.dumps(envelope))


def time_stamp_of_another_moment(pack: Path) -> None:
    """The facts say another time than the token, in a chain that is whole again."""
    chain = pack / "audit.jsonl"
    said = re.search(r'\\"stamped_at\\":\\"([^"\\]*)', chain.read_text())
    assert said is not None
    rewrite(pack, (said[1], said[1].replace("20", "19", 1)))


def authority_replaced(pack: Path) -> None:
    """Certificate and token of somebody else, over the same head, in a chain that is not made anew."""
    with tempfile.TemporaryDirectory() as folder:
        other = certified(Path(folder) / "other")
        facts = next(f for f in events(pack) if f["event"] == "audit_timestamped")["facts"]
        event = next(f for f in map(json.loads, (pack / "audit.jsonl").read_text().splitlines())
                     if f["seq"] == facts["seq"])  # fmt: skip
        answer = Rfc3161Authority(None, (other.root,))
        request = TimestampRequestBuilder().data(stamped_bytes(event["previous"], event["body"]))
        token = other.stamp(request.hash_algorithm(HashAlgorithm.SHA256).build().as_bytes())
        assert answer.stamped_at(bytes.fromhex(event["hash"]), token)
        next((pack / "timestamps").glob("*.tsr")).write_bytes(token)
        next((pack / "timestamps").glob("*.pem")).write_bytes(other.root.read_bytes())


def events(pack: Path) -> list[dict[str, Any]]:
    return [json.loads(json.loads(line)["body"]) for line in (pack / "audit.jsonl").read_text().splitlines()]


def audit_seq(pack: Path) -> int:
    return len(events(pack))


def file_added(pack: Path) -> None:
    (pack / "officers" / "mallory.pgp").write_bytes(b"x")


def manifest_written_anew(pack: Path) -> None:
    """Another manifest, in a chain that is made anew around it; but nobody else has the pipeline's key."""
    manifest = min((pack / "backups").glob("*.json"))
    before = hashlib.sha256(manifest.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace("{", "{ ", 1))
    rewrite(pack, (before, hashlib.sha256(manifest.read_bytes()).hexdigest()))


def manifest_signed_by_another_key(pack: Path) -> None:
    manifest = min((pack / "backups").glob("*.json"))
    (pack / "backups" / f"{manifest.name}.sig").write_bytes(Ed25519PrivateKey.generate().sign(manifest.read_bytes()))


def manifest_signed_by_a_key_that_was_named_too_late(pack: Path) -> None:
    """The audit names the key, but only after the backup: whoever made it anew kept the events that there were."""
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for manifest in (pack / "backups").glob("*.json"):
        (pack / "backups" / f"{manifest.name}.sig").write_bytes(other.sign(manifest.read_bytes()))
    last = events(pack)[-1]
    named = {**last, "event": "backup_key_pinned", "facts": {"public": base64.b64encode(public).decode()}}
    before, after = (json.dumps(each, sort_keys=True, separators=(",", ":")) for each in (last, named))
    rewrite(pack, (before, after))
    assert events(pack)[-1]["event"] == "backup_key_pinned"


def manifest_signatures_swapped(pack: Path) -> None:
    first, second = sorted((pack / "backups").glob("*.sig"))[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def key_state_changed_in_report(pack: Path) -> None:
    report = pack / "report.json"
    report.write_text(report.read_text().replace('"archived"', '"destroyed"'))


TAMPERED: dict[Callable[[Path], None], str] = {
    event_changed: "is not what its hash says",
    event_changed_and_hashed_anew: "is no good signature",
    signatures_swapped: "is no good signature",
    approval_text_changed: ".txt is not what the audit says",
    certificate_removed: "is no good signature",
    certificate_says_more: "says what the audit does not",
    time_stamp_of_another_moment: ".tsr does not verify",
    authority_replaced: ".pem is not what the audit says",
    certificate_forgets_its_limits: "is not signed by the pipeline's key",
    signature_removed: ".sig is not what the audit says",
    signature_never_made: "is no good signature",
    officer_replaced: "is no good signature",
    event_removed: "event 6 is not what its hash says",
    end_cut_off: "report.json is of another audit",
    file_added: "officers/mallory.pgp does not belong to the pack",
    manifest_written_anew: "is not signed by the pipeline's key",
    manifest_signed_by_another_key: "is not signed by the pipeline's key",
    manifest_signed_by_a_key_that_was_named_too_late: "is not signed by the pipeline's key",
    manifest_signatures_swapped: "is not signed by the pipeline's key",
    key_state_changed_in_report: "report.json has other keys than the audit",
}


def no_content(pack: Path) -> bool:
    """None of the plaintexts, and no value of ours."""
    parts = (b"name 1", b"memo 1", b'"v1:', b">v1:", b"PRIVATE")
    return not any(part in file.read_bytes() for file in pack.rglob("*") if file.is_file() for part in parts)
