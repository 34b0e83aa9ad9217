"""Audits as the owner of the database can rewrite them, hashes always right; and what none of them may achieve.

Eve owns the database, has the key of the pipeline's home, and one certificate that no roster has. She can drop, repeat,
reorder and re-date events, put texts and signatures of this installation anywhere, and write any event. Ben, who is an
officer, signs whatever she asks him to. She cannot make another officer's signature.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import HEADER, RosterChange, RosterSignature, rendered
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, Fact, hash_of
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.breach import (
    NO_NOTICE,
    AssessmentSigned,
    BreachAnswers,
    BreachAssessed,
)
from keyrotation_pipeline.model.fleet import TargetKind
from keyrotation_pipeline.model.incident_events import IncidentClosed
from keyrotation_pipeline.model.key_events import KeyDestroyed, KeyRegistered, KeyReplaced, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import (
    DatabaseReconciled,
    HostsPinned,
    MemberJoined,
    RolloutConfirmed,
    RosterPinned,
    SignatureAdded,
    StatusChanged,
)
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.model.signed_summary import ASSESSMENT
from keyrotation_pipeline_tests.fakes import ROSTER, START, FakeSignatures
from keyrotation_pipeline_tests.fakes.event_key import signed, verify_event
from keyrotation_pipeline_tests.signed_texts import confirmation_of, with_lines
from keyrotation_pipeline_tests.unit.audit.honest_chains import ATTACKER, CORRUPT, EVE, LATER, Body, Installation
from keyrotation_pipeline_tests.unit.audit.judge import UNKNOWN, Judge
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN

AFTER = START + timedelta(days=1)
Mutation = Callable[[Random, list[Body], "Attacker"], None]


def chained(bodies: Sequence[Body], start: int = 0, previous: str = GENESIS) -> Iterator[AuditEvent]:
    """The events of these bodies, each with its right seq, hash and signature of the pipeline."""
    for seq, body in enumerate(bodies, start + 1):
        text = json.dumps({**body, "seq": seq}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digest = hash_of(previous, text)
        yield signed(AuditEvent(seq, text, previous, digest, body["event"], body["request"]))
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
        self.texts = list(dict.fromkeys(text for _, text in made.made))
        self.states: Sequence[AuditState] = ()

    def of_kind(self, rng: Random, *kinds: str) -> Body:
        found: Body = _copied(rng.choice([each for each in self.events if each["event"] in kinds]))
        return found


def drop(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    decisive = [index for index, body in enumerate(bodies) if body["event"] in {"status_changed", "roster_pinned"}]
    del bodies[rng.choice([rng.randrange(1, len(bodies)), *decisive[1:]])]


def repeat(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    index = rng.randrange(1, len(bodies))
    bodies.insert(rng.randrange(index, len(bodies)) + 1, _copied(bodies[index]))


def move(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    body = bodies.pop(rng.randrange(1, len(bodies)))
    bodies.insert(rng.randrange(1, len(bodies) + 1), body)


def redate(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    """One event, or all from there on."""
    start = rng.randrange(1, len(bodies))
    shift = timedelta(seconds=rng.choice([-86400, -1, 1, 86400, 86400 * 400]))
    for body in bodies[start : rng.choice([start + 1, len(bodies)])]:
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
    body = rng.choice([each for each in bodies[1:] if each["facts"].keys() & eve.values.keys()])
    name = rng.choice(sorted(body["facts"].keys() & eve.values.keys()))
    body["facts"][name] = _copied(rng.choice(eve.values[name]))


def refile(rng: Random, bodies: list[Body], _eve: Attacker) -> None:
    ids = list(dict.fromkeys(each["request"] for each in bodies if each["request"]))
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
    lines = {"Audit head": f"0 {GENESIS}"}
    if rng.random() < 0.3:
        lines |= {"Action": "destroy", "To": "destroyed"}
        opened["facts"]["action"] = "destroy"
    text = with_lines(opened["facts"]["approval_text"].encode(), lines).decode()
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
        yield KeyDestroyed(record.version, record.fingerprint, (), ())
        yield KeyStateChanged(record.version, record.state, rng.choice(list(KeyState)), record.fingerprint)
        yield KeyStateChanged(record.version, record.state, KeyState.DESTROYED, record.fingerprint)
        yield KeyStateChanged(record.version, record.state, KeyState.COMPROMISED, record.fingerprint)
        yield KeyReplaced(record.version, record.fingerprint, "ee" * 32)
        gone = (record.version,)
        aim = KeyVersion(rng.randrange(1, 4)) if target is None else target.target
        yield KeyRetired(record.version, ("clients",), 0, 9, "0/1", START, gone, gone, aim, "backup")
    yield KeyRegistered(UNKNOWN, rng.choice(list(KeyState)), "9f" * 32, START)
    yield RosterPinned.of(rng.choice([ATTACKER, LATER]))
    yield HostsPinned(("alerts: mail.evil.example",))
    yield MemberJoined("tenant_1", "tenant_1, system identifier 7")
    heads = [AuditHead(99, "9" * 64), *sorted(state.abandoned, key=lambda head: head.seq)]
    yield DatabaseReconciled(
        "restored", KeyVersion(1), (), {}, (), tuple(rng.sample(heads, rng.randrange(1, len(heads) + 1)))
    )
    for incident in state.incidents.by_id.values():
        yield IncidentClosed(incident.id, "owner", START, None, None, None)
        yield BreachAssessed(incident.id, "owner", BreachAnswers(mitigation="none"))
        yield from _other_decision(rng, state, incident.id)
    if target is not None:
        text = state.texts[target.id]
        confirmed = confirmation_of(target.id, "writes")
        for officer, rollout in ((BEN, TargetKind.WRITES), (BEN, TargetKind.READS), (ADA, TargetKind.WRITES)):
            yield RolloutConfirmed(rollout, (), officer, FakeSignatures.sign(BEN, confirmed).hex(), confirmed.decode())
        yield SignatureAdded(BEN, START, FakeSignatures.sign(BEN, text).hex())
        yield SignatureAdded(BEN, target.requested_at, FakeSignatures.sign(BEN, text).hex())
        for after in (RequestStatus.RUNNING, RequestStatus.FINISHED, RequestStatus.CANCELLED):
            yield StatusChanged(target.status, after, START)


def _other_decision(rng: Random, state: AuditState, incident: str) -> Iterator[Fact]:
    """What the corrupt officer signs where the others have signed that notices are due."""
    answers, seq = state.answers.get(incident, (BreachAnswers(), 0))
    decision = rng.choice(sorted(NO_NOTICE))
    lines = (("Incident", incident), ("Database", str(state.place)), ("Decision", decision))
    head = ("Audit head", f"{seq} {state.hash_at(seq)}")
    text = rendered(ASSESSMENT, [*lines, ("Answers", answers.digest()), head]).decode()
    yield AssessmentSigned(incident, rng.choice([ADA, BEN]), FakeSignatures.sign(BEN, text.encode()).hex(), text)


def misuse(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """Effects by a request that has just begun, or is just over, and is about something else."""
    moved = [index for index, body in enumerate(bodies) if body["event"] == "status_changed"]
    at = rng.choice(moved) + 1
    state = eve.states[at]
    target = state.requests[bodies[at - 1]["request"]]
    _insert(rng, bodies, at, list(effects(rng, state, target)), target.id, 8)


def pin_again(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """A roster by a reconciliation that is not over, with changes that nobody or only the corrupt officer signed."""
    opened = [index for index, body in enumerate(bodies) if body["facts"].get("action") == "reconcile"]
    if not opened:
        return
    request, text = bodies[opened[-1]]["request"], bodies[opened[-1]]["facts"]["approval_text"].encode()
    pinned = [
        index for index, body in enumerate(bodies) if (body["event"], body["request"]) == ("roster_pinned", request)
    ]
    if pinned and rng.random() < 0.2:
        _insert(
            rng, bodies, pinned[0], [StatusChanged(RequestStatus.REQUESTED, RequestStatus.CANCELLED, START)], request, 1
        )
        return
    at = rng.randrange(opened[-1], len(bodies)) + 1
    roster = rng.choice([ATTACKER, LATER])
    policy = rendered(HEADER, [("Action", "policy"), ("From", str(eve.states[at].roster)), ("To", str(roster))])
    by_both = [text for officer, text in eve.made.made if officer == ADA and (BEN, text) in eve.made.made]
    agreed = rng.choice([policy, *(each for each in by_both if each.startswith(HEADER.encode()))])
    signatures = [RosterSignature(each, FakeSignatures.sign(each, agreed).hex(), START) for each in (ADA, BEN)]
    changes = [
        (),
        (
            RosterChange(
                roster, policy.decode(), (RosterSignature(BEN, FakeSignatures.sign(BEN, policy).hex(), START),)
            ),
        ),
        (RosterChange(roster, agreed.decode(), tuple(replace(each, at=AFTER) for each in signatures)),),
    ]
    _insert(rng, bodies, at, [_signature(EVE, text)], request, 1)
    _insert(rng, bodies, at + 1, [RosterPinned.of(roster, rng.choice(changes))], request, 1)


def act(rng: Random, bodies: list[Body], eve: Attacker) -> None:
    """Effects by any request as it is then, whatever its status, or by none."""
    at = rng.choice([rng.randrange(1, len(bodies)), rng.randrange(1, len(bodies)), len(bodies)])
    state = eve.states[at]
    target = rng.choice([*state.requests.values(), None])
    before = len(bodies)
    _insert(rng, bodies, at, list(effects(rng, state, target)), None if target is None else target.id, 2)
    if rng.random() < 0.2:
        for body in bodies[at : at + len(bodies) - before]:
            body["database"] = bodies[0]["database"]


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
        {"reason": "because"}, {"incident": None}, {"supersedes": "e" * 32},
        {"requested_at": "2027-01-01T00:00:00+00:00"}, {"start_by": "2099-01-01T00:00:00+00:00"},
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
    for each in chosen:
        said = each.as_json()
        if said.get("officer") in CORRUPT and "signed_at" in said:
            said["signed_at"] = like["at"]
        bodies.insert(at, {**like, "event": str(each.kind), "facts": said, "request": request})


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
AIMED: tuple[Mutation, ...] = (act, misuse, misuse, reopen, reopen, pin_again, text_in_a_copy)


class Generator:
    """Hostile chains, reproducible by their seed; states of the untouched beginnings are computed once."""

    def __init__(self, made: Installation) -> None:
        self.eve, self.judge, self.made = Attacker(made), Judge(made), made
        self.prefixes: dict[str, list[LedgerState]] = {}
        self.texts = {name: json.dumps(bodies) for name, bodies in made.chains.items()}
        for name, bodies in made.chains.items():
            states = [LedgerState(made.verify, verify_event=verify_event)]
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
