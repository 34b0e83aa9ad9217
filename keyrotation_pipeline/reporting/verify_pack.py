"""Check this pack with nothing but Python, gpg and openssl: `python3 -I verify.py [HEAD]`.

HEAD is the hash of an audit head that you have from somewhere else, such as a signed text or an earlier report: without
one, whoever made the pack could have made all of it. Exit code 1 on any difference, and if anything could not be
checked that should be. Without openssl, signatures on certificates of key death and on manifests, and time stamps, are
not checked, which it says; an openssl that cannot do Ed25519 (before 3.0) checks time stamps only.
"""

import base64
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
LABEL = b"keyrotation-audit-v1"
STRONG_DIGESTS = {"8", "9", "10", "12", "14"}  # RFC 9580, section 9.5: SHA-2 of 256 bits and more, SHA-3
OWN_FILES = {"verify.py", "report.json", "report.schema.json", "report.html", "audit.jsonl"}
NO_OPENSSL = "openssl is not installed, or is one before 3.0"
ED25519_DER = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: what stands before the 32 bytes of a public key
EXAMPLE_PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
EXAMPLE_SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
OPTIONS = (
    "--batch", "--no-tty", "--no-options", "--no-autostart", "--no-auto-key-locate", "--no-auto-key-retrieve",
    "--no-auto-check-trustdb", "--trust-model=always", "--status-fd", "1",
)  # fmt: skip
STATUS_AFTER = {
    "requested": {"running", "paused", "cancelled"},
    "running": {"paused", "cancelled", "finished"},
    "paused": {"requested", "running", "cancelled"},
    "cancelled": set[str](),
    "finished": set[str](),
}
STATE_AFTER = {
    "pre-activation": {"active", "deactivated", "archived", "compromised"},
    "active": {"deactivated", "compromised"},
    "deactivated": {"archived", "active", "compromised"},
    "archived": {"destroyed", "active", "deactivated", "compromised"},
    "compromised": {"destroyed"},
    "destroyed": set[str](),
}
TEXT_HEADER = "keyrotation-approval-v1"
OVER = {"cancelled", "finished"}
HELD = re.compile(
    r"^Authorises: hold (v[1-9][0-9]{0,5}(?:, v[1-9][0-9]{0,5})*) compromised, never to be the primary again; ",
    re.MULTILINE | re.ASCII,
)
Event = dict[str, Any]


class ImpossibleError(ValueError):
    """An event that cannot have happened."""


