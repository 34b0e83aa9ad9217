"""Audits as the owner of the database can rewrite them, hashes always right; and what none of them may achieve.

Eve owns the database and one certificate that no roster has. She can drop, repeat, reorder and re-date events, put
texts and signatures of this installation anywhere, and write any event. Ben, who is an officer, signs whatever she asks
him to. She cannot make another officer's signature.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import signed_moment
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, Fact, hash_of
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.breach import NO_NOTICE, BreachAnswers, BreachAssessed
from keyrotation_pipeline.model.incident_events import IncidentClosed
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import DatabaseReconciled, RosterPinned, SignatureAdded, StatusChanged
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, RotationType, held_in
from keyrotation_pipeline_tests.fakes import ROSTER, START, FakeSignatures
from keyrotation_pipeline_tests.unit.audit.honest_chains import ATTACKER, EVE, LATER, Body, Installation
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN

Mutation = Callable[[Random, list[Body], "Attacker"], None]
_OUT = {KeyState.ARCHIVED, KeyState.DESTROYED}
_ACTIVE_AT_FIRST = "v1"
UNKNOWN = KeyVersion(9)


def chained(bodies: Sequence[Body], start: int = 0, previous: str = GENESIS) -> Iterator[AuditEvent]:
    """The events of these bodies, each with its right seq and hash."""
    for seq, body in enumerate(bodies, start + 1):
        text = json.dumps({**body, "seq": seq}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digest = hash_of(previous, text)
        yield AuditEvent(seq, text, previous, digest, body["event"], body["request"])
        previous = digest


def _copied(value: Any) -> Any:  # noqa: ANN401  plain JSON
    return json.loads(json.dumps(value))


class Attacker:
    """What Eve has: every event and signature of the installation."""

    def __init__(self, made: Installation) -> None:
        self.made = made
        self.events = [body for bodies in made.chains.values() for body in bodies]
        self.values: dict[str, list[Any]] = {}
        for body in self.events:
            for name, value in body["facts"].items():
                self.values.setdefault(name, []).append(value)
        self.texts = sorted({text for _, text in made.made})
        self.states: Sequence[AuditState] = ()

    def of_kind(self, rng: Random, *kinds: str) -> Body:
        found: Body = _copied(rng.choice([each for each in self.events if each["event"] in kinds]))
        return found


def drop(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    del bodies[rng.randrange(1, len(bodies))]


def repeat(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    index = rng.randrange(1, len(bodies))
    bodies.insert(rng.randrange(index, len(bodies)) + 1, _copied(bodies[index]))


def move(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    body = bodies.pop(rng.randrange(1, len(bodies)))
    bodies.insert(rng.randrange(1, len(bodies) + 1), body)


def redate(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    body = rng.choice(bodies[1:])
    shift = timedelta(seconds=rng.choice([-86400, -1, 1, 86400, 86400 * 400]))
    body["at"] = (datetime.fromisoformat(body["at"]) + shift).isoformat(timespec="microseconds")


def insert(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """An event of another audit of this installation, as of a request of this one."""
    body = _copied(rng.choice(eve.events))
    ids = [each["request"] for each in bodies if each["request"]]
    body["request"] = rng.choice([*ids, body["request"], None])
    at = rng.randrange(1, len(bodies) + 1)
    body["at"] = bodies[at - 1]["at"]
    bodies.insert(at, body)


def rewrite(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """One fact of one event becomes one that such facts have elsewhere."""
    body = rng.choice([each for each in bodies[1:] if each["facts"]])
    name = rng.choice(sorted(body["facts"]))
    body["facts"][name] = _copied(rng.choice(eve.values[name]))


def refile(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    ids = sorted({each["request"] for each in bodies if each["request"]})
    rng.choice(bodies[1:])["request"] = rng.choice([*ids, None])


def elsewhere(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    """Events of another database, from some point on or a single one."""
    start = rng.randrange(1, len(bodies))
    for body in bodies[start : rng.choice([start + 1, len(bodies)])]:
        body["database"] = "other@localhost, system identifier 7"


def swap_text(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """A request gets the text of another, with that one's signatures."""
    opened = [each for each in bodies if each["event"] == "request_opened"]
    if not opened:
        return
    body, text = rng.choice(opened), rng.choice(eve.texts)
    body["facts"]["approval_text"] = text.decode()
    if rng.random() < 0.5:
        body["facts"]["audit_head"] = _copied(eve.of_kind(rng, "request_opened")["facts"]["audit_head"])
    _resign(bodies, body["request"], text)


