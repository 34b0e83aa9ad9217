"""Opens and seals the values of pgcrypto's `pgp_sym_encrypt(text, passphrase)`, also with `armor`.

OpenPGP messages with a passphrase (RFC 4880): a packet that says how the key is derived (S2K), and AES in OpenPGP's CFB
with a SHA-1 of all that is encrypted (MDC). Without an MDC (`disable-mdc`), or with another cipher, nothing opens.
Nothing is decrypted by the server, so no passphrase is in SQL.
"""

import hashlib
import hmac
import os
import zlib
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.formats.marking import LONGEST_JUDGED_BYTES
from keyrotation_pipeline.fieldcrypto.formats.pgcrypto import ARMOR
from keyrotation_pipeline.fieldcrypto.openpgp_packets import new_length, old_length

_BLOCK, _SALT_BYTES, _MDC_BYTES = 16, 8, 20
_SESSION, _COMPRESSED, _LITERAL, _ENCRYPTED = 3, 8, 11, 18
_PREFIX_BYTES = _BLOCK + 2
_MDC_HEAD = b"\xd3\x14"
_LITERAL_HEAD_BYTES = 6  # kind, length of a name, date
_KEY_BYTES: Mapping[int, int] = MappingProxyType({7: 16, 8: 24, 9: 32})  # by number of the cipher: AES
_DIGESTS: Mapping[int, str] = MappingProxyType(
    {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
)
_SIMPLE, _SALTED, _ITERATED = 0, 1, 3
# As pgcrypto writes where nothing is said: AES-128, SHA-1, iterated and salted over 65 536 bytes.
_OWN = bytes([4, 7, _ITERATED, 2])
_OWN_COUNT = 0x60
_BEGIN, _END = b"-----BEGIN PGP MESSAGE-----\n\n", b"\n-----END PGP MESSAGE-----\n"
_LINE_CHARS, _SUM_CHARS = 76, 5


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:  # noqa: ARG001  there are none
    """Returns what opens and seals values under the passphrase."""
    return _Armored(key) if name == ARMOR.name else _Message(key)


class _Message:
    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase

    def opened(self, stored: bytes) -> bytes:
        try:
            (session, head), (encrypted, body) = _packets(stored)
            if (session, encrypted) != (_SESSION, _ENCRYPTED) or body[:1] != b"\x01":
                raise ClosedError
            return _text_in(_verified(_cfb_opened(self._key(head), body[1:])))
        except (IndexError, ValueError, zlib.error):
            raise ClosedError from None

    def sealed(self, text: bytes) -> bytes:
        salt, start = os.urandom(_SALT_BYTES), os.urandom(_BLOCK)
        head = _OWN + salt + bytes([_OWN_COUNT])
        literal = _packet(_LITERAL, b"t" + bytes(_LITERAL_HEAD_BYTES - 1) + text)
        plain = start + start[-2:] + literal + _MDC_HEAD
        plain += hashlib.sha1(plain, usedforsecurity=False).digest()
        return _packet(_SESSION, head) + _packet(_ENCRYPTED, b"\x01" + _cfb_sealed(self._key(head), plain))

    def _key(self, head: bytes) -> bytes:
        """Returns the session key that a session packet names, or holds encrypted."""
        version, cipher, kind, digest = head[:4]
        if version != _OWN[0]:
            raise ClosedError
        salt = head[4 : 4 + _SALT_BYTES] if kind in {_SALTED, _ITERATED} else b""
        end = 4 + len(salt) + (kind == _ITERATED)
        count = _count(head[end - 1]) if kind == _ITERATED else 0
        if kind not in {_SIMPLE, _SALTED, _ITERATED} or len(head) < end:
            raise ClosedError
        derived = _derived(salt + self._passphrase, _digest(digest), count, _size(cipher))
        if not (wrapped := head[end:]):
            return derived
        named, key = (opened := _cfb_opened(derived, wrapped))[0], opened[1:]
        if len(key) != _size(named):
            raise ClosedError
        return key


class _Armored(_Message):
    def opened(self, stored: bytes) -> bytes:
        lines = stored.replace(b"\r\n", b"\n")
        head, _, rest = lines.partition(b"\n\n")  # it may have headers
        encoded, _, checksum = rest.removesuffix(_END).rpartition(b"\n=")
        if not head.startswith(_BEGIN.rstrip()) or not rest.endswith(_END):
            raise ClosedError
        try:
            raw = a2b_base64(encoded.replace(b"\n", b""), strict_mode=True)
            if a2b_base64(checksum, strict_mode=True) != _crc24(raw):
                raise ClosedError
        except ValueError:
            raise ClosedError from None
        return super().opened(raw)

    def sealed(self, text: bytes) -> bytes:
        raw = super().sealed(text)
        encoded = b64encode(raw)
        lines = (encoded[at : at + _LINE_CHARS] for at in range(0, len(encoded), _LINE_CHARS))
        return _BEGIN + b"\n".join(lines) + b"\n=" + b64encode(_crc24(raw)) + _END


def _size(cipher: int) -> int:
    if (size := _KEY_BYTES.get(cipher)) is None:
        raise ClosedError
    return size


def _digest(number: int) -> str:
    if (name := _DIGESTS.get(number)) is None:
        raise ClosedError
    return name


def _count(coded: int) -> int:
    return (16 + (coded & 15)) << ((coded >> 4) + 6)


def _derived(material: bytes, digest: str, count: int, size: int) -> bytes:
    """Returns hashes of the material, repeated up to a count of bytes, behind 0, 1, 2 … zeros (section 3.7.1)."""
    whole = max(count, len(material))
    repeated = (material * (whole // max(len(material), 1) + 1))[:whole]
    key, zeros = b"", b""
    while len(key) < size:
        hashed = hashlib.new(digest, zeros, usedforsecurity=False)
        hashed.update(repeated)
        key, zeros = key + hashed.digest(), zeros + b"\0"
    return key[:size]


def _cfb_opened(key: bytes, body: bytes) -> bytes:
    """Decrypts CFB with an IV of zeros: each block is XORed with the encryption of the one before it."""
    blocks = -(-len(body) // _BLOCK)
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  the step of CFB
    stream = encryptor.update((bytes(_BLOCK) + body)[: blocks * _BLOCK])
    return _xored(body, stream[: len(body)])


def _cfb_sealed(key: bytes, plain: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  the step of CFB
    body, last = bytearray(), bytes(_BLOCK)
    for at in range(0, len(plain), _BLOCK):
        part = plain[at : at + _BLOCK]
        last = _xored(part, encryptor.update(last)[: len(part)])
        body += last
    return bytes(body)


def _xored(first: bytes, second: bytes) -> bytes:
    return (int.from_bytes(first) ^ int.from_bytes(second)).to_bytes(len(first))


def _verified(plain: bytes) -> bytes:
    """Returns the packets within what was encrypted, whose SHA-1 is right."""
    content, mdc = plain[:-_MDC_BYTES], plain[-_MDC_BYTES:]
    if plain[_BLOCK - 2 : _BLOCK] != plain[_BLOCK:_PREFIX_BYTES] or not content.endswith(_MDC_HEAD):
        raise ClosedError
    if not hmac.compare_digest(hashlib.sha1(content, usedforsecurity=False).digest(), mdc):
        raise ClosedError
    return content[_PREFIX_BYTES : -len(_MDC_HEAD)]


def _text_in(raw: bytes) -> bytes:
    ((tag, body),) = _packets(raw)
    if tag == _COMPRESSED:
        ((tag, body),) = _packets(_decompressed(body))
    if tag != _LITERAL:
        raise ClosedError
    return body[_LITERAL_HEAD_BYTES + body[1] :]


def _decompressed(body: bytes) -> bytes:
    """Decompresses ZIP (1) or ZLIB (2); 0: nothing was compressed."""
    if body[0] == 0:
        return body[1:]
    stream = zlib.decompressobj(-zlib.MAX_WBITS if body[0] == 1 else zlib.MAX_WBITS)
    found = stream.decompress(body[1:], LONGEST_JUDGED_BYTES)
    if body[0] not in {1, 2} or not stream.eof or stream.unused_data:
        raise ClosedError
    return found


def _packets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields tag and body of each packet to the last byte; a body may come in parts.

    Raises:
        ClosedError, IndexError: it is no sequence of packets.
    """
    at = 0
    while at < len(raw):
        is_new = bool(raw[at] & 0x40)
        tag = raw[at] & 0x3F if is_new else raw[at] >> 2 & 0xF
        start, size, is_whole = new_length(raw, at + 1) if is_new else old_length(raw, at)
        parts = [raw[start : start + size]]
        while not is_whole:
            start, size, is_whole = new_length(raw, start + size)
            parts.append(raw[start : start + size])
        if not raw[at] & 0x80 or start + size > len(raw):
            raise ClosedError
        yield tag, b"".join(parts)
        at = start + size


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def _crc24(raw: bytes) -> bytes:
    """The checksum of armor (section 6.1)."""
    crc = 0xB704CE
    for byte in raw:
        crc ^= byte << 16
        for _ in range(8):
            crc = crc << 1 ^ (0x1864CFB if crc & 0x800000 else 0)
    return (crc & 0xFFFFFF).to_bytes(3)