class State:
    """What the events lead to: one that cannot have happened when it did changes nothing.

    Nothing comes back that was over; and another roster, or a key that is compromised, destroyed or replaced, is by a
    request to do exactly that, which enough officers signed. Whether the signatures are good is another question.
    """

    def __init__(self) -> None:
        self.roster: Event | None = None
        self.requests: dict[str, Event] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.done: set[tuple[str, ...]] = set()

    def take(self, event: Event) -> bool:
        """Take an event in; False: it cannot have happened."""
        rule = getattr(self, f"on_{event['event']}", None)
        try:
            if rule is not None:
                rule(event["request"], event["facts"])
        except ImpossibleError:
            return False
        return True

    def known(self, request: str) -> Event:
        """A request that was opened before."""
        require(request in self.requests)
        return self.requests[request]

    def signed(self, request: str, actions: set[str], roster: Event | None = None) -> Event:
        """A running request to do one of these, signed by enough officers: of `roster`, else of the pinned one."""
        found = self.known(request)
        require(found["action"] in actions and found["status"] == "running")
        require(self.has_enough(found, roster or self.roster))
        return found

    @staticmethod
    def has_enough(request: Event, roster: Event | None) -> bool:
        """Whether enough officers of a roster signed a request."""
        officers = {each["fingerprint"] for each in roster["officers"]} if roster else set()
        return roster is not None and len(officers.intersection(request["signed"])) >= roster["required"]

    def on_roster_pinned(self, request: str, facts: Event) -> None:
        """A roster, by the first event or by a request; one that a database lost is pinned again by its officers."""
        if self.roster is not None:
            again = self.known(request)["action"] == "reconcile"
            self.signed(request, {"policy", "reconcile"}, facts if again else None)
        self.roster = facts

    def on_request_opened(self, request: str, facts: Event) -> None:
        """A request, whose id is new."""
        require(request is not None and request not in self.requests)
        self.requests[request] = {**facts, "status": "requested", "signed": []}

    def on_signature_added(self, request: str, facts: Event) -> None:
        """A signature on a request that is not over, the only one of that officer."""
        found = self.known(request)
        require(found["status"] not in OVER and facts["officer"] not in found["signed"])
        found["signed"].append(facts["officer"])

    def on_status_changed(self, request: str, facts: Event) -> None:
        """A status that may follow."""
        found = self.known(request)
        require(facts["from"] == found["status"] and facts["to"] in STATUS_AFTER[found["status"]])
        found["status"] = facts["to"]

    def on_step_finished(self, request: str, facts: Event) -> None:
        """A step of a rotation or rollback, once."""
        self.once(request, facts["step"], str(facts["table"]), str(facts["shard"]))

    def on_promotion_recorded(self, request: str, _facts: Event) -> None:
        """The promotion of a rotation or rollback, once."""
        self.once(request)

    def once(self, request: str, *what: str) -> None:
        """Something that a rotation or rollback does once."""
        require(self.known(request)["action"] in {"rotate", "rollback"} and (request, *what) not in self.done)
        self.done.add((request, *what))

    def on_blocked(self, request: str, _facts: Event) -> None:
        """A request that is there."""
        self.known(request)

    on_unblocked = on_blocked

    def on_key_registered(self, _request: str, facts: Event) -> None:
        """A new version, in a state that needs no signature."""
        require(facts["version"] not in self.keys and facts["state"] not in {"compromised", "destroyed"})
        self.keys[facts["version"]] = (facts["state"], facts["fingerprint"])

    def on_key_state_changed(self, request: str, facts: Event) -> None:
        """A state that may follow; compromised and destroyed only by a request that says so."""
        version, before, after = facts["version"], facts["from"], facts["to"]
        require(self.keys.get(version) == (before, facts["fingerprint"]) and after in STATE_AFTER[before])
        if after == "destroyed":
            require(self.signed(request, {"destroy"})["from"] == version)
        if after == "compromised":
            found = self.known(request)
            held = HELD.search(found["approval_text"])
            require(found["type"] == "emergency" and found["status"] not in OVER)
            require(held is not None and version in held[1].split(", ") and self.has_enough(found, self.roster))
        self.keys[version] = (after, facts["fingerprint"])

    def on_key_replaced(self, request: str, facts: Event) -> None:
        """Another key for a version, by a request that names both."""
        version, before, after = facts["version"], facts["before"], facts["after"]
        require(version in self.keys and self.keys[version][1] == before)
        lines = self.signed(request, {"replace-key"})["approval_text"].split("\n")
        fields = dict(line.partition(": ")[::2] for line in lines[1:-1] if ": " in line)
        require((lines[0], lines[-1], len(fields)) == (TEXT_HEADER, "", len(lines) - 2))
        require((fields.get("From"), fields.get("To")) == (f"{version} {before}", f"{version} {after}"))
        self.keys[version] = (self.keys[version][0], after)

    def on_database_reconciled(self, request: str, _facts: Event) -> None:
        """By a request to reconcile."""
        self.signed(request, {"reconcile"})


def require(holds: bool) -> None:  # noqa: FBT001  reads as a sentence
    """What must hold for an event to have happened.

    Raises:
        ImpossibleError: it does not.
    """
    if not holds:
        raise ImpossibleError


def state_after(events: list[Event]) -> State:
    """What these events lead to."""
    state = State()
    for event in events:
        state.take(event)
    return state


class Findings:
    """What was checked, what was not, and what differs."""

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.unchecked: list[str] = []
        self.differences: list[str] = []

    def check(self, what: str, difference: str, *, holds: bool) -> bool:
        """Count one check; note the difference where it does not hold."""
        self.checked[what] += 1
        if not holds:
            self.differences.append(difference)
        return holds

    def leave(self, what: str) -> None:
        """Note, once, something that cannot be checked."""
        if what not in self.unchecked:
            self.unchecked.append(what)


