"""Parses OpenPGP messages, as pgcrypto and gpg write them.

Source: RFC 4880 sections 4.2, 5.1, 5.3, 5.7, 5.13.
"""

from collections.abc import Iterator

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, in_bytes, in_text
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.openpgp_packets import new_length, old_length

_ADVICE = Advice(
    identified_by=IdentifiedBy.DECRYPT,
    one_key="a query with pgcrypto",
    source="RFC 4880; pgcrypto of PostgreSQL",
)
_PUBLIC_KEY_SESSION, _PASSPHRASE_SESSION, _ENCRYPTED, _ENCRYPTED_WITH_MDC, _MARKER = 1, 3, 9, 18, 10
_MOST_PACKETS = 20
_BEGIN, _END = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
# Simple, salted, iterated and salted string-to-key: bytes after the cipher
_STRING_TO_KEY_BYTES = {0: 2, 1: 10, 3: 11}


@in_bytes("pgcrypto-pgp", starts=(b"\xc3", b"\x8c", b"\xc1", b"\x84", b"\x85"), advice=_ADVICE)
def pgcrypto_pgp(raw: bytes) -> Recognised | None:
    """Recognises OpenPGP messages as pgcrypto writes them: session key packets, then encrypted data, to the last byte.

    `pgp_sym_encrypt`: 0xc3 (tag 3, version 4), then 0xd2 (tag 18). `pgp_pub_encrypt`: tag 1, which names the key. The
    ids of public keys are 16 hex digits.
    """
    found = _key_of_message(raw)
    return None if found is None else Recognised("pgcrypto-pgp", found or None)


@in_text("pgcrypto-armor", starts=(_BEGIN,), behind="-----BEGIN PGP", advice=_ADVICE)
def pgcrypto_armor(text: str) -> Recognised | None:
    """Recognises armored OpenPGP messages, as pgcrypto's `armor` and gpg write them.

    Headers, an empty line, base64, a checksum.
    """
    body, end, after = text.removeprefix(_BEGIN).replace("\r", "").partition(_END)
    if not end or after.strip():
        return None
    _headers, _, encoded = body.partition("\n\n")
    lines = encoded.split("\n")
    raw = from_base64("".join(line for line in lines if not line.startswith("=")))
    found = _key_of_message(raw) if raw is not None else None
    return None if found is None else Recognised("pgcrypto-armor", found or None)


def _key_of_message(raw: bytes) -> str | None:
    """Returns the id of a message's first public key, empty if it has a passphrase only; None if it is no message."""
    key, sessions = "", 0
    for tag, start, body_bytes in _packets(raw):
        if tag == _PUBLIC_KEY_SESSION and body_bytes > 10 and raw[start] == 3:  # noqa: PLR2004  version
            key, sessions = key or raw[start + 1 : start + 9].hex(), sessions + 1
        elif tag == _PASSPHRASE_SESSION and _is_passphrase_session(raw[start : start + body_bytes]):
            sessions += 1
        elif tag in (_ENCRYPTED, _ENCRYPTED_WITH_MDC):
            fits = tag == _ENCRYPTED or raw[start : start + 1] == b"\x01"
            return key if sessions and fits and body_bytes > 0 else None
        elif tag != _MARKER:
            return None
    return None


def _is_passphrase_session(body: bytes) -> bool:
    if len(body) < 4 or body[0] != 4 or body[1] > 13:  # noqa: PLR2004  version, ciphers
        return False
    return len(body) >= 2 + _STRING_TO_KEY_BYTES.get(body[2], len(body))


def _packets(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields tag, start and size of each packet; ends where lengths do not fit. Of a partial body the first part."""
    at = 0
    for _ in range(_MOST_PACKETS):
        if at + 2 > len(raw) or not raw[at] & 0x80:
            return
        tag, (start, size, whole) = (
            (raw[at] & 0x3F, new_length(raw, at + 1)) if raw[at] & 0x40 else (raw[at] >> 2 & 0xF, old_length(raw, at))
        )
        if start + size > len(raw) or (not whole and tag not in (_ENCRYPTED, _ENCRYPTED_WITH_MDC)):
            return
        if whole and tag in (_ENCRYPTED, _ENCRYPTED_WITH_MDC) and start + size != len(raw):
            return
        yield tag, start, size
        at = start + size
