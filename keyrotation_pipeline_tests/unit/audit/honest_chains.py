"""Audits of one installation as the real code writes them, over fakes: each a history that must verify."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.incidents.assessing import answers_in, assess, assessment_of, sign_assessment, text_to_sign
from keyrotation_pipeline.incidents.handling import close
from keyrotation_pipeline.incidents.opening import open_incident
from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature, signed_fields
from keyrotation_pipeline.model.audit import AuditEvent
from keyrotation_pipeline.model.key_events import KeyDestroyed
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Step
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.rotation.reconcile import open_reconciliation, reconcile
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, FakeSignatures, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, raised, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request

Body = dict[str, Any]
EVE = "E" * 40
CORRUPT = frozenset({EVE, BEN})
ATTACKER = Roster(1, (Officer("Eve", EVE),), (EVE,))
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
    pipeline = world.pipeline
    asked = new_request(
        Request, pipeline, pipeline.actions[RequestAction.DESTROY], source=V1, fingerprint=record.fingerprint,
        target=V1, reason="no longer needed", requested_by="dba",
    )  # fmt: skip
    world.ledger.open(asked, approval_text(pipeline, asked))
    _sign(world, asked, ADA, BEN)
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
        world.signatures.signed_at = world.clock.now()
        sign_assessment(world.pipeline, settled.id, FakeSignatures.sign(officer, text))
    close(world.pipeline, settled.id, "ben")
    open_incident(world.pipeline, raised(3, versions=("v2",)))


def confirmed_and_rolled_back(world: FakeWorld) -> None:
    """A rotation with a confirmed rollout, undone while rows are re-encrypted."""
    rotation = approved(world)
    walk(world, rotation, Step.KEY_VERSION)
    text = confirmation_text(world.pipeline, world.ledger.walk(rotation.id))
    add_confirmation(world.pipeline, world.ledger.walk(rotation.id), FakeSignatures.sign(ADA, text))
    walk(world, rotation, Step.PRIMARY_KEY_ROLLOUT)
    undo = open_rollback(world.pipeline, world.ledger.walk(rotation.id), reason="too slow", requested_by="dba")
    walk(world, signed(world, undo))


def other_officers(world: FakeWorld) -> None:
    """A change of officers, who then sign a rotation."""
    _policy(world)
    rotation = request(world)
    _sign(world, rotation, ADA, "C" * 40)
    walk(world, world.ledger.walk(rotation.id))


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
        world.signatures.signed_at = world.clock.now()
        add_approval(world.pipeline, asked, FakeSignatures.sign(officer, world.ledger.approval_text(asked.id)))


@dataclass
class Installation:
    """What its officers really signed, and the audits that came of it.

    Ben is corrupt: he signs anything that is put before him. So does Eve, who is on no roster.

    Args:
        made: when each officer signed each text.
        chains: the bodies of the events, by what happened.
    """

    made: dict[tuple[str, bytes], datetime] = field(default_factory=dict)
    chains: dict[str, list[Body]] = field(default_factory=dict)

    def add(self, happens: Callable[[FakeWorld], None]) -> None:
        world = before_any_rotation()
        happens(world)
        for signature, at in world.signatures.made.items():
            officer, _, text = signature.removeprefix(b"signed by ").partition(b": ")
            self.made[officer.decode(), text] = at
        self.chains[happens.__name__] = bodies_of(list(world.ledger.events()))

    def verify(self, text: bytes, signature: bytes, officers: Sequence[Officer], _at: datetime) -> VerifiedSignature:
        """Whether somebody made that signature: of honest officers there is only what they signed."""
        for officer in officers:
            fingerprint = officer.fingerprint
            known = self.made.get((fingerprint, text), START if fingerprint in CORRUPT else None)
            if known is not None and signature == FakeSignatures.sign(fingerprint, text):
                return VerifiedSignature(fingerprint, known)
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
    for happens in (routine, emergency, confirmed_and_rolled_back, other_officers, restored, in_a_copy):
        made.add(happens)
    return made