def main() -> int:
    """Check everything, and tell of it."""
    pack, found = Path(__file__).resolve().parent, Findings()
    events: list[Event] = []
    with readable("audit.jsonl", found):
        events = read_chain(pack / "audit.jsonl", found)
        check_head(events, sys.argv[1:], found)
    # Each by itself: what one stumbles over must not hide what another finds.
    for what, check in (
        ("events", check_events),
        ("texts, signatures and certificates", check_files),
        ("signatures", check_signatures),
        ("signatures on manifests", check_manifests),
        ("certificates of key death", check_certificates),
        ("time stamps", check_timestamps),
        ("report", check_report),
    ):
        with readable(what, found):
            check(pack, events, found)
    found.unchecked += [
        "the backups themselves, which are not in the pack; that a set is whole shows where it lies",
        "what report.html says besides the audit head; of report.json all but time, head, keys, requests and approvals",
        "whether the officers' certificates are those of the officers: compare the fingerprints with ones you know",
        "this program: compare it with `verify_pack.py` of a release that you trust",
    ]
    tell(found)
    return 1 if found.differences else 0


@contextlib.contextmanager
def readable(what: str, found: Findings) -> Iterator[None]:
    """Whatever cannot be read or does not have its form is a difference, too."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        found.differences.append(f"not all of {what} in the pack can be read ({type(error).__name__})")


def tell(found: Findings) -> None:
    """Print all of it, the differences last; what the pack says cannot steer the terminal."""
    lines = [f"checked      {number:>6}  {what}" for what, number in found.checked.items()]
    lines += [f"not checked  {what}" for what in found.unchecked]
    lines += [f"DIFFERENT    {difference}" for difference in found.differences]
    lines.append("the pack does NOT hold" if found.differences else "everything that was checked holds")
    for line in lines:
        sys.stdout.write(f"{line.encode('unicode_escape').decode('ascii')}\n")


def read_chain(path: Path, found: Findings) -> list[Event]:
    """The events, each checked against the one before it."""
    events: list[Event] = []
    previous = GENESIS
    for seq, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        stored = json.loads(line)
        digest = hashlib.sha256(LABEL + previous.encode() + stored["body"].encode()).hexdigest()
        event = json.loads(stored["body"])
        follows = (stored["seq"], stored["previous"], stored["hash"], event["seq"]) == (seq, previous, digest, seq)
        canonical = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=True) == stored["body"]
        whole = follows and canonical
        found.check("events of the audit chain", f"event {seq} is not what its hash says", holds=whole)
        events.append({**event, "hash": stored["hash"]})
        previous = stored["hash"]
    found.check("the audit chain has events", "the audit chain is empty", holds=bool(events))
    return events


def check_head(events: list[Event], arguments: list[str], found: Findings) -> None:
    """Whether the chain leads through the head that was given."""
    if not arguments:
        found.unchecked.append("whether this audit is the one you know: give the hash of a head that you have")
    for head in arguments:
        leads = any(event["hash"] == head.strip().lower() for event in events)
        found.check("heads given by you", f"the chain does not lead through {head[:64]}", holds=leads)


def check_events(_pack: Path, events: list[Event], found: Findings) -> None:
    """Every event could happen when it did."""
    state = State()
    for event in events:
        sentence = f"event {event['seq']} ({event['event']}) cannot have happened when it did"
        found.check("events that could happen when they did", sentence, holds=state.take(event))


def expected_files(events: list[Event]) -> dict[str, bytes]:
    """The files that the chain itself gives, with their bytes."""
    files: dict[str, bytes] = {}
    for event in events:
        facts, kind = event["facts"], event["event"]
        if kind == "request_opened":
            files[f"approvals/{event['request']}.txt"] = facts["approval_text"].encode()
        elif kind == "signature_added":
            files[f"approvals/{event['request']}.{facts['officer']}.sig"] = bytes.fromhex(facts["signature"])
        elif kind == "rollout_confirmed":
            files[f"confirmations/{event['seq']}.txt"] = facts["text"].encode()
            files[f"confirmations/{event['seq']}.{facts['officer']}.sig"] = bytes.fromhex(facts["signature"])
        elif kind == "breach_assessment_signed":
            files[f"assessments/{event['seq']}.txt"] = facts["text"].encode()
            files[f"assessments/{event['seq']}.{facts['officer']}.sig"] = bytes.fromhex(facts["signature"])
        elif kind == "roster_pinned":
            for officer in facts["officers"]:
                name = f"officers/{officer['fingerprint']}.{event['seq']}.pgp"
                files[name] = base64.b64decode(officer["certificate"])
        elif kind == "audit_timestamped":
            files[f"timestamps/{event['seq']}.tsr"] = base64.b64decode(facts["response"])
            files[f"timestamps/{event['seq']}.pem"] = "".join(map(pem, facts["trusted"])).encode()
    return files


def pem(certificate: str) -> str:
    """A certificate for openssl, from the base64 of its DER."""
    lines = "\n".join(textwrap.wrap(certificate, 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def check_files(pack: Path, events: list[Event], found: Findings) -> None:
    """Every file is the one that the chain gives, none is missing, and there is no other."""
    expected = expected_files(events)
    for name, content in expected.items():
        file = pack / name
        same = file.is_file() and file.read_bytes() == content
        found.check("texts, signatures, time stamps and certificates", f"{name} is not what the audit says", holds=same)
    sealed = {e["facts"]["manifest"]: e["facts"]["sha256"] for e in events if e["event"] == "backup_sealed"}
    for name, digest in sealed.items():
        file = pack / "backups" / name
        if not file.is_file():
            found.unchecked.append(f"{name}: it is not in the pack")
            continue
        same = hashlib.sha256(file.read_bytes()).hexdigest() == digest
        found.check("manifests of backups", f"backups/{name} is not what the audit says", holds=same)
    dead = {f"certificates/{event['request']}.dsse.json" for event in events if event["event"] == "key_retired"}
    known = OWN_FILES | dead | expected.keys() | {f"backups/{name}{end}" for name in sealed for end in ("", ".sig")}
    for file in sorted(pack.rglob("*")):
        name = file.relative_to(pack).as_posix()
        strange = (file.is_symlink() or not file.is_dir()) and name not in known and not is_renewed(name, events)
        found.check("no file besides", f"{name} does not belong to the pack", holds=not strange)


def is_renewed(name: str, events: list[Event]) -> bool:
    """Whether it is a certificate of a pinned officer as it was when the pack was made, which may be extended."""
    return any(name == f"officers/{fingerprint}.now.pgp" for fingerprint in officers_of(events))


def officers_of(events: list[Event]) -> set[str]:
    """Fingerprints of everybody who was ever pinned."""
    rosters = [event["facts"]["officers"] for event in events if event["event"] == "roster_pinned"]
    return {officer["fingerprint"] for roster in rosters for officer in roster}


def check_signatures(pack: Path, events: list[Event], found: Findings) -> None:
    """Every signature over its text, by an officer of the roster of that moment, and enough of them for each start."""
    gpg = shutil.which("gpg")
    if gpg is None:
        found.differences.append("gpg is not installed, so no signature could be checked; install GnuPG")
        return
    roster: Event = {"required": 0, "officers": [], "seq": 0}
    signed: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    begun: set[str] = set()
    answers: dict[str, tuple[Event, int]] = {}
    for event in events:
        kind, facts, request = event["event"], event["facts"], event["request"]
        if kind == "request_opened":
            texts[request] = facts["approval_text"]
            holds = is_own_text(request, texts[request], events[: event["seq"] - 1])
            found.check("texts name their request and audit", f"the text of {request} is of another one", holds=holds)
        elif kind == "roster_pinned":
            agreed = roster["seq"] == 0 or (request in begun and is_agreed(facts, texts[request]))
            sentence = f"the roster of event {event['seq']} was not signed by officers of the one before"
            found.check("rosters, each signed by the one before", sentence, holds=agreed)
            roster = {**facts, "seq": event["seq"]}
        elif kind in {"signature_added", "rollout_confirmed"}:
            if check_signature(gpg, pack, event, roster, found) and kind == "signature_added":
                signed.setdefault(request, set()).add(facts["officer"])
        elif kind == "breach_assessed":
            answers[facts["incident"]] = (then(answers, facts), event["seq"])
        elif kind == "breach_assessment_signed":
            check_signature(gpg, pack, event, roster, found)
            holds = is_of_answers(facts, answers)
            sentence = f"assessments/{event['seq']}.txt is not of the answers as they were"
            found.check("assessments, signed over their answers", sentence, holds=holds)
        elif kind == "status_changed" and facts["to"] == "running" and request not in begun:
            enough = 0 < roster["required"] <= len(signed.get(request, ()))
            sentence = f"request {request} began without {roster['required']} good signatures"
            found.check("requests that began, with enough signatures", sentence, holds=enough)
            begun |= {request} if enough else set()


def check_signature(gpg: str, pack: Path, event: Event, roster: Event, found: Findings) -> bool:
    """One signature, over the file of its text."""
    by, seq = event["facts"]["officer"], event["seq"]
    stem = {
        "signature_added": f"approvals/{event['request']}",
        "rollout_confirmed": f"confirmations/{seq}",
        "breach_assessment_signed": f"assessments/{seq}",
    }[event["event"]]
    known = certificates(pack, by, roster["seq"])
    files = pack / f"{stem}.txt", pack / f"{stem}.{by}.sig"
    pinned = by in {each["fingerprint"] for each in roster["officers"]}
    good = pinned and is_good(gpg, *files, by, known, event["at"])
    if pinned and not good and is_revoked(gpg, known[1:]):
        # gpg cannot tell since when: it makes revocations in advance, dated with the key itself.
        good = is_good(gpg, *files, by, known[:1], event["at"])
        found.leave(f"whether the certificate of {by}, which is revoked now, was still good when it signed")
    return found.check("signatures, by gpg", f"{stem}.{by}.sig is no good signature", holds=good)


def then(answers: dict[str, tuple[Event, int]], facts: Event) -> Event:
    """The answers about an incident with later ones in their place; people affected, State by State."""
    before, later = answers.get(facts["incident"], ({}, 0))[0], facts["answers"]
    said = {name: value for name, value in later.items() if value is not None or name not in before}
    return {**before, **said, "affected": {**before.get("affected", {}), **later["affected"]}}


def is_of_answers(facts: Event, answers: dict[str, tuple[Event, int]]) -> bool:
    """Whether a signed text names its incident, the answers as they were, and the event that completed them."""
    said, seq = answers.get(facts["incident"], ({}, 0))
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    header, *lines = facts["text"].split("\n")
    named = {f"Incident: {facts['incident']}", f"Answers: {digest}", f"Audit event: {seq}"}
    return header == "keyrotation-assessment-v1" and named <= set(lines)


def is_own_text(request: str, text: str, before: list[Event]) -> bool:
    """Whether a text names this request, and an audit head that this audit had."""
    heads = {f"Audit head: {event['seq']} {event['hash']}" for event in before} | {f"Audit head: 0 {GENESIS}"}
    lines = text.split("\n")
    return lines.count(f"Request: {request}") == 1 and any(line in heads for line in lines)


def is_agreed(facts: Event, text: str) -> bool:
    """Whether a signed text is for exactly this roster, or for a reconciliation, which pins the one from before."""
    named = sorted((each["fingerprint"], json.dumps(each["name"], ensure_ascii=False)) for each in facts["officers"])
    officers, recipients = ", ".join(" ".join(each) for each in named), ", ".join(sorted(facts["recipients"]))
    lines = text.split("\n")
    to = f"To: {facts['required']} of {officers}; recipients {recipients}"
    return "Action: reconcile" in lines or ("Action: policy" in lines and to in lines)


def certificates(pack: Path, officer: str, seq: int) -> list[Path]:
    """A certificate as it was pinned, and after it as it was when the pack was made."""
    folder = pack / "officers"
    return [path for path in (folder / f"{officer}.{seq}.pgp", folder / f"{officer}.now.pgp") if path.is_file()]


def is_good(gpg: str, text: Path, signature: Path, officer: str, known: list[Path], at: str) -> bool:
    """Whether gpg takes exactly one good detached signature of this officer over these bytes, as of that moment."""
    if not signature.is_file() or not text.is_file():
        return False
    with home() as directory:
        for certificate in known:
            run(gpg, directory, "--import", str(certificate))
        moment = datetime.fromisoformat(at).astimezone(UTC)
        faked = ("--faked-system-time", f"{moment:%Y%m%dT%H%M%S}!")
        code, lines = run(gpg, directory, *faked, "--verify", str(signature), str(text))
        packets = run(gpg, directory, "--list-packets", str(signature))[1]
    kinds = [line.split()[0] for line in packets if line.startswith(":")]
    said = [line.split() for line in lines if line.startswith("[GNUPG:] ")]
    if code or kinds != [":signature"] or [s[1] for s in said if s[1].endswith("SIG")] != [
        "NEWSIG", "GOODSIG", "VALIDSIG"
    ]:  # fmt: skip
        return False
    valid = next(s for s in said if s[1] == "VALIDSIG")
    return valid[9] in STRONG_DIGESTS and valid[10] == "00" and valid[11] == officer


def is_revoked(gpg: str, known: list[Path]) -> bool:
    """Whether one of these certificates, or a key of one, is revoked."""
    with home() as directory:
        for certificate in known:
            run(gpg, directory, "--import", str(certificate))
        return any(
            line.startswith(("pub:r:", "sub:r:")) for line in run(gpg, directory, "--with-colons", "--list-keys")[1]
        )


@contextlib.contextmanager
def home() -> Iterator[str]:
    """A gpg home that knows nobody, and is removed."""
    with tempfile.TemporaryDirectory(prefix="verify-") as directory:
        yield directory


def run(gpg: str, directory: str, *arguments: str) -> tuple[int, list[str]]:
    """Run gpg without any settings; gives back its exit code and its lines."""
    done = subprocess.run(  # noqa: S603  gpg, with arguments of our own
        [gpg, "--homedir", directory, *OPTIONS, *arguments],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env={"LC_ALL": "C"},
    )  # fmt: skip
    # A line ends at a newline byte and nowhere else: a user id may hold whatever else `splitlines` cuts at.
    return done.returncode, [line.decode("utf-8", "replace") for line in done.stdout.split(b"\n") if line]


def check_manifests(pack: Path, events: list[Event], found: Findings) -> None:
    """Every manifest of a backup is signed by a key of the pipeline's that the audit named before."""
    openssl, pinned = ed25519_openssl(), list[bytes]()
    for event in events:
        if event["event"] == "backup_key_pinned":
            pinned.append(base64.b64decode(event["facts"]["public"]))
        if event["event"] != "backup_sealed":
            continue
        name = event["facts"]["manifest"]
        manifest, signature = pack / "backups" / name, pack / "backups" / f"{name}.sig"
        if not manifest.is_file():
            continue  # which is told with the files
        if not signature.is_file():
            found.unchecked.append(f"the signature on {name}: it is not in the pack")
        elif openssl is None:
            found.unchecked.append(f"the signature on {name}: {NO_OPENSSL}")
        else:
            text, signed = manifest.read_bytes(), signature.read_bytes()
            good = any(is_by(openssl, public, text, signed) for public in pinned)
            sentence = f"backups/{name} is not signed by the pipeline's key"
            found.check("signatures on manifests, by openssl", sentence, holds=good)


