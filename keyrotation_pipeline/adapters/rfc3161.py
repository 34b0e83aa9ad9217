"""Requests RFC 3161 time stamps over HTTP, and verifies them with configured certificates."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keyrotation_pipeline.adapters.deadline import within
from keyrotation_pipeline.errors import TimestampError
from keyrotation_pipeline.ports.timestamps import TimeStamp
from keyrotation_pipeline.regular_files import read_bytes

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampRequest

_LONG_FORM = 0x80
_CERTIFICATES = 0xA0  # [0] IMPLICIT


def with_ordered_certificates(response: bytes) -> bytes:
    """Returns a TimeStampResp with its certificates sorted; unchanged if it has none or is malformed."""
    try:
        _, token = _elements(response, *_content(response, 0))
        _, explicit = _elements(response, *_content(response, token))
        (signed_data,) = _elements(response, *_content(response, explicit))
        for element in _elements(response, *_content(response, signed_data)):
            if response[element] == _CERTIFICATES:
                start, end = _content(response, element)
                listed = [response[at : _content(response, at)[1]] for at in _elements(response, start, end)]
                return response[:start] + b"".join(sorted(listed)) + response[end:]
    except (IndexError, ValueError):
        pass  # the parser reports what is wrong with it
    return response


def _elements(data: bytes, start: int, end: int) -> Iterator[int]:
    """Yields where each element between two positions begins."""
    while start < end:
        yield start
        start = _content(data, start)[1]
    if start != end:
        raise ValueError(start)


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Returns where the content of the element at a position begins and ends."""
    length, start = data[at + 1], at + 2
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        length, start = int.from_bytes(data[start : start + size]), start + size
    if start + length > len(data):
        raise ValueError(at)
    return start, start + length


# For the whole request: an authority that sends a byte now and then must not delay a rotation.
LONGEST_SECONDS = 20.0
LONGEST_ANSWER_BYTES = 100_000
SHA256 = "2.16.840.1.101.3.4.2.1"
_SETTING = "check [audit] timestamp_url"


@dataclass(frozen=True)
class Rfc3161Authority:
    """`TimestampAuthority` over HTTP. Imports and reads nothing before it is used.

    Args:
        url: None: no time stamp is requested.
        certificates: PEM or DER files of the authority's root, and of intermediates if its answers lack them.
    """

    url: str | None = field(repr=False)
    certificates: tuple[Path, ...]

    @property
    def name(self) -> str | None:
        """See `TimestampAuthority.name`."""
        return None if self.url is None else urlsplit(self.url).hostname

    def stamp(self, message: bytes) -> TimeStamp:
        """See `TimestampAuthority.stamp`; a redirect counts as a refusal."""
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415  only where it is used
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder  # noqa: PLC0415  likewise

        _ = self._trusted  # reports a file without a certificate before sending anything
        request = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
        late = TimestampError(f"{self.name} takes too long; {_SETTING}")
        response = within(LONGEST_SECONDS, lambda: self._ask(request.as_bytes()), late)
        at = self._verified(request.message_imprint.message, response, request)
        trusted = tuple(each.public_bytes(Encoding.DER) for each in self._trusted)
        return TimeStamp(response, at, trusted)

    def stamped_at(self, digest: bytes, response: bytes) -> datetime:
        """See `TimestampAuthority.stamped_at`."""
        return self._verified(digest, response, None)

    @cached_property
    def _trusted(self) -> tuple["Certificate", ...]:
        found = {each: None for path in self.certificates for each in _certificates_in(path)}
        if not found:
            raise TimestampError("no certificate vouches for time stamps; name some in [audit] timestamp_certificates")
        return tuple(found)

    def _ask(self, request: bytes) -> bytes:
        import requests  # noqa: PLC0415  takes its time to import

        from keyrotation_pipeline.adapters.http_post import post  # noqa: PLC0415  likewise

        headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
        try:
            with post(self.url or "", data=request, headers=headers) as answer:
                if answer.status_code != requests.codes.ok:
                    raise TimestampError(f"{self.name} answers with HTTP status {answer.status_code}; {_SETTING}")
                content = b""
                for chunk in answer.iter_content(4096):
                    content += chunk
                    if len(content) > LONGEST_ANSWER_BYTES:
                        raise TimestampError(f"{self.name} answers with more than a time stamp; {_SETTING}")
                return content
        except (requests.RequestException, ValueError) as error:  # ValueError: urllib3, for a host like a..b
            raise TimestampError(f"{self.name} does not answer ({type(error).__name__}); {_SETTING}") from None

    def _verified(self, digest: bytes, response: bytes, request: "TimeStampRequest | None") -> datetime:
        """Returns the time of an answer, if it is over this digest and by a trusted authority."""
        from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response  # noqa: PLC0415

        try:
            answer = decode_timestamp_response(with_ordered_certificates(response))
            if answer.status not in {0, 1}:
                raise TimestampError(f"{self._who} refuses with status {answer.status}; {_SETTING}")
            info = answer.tst_info
            if info.message_imprint.hash_algorithm.dotted_string != SHA256 or info.message_imprint.message != digest:
                raise TimestampError(f"the time stamp of {self._who} is over something else")
            nonce = None if request is None else request.nonce
            VerifierBuilder(roots=list(self._trusted), nonce=nonce).build().verify(answer, digest)
            at = info.gen_time
        except VerificationError as error:
            raise TimestampError(
                f"the time stamp of {self._who} does not verify ({_plain(error)}); if its authority is to be "
                "trusted, name its root in [audit] timestamp_certificates"
            ) from None
        except (ValueError, TypeError) as error:
            raise TimestampError(f"the answer of {self._who} is not a time stamp ({type(error).__name__})") from None
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

    @property
    def _who(self) -> str:
        return self.name or "the authority"


def _certificates_in(path: Path) -> list["Certificate"]:
    from cryptography import x509  # noqa: PLC0415  only where it is used

    try:
        content = read_bytes(path)
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_certificates(content)
        return [x509.load_der_x509_certificate(content)]
    except (OSError, ValueError):
        raise TimestampError(f"{path} holds no readable certificate; correct [audit] timestamp_certificates") from None


def _plain(error: Exception) -> str:
    """Returns the library's message on one line; for an OpenSSL error, the reason."""
    text = " ".join(str(error).split())
    said = re.findall(r'[Vv]erify error: ?([^"]+)"', text) or re.findall(r'reason: "([^"]+)"', text)
    return (said[-1] if said else text)[:200].rstrip(".")
