"""Packs, checked by their own program and in this process, and chains, judged as a pack's program judges them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, hash_of
from keyrotation_pipeline.reporting.bundle import bundle
from keyrotation_pipeline.reporting.pack_files import (
    AUDIT,
    MANIFEST,
    SIGNATURE,
    PackManifest,
    encoded,
    events_in,
    extracts,
)
from keyrotation_pipeline_tests.forging import signed

PYTHON = Path(sys.base_prefix) / "bin" / "python3"
# Imports from verify.py as it would itself, then judges one chain per line: `{"audit": …, "now": {name: hex}}`.
# The first line has what `Stub` knows, or null for gpg.
_JUDGE = """
import base64, hashlib, json, runpy, sys, tempfile, pathlib
from datetime import datetime
program = runpy.run_path(sys.argv[1], run_name="verify")
sys.meta_path.insert(0, program["Sources"]())
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openssl import OpenSSL
from keyrotation_pipeline.assembly.offline import officers_of
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import VerifiedSignature
from keyrotation_pipeline.reporting.verify_pack import Findings, check_audit
class Stub:
    def verify_as_of(self, text, signature, officers, at):
        for each in officers:
            made = good.get(f"{each.fingerprint} {text.hex()}", good.get(each.fingerprint))
            if made and signature == f"signed by {each.fingerprint}: ".encode() + text:
                signed_at = at if made == "at any time" else None if made == "no time" else datetime.fromisoformat(made)
                return VerifiedSignature(each.fingerprint, signed_at)
        raise ApprovalError("the signature is not over this text; sign it again")
    def certificates(self):
        return ()
class StubSSL:
    def verifies(self, public, message, signature):
        return signature == hashlib.sha512(base64.b64encode(public) + message).digest()
good = json.loads(sys.stdin.readline())
openssl = OpenSSL.found if good is None else StubSSL
opened = {} if good is None else {"{}": Stub()}
with tempfile.TemporaryDirectory() as home:
    for line in sys.stdin:
        asked, found = json.loads(line), Findings()
        if (known := json.dumps(asked["now"])) not in opened:  # it remembers good signatures
            (place := pathlib.Path(home, str(len(opened)))).mkdir()
            files = {name: bytes.fromhex(content) for name, content in asked["now"].items()}
            opened[known] = officers_of(files, place)
        with found.readable("audit.jsonl"):
            check_audit(asked["audit"].encode(), [], opened[known], openssl, SystemClock().now(), found)
        sys.stdout.write(json.dumps(found.differences) + "\\n")
        sys.stdout.flush()
"""


def verified(pack: Path, *heads: str, path: str | None = None) -> tuple[int, str]:
    """What `verify.py` of a pack says to a plain Python without site packages, in an empty environment.

    Args:
        path: where programs are looked for; None: where the system has them.
    """
    done = subprocess.run(
        [PYTHON, "-I", "-S", pack / "verify.py", *heads],
        env={} if path is None else {"PATH": path}, cwd="/", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


Judge = Callable[[Iterable[AuditEvent], Mapping[str, bytes]], list[str]]


@contextmanager
def offline_judge(folder: Path, good: Mapping[str, str] | None = None) -> Iterator[Judge]:
    """A process that has loaded the generated `verify.py`: `judge(events, now)` gives what differs in a chain.

    Args:
        folder: gets the program.
        good: instead of gpg, for signatures as `FakeSignatures` has them: when each was made, by the fingerprint and
            the text in hex, or ``no time``; by the fingerprint alone, and ``at any time``, for who signs anything with
            any date.
    """
    program = folder / "verify.py"
    program.write_bytes(bundle())
    command = [str(PYTHON), "-I", "-S", "-c", _JUDGE, str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        stdin.write(f"{json.dumps(good)}\n")

        def judge(events: Iterable[AuditEvent], now: Mapping[str, bytes]) -> list[str]:
            audit = b"".join(map(encoded, events)).decode()
            stdin.write(json.dumps({"audit": audit, "now": {name: each.hex() for name, each in now.items()}}) + "\n")
            stdin.flush()
            answer = stdout.readline()
            assert answer, "the program has ended"
            differences: list[str] = json.loads(answer)
            return differences

        yield judge
        stdin.close()


def events_of(pack: Path) -> list[dict[str, Any]]:
    """The bodies of its events."""
    return [json.loads(each.body) for each in events_in((pack / AUDIT).read_bytes())]


def chained(bodies: Iterable[Mapping[str, Any]], key: SigningKey | None = None) -> list[AuditEvent]:
    """A chain of these events, with right numbers and hashes; with the home's key, signed."""
    previous, chain = GENESIS, list[AuditEvent]()
    for seq, body in enumerate(bodies, 1):
        text = json.dumps({**body, "seq": seq}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        event = AuditEvent(seq, text, previous, hash_of(previous, text), body["event"], body["request"])
        chain.append(event if key is None else signed(event, key))
        previous = chain[-1].hash
    return chain


def rewrite(pack: Path, change: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]] | None]) -> None:
    """Change the events of a pack, give them right hashes, and make the files again that the audit gives."""
    for each in events_in((pack / AUDIT).read_bytes()):
        for name, _ in extracts(entry_of(each)):
            (pack / name).unlink(missing_ok=True)
    bodies = events_of(pack)
    chain = chained(change(bodies) or bodies)
    (pack / AUDIT).write_bytes(b"".join(map(encoded, chain)))
    for each in chain:
        for name, content in extracts(entry_of(each)):
            (pack / name).parent.mkdir(exist_ok=True)
            (pack / name).write_bytes(content)


def sign_again(pack: Path, key: SigningKey) -> None:
    """Sign the events of a pack as they are, as only whoever has the home's key can."""
    lines = [encoded(signed(each, key)) for each in events_in((pack / AUDIT).read_bytes())]
    (pack / AUDIT).write_bytes(b"".join(lines))


def manifest_again(pack: Path, sign: Callable[[bytes], bytes] | None = None) -> None:
    """A manifest of the files as they are; its signature stays the old one, unless somebody can sign."""
    last = events_in((pack / AUDIT).read_bytes())[-1]
    names = (path for path in pack.rglob("*") if path.is_file() and not path.is_symlink())
    content = {path.relative_to(pack).as_posix(): path.read_bytes() for path in names}
    files = {name: each for name, each in content.items() if name not in {MANIFEST, SIGNATURE}}
    manifest = PackManifest.of(AuditHead(last.seq, last.hash), files).encode()
    (pack / MANIFEST).write_bytes(manifest)
    if sign is not None:
        (pack / SIGNATURE).write_bytes(sign(manifest))
