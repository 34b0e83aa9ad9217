"""What the transit engine of Vault or OpenBao does with a key that it holds and never gives away.

This is the one format whose code asks a server: keys of it are read from backups and in worker processes, too, where
nothing but the format and the keys is known. `transit_connection` makes the requests.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.connection import (
    BAD_REQUEST,
    FEW,
    MANY,
    OK,
    ONCE,
    REDIRECT,
    TOO_LARGE,
    TransitConnection,
)
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, TransitKey

# OpenBao accepts 1000 strings in a request, the names of fields among them: two for each value.
MOST_VALUES = 450
# A request may have 32 MiB.
MOST_BYTES = 4 * 1024 * 1024
# Of AEAD: the others do not tell whether a value is intact, or have no key of their own for each version.
KINDS = frozenset({"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_PROBE_BYTES = 32
_KIND = re.compile(r"[a-z0-9_-]{1,60}")


@dataclass(frozen=True, slots=True)
class TransitPolicy:
    """What the server says of a key.

    Args:
        kind: as the server names it, such as ``aes256-gcm96``.
        latest: the version that it encrypts with.
        min_decryption, min_encryption: older versions are refused; 0: none is.
        min_available: older versions were destroyed; 0: none was.
        derived: each value has a key of its own, derived with a context.
        deletion_allowed: whoever has the right may delete all of it.
        rotates_itself: the server makes versions by itself.
        exportable: whoever has the right may take the key away.
    """

    kind: str
    latest: int
    min_decryption: int
    min_encryption: int
    min_available: int
    derived: bool
    deletion_allowed: bool
    rotates_itself: bool
    exportable: bool


class TransitServer:
    """One key of a transit engine. Safe between threads.

    Args:
        address: see `TransitConnection`, which says what may be wrong with it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection = TransitConnection(address)
        self._key = self._connection.key

    @property
    def withheld(self) -> str | None:
        """Why nothing is sent to it, as a sentence; None: it may be asked."""
        return self._connection.withheld

    @withheld.setter
    def withheld(self, message: str | None) -> None:
        self._connection.withheld = message

    def policy(self) -> TransitPolicy:
        """Reads what the server says of the key.

        Raises:
            KeyStoreUnavailableError: it does not answer, or does not let us in.
            KeyStoreDamagedError: there is no such key, or it is of a kind that cannot be rotated here.
        """
        data = self._ask("GET", f"keys/{self._key}")
        try:
            return TransitPolicy(
                _kind(data["type"]),
                _number(data["latest_version"]),
                _number(data["min_decryption_version"]),
                _number(data["min_encryption_version"]),
                _number(data.get("min_available_version", 0)),
                bool(data["derived"]),
                bool(data["deletion_allowed"]),
                data.get("auto_rotate_period", 0) not in {0, "0", "0s"},
                bool(data.get("exportable") or data.get("allow_plaintext_backup")),
            )
        except (KeyError, TypeError, ValueError):
            raise self._strange() from None

    def rotate(self) -> None:
        """Makes the next version, under which applications encrypt from then on; asked once, whatever happens."""
        self._ask("POST", f"keys/{self._key}/rotate", {}, tries=ONCE)

    def configure(self, **settings: int) -> None:
        """Changes what the server says of the key, such as `min_decryption_version`."""
        self._ask("POST", f"keys/{self._key}/config", settings)

    def trim(self, min_available_version: int) -> None:
        """Destroys every older version."""
        self._ask("POST", f"keys/{self._key}/trim", {"min_available_version": min_available_version})

    def reference(self, version: int) -> TransitKey:
        """Returns what a version is recognised by, recomputed.

        Raises:
            KeyStoreError: the server does not encrypt with it.
        """
        text = secrets.token_bytes(_PROBE_BYTES)
        body = {"plaintext": base64.b64encode(text).decode(), "key_version": version}
        made = str(self._ask("POST", f"encrypt/{self._key}", body).get("ciphertext"))
        try:
            key = TransitKey(f"{made}:{hashlib.sha256(text).hexdigest()}".encode())
        except InvalidKeyError:
            raise self._strange() from None
        if key.name != f"v{version}":
            raise self._strange()
        return key

    def unknown_keys(self, keys: Sequence[KeyMaterial]) -> list[KeyMaterial]:
        """Returns the keys that the server does not show that it has: it cannot decrypt what only they open.

        Raises:
            KeyStoreDamagedError: one of them is a key itself, which nobody is shown.
        """
        if not keys:
            return []
        if not all(isinstance(key, TransitKey) for key in keys):
            raise KeyStoreDamagedError(
                f"the key store holds keys that were imported under another [format] than that of {self.address}; "
                "write it as before, then run the same again"
            )
        references = [raw_of(key).decode().rpartition(":") for key in keys]
        texts = self._decrypted([probe.encode() for probe, _, _ in references], FEW)
        return [
            key
            for key, (_, _, digest), text in zip(keys, references, texts, strict=True)
            if text is None or hashlib.sha256(text).hexdigest() != digest
        ]

    def rewrapped(self, values: Sequence[bytes]) -> list[bytes | None]:
        """Encrypts each value anew with the newest version; None: the server cannot open it."""
        results = self._of_each("rewrap", values, MANY)
        try:
            return [None if each is None else each.encode() for each in (_text(one, "ciphertext") for one in results)]
        except UnicodeEncodeError:  # half of a surrogate pair
            raise self._strange() from None

    def decrypted(self, values: Sequence[bytes]) -> list[bytes | None]:
        """Decrypts each value; None: the server cannot open it."""
        return self._decrypted(values, MANY)

    def _decrypted(self, values: Sequence[bytes], tries: int) -> list[bytes | None]:
        texts = (_text(one, "plaintext") for one in self._of_each("decrypt", values, tries))
        try:
            return [None if each is None else base64.b64decode(each, validate=True) for each in texts]
        except ValueError:
            raise self._strange() from None

    def _of_each(self, what: str, values: Sequence[bytes], tries: int) -> list[Mapping[str, Any]]:
        return [result for some in _chunks(values) for result in self._batch(what, some, tries)]

    def _batch(self, what: str, values: Sequence[bytes], tries: int) -> list[Mapping[str, Any]]:
        # The server's own order; that it was kept is seen by comparing plaintexts.
        body: dict[str, Any] = {"batch_input": [{"ciphertext": value.decode("ascii")} for value in values]}
        if what == "decrypt":
            body["partial_failure_response_code"] = OK
        status, answer = self._connection.exchange("POST", f"{what}/{self._key}", body, tries)
        data = answer.get("data")
        results = data.get("batch_results") if isinstance(data, dict) else None
        if isinstance(results, list) and len(results) == len(values) and status in {OK, BAD_REQUEST}:
            return results
        if status in {BAD_REQUEST, TOO_LARGE} and len(values) > 1:  # its limits may be lower
            half = len(values) // 2
            return [*self._batch(what, values[:half], tries), *self._batch(what, values[half:], tries)]
        raise self._connection.refusal(status, answer, f"{what}/{self._key}")

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, tries: int = FEW
    ) -> Mapping[str, Any]:
        status, answer = self._connection.exchange(method, path, body, tries)
        if status >= REDIRECT:
            raise self._connection.refusal(status, answer, path)
        data = answer.get("data", {})
        return data if isinstance(data, dict) else {}

    def _strange(self) -> KeyStoreDamagedError:
        return KeyStoreDamagedError(
            f"{self.address} does not answer as a key of the transit engine does; correct [format] transit"
        )


@cache
def server_at(address: str) -> TransitServer:
    """Returns the server of an address, always the same, so that connections are kept."""
    return TransitServer(address)


def _chunks(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    begun = size = 0
    for number, value in enumerate(values):
        if number > begun and (number - begun >= MOST_VALUES or size + len(value) > MOST_BYTES):
            yield values[begun:number]
            begun, size = number, 0
        size += len(value)
    if len(values) > begun:
        yield values[begun:]


def _kind(found: object) -> str:
    """Returns the name of a kind of key, which people are shown.

    Raises:
        ValueError: that is none.
    """
    if not isinstance(found, str) or _KIND.fullmatch(found) is None:
        raise ValueError
    return found


def _number(found: object) -> int:
    """Returns the number of a version, or 0.

    Raises:
        ValueError: that is none.
    """
    if not isinstance(found, int) or not 0 <= found <= MAX_VERSION_NUMBER:
        raise ValueError
    return found


def _text(result: object, name: str) -> str | None:
    """Returns what a result of a batch holds; None: it holds an error instead."""
    if not isinstance(result, dict) or result.get("error"):
        return None
    text = result.get(name)
    return text if isinstance(text, str) else None
