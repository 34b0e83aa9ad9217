"""Encodes the parts of values, and decodes exactly what an encoder writes."""

from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError


@dataclass(frozen=True)
class Encoding:
    """Bytes as ASCII.

    Args:
        encoded: as most libraries write it.
        others: further forms of the same that some write: in capitals, or with padding.
    """

    encoded: Callable[[bytes], bytes]
    others: Callable[[bytes], bytes]
    _decoded: Callable[[bytes], bytes]

    def decoded(self, text: bytes) -> bytes:
        """Returns the bytes of a text.

        Raises:
            ClosedError: no encoder writes it so.
        """
        try:
            raw = self._decoded(text)
        except ValueError:
            raise ClosedError from None
        if text not in (self.encoded(raw), self.others(raw)):
            raise ClosedError
        return raw


def _hex(raw: bytes) -> bytes:
    return raw.hex().encode()


def _from_hex(text: bytes) -> bytes:
    return bytes.fromhex(text.decode("ascii"))


def _unpadded(encode: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda raw: encode(raw).rstrip(b"=")


def _with_padding(text: bytes) -> bytes:
    return text + b"=" * (-len(text) % 4)


ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "hex": Encoding(_hex, lambda raw: _hex(raw).upper(), _from_hex),
        "b64": Encoding(b64encode, _unpadded(b64encode), lambda text: b64decode(_with_padding(text))),
        "b64url": Encoding(
            _unpadded(urlsafe_b64encode), urlsafe_b64encode, lambda text: urlsafe_b64decode(_with_padding(text))
        ),
    }
)
