"""What an audit may say after any mutation, by what officers really signed: not by the rules of the product.

`Account` follows the events that counted and says which of them cannot all be true; `Judge` compares where they led
with what was agreed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import signed_time
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.breach import NO_NOTICE
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RotationType, held_in
from keyrotation_pipeline_tests.fakes import ROSTER
from keyrotation_pipeline_tests.unit.audit.honest_chains import LATER, REPLACED, UNDATED, Body, Installation
from keyrotation_pipeline_tests.unit.rotation.requests import BEN

UNKNOWN = KeyVersion(9)
_OUT = {KeyState.ARCHIVED, KeyState.DESTROYED}
_ACTIVE_AT_FIRST = "v1"
# As the operating procedure has it: what is over stays over, and nothing is taken back from destroyed or compromised.
_NEXT = {
    "requested": {"running", "paused", "cancelled"},
    "running": {"paused", "cancelled", "finished"},
    "paused": {"requested", "running", "cancelled"},
}
_FINAL = {"destroyed": set[str](), "compromised": {"destroyed"}}
# What only a request does that is signed, for this database and not over; the second, one that has begun.
_ACTS = {
    "step_finished", "promotion_recorded", "rollout_confirmed", "key_registered", "key_state_changed", "key_replaced",
    "key_retired", "key_destroyed", "database_reconciled", "roster_pinned", "signature_added",
}  # fmt: skip
# Since the pipeline signs what it writes: in this order, by a request that has begun.
_ORDER = (
    "key_version", "dual_key_rollout", "primary_key_rollout", "rows", "zero_old_rows_proof", "retired_key",
    "archived_key", "key_rotation_audit", "compliance_report",
)  # fmt: skip
_AFTER = {"promotion_recorded": "dual_key_rollout", "key_retired": "zero_old_rows_proof"}
# The times that the pipeline takes itself, by kind of event.
_WALKS = frozenset({"rotate", "rollback", "decrypt"})
_TIMES = {"request_opened": "requested_at", "status_changed": "at", "key_registered": "created_at"}
_BEGUN = {"key_registered", "key_replaced", "key_destroyed", "database_reconciled"}


@dataclass
class _Request:
    opened: Body
    status: str = "requested"
    signers: dict[str, int] = field(default_factory=dict)
    done: set[Any] = field(default_factory=set)
    is_begun: bool = False
    records: list[Body] = field(default_factory=list)

    def early(self, steps: Sequence[str]) -> Iterator[str]:
        """Whether something comes before one of these steps."""
        if not self.is_begun:
            yield "is of a request that has not begun"
        if missing := [each for each in steps if (each, None, None) not in self.done]:
            yield f"comes before {missing[0]}"

    @property
    def is_over(self) -> bool:
        return self.status not in _NEXT

    @property
    def lines(self) -> list[str]:
        return str(self.opened["facts"]["approval_text"]).split("\n")

    def line(self, name: str) -> str:
        return next((each.removeprefix(f"{name}: ") for each in self.lines if each.startswith(f"{name}: ")), "")


def _dated(body: Body, said: str) -> Iterator[str]:
    late = (datetime.fromisoformat(body["at"]) - datetime.fromisoformat(said)).total_seconds()
    if abs(late) > 600:
        yield "is dated otherwise than its record"


def _place(body: Body) -> str:
    """The database of an event without its host, as a text names it."""
    name, _, identifier = body["database"].partition(", ")
    return f"{name.partition('@')[0]}, {identifier}"


class Account:
    """The events of an audit that counted, followed one by one."""

    def __init__(self, made: Installation, bodies: Sequence[Body], state: AuditState) -> None:
        self.made, self.bodies = made, bodies
        self.hash_at = state.hash_at
        self.unverified = {each.seq for each in state.unverified}
        self.requests: dict[str, _Request] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.retired: set[str] = set()
        self.incidents: dict[str, list[str]] = {}
        self.closed: set[str] = set()
        self.answered: dict[str, int] = {}
        self.decisions: dict[str, str] = {}
        self.roster: Body | None = None
        self.hosts: list[str] | None = None
        self.database = _place(bodies[0])
        self.signs, self.intended = False, set[tuple[str, str]]()

    def contradictions(self, counted: Sequence[int]) -> Iterator[str]:
        for seq in counted:
            body = self.bodies[seq - 1]
            follow = getattr(self, f"_{body['event']}", _nothing)
            said = [*self._by_whom(body), *self._out_of_turn(body), *follow(seq, body, body["facts"])]
            yield from (f"event {seq} ({body['event']}) {each}" for each in said)

    def _by_whom(self, body: Body) -> Iterator[str]:
        if (asked := self.requests.get(body["request"] or "")) is None or body["event"] not in _ACTS:
            return
        if asked.is_over:
            yield "is of a request that is over"
        facts, action = body["facts"], asked.opened["facts"]["action"]
        must_have_begun = body["event"] in _BEGUN or (body["event"], action) == ("roster_pinned", "policy")
        if (must_have_begun or facts.get("to") == "destroyed") and not asked.is_begun:
            yield "is of a request that has not begun"
        withdrawn = (facts.get("from"), facts.get("to")) == ("pre-activation", "archived")
        if body["event"] == "signature_added" or withdrawn:
            return
        if not asked.line("Database").startswith(_place(body)):
            yield "is by a request for another database"
        if action != "reconcile" and _place(body) != self.database:
            yield "is in a database that nobody has reconciled"

    def _out_of_turn(self, body: Body) -> Iterator[str]:
        """What the pipeline, which signs, never does."""
        facts, kind = body["facts"], body["event"]
        asked = self.requests.get(body["request"] or "")
        if not self.signs:
            return
        if kind in _TIMES:
            yield from _dated(body, facts[_TIMES[kind]])
        if kind == "key_registered" and not self._is_wanted(asked, facts):
            yield "is of a key that nobody wanted"
        if asked is None or asked.opened["facts"]["action"] not in _WALKS:
            return
        if kind == "step_finished":
            yield from asked.early(_ORDER[: _ORDER.index(facts["step"])])
            if not any(facts in other.records for other in self.requests.values()):
                yield from _dated(body, facts["finished_at"])
        if kind in _AFTER:
            yield from asked.early(_ORDER[: _ORDER.index(_AFTER[kind]) + 1])
        if (kind, facts.get("to")) == ("status_changed", "finished"):
            yield from asked.early(_ORDER)
        if kind == "key_retired" and facts["target"] in facts["taken_from_applications"]:
            yield "takes away what it is for"
        if kind == "key_state_changed":
            yield from self._by_its_walk(asked.opened["facts"], asked, facts)

    def _is_wanted(self, asked: _Request | None, facts: Body) -> bool:
        if asked is None:
            return (facts["version"], facts["fingerprint"]) in self.intended
        said = asked.opened["facts"]
        return said["action"] == "reconcile" or (said["action"] in _WALKS and said["to"] == facts["version"])

    def _by_its_walk(self, said: Body, asked: _Request, facts: Body) -> Iterator[str]:
        if facts["to"] in {"compromised", "destroyed"} or (facts["from"], facts["to"]) == (
            "pre-activation",
            "archived",
        ):
            return
        own = {"active": facts["version"] == said["to"], "archived": facts["version"] != said["to"]}
        if not own.get(facts["to"], facts["version"] == said["from"]):
            yield "is of a version that the request does not move so"
        yield from asked.early(_ORDER[:6] if facts["to"] == "archived" else _ORDER[:2])

    def _audit_signing_begun(self, _seq: int, _body: Body, _facts: Body) -> Iterator[str]:
        self.signs = True
        return iter(())

    def _key_import_intended(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        self.intended.add((facts["version"], facts["fingerprint"]))
        return iter(())

    def _roster_pinned(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        asked = self.requests.get(body["request"] or "")
        officers = {each["fingerprint"] for each in facts["officers"]}
        # A policy is signed by the officers before, a reconciliation by those who come back.
        signers = officers & set(asked.signers) if asked is not None else set[str]()
        is_policy = asked is not None and asked.opened["facts"]["action"] == "policy"
        if self.roster is not None and not is_policy and len(signers) < facts["required"]:
            yield "is by too few of those whom it pins"
        self.roster = facts

    def _hosts_pinned(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        if self.hosts is not None and facts["hosts"] != self.hosts:
            yield "pins other hosts"
        self.hosts = facts["hosts"]

    def _member_joined(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        if not any(each.startswith("databases ") and "*" in each.split(" at ")[0] for each in self.hosts or ()):
            yield f"has {facts['member']} join, and there is no rule"

    def _request_opened(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        if body["request"] in self.requests:
            yield "opens it again"
        asked = self.requests[body["request"]] = _Request(body)
        if not asked.line("Database").startswith(_place(body)):
            yield "is to be signed for another database"
        if self.roster is not None and facts["action"] != "reconcile":
            officers = ", ".join(f'"{each["name"]}" ({each["fingerprint"]})' for each in self.roster["officers"])
            if asked.line("Officers") != f"{self.roster['required']} of {officers}":
                yield "is to be signed by others"
        if facts["supersedes"] is not None and facts["supersedes"] not in self.requests:
            yield "supersedes nothing"
        seq, head = asked.line("Audit head").split()
        if self.hash_at(int(seq)) != head:
            yield "is to be signed for another audit"

    def _signature_added(self, seq: int, body: Body, facts: Body) -> Iterator[str]:
        asked, text = self.requests[body["request"]], self.requests[body["request"]].opened["facts"]["approval_text"]
        if facts["officer"] in asked.signers:
            yield "is a second one"
        asked.signers[facts["officer"]] = seq
        if seq in self.unverified or (at := self._made(facts["officer"], text)) is None:
            return
        opened, added, said = map(
            datetime.fromisoformat, (asked.opened["facts"]["requested_at"], body["at"], facts["signed_at"])
        )
        if facts["officer"] in UNDATED:
            if not opened <= said <= added:
                yield "was not received between its request and its event"
            return
        if not opened.replace(microsecond=0) <= at <= added:
            yield "was not made between its request and its event"
        if said != at:
            yield "was made at another time"

    def _made(self, officer: str, text: str) -> datetime | None:
        return self.made.made.get((officer, text.encode()))

    def _status_changed(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        asked = self.requests[body["request"]]
        if facts["from"] != asked.status:
            yield "is from another status"
        if facts["to"] not in _NEXT.get(asked.status, ()):
            yield "leads where nothing leads from there"
        if facts["to"] == "running" and not asked.is_begun:
            asked.is_begun = True
            self.hosts = [
                each for line in ("Hosts", "Secrets") if asked.line(line) for each in asked.line(line).split("; ")
            ]
            if body["at"] > asked.opened["facts"]["start_by"]:
                yield "begins too late"
        if facts["to"] == "running" and asked.opened["facts"]["action"] == "reconcile":
            self.database = _place(body)
        if facts["to"] == "running" and _place(body) != self.database:
            yield "is in a database that nobody has reconciled"
        asked.status = facts["to"]

    def _step_finished(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        self.requests[body["request"]].records.append(facts)
        yield from self._once(body, (facts["step"], facts["table"], facts["shard"]))

    def _promotion_recorded(self, _seq: int, body: Body, _facts: Body) -> Iterator[str]:
        yield from self._once(body, "promotion")

    def _once(self, body: Body, what: object) -> Iterator[str]:
        done = self.requests[body["request"]].done
        if what in done:
            yield "is there twice"
        done.add(what)

    def _rollout_confirmed(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        named = {f"Request: {body['request']}", f"Rollout: {facts['rollout']}"}
        headers = ("keyrotation-confirmation-v1\n", "keyrotation-confirmation-v2\n")
        if not facts["text"].startswith(headers) or not named <= set(facts["text"].split("\n")):
            yield "confirms something else than its text"

    def _key_registered(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        if facts["version"] in self.keys:
            yield "registers it again"
        yield from self._becomes(facts["version"], facts["state"], facts["fingerprint"])

    def _key_state_changed(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        before = self.keys.get(facts["version"], ("", ""))
        if before != (facts["from"], facts["fingerprint"]):
            yield "is of another key or state"
        if facts["to"] not in _FINAL.get(before[0], {facts["to"]}) or facts["to"] == before[0]:
            yield "leads where nothing leads from there"
        if facts["to"] == "destroyed":
            yield from self._key_destroyed(_seq, body, facts)
        yield from self._becomes(facts["version"], facts["to"], facts["fingerprint"])

    def _becomes(self, version: str, state: str, fingerprint: str) -> Iterator[str]:
        if state == "active" and any(other == "active" for other, _ in self.keys.values()):
            yield "makes a second one active"
        if state in {"active", "deactivated"}:
            self.retired.discard(version)
        self.keys[version] = state, fingerprint

    def _key_replaced(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        state, fingerprint = self.keys.get(facts["version"], ("", ""))
        if fingerprint != facts["before"] or state == "destroyed":
            yield "replaces another key"
        self.keys[facts["version"]] = state, facts["after"]

    def _key_retired(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        asked = self.requests[body["request"]].opened["facts"]
        if facts["target"] != asked["to"] or asked["action"] not in _WALKS:
            yield "is for another version than its request"
        self.retired.update(facts["taken_from_applications"])

    def _database_reconciled(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        self.retired -= {facts["primary"], *facts["in_rows"]}
        return iter(())

    def _key_destroyed(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        asked = self.requests.get(body["request"] or "")
        named = asked is not None and (asked.line("Action"), asked.line("From"))
        if named != ("destroy", f"{facts['version']} {facts['fingerprint']}"):
            yield "is another key than was to be destroyed"

    def _incident_opened(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        if facts["id"] in self.incidents or facts["id"] in self.closed:
            yield "opens it again"
        self.incidents[facts["id"]] = facts["versions"]

    def _incident_closed(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        versions = self.incidents.pop(facts["incident"], None)
        if versions is None:
            yield "is of no open incident"
        used = [each for each in versions or () if each in self.keys and each not in self.retired]
        used = [each for each in used if self.keys[each][0] not in {"archived", "destroyed"}]
        if used and not self._settled(facts["incident"], self.answered.get(facts["incident"], 0)):
            yield "is by nobody"
        self.closed.add(facts["incident"])

    def _settled(self, incident: str, answered: int) -> bool:
        named = (f"\nIncident: {incident}\n".encode(), f"\nAudit head: {answered} {self.hash_at(answered)}\n".encode())
        texts = {text for _, text in self.made.made if all(line in text for line in named)}
        decided = (text for text in texts if any(f"\nDecision: {each}\n".encode() in text for each in NO_NOTICE))
        return any(self.made.agreed(text) for text in decided)

    def _emergency_request_prepared(self, _seq: int, _body: Body, facts: Body) -> Iterator[str]:
        if facts["incident"] not in self.incidents:
            yield "is of no open incident"
        asked = self.requests.get(facts["request"])
        held = held_in("\n".join(asked.lines).encode()) if asked is not None else ()
        if not set(self.incidents.get(facts["incident"], ())) <= set(map(str, held)):
            yield "leaves its key in use"

    def _breach_assessed(self, seq: int, _body: Body, facts: Body) -> Iterator[str]:
        self.decisions.pop(facts["incident"], None)
        self.answered[facts["incident"]] = seq
        return iter(())

    def _breach_assessment_signed(self, _seq: int, body: Body, facts: Body) -> Iterator[str]:
        said = next((each for each in facts["text"].split("\n") if each.startswith("Decision: ")), "")
        if self.decisions.setdefault(facts["incident"], said) != said:
            yield "is over another decision"
        lines = dict(each.partition(": ")[::2] for each in facts["text"].split("\n"))
        if facts["text"].startswith("keyrotation-assessment-v1\n"):
            return
        seq = self.answered.get(facts["incident"], 0)
        if lines["Audit head"] != f"{seq} {self.hash_at(seq)}":
            yield "is over answers of another audit"
        if not lines["Database"].startswith(_place(body)):
            yield "is about another database"


def _nothing(*_: object) -> tuple[str, ...]:
    return ()


class Judge:
    """Compares where an audit leads with what enough officers signed."""

    def __init__(self, made: Installation) -> None:
        self.made = made
        self.agreed = dict(made.agreements())
        self.fields = list(self.agreed.values())
        registered = (each for bodies in made.chains.values() for each in bodies if each["event"] == "key_registered")
        self.fingerprints = {REPLACED, *(each["facts"]["fingerprint"] for each in registered)}

    def violations(self, bodies: Sequence[Body], state: AuditState, counted: Sequence[int]) -> Iterator[str]:
        """What the audit says although nobody agreed to it, and what it does not call a fault."""
        yield from Account(self.made, bodies, state).contradictions(counted)
        yield from self._of_requests(state)
        yield from self._of_keys(state)
        yield from self._of_the_rest(bodies, state, counted)
        if not state.faults:
            yield from self._unnoticed(bodies)

    def _of_requests(self, state: AuditState) -> Iterator[str]:
        for each in state.requests.values():
            text = state.texts[each.id]
            if each.started_at is None and each.status != "finished":
                continue
            if text not in self.agreed:
                yield f"request {each.id} is {each.status} and nobody agreed to it"
                continue
            said = self.agreed[text]
            kind = RotationType.EMERGENCY if held_in(text) else RotationType.ROUTINE
            reason = each.reason if each.incident is None else f"incident {each.incident}: {each.reason}"
            facts = (each.id, each.action, each.type, reason, f"{each.audit_head[0]} {each.audit_head[1]}")
            dates = signed_time(each.start_by), signed_time(each.finish_by)
            names = ("Request", "Action", "Reason", "Audit head", "Start by", "Finish by")
            if (facts[:2] + facts[3:] + dates, facts[2]) != (tuple(said[name] for name in names), kind):
                yield f"request {each.id} says something else than its text"
            if each.action in {"rotate", "destroy"} and said["From"] != f"{each.source} {each.source_fingerprint}":
                yield f"request {each.id} is of another key than its text"
            if each.action == "rotate" and said["To"] != str(each.target):
                yield f"request {each.id} is to another key than its text"

    def _of_keys(self, state: AuditState) -> Iterator[str]:
        for version, record in state.keys.items():
            name, by = str(version), [said for said in self.fields if said["Action"] == "destroy"]
            # `init` registers keys that it finds, without a request: a new version alone changes nothing.
            if version != UNKNOWN and record.fingerprint not in self.fingerprints:
                yield f"{version} is another key by nobody"
            if record.state is KeyState.DESTROYED and f"{version} {record.fingerprint}" not in [s["From"] for s in by]:
                yield f"{version} is destroyed by nobody"
            lost = [text for text in self.agreed if version in held_in(text)]
            if record.state is KeyState.COMPROMISED and not lost:
                yield f"{version} is compromised by nobody"
            leading = [s for s in self.fields if s["To"].split()[0] == name or s["Action"] == "reconcile"]
            if record.state is KeyState.ACTIVE and name != _ACTIVE_AT_FIRST and not leading:
                yield f"{version} is active by nobody"
            leaving = [s for s in self.fields if s["From"].split()[0] == name or s["Action"] == "reconcile"]
            gone = record.state in {KeyState.DEACTIVATED, KeyState.ARCHIVED} and name == _ACTIVE_AT_FIRST
            if (gone or version in state.retired) and not leaving:
                yield f"{version} is out of use by nobody"

    def _of_the_rest(self, bodies: Sequence[Body], state: AuditState, counted: Sequence[int]) -> Iterator[str]:
        if state.roster is not None and str(state.roster) not in {str(ROSTER), str(LATER)}:
            yield "another roster is pinned"
        named = " ".join(said["Authorises"] for said in self.fields if said["Action"] == "reconcile")
        # The newest is named by its hash, how many older ones there are by their number.
        unnamed = sorted(head.seq for head in state.abandoned if head.hash not in named)
        if len(unnamed) > sum(map(int, re.findall(r"\(nor (\d+) older\)", named))):
            yield f"event {unnamed[0]} was given up by nobody"
        for seq in counted:
            body = bodies[seq - 1]
            if body["event"] in {"rollout_confirmed", "breach_assessment_signed", "signature_added"}:
                text = body["facts"].get("text") or state.texts[body["request"]].decode()
                unverified = {each.seq for each in state.unverified}
                made = (body["facts"]["officer"], text.encode()) in self.made.made or body["facts"]["officer"] == BEN
                if not made and seq not in unverified:
                    yield f"event {seq} has a signature that nobody made"

    def _unnoticed(self, bodies: Sequence[Body]) -> Iterator[str]:
        """What must be called a fault, whatever it changes."""
        there = {body["database"] for body in bodies}
        reconciled = any(body["event"] == "database_reconciled" for body in bodies)
        if any(each.startswith("other") for each in there) or (len(there) > 1 and not reconciled):
            yield "an event of another database is no fault"
        dates = [datetime.fromisoformat(body["at"]) for body in bodies]
        if dates != sorted(dates):
            yield "an event dated before its predecessor is no fault"
        opened = [body["request"] for body in bodies if body["event"] == "request_opened"]
        if len(opened) != len(set(opened)):
            yield "an id that is opened twice is no fault"