def check_certificates(pack: Path, events: list[Event], found: Findings) -> None:
    """Every certificate of key death: signed by the pipeline's key, about this audit, saying what its events say."""
    openssl = ed25519_openssl()
    for file in sorted(pack.glob("certificates/*")):
        name, stored = file.relative_to(pack).as_posix(), json.loads(file.read_text(encoding="ascii"))
        payload = base64.b64decode(stored["payload"], validate=True)
        said = json.loads(payload)["predicate"]
        holds = said["rotation"] == file.name.removesuffix(".dsse.json") and says_as_audit(json.loads(payload), events)
        found.check("certificates of key death, by the audit", f"{name} says what the audit does not", holds=holds)
        if openssl is None:
            found.unchecked.append(f"the signature of {name}: {NO_OPENSSL}")
            continue
        good = is_signed(openssl, stored, payload, events)
        found.check("certificates of key death, by openssl", f"{name} is not signed by the pipeline's key", holds=good)
    if dead := [e["request"] for e in events if e["event"] == "key_retired"]:
        missing = sorted({each for each in dead if not (pack / "certificates" / f"{each}.dsse.json").is_file()})
        found.unchecked += [f"the retirement of {each}: it has no certificate in the pack" for each in missing]
        found.unchecked.append("which backups still need a dead key: a certificate says what was kept when it was made")


