"""What every `SignatureVerifier` must do. A test class inherits it, with a fixture `stage` of what it plays on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import pytest

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.ports.approvals import SignatureVerifier

TEXT = b"keyrotation-approval-v1\nRequest: 0f0f\nReason: yearly\n"
# The certificate of the officer Gone was valid in January 2020 only.
WHILE_VALID, AFTERWARDS = datetime(2020, 1, 5, tzinfo=UTC), datetime(2020, 3, 1, tzinfo=UTC)


class Stage(Protocol):
    """People with certificates: Ada and Ben are valid, Gone has expired, Eve is whoever else there is."""

    def verifier(self, *names: str, required: int = 2) -> SignatureVerifier:
        """Of a configuration with these officers."""

    def officer(self, name: str) -> Officer:
        """As pinned, with the certificate as it was at first."""

    def sign(self, name: str, text: bytes, at: datetime | None = None) -> bytes: ...

    def revoke(self, name: str) -> None:
        """From now on a configuration that names them has their revoked certificate."""

    def give_certificate_of(self, other: str, name: str) -> None:
        """From now on the file of one has the certificate of the other."""


class SignatureSuite:
    @pytest.fixture
    def stage(self) -> Stage:
        raise NotImplementedError

    @pytest.fixture
    def pinned(self, stage: Stage) -> tuple[Officer, ...]:
        return stage.officer("Ada"), stage.officer("Ben")

    def test_a_signature_names_who_made_it_and_when(self, stage: Stage, pinned: Sequence[Officer]) -> None:
        verifier = stage.verifier("Ada", "Ben")
        for officer in pinned:
            verified = verifier.verify(TEXT, stage.sign(officer.name, TEXT), pinned)
            assert verified.officer == officer.fingerprint
            assert verified.signed_at is not None
            assert verified.signed_at.utcoffset() is not None
            assert verified.signed_at.microsecond == 0

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda _: b"", id="nothing"),
            pytest.param(lambda signature: signature[: len(signature) // 2], id="the half of one"),
            pytest.param(lambda signature: signature + signature, id="two"),
            pytest.param(lambda _: TEXT, id="the text itself"),
        ],
    )
    def test_what_is_not_exactly_one_signature_is_refused(
        self, stage: Stage, pinned: Sequence[Officer], change: Callable[[bytes], bytes]
    ) -> None:
        verifier, signature = stage.verifier("Ada", "Ben"), stage.sign("Ada", TEXT)
        # Also after the right one: what was verified says nothing of what resembles it.
        assert verifier.verify(TEXT, signature, pinned)
        with pytest.raises(ApprovalError):
            verifier.verify(TEXT, change(signature), pinned)

    @pytest.mark.parametrize("text", [TEXT + b"\n", TEXT[:-1], TEXT.replace(b"0f0f", b"1e1e"), b""])
    def test_a_signature_is_over_exactly_one_text(self, stage: Stage, pinned: Sequence[Officer], text: bytes) -> None:
        verifier, signature = stage.verifier("Ada", "Ben"), stage.sign("Ada", TEXT)
        assert verifier.verify(TEXT, signature, pinned)
        with pytest.raises(ApprovalError):
            verifier.verify(text, signature, pinned)

    def test_only_the_given_officers_count_whoever_the_configuration_names(
        self, stage: Stage, pinned: Sequence[Officer]
    ) -> None:
        verifier, by_ada, by_eve = stage.verifier("Ada", "Ben", "Eve"), stage.sign("Ada", TEXT), stage.sign("Eve", TEXT)
        assert verifier.verify(TEXT, by_ada, pinned)
        for signature, officers in ((by_ada, pinned[1:]), (by_ada, ()), (by_eve, pinned)):
            with pytest.raises(ApprovalError):
                verifier.verify(TEXT, signature, officers)

    def test_whoever_left_the_configuration_is_verified_by_what_was_pinned(
        self, stage: Stage, pinned: Sequence[Officer]
    ) -> None:
        assert stage.verifier("Ben").verify(TEXT, stage.sign("Ada", TEXT), pinned).officer == pinned[0].fingerprint

    def test_an_unknown_certificate_under_an_officers_name_verifies_nothing(
        self, stage: Stage, pinned: Sequence[Officer]
    ) -> None:
        signature, forged = stage.sign("Eve", TEXT), replace(pinned[0], certificate=stage.officer("Eve").certificate)
        stage.give_certificate_of("Eve", "Ada")
        with pytest.raises(ApprovalError):
            stage.verifier("Ada", "Ben").verify(TEXT, signature, (forged, pinned[1]))

    def test_a_certificate_that_is_revoked_counts_no_more_even_for_what_was_signed_and_verified_before(
        self, stage: Stage
    ) -> None:
        # Eve, since the others are needed by other tests.
        pinned, verifier, signature = (stage.officer("Eve"),), stage.verifier("Ben", "Eve"), stage.sign("Eve", TEXT)
        assert verifier.verify(TEXT, signature, pinned)
        stage.revoke("Eve")
        with pytest.raises(ApprovalError, match="revoked"):
            verifier.verify(TEXT, signature, pinned)
        assert stage.officer("Eve") in verifier.roster().officers
        assert [each.unusable is None for each in verifier.certificates()] == [True, False]

    def test_a_certificate_that_has_expired_counts_only_as_of_when_it_had_not(self, stage: Stage) -> None:
        pinned, verifier = (stage.officer("Gone"),), stage.verifier("Gone")
        signature = stage.sign("Gone", TEXT, WHILE_VALID)
        verified = verifier.verify(TEXT, signature, pinned, WHILE_VALID)
        assert (verified.officer, verified.signed_at) == (pinned[0].fingerprint, WHILE_VALID)
        for at in (None, AFTERWARDS):
            with pytest.raises(ApprovalError, match="expired"):
                verifier.verify(TEXT, signature, pinned, at)

    def test_an_officer_who_does_not_count_keeps_no_other_from_signing(
        self, stage: Stage, pinned: Sequence[Officer]
    ) -> None:
        everybody = (*pinned, stage.officer("Gone"))
        assert stage.verifier("Ada", "Ben", "Gone").verify(TEXT, stage.sign("Ben", TEXT), everybody)

    def test_the_roster_is_who_the_configuration_names(self, stage: Stage, pinned: Sequence[Officer]) -> None:
        roster = stage.verifier("Ada", "Ben").roster()
        assert (roster.required, roster.officers) == (2, tuple(pinned))

    @pytest.mark.parametrize(
        ("names", "required", "sentence"),
        [
            pytest.param(["Ada", "Ben"], 1, "two people must agree", id="one is not two"),
            pytest.param(["Ada", "Ben"], 3, "3 approvals are required of 2", id="more than there are"),
        ],
    )
    def test_a_roster_that_cannot_approve_is_refused(
        self, stage: Stage, names: Sequence[str], required: int, sentence: str
    ) -> None:
        with pytest.raises(ApprovalError, match=sentence):
            stage.verifier(*names, required=required).roster()

    def test_who_has_expired_is_on_the_roster_and_named(self, stage: Stage) -> None:
        verifier = stage.verifier("Ada", "Ben", "Gone")
        assert [each.name for each in verifier.roster().officers] == ["Ada", "Ben", "Gone"]
        assert ["expired" in str(each.unusable) for each in verifier.certificates()] == [False, False, True]

    def test_one_certificate_under_two_names_is_one_officer(self, stage: Stage) -> None:
        stage.give_certificate_of("Ada", "Ben")
        with pytest.raises(ApprovalError, match="same certificate"):
            stage.verifier("Ada", "Ben").roster()
