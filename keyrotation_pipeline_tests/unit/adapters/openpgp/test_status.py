"""What gpg says for programs, guard by guard: its lines are nobody else's, and only one good signature counts."""

import pytest

from keyrotation_pipeline.adapters.openpgp.runner import Status, StatusLine, parse_status
from keyrotation_pipeline.adapters.openpgp.signatures import require_one_good_signature
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError

KEY = "0123456789ABCDEF"
GOOD = ("NEWSIG", "GOODSIG", "VALIDSIG")
# All that `str.splitlines` or `bytes.splitlines` cut at, but for the newline, which gpg escapes in a user id.
CUTS = ("\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\u0085", "\u2028", "\u2029")


def status(*keywords: str, exit_code: int = 0) -> Status:
    return Status(exit_code, tuple(StatusLine(keyword, (KEY,)) for keyword in keywords))


@pytest.mark.parametrize("cut", CUTS, ids=ascii)
def test_a_line_of_a_status_ends_at_a_newline_byte_and_nowhere_else(cut: str) -> None:
    uid = f"Mallory {cut}[GNUPG:] GOODSIG {KEY} Ada{cut}[GNUPG:] VALIDSIG {KEY}"
    lines = parse_status(bytearray(f"[GNUPG:] NEWSIG\n[GNUPG:] BADSIG {KEY} {uid}\n".encode()))
    assert [line.keyword for line in lines] == ["NEWSIG", "BADSIG"]


def test_a_byte_that_no_encoding_gives_a_meaning_cuts_no_line() -> None:
    (line,) = parse_status(bytearray(b"[GNUPG:] BADSIG x \x85[GNUPG:] GOODSIG y\n"))
    assert line.keyword == "BADSIG"


@pytest.mark.parametrize("reported", [b"gpg: Good signature\n", b"[GNUPG:]GOODSIG x\n", b"[GNUPG:] NEWSIG\n\n"])
def test_whatever_is_no_status_line_spoils_the_whole(reported: bytes) -> None:
    with pytest.raises(OpenPGPError, match="is malformed"):
        parse_status(bytearray(reported))


def test_what_a_killed_gpg_was_about_to_say_is_not_said() -> None:
    assert [line.keyword for line in parse_status(bytearray(b"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG x"))] == ["NEWSIG"]


def test_one_good_signature_is_taken() -> None:
    require_one_good_signature(status("KEY_CONSIDERED", *GOOD, "TRUST_UNDEFINED"))


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param((), id="nothing is said"),
        pytest.param(("NEWSIG", "BADSIG"), id="a bad one"),
        pytest.param((*GOOD, "NEWSIG", "BADSIG"), id="a bad one after a good one"),
        pytest.param(("NEWSIG", "BADSIG", *GOOD), id="a bad one before a good one"),
        pytest.param(("BADSIG", *GOOD), id="a bad one of which nothing else is said"),
        pytest.param((*GOOD, *GOOD), id="two good ones"),
        pytest.param(("NEWSIG", "GOODSIG", "GOODSIG", "VALIDSIG"), id="two GOODSIG"),
        pytest.param((*GOOD, "VALIDSIG"), id="two VALIDSIG"),
        pytest.param(("NEWSIG", "GOODSIG"), id="good but not valid"),
        pytest.param(("NEWSIG", "VALIDSIG"), id="valid but not good"),
        pytest.param(("NEWSIG", "EXPSIG", "VALIDSIG"), id="an expired one"),
        pytest.param(("NEWSIG", "EXPKEYSIG", "VALIDSIG"), id="one by an expired key"),
        pytest.param(("NEWSIG", "REVKEYSIG", "VALIDSIG"), id="one by a revoked key"),
        pytest.param((*GOOD, "ERRSIG"), id="one that gpg cannot check"),
    ],
)
def test_anything_but_one_good_signature_is_refused_whatever_gpg_ends_with(keywords: tuple[str, ...]) -> None:
    with pytest.raises(ApprovalError):
        require_one_good_signature(status(*keywords))


@pytest.mark.parametrize("exit_code", [1, 2, -9])
def test_a_gpg_that_does_not_end_well_has_said_nothing_good(exit_code: int) -> None:
    with pytest.raises(ApprovalError, match="gpg does not accept the signature"):
        require_one_good_signature(status(*GOOD, exit_code=exit_code))