def says_as_audit(statement: Event, events: list[Event]) -> bool:
    """Whether everything of a statement but the backups is what the events that it rests on say."""
    said = statement["predicate"]
    head, keys = said["audit_head"], state_after(events[: said["audit_head"]["seq"]]).keys
    if head["seq"] > len(events):
        return False
    named = {each["event"]: events[each["seq"] - 1] for each in said["evidence"]}
    hashes = all(events[e["seq"] - 1]["hash"] == e["hash"] and e["seq"] <= head["seq"] for e in said["evidence"])
    own = all(event["request"] == said["rotation"] for event in named.values())
    if not hashes or not own or events[head["seq"] - 1]["hash"] != head["hash"]:
        return False
    retired, archived = named["key_retired"]["facts"], named.get("step_finished", {}).get("facts", {})
    replicas, gone = named.get("replicas_accounted", {}).get("facts", {}), retired["taken_from_applications"]
    if archived and archived["step"] != "archived_key":
        return False
    told = [{"version": each, "fingerprint": keys[each][1], "state": keys[each][0]} for each in gone]
    facts = archived.get("facts", {})
    return (
        said["keys"] == told
        and [each["digest"]["sha256"] for each in statement["subject"]] == [each["fingerprint"] for each in told]
        and all(retired[name] == value for name, value in said["rows"].items())
        and said["undeclared_columns"]["not_searched"] == retired["not_searched"]
        and said["not_seen"] == retired["not_seen"]
        and said["replicas"]["accounted"] == replicas.get("replicas", [])
        and said["applications"] == {"taken_from_key_store": gone, "seen_without_it": facts.get("names")}
        and said["archive"] == facts.get("archived")
    )