def swap_signature(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    signed = [each for each in bodies if "signature" in each["facts"]]
    if signed:
        rng.choice(signed)["facts"]["signature"] = rng.choice(eve.values["signature"])


def _resign(bodies: Sequence[Body], request: str, text: bytes) -> None:
    for each in bodies:
        if each["event"] == "signature_added" and each["request"] == request:
            each["facts"]["signature"] = FakeSignatures.sign(each["facts"]["officer"], text).hex()


def another_roster(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """Eve pins her own roster, by nobody, by a request of this audit, or by one that only she signed."""
    at = rng.randrange(1, len(bodies) + 1)
    pin = {**_copied(bodies[at - 1]), "event": "roster_pinned", "facts": RosterPinned.of(ATTACKER).as_json()}
    ids = [each["request"] for each in bodies[:at] if each["event"] == "request_opened"]
    pin["request"] = rng.choice([None, *ids])
    bodies.insert(at, pin)
    if rng.random() < 0.5:
        forge_request(rng, bodies, eve)


def forge_request(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """A whole request that Eve wrote and signed, or whose signatures are those of another, to its end."""
    opened = eve.of_kind(rng, "request_opened")
    request, before = opened["request"], str(opened["request"])
    at = rng.randrange(1, len(bodies) + 1)
    moment = bodies[at - 1]["at"]
    if rng.random() < 0.7:
        request = f"{rng.getrandbits(128):032x}"
        opened["facts"]["approval_text"] = opened["facts"]["approval_text"].replace(before, request)
    opened["facts"]["audit_head"] = {"seq": 0, "hash": GENESIS}
    text = re.sub(r"Audit head: \d+ [0-9a-f]{64}", f"Audit head: 0 {GENESIS}", opened["facts"]["approval_text"])
    if rng.random() < 0.3:
        text = text.replace("Action: rotate", "Action: destroy").replace("To: v2", "To: destroyed")
        opened["facts"]["action"] = "destroy"
    opened["facts"]["approval_text"] = text
    told = [opened]
    for officer in rng.choice([[EVE], [each.fingerprint for each in ROSTER.officers], []]):
        signature = FakeSignatures.sign(officer, text.encode()).hex()
        facts = {"officer": officer, "signed_at": moment, "signature": signature}
        told.append({**opened, "event": "signature_added", "facts": facts})
    running = {"from": "requested", "to": "running", "at": moment, "by": None}
    told.append({**opened, "event": "status_changed", "facts": running})
    kinds = (
        "key_state_changed", "key_retired", "key_destroyed", "step_finished", "database_reconciled", "roster_pinned",
        "rollout_confirmed", "incident_closed", "status_changed", "key_registered",
    )  # fmt: skip
    told += [eve.of_kind(rng, *kinds) for _ in range(rng.randrange(1, 4))]
    for each in told:
        each.update(request=request, at=moment, database=bodies[at - 1]["database"])
    bodies[at:at] = told


def effects(rng: Random, state: AuditState, target: Request | None) -> Iterator[Fact]:
    """Whatever an event could change from this state on, each as if it were the next one."""
    for record in state.keys.values():
        yield KeyStateChanged(record.version, record.state, rng.choice(list(KeyState)), record.fingerprint)
        yield KeyStateChanged(record.version, record.state, KeyState.DESTROYED, record.fingerprint)
        yield KeyStateChanged(record.version, record.state, KeyState.COMPROMISED, record.fingerprint)
        yield KeyReplaced(record.version, record.fingerprint, "ee" * 32)
        gone = (record.version,)
        aim = KeyVersion(rng.randrange(1, 4)) if target is None else target.target
        yield KeyRetired(record.version, ("clients",), 0, 9, "0/1", START, gone, gone, aim, "backup")
    yield KeyRegistered(UNKNOWN, rng.choice(list(KeyState)), "9f" * 32, START)
    yield RosterPinned.of(rng.choice([ATTACKER, LATER]))
    heads = [AuditHead(99, "9" * 64), *state.abandoned]
    yield DatabaseReconciled(
        "restored", KeyVersion(1), (), {}, (), tuple(rng.sample(heads, rng.randrange(1, len(heads) + 1)))
    )
    for incident in state.incidents.unfinished:
        yield IncidentClosed(incident.id, "owner", START, None, None, None)
        yield BreachAssessed(incident.id, "owner", BreachAnswers(mitigation="none"))
    if target is not None:
        for after in (RequestStatus.RUNNING, RequestStatus.FINISHED):
            yield StatusChanged(target.status, after, START)


def act(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """Effects by any request as it is then, whatever its status, or by none."""
    at = rng.randrange(1, len(bodies) + 1)
    state = eve.states[at]
    target = rng.choice([*state.requests.values(), None])
    _insert(rng, bodies, at, list(effects(rng, state, target)), None if target is None else target.id, 2)


def reopen(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """A request whose facts say something else than its text, which officers signed, and what it then does."""
    at = rng.choice([index for index, body in enumerate(bodies) if body["event"] == "request_opened"])
    opened = _copied(rng.choice([bodies[at], eve.of_kind(rng, "request_opened")]))
    text, facts = opened["facts"]["approval_text"].encode(), opened["facts"]
    change = rng.choice([
        {"action": rng.choice(list(RequestAction)), "to": facts["from"]},
        {"action": "destroy"}, {"action": "policy"}, {"action": "reconcile"},
        {"from": rng.choice(["v1", "v2"]), "to": rng.choice(["v1", "v2", "v3"])},
        {"fingerprint": rng.choice(eve.values["fingerprint"])},
        {"type": "emergency", "incident": "INC-2026-001"}, {"type": "emergency"}, {"type": "routine"},
        {"reason": "because"}, {"incident": None}, {"start_by": "2099-01-01T00:00:00+00:00"},
        {"finish_by": "2099-01-01T00:00:00+00:00"}, {"audit_head": {"seq": 0, "hash": GENESIS}}, {},
    ])  # fmt: skip
    facts.update(change)
    if rng.random() < 0.5:
        opened["request"] = f"{rng.getrandbits(128):032x}"
    if rng.random() < 0.7:
        opened["database"] = bodies[at]["database"]
    if opened["request"] == bodies[at]["request"]:
        bodies[at] = opened
        at += 1
    else:
        at = rng.randrange(at, len(bodies)) + 1
        bodies.insert(at, opened)
        at += 1
    signed = [officer for officer, of in eve.made.made if of == text]
    events = [_signature(officer, text) for officer in [*signed, BEN, EVE]]
    if rng.random() < 0.3:
        events.append(SignatureAdded("C" * 40, START, FakeSignatures.sign(BEN, text).hex()))
        events.append(SignatureAdded(ADA, START, FakeSignatures.sign(BEN, text).hex()))
    for event in [*events, StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, START)]:
        _insert(rng, bodies, at, [event], opened["request"], 1)
        at += 1
    _insert(rng, bodies, at, list(effects(rng, eve.states[min(at, len(eve.states) - 1)], None)), opened["request"], 3)


def _signature(officer: str, text: bytes) -> SignatureAdded:
    return SignatureAdded(officer, START, FakeSignatures.sign(officer, text).hex())


def _insert(rng: Random, bodies: list[Body], at: int, facts: Sequence[Fact], request: str | None, most: int) -> None:
    chosen = rng.sample(facts, min(len(facts), rng.randrange(1, most + 1)))
    like = bodies[at - 1]
    bodies[at:at] = [{**like, "event": str(each.kind), "facts": each.as_json(), "request": request} for each in chosen]


def text_in_a_copy(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """What officers signed for a copy of the database, with events of either."""
    for body in bodies[rng.randrange(1, len(bodies)) :]:
        body["database"] = rng.choice(["copy", "clinic"]) + "@localhost, system identifier 7"
    reopen(rng, bodies, eve)


MUTATIONS: tuple[Mutation, ...] = (
    drop, repeat, move, redate, insert, rewrite, refile, elsewhere, swap_text, swap_signature, another_roster,
    forge_request,
)  # fmt: skip
# Attacks that know what they want, each from a state that the honest audit led to.
AIMED: tuple[Mutation, ...] = (act, reopen, reopen, text_in_a_copy)


class Judge:
    """What an audit may say after any mutation, by what officers really signed: not by the rules of the product."""

    def __init__(self, made: Installation) -> None:
        self.made = made
        self.agreed = dict(made.agreements())
        self.fields = list(self.agreed.values())
        registered = (each for each in Attacker(made).events if each["event"] == "key_registered")
        self.fingerprints = {each["facts"]["fingerprint"] for each in registered}

    def _answered(self, incident: str, bodies: Sequence[Body], counted: Sequence[int]) -> int:
        """The last event before the end of an incident that answered about its breach."""
        closed = next(
            seq for seq in counted
            if bodies[seq - 1]["event"] == "incident_closed" and bodies[seq - 1]["facts"]["incident"] == incident
        )  # fmt: skip
        answered = [
            seq for seq in counted
            if seq < closed and bodies[seq - 1]["event"] == "breach_assessed"
            and bodies[seq - 1]["facts"]["incident"] == incident
        ]  # fmt: skip
        return max(answered, default=0)

    def violations(self, bodies: Sequence[Body], state: AuditState, counted: Sequence[int]) -> Iterator[str]:
        """What the audit says although nobody agreed to it, and what it does not call a fault."""
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
            dates = signed_moment(each.start_by), signed_moment(each.finish_by)
            names = ("Request", "Action", "Reason", "Audit head", "Start by", "Finish by")
            if (facts[:2] + facts[3:] + dates, facts[2]) != (tuple(said[name] for name in names), kind):
                yield f"request {each.id} says something else than its text"
            if each.started_at is not None and each.started_at > each.start_by:
                yield f"request {each.id} began too late"
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
        for head in state.abandoned:
            if head.hash not in named:
                yield f"event {head.seq} was given up by nobody"
        for seq in counted:
            body = bodies[seq - 1]
            if body["event"] in {"rollout_confirmed", "breach_assessment_signed", "signature_added"}:
                text = body["facts"].get("text") or state.texts[body["request"]].decode()
                unverified = {each.seq for each in state.unverified}
                made = (body["facts"]["officer"], text.encode()) in self.made.made or body["facts"]["officer"] == BEN
                if not made and seq not in unverified:
                    yield f"event {seq} has a signature that nobody made"
                if body["event"] == "rollout_confirmed" and f"Request: {body['request']}\n" not in text:
                    yield f"event {seq} confirms another rotation's rollout"
        for incident in state.incidents.by_id.values():
            in_use = [
                each for each in incident.versions
                if each in state.keys and state.keys[each].state not in _OUT and each not in state.retired
            ]  # fmt: skip
            if incident.closed_at is None or not in_use:
                continue
            if not self._settled(incident.id, self._answered(incident.id, bodies, counted)):
                yield f"{incident.id} is closed by nobody"

    def _settled(self, incident: str, answered: int) -> bool:
        named = (f"\nIncident: {incident}\n".encode(), f"\nAudit event: {answered}\n".encode())
        texts = {text for _, text in self.made.made if all(line in text for line in named)}
        decided = (text for text in texts if any(f"\nDecision: {each}\n".encode() in text for each in NO_NOTICE))
        return any(self.made.agreed(text) for text in decided)

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


class Generator:
    """Hostile chains, reproducible by their seed; states of the untouched beginnings are computed once."""

    def __init__(self, made: Installation) -> None:
        self.eve, self.judge, self.made = Attacker(made), Judge(made), made
        self.prefixes: dict[str, list[LedgerState]] = {}
        self.texts = {name: json.dumps(bodies) for name, bodies in made.chains.items()}
        for name, bodies in made.chains.items():
            states = [LedgerState(made.verify)]
            for event in chained(bodies):
                states.append(states[-1].apply((event,)))
            self.prefixes[name] = states

    def chain(self, seed: int) -> tuple[str, list[Body], list[str]]:
        """The name of the history, the mutated bodies, and what was done to them."""
        rng = Random(seed)
        name = rng.choice(sorted(self.made.chains))
        bodies = json.loads(self.texts[name])
        self.eve.states = self.prefixes[name]
        done = rng.choices(AIMED, k=rng.randrange(0, 2)) + rng.choices(MUTATIONS, k=rng.randrange(0, 3))
        for mutate in done:
            mutate(rng, bodies, self.eve)
        return name, bodies, [mutate.__name__ for mutate in done]

    def violations(self, seed: int) -> list[str]:
        """What a hostile chain achieves; empty: nothing."""
        name, bodies, done = self.chain(seed)
        same = self._same(name, bodies)
        state = self.prefixes[name][same]
        try:
            after = state.apply(tuple(chained(bodies[same:], same, state.head.hash)))
        except AuditError:  # it cannot be read: nothing is accepted
            return []
        return [f"chain {seed} ({name}: {', '.join(done)}): {each}"
                for each in self.judge.violations(bodies, after, after.counted)]  # fmt: skip

    def _same(self, name: str, bodies: Sequence[Body]) -> int:
        honest = self.made.chains[name]
        pairs = enumerate(zip(bodies, honest, strict=False))
        return next((index for index, (one, other) in pairs if one != other), min(len(bodies), len(honest)))
