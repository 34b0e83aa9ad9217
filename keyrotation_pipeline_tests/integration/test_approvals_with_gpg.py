"""Two officers approve a request with the real gpg, and what does not count as that."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval, approval_text, require_authorised
from keyrotation_pipeline_tests.fakes import V2, V3, FakeWorld, fake_pipeline, rotation_of
from keyrotation_pipeline_tests.officers import at_instant, make_officer, revoke, sign_at

REQUESTED_AT = datetime.now(UTC) - timedelta(hours=1)


@dataclass
class Signing:
    """A request that waits for Ada's and Ben's signatures; Eve is nobody."""

    pipeline: Pipeline
    world: FakeWorld
    rotation: Walk
    ada: DemoOfficer
    ben: DemoOfficer
    eve: DemoOfficer

    @property
    def text(self) -> bytes:
        return self.pipeline.ledger.approval_text(self.rotation.id)

    def approve(self, signature: bytes) -> tuple[str, int]:
        return add_approval(self.pipeline, self.rotation, signature)


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    born = at_instant(REQUESTED_AT - timedelta(days=30))
    ada, ben, eve = (make_officer(tmp_path, name, extra=born) for name in ("Ada", "Ben", "Eve"))
    officers = [OfficerFiles("Ada", ada.certificate), OfficerFiles("Ben", ben.certificate)]
    signatures = OfficerSignatures(GnuPG(tmp_path / "gnupg", SystemClock()), officers, 2, [ada.certificate])
    world = fake_pipeline()
    world.ledger.begin_with(signatures.roster(), *world.ledger.keys())
    world.keys.roster = signatures.roster().digest
    pipeline = replace(world.pipeline, signatures=signatures, clock=SystemClock())
    rotation = replace(
        rotation_of(fake_pipeline(), V2, V3),  # as it is asked for; signed by others here
        approvals=(),
        started_at=None,
        requested_at=REQUESTED_AT,
        start_by=REQUESTED_AT + timedelta(days=1),
        finish_by=REQUESTED_AT + timedelta(days=2),
    )
    world.ledger.refuses = False  # no event has opened it
    world.ledger.state.requests[rotation.id] = rotation
    world.ledger.state.texts[rotation.id] = approval_text(pipeline, rotation)
    return Signing(pipeline, world, rotation, ada, ben, eve)


def test_two_officers_authorise_a_rotation(signing: Signing) -> None:
    assert signing.approve(signing.ada.sign(signing.text)) == ("Ada", 1)
    with pytest.raises(ApprovalError, match="needs 1 more signature"):
        require_authorised(signing.pipeline, signing.rotation, signing.pipeline.keys.read())
    assert signing.approve(signing.ben.sign(signing.text)) == ("Ben", 2)
    require_authorised(signing.pipeline, signing.rotation, signing.pipeline.keys.read())


REFUSED: list[tuple[str, Callable[[Signing], bytes], str]] = [
    ("one space more", lambda s: s.ben.sign(s.text + b" "), "not over exactly this text"),
    ("unknown", lambda s: s.eve.sign(s.text), "which no officer of the roster has"),
    (
        "backdated",
        lambda s: sign_at(s.ben, s.text, REQUESTED_AT - timedelta(seconds=2)),
        "of Ben is dated before the request",
    ),
    (
        "future-dated",
        lambda s: sign_at(s.ben, s.text, datetime.now(UTC) + timedelta(minutes=10)),
        "of Ben is dated in the future",
    ),
]


@pytest.mark.parametrize(
    ("make", "sentence"), [pytest.param(make, sentence, id=name) for name, make, sentence in REFUSED]
)
def test_a_signature_that_does_not_count_is_refused_and_not_stored(
    signing: Signing, make: Callable[[Signing], bytes], sentence: str
) -> None:
    with pytest.raises(ApprovalError, match=sentence):
        signing.approve(make(signing))
    assert signing.pipeline.ledger.signatures(signing.rotation.id) == ()


def test_one_officer_twice_is_refused(signing: Signing) -> None:
    signing.approve(signing.ada.sign(signing.text))
    with pytest.raises(ApprovalError, match="Ada has signed this request already"):
        signing.approve(sign_at(signing.ada, signing.text, datetime.now(UTC) - timedelta(minutes=5)))
    assert len(signing.pipeline.ledger.signatures(signing.rotation.id)) == 1


def test_a_signature_for_one_request_does_not_count_for_another(signing: Signing) -> None:
    signature = signing.ben.sign(signing.text)
    other = replace(signing.rotation, id="ab" * 16)
    signing.world.ledger.state.requests[other.id] = other
    signing.world.ledger.state.texts[other.id] = approval_text(signing.pipeline, other)
    with pytest.raises(ApprovalError, match="not over exactly this text"):
        add_approval(signing.pipeline, other, signature)


def test_an_approval_ends_when_its_officer_is_revoked(signing: Signing) -> None:
    signing.approve(signing.ada.sign(signing.text))
    signing.approve(signing.ben.sign(signing.text))
    revoke(signing.ben)
    with pytest.raises(ApprovalError, match=r"officer Ben: certificate .* is revoked"):
        require_authorised(signing.pipeline, signing.rotation, signing.pipeline.keys.read())