def is_signed(openssl: str, stored: Event, payload: bytes, events: list[Event]) -> bool:
    """Whether one signature of an envelope is by a key of the pipeline's that the audit names."""
    kind = stored["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    named = [base64.b64decode(e["facts"]["public"]) for e in events if e["event"] == "backup_key_pinned"]
    known = {hashlib.sha256(public).hexdigest(): public for public in named}
    return any(
        is_by(openssl, known[each["keyid"]], signed, base64.b64decode(each["sig"], validate=True))
        for each in stored["signatures"]
        if each["keyid"] in known
    )


def is_by(openssl: str, public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether these 64 bytes are a key's Ed25519 signature (RFC 8032) over a message.

    Args:
        public: in DER.
    """
    with home() as directory:
        key, text, signed = (Path(directory) / name for name in ("key", "text", "signed"))
        for path, content in ((key, public), (text, message), (signed, signature)):
            path.write_bytes(content)
        done = subprocess.run(  # noqa: S603  openssl, with arguments of our own
            [
                openssl, "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", str(key), "-rawin",
                "-in", str(text), "-sigfile", str(signed),
            ],
            check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env={},
        )  # fmt: skip
    return done.returncode == 0


def ed25519_openssl() -> str | None:
    """An openssl that takes RFC 8032's own example (section 7.1, test 2) for good, and not for another message."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    public, signature = ED25519_DER + bytes.fromhex(EXAMPLE_PUBLIC), bytes.fromhex(EXAMPLE_SIGNATURE)
    able = is_by(openssl, public, b"\x72", signature) and not is_by(openssl, public, b"\x73", signature)
    return openssl if able else None


def check_timestamps(pack: Path, events: list[Event], found: Findings) -> None:
    """Every time stamp: over a head of this audit, by an authority that its certificates vouch for, of that time."""
    openssl, trusted = shutil.which("openssl"), set[str]()
    stamped = [event for event in events if event["event"] == "audit_timestamped"]
    for event in stamped:
        facts, stem = event["facts"], pack / "timestamps" / str(event["seq"])
        which = f"timestamps/{event['seq']}.tsr"
        own = 0 < facts["seq"] < event["seq"] and events[facts["seq"] - 1]["hash"] == facts["hash"]
        found.check("time stamps over a head of this audit", f"{which} is of another audit", holds=own)
        trusted |= {hashlib.sha256(base64.b64decode(each)).hexdigest() for each in facts["trusted"]}
        if openssl is None:
            found.unchecked.append(f"{which}: openssl is not installed")
            continue
        good = is_stamped(openssl, stem, facts)
        found.check("time stamps, by openssl", f"{which} does not verify", holds=good)
    if not stamped:
        found.unchecked.append("when this audit was written: no authority outside has time-stamped it")
        return
    seq = stamped[-1]["facts"]["seq"]
    found.unchecked.append(f"by when the events after {seq} were written: the newest time stamp is of event {seq}")
    found.unchecked += [
        f"whether you trust the time-stamping authority of the certificate with SHA-256 {each}"
        for each in sorted(trusted)
    ]


def is_stamped(openssl: str, stem: Path, facts: Event) -> bool:
    """Whether openssl takes a time stamp for one of this hash and this time; certificates as they were at that time."""
    answer, moment = f"{stem}.tsr", datetime.fromisoformat(facts["stamped_at"])
    at = ("-attime", str(int(moment.timestamp())))
    code, _ = ask(openssl, "-verify", "-digest", facts["hash"], "-in", answer, "-CAfile", f"{stem}.pem", *at)
    lines = ask(openssl, "-reply", "-in", answer, "-text")[1]
    told = [line.partition(": ")[2] for line in lines if line.startswith("Time stamp: ")]
    return code == 0 and len(told) == 1 and same_second(told[0], moment)


def same_second(told: str, moment: datetime) -> bool:
    """Whether openssl's way to write a time, with or without parts of a second, is this moment."""
    plain = re.sub(r"\.\d+ ", " ", " ".join(told.split()))
    read = datetime.strptime(plain, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    return read == moment.astimezone(UTC).replace(microsecond=0)


def ask(openssl: str, *arguments: str) -> tuple[int, list[str]]:
    """Ask openssl about a time stamp; gives back its exit code and its lines."""
    done = subprocess.run(  # noqa: S603  openssl, with arguments of our own
        [openssl, "ts", *arguments],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env={},
    )  # fmt: skip
    return done.returncode, done.stdout.decode("utf-8", "replace").splitlines()


def check_report(pack: Path, events: list[Event], found: Findings) -> None:
    """Whether both reports are of this audit, and the keys, requests and approvals those that it tells of."""
    report, last = json.loads((pack / "report.json").read_text(encoding="utf-8")), events[-1]
    head = {"seq": last["seq"], "head": last["hash"]}
    found.check("head in report.json", "report.json is of another audit", holds=report["audit"] == head)
    same = datetime.fromisoformat(report["audit_ends_at"]) == datetime.fromisoformat(last["at"])
    found.check("time of report.json", "report.json has another time than the newest event", holds=same)
    lines = re.findall(r"^Audit head: .*$", (pack / "report.html").read_text(encoding="utf-8"), re.MULTILINE)
    same = lines == [f"Audit head: {head['seq']} {head['head']}"]
    found.check("head in report.html", "report.html is of another audit", holds=same)
    keys, state = {key["version"]: (key["state"], key["fingerprint"]) for key in report["keys"]}, state_after(events)
    found.check("keys in report.json", "report.json has other keys than the audit", holds=keys == state.keys)
    told = {each["id"]: (each["status"], [a["fingerprint"] for a in each["approvals"]]) for each in report["requests"]}
    same = told == {name: (each["status"], each["signed"]) for name, each in state.requests.items()}
    found.check("requests in report.json", "report.json has other requests or approvals than the audit", holds=same)


if __name__ == "__main__":
    raise SystemExit(main())
