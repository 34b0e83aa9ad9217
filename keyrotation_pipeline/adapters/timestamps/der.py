"""The certificates of a time stamp, put into the order that DER asks for.

`openssl ts`, and so many an authority, writes them in the order of its configuration, and `rfc3161-client` then refuses
the whole answer. No signature is over them, so their order says nothing.

Source: RFC 5652, section 5.1 (SignedData); X.690, 8.1 (tag and length) and 11.6 (order of a SET OF).
"""

from collections.abc import Iterator

_LONG_FORM = 0x80
_CERTIFICATES = 0xA0  # [0] IMPLICIT


def with_ordered_certificates(response: bytes) -> bytes:
    """A TimeStampResp with its certificates in order; as it is where it has none, or is none."""
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
        pass  # whoever parses it says what is wrong with it
    return response


def _elements(data: bytes, start: int, end: int) -> Iterator[int]:
    """Where each element between two places begins."""
    while start < end:
        yield start
        start = _content(data, start)[1]
    if start != end:
        raise ValueError(start)


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at a place begins, and where it ends."""
    length, start = data[at + 1], at + 2
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        length, start = int.from_bytes(data[start : start + size]), start + size
    if start + length > len(data):
        raise ValueError(at)
    return start, start + length
