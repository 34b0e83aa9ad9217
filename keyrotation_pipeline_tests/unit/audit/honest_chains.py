"""Audits of one installation as the real code writes them, over fakes: each a history that must verify."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.incidents.assessing import answers_in, assess, assessment_of, sign_assessment, text_to_sign
from keyrotation_pipeline.incidents.handling import close
from keyrotation_pipeline.incidents.opening import open_incident
from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature, signed_fields
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, Fact, Note
from keyrotation_pipeline.model.key_events import KeyDestroyed, KeyImportIntended, KeyReplacementProposed
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Step
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.requests.policy import change_policy, open_policy, pin_hosts
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.rotation.reconcile import open_reconciliation, reconcile
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline_tests.fakes import ROSTER, V1, V3, FakeSignatures, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, raised, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request

Body = dict[str, Any]
EVE = "E" * 40
CORRUPT = frozenset({EVE, BEN})
UNDATED = frozenset({"C" * 40})
ATTACKER = Roster(1, (Officer("Eve", EVE),), (EVE,))
HOSTS = ("alerts: mail.clinic.example",)
REPLACED = "ab" * 32
LATER = Roster(2, (ROSTER.officers[0], Officer("Cem", "C" * 40)), ("F" * 40,))


def bodies_of(events: Sequence[AuditEvent]) -> list[Body]:
    return [json.loads(event.body) for event in events]


def routine(world: FakeWorld) -> None:
    """A rotation to its end, one that was cancelled when one had signed, and the destruction of the old key."""
    walk(world, approved(world))
    given_up = request(world)
    _sign(world, given_up, ADA)
    cancel(world.pipeline, given_up)
    record = world.ledger.state.keys[V1]
    asked = _asked(world, RequestAction.DESTROY)
    world.ledger.set_status(asked.id, RequestStatus.RUNNING)
    world.ledger.set_key_state(V1, KeyState.DESTROYED, asked.id)
    world.ledger.append(KeyDestroyed(V1, record.fingerprint, (), ()), asked.id)
    world.ledger.set_status(asked.id, RequestStatus.FINISHED)


def emergency(world: FakeWorld) -> None:
    """An incident whose emergency replaces the key, and a second one that officers settled as none."""
    incident, prepared = opened(world)
    walk(world, signed(world, prepared))
    close(world.pipeline, incident.id, "ada")
    settled = open_incident(world.pipeline, raised(2, versions=("v2",)))
    assess(world.pipeline, settled.id, answers_in({"ciphertext_reached": "no", "plaintext_reached": "no"}), "ada")
    for officer in (ADA, BEN):
        text = text_to_sign(world.pipeline, assessment_of(world.pipeline, settled))
        sign_assessment(world.pipeline, settled.id, FakeSignatures.sign(officer, text))
    close(world.pipeline, settled.id, "ben")
    last = open_incident(world.pipeline, raised(3, versions=("v2",)))
    assess(world.pipeline, last.id, answers_in({"ciphertext_reached": "yes", "plaintext_reached": "yes"}), "ada")
    text = text_to_sign(world.pipeline, assessment_of(world.pipeline, last))
    sign_assessment(world.pipeline, last.id, FakeSignatures.sign(ADA, text))


def confirmed_and_rolled_back(world: FakeWorld) -> None:
    """A rotation with a confirmed rollout, undone while rows are re-encrypted."""
    rotation = approved(world)
    walk(world, rotation, Step.KEY_VERSION)
    text = confirmation_text(world.pipeline, world.ledger.walk(rotation.id))
    add_confirmation(world.pipeline, world.ledger.walk(rotation.id), FakeSignatures.sign(ADA, text))
    walk(world, rotation, Step.PRIMARY_KEY_ROLLOUT)
    undo = open_rollback(world.pipeline, world.ledger.walk(rotation.id), reason="too slow", requested_by="dba")
    walk(world, signed(world, undo))


def withdrawn(world: FakeWorld) -> None:
    """A rotation that is cancelled when its key was made."""
    rotation = approved(world)
    walk(world, rotation, Step.KEY_VERSION)
    cancel(world.pipeline, world.ledger.walk(rotation.id))


def other_officers(world: FakeWorld) -> None:
    """A change of officers and hosts, who then sign a rotation."""
    world.pipeline = replace(world.pipeline, hosts=("alerts: mail2.clinic.example",))
    _policy(world)
    rotation = request(world)
    _sign(world, rotation, ADA, "C" * 40)
    walk(world, world.ledger.walk(rotation.id))


def replaced(world: FakeWorld) -> None:
    """A key that is replaced while another request, to destroy the one before, has begun; a third one is archived."""
    world.ledger.append(KeyImportIntended(V3, "3f" * 32))
    world.ledger.add_key(KeyRecord(V3, KeyState.ARCHIVED, "3f" * 32, world.clock.at), None)
    walk(world, approved(world))
    record = world.ledger.state.keys[V1]
    asked = _asked(world, RequestAction.DESTROY)
    world.ledger.set_status(asked.id, RequestStatus.RUNNING)
    world.ledger.append(KeyReplacementProposed(V1, record.fingerprint, REPLACED, 3, 3))
    other = _asked(world, RequestAction.REPLACE_KEY)
    world.ledger.set_status(other.id, RequestStatus.RUNNING)
    world.ledger.replace_key(V1, REPLACED, other.id)
    world.ledger.set_status(other.id, RequestStatus.FINISHED)
    world.ledger.set_status(asked.id, RequestStatus.CANCELLED)


def _asked(world: FakeWorld, action: RequestAction) -> Request:
    """A request about v1 that both officers have signed."""
    pipeline = world.pipeline
    asked = new_request(
        Request, pipeline, pipeline.actions[action], source=V1, fingerprint=world.ledger.state.keys[V1].fingerprint,
        target=V1, reason="no longer needed", requested_by="dba",
    )  # fmt: skip
    world.ledger.open(asked, approval_text(pipeline, asked))
    return _signed(world, asked)


def restored(world: FakeWorld) -> None:
    """A database from before a change of officers is reconciled by those who are officers now."""
    rotation = approved(world)
    walk(world, rotation, Step.ROWS)
    dump = copy.deepcopy((world.database.rows, world.database.fence_state, world.ledger.state))
    walk(world, rotation)
    _policy(world)
    world.database.rows, world.database.fence_state, world.ledger.state = dump
    asked, _ = open_reconciliation(world.pipeline, requested_by="dba")
    _sign(world, asked, ADA, "C" * 40)
    reconcile(world.pipeline, asked)


def in_a_copy(world: FakeWorld) -> None:
    """A copy of the database under another name, reconciled there, where a rotation is signed for it."""
    walk(world, approved(world))
    _asked(world, RequestAction.DESTROY)
    world.database.name = world.ledger.database = "copy@localhost"
    world.ledger.database += ", system identifier 7"
    asked, _ = open_reconciliation(world.pipeline, requested_by="dba")
    reconcile(world.pipeline, _signed(world, asked))
    walk(world, approved(world), Step.ROWS)


def _signed(world: FakeWorld, asked: Request) -> Request:
    _sign(world, asked, ADA, BEN)
    return asked


def _policy(world: FakeWorld) -> None:
    world.signatures.configured = LATER
    asked = open_policy(world.pipeline, reason="Ben leaves", requested_by="dba")
    _sign(world, asked, ADA, BEN)
    change_policy(world.pipeline, asked)
    require_roster(world.pipeline)


def _sign(world: FakeWorld, asked: Request, *officers: str) -> None:
    for officer in officers:
        add_approval(world.pipeline, asked, FakeSignatures.sign(officer, world.ledger.approval_text(asked.id)))


def _let_time_pass(world: FakeWorld) -> None:
    """A second for each event; who signs does it then."""
    append = world.ledger.append

    def later(fact: Fact | Note, request: str | None = None) -> AuditHead:
        head = append(fact, request)
        world.clock.at += timedelta(seconds=1)
        world.signatures.signed_at = world.clock.at
        return head

    world.ledger.append = later  # type: ignore[method-assign]


@dataclass
class Installation:
    """What its officers really signed, and the audits that came of it.

    Ben is corrupt: he signs anything that is put before him. So does Eve, who is on no roster. Cem's signatures say no
    time, as those by an SSH key.

    Args:
        made: when each officer signed each text.
        chains: the bodies of the events, by what happened.
    """

    made: dict[tuple[str, bytes], datetime] = field(default_factory=dict)
    chains: dict[str, list[Body]] = field(default_factory=dict)

    def add(self, happens: Callable[[FakeWorld], None]) -> None:
        world = before_any_rotation()
        world.pipeline = replace(world.pipeline, hosts=HOSTS)
        world.ledger.signs = True
        _let_time_pass(world)
        pin_hosts(world.pipeline)
        happens(world)
        for signature, at in world.signatures.made.items():
            officer, _, text = signature.removeprefix(b"signed by ").partition(b": ")
            self.made[officer.decode(), text] = at
        self.chains[happens.__name__] = bodies_of(list(world.ledger.events()))

    def verify(self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime) -> VerifiedSignature:
        """Whether somebody made that signature: of honest officers there is only what they signed."""
        for officer in officers:
            fingerprint = officer.fingerprint
            known = self.made.get((fingerprint, text), at if fingerprint in CORRUPT else None)
            if known is not None and signature == FakeSignatures.sign(fingerprint, text):
                return VerifiedSignature(fingerprint, None if fingerprint in UNDATED else known)
        raise ApprovalError("the signature is not over this text; sign it again")

    def agreed(self, text: bytes) -> bool:
        """Whether enough officers of one of the real rosters signed a text, if the corrupt one did."""
        signers = {BEN, *(officer for officer, signed in self.made if signed == text)}
        return any(
            len(signers & {officer.fingerprint for officer in roster.officers}) >= roster.required
            for roster in (ROSTER, LATER)
        )

    def agreements(self) -> Iterator[tuple[bytes, dict[str, str]]]:
        """Every approval that enough officers signed, with its fields."""
        for text in {text for _, text in self.made if text.startswith(b"keyrotation-approval")}:
            if self.agreed(text):
                yield text, dict(signed_fields(text))


def installation() -> Installation:
    made = Installation()
    for happens in (
        routine,
        emergency,
        confirmed_and_rolled_back,
        withdrawn,
        other_officers,
        replaced,
        restored,
        in_a_copy,
    ):
        made.add(happens)
    return made
