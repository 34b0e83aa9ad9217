"""Time stamps of a real authority (`openssl ts` over HTTP): which count, which do not, and what is said of them."""

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyrotation_pipeline.adapters import rfc3161
from keyrotation_pipeline.adapters.rfc3161 import Rfc3161Authority, with_ordered_certificates
from keyrotation_pipeline.errors import TimestampError
from keyrotation_pipeline_tests.timestamp_authority import DAY, Authority, certified, serving
from keyrotation_pipeline_tests.waiting import eventually

MESSAGE = b"an event of the audit"
DIGEST = hashlib.sha256(MESSAGE).digest()


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with serving(certified(tmp_path / "authority")) as running:
        yield running


def client(authority: Authority, *more: Path) -> Rfc3161Authority:
    return Rfc3161Authority(authority.url, (authority.root, *more))


def test_a_time_stamp_is_verified_when_it_comes_and_again_without_the_authority(authority: Authority) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    stamp = client(authority).stamp(MESSAGE)
    assert before <= stamp.at <= datetime.now(UTC)
    offline = Rfc3161Authority(None, (authority.root,))
    assert (offline.name, offline.stamped_at(DIGEST, stamp.response)) == (None, stamp.at)
    assert len(stamp.trusted) == len(authority.asked) == 1


def test_a_signer_that_expired_since_still_vouches_for_what_it_stamped(tmp_path: Path) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    with serving(certified(tmp_path / "short", until=ends)) as authority:
        stamp = client(authority).stamp(MESSAGE)
    assert eventually(lambda: datetime.now(UTC) > ends)
    assert client(authority).stamped_at(DIGEST, stamp.response) == stamp.at


def test_an_old_time_stamp_does_not_verify_for_anything_else(authority: Authority, tmp_path: Path) -> None:
    stamp = client(authority).stamp(MESSAGE)
    other = certified(tmp_path / "other")
    with pytest.raises(TimestampError, match="over something else"):
        client(authority).stamped_at(hashlib.sha256(b"x").digest(), stamp.response)
    with pytest.raises(TimestampError, match=r"does not verify .*, name its root in \[audit\] timestamp_certificates"):
        client(other).stamped_at(DIGEST, stamp.response)
    assert client(other, authority.root).stamped_at(DIGEST, stamp.response) == stamp.at


def test_no_byte_of_a_time_stamp_can_be_changed_unseen(authority: Authority) -> None:
    """Any byte within the signed part; others may be of the envelope, which says nothing."""
    stamp = client(authority).stamp(MESSAGE)
    at = stamp.response.index(DIGEST)
    for place in (at - 8, at + 5, at + 40, len(stamp.response) - 5):
        changed = bytearray(stamp.response)
        changed[place] ^= 1
        with pytest.raises(TimestampError):
            client(authority).stamped_at(DIGEST, bytes(changed))


def refuses(authority: Authority) -> None:
    authority.answer = 503


def talks_nonsense(authority: Authority) -> None:
    authority.answer = b"<html>sign in</html>"


def talks_without_end(authority: Authority) -> None:
    authority.answer = b"0" * (rfc3161.LONGEST_ANSWER_BYTES + 1)


def gives_an_old_one_again(authority: Authority) -> None:
    client(authority).stamp(MESSAGE)
    authority.answer = (authority.folder / "answer.tsr").read_bytes()


def stamps_something_else(authority: Authority) -> None:
    client(authority).stamp(b"something else")
    authority.answer = (authority.folder / "answer.tsr").read_bytes()


def lost_its_root(authority: Authority) -> None:
    os.truncate(authority.root, 0)


@pytest.mark.parametrize(("does", "sentence"), [
    (refuses, "127.0.0.1 answers with HTTP status 503; check"),
    (talks_nonsense, "is not a time stamp"),
    (talks_without_end, "answers with more than a time stamp"),
    (gives_an_old_one_again, "does not verify .Nonce mismatch"),
    (stamps_something_else, "is over something else"),
    (lost_its_root, "root.pem holds no readable certificate; correct"),
])  # fmt: skip
def test_an_answer_that_is_no_time_stamp_is_one_sentence(
    authority: Authority, does: Callable[[Authority], None], sentence: str
) -> None:
    does(authority)
    with pytest.raises(TimestampError, match=sentence):
        client(authority).stamp(MESSAGE)


def test_a_signer_that_had_expired_when_it_stamped_is_refused(tmp_path: Path) -> None:
    made = certified(tmp_path / "expired", until=datetime.now(UTC) - DAY)
    with serving(made) as authority, pytest.raises(TimestampError, match=r"does not verify .*expired"):
        client(authority).stamp(MESSAGE)


def test_certificates_in_any_order_are_taken(authority: Authority) -> None:
    """`rfc3161-client` alone refuses one of the two orders, in which `openssl ts` writes them by chance."""
    answer = client(authority).stamp(MESSAGE).response
    root, signer = (
        x509.load_pem_x509_certificate((authority.folder / name).read_bytes()).public_bytes(Encoding.DER)
        for name in ("root.pem", "signer.pem")
    )
    (start,) = {answer.index(root), answer.index(signer)} - {max(answer.index(root), answer.index(signer))}
    for pair in (root + signer, signer + root):
        ordered = answer[:start] + pair + answer[start + len(pair) :]
        client(authority).stamped_at(DIGEST, ordered)
    assert with_ordered_certificates(answer[:90]) == answer[:90]


def test_nobody_there_and_somebody_who_never_answers_are_one_sentence(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(rfc3161, "LONGEST_SECONDS", 0.2)
        with pytest.raises(TimestampError, match=r"127.0.0.1 takes too long; check"):
            Rfc3161Authority(silent_url, (authority.root,)).stamp(MESSAGE)
        monkeypatch.undo()
    with pytest.raises(TimestampError, match=r"127.0.0.1 does not answer \(ConnectionError\); check"):
        Rfc3161Authority(silent_url, (authority.root,)).stamp(MESSAGE)


def test_a_host_that_cannot_be_one_is_one_sentence(authority: Authority) -> None:
    with pytest.raises(TimestampError, match=r"a\.\.b does not answer \(LocationParseError\); check"):
        Rfc3161Authority("http://a..b/", (authority.root,)).stamp(MESSAGE)
