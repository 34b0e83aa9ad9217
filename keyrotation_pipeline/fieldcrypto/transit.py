"""Talks to the transit engine of Vault or OpenBao, which holds keys that it never gives away.

This is the one format whose code asks a server: keys of it are read from backups and in worker processes, too, where
nothing but the format and the keys is known. The address is declared. The rest is as Vault's own command has it: the
token in VAULT_TOKEN or ``~/.vault-token``, VAULT_CACERT and VAULT_NAMESPACE.

A request that may be repeated is, with growing pauses, while the server is sealed, busy or away.
"""

import base64
import hashlib
import json
import os
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from keyrotation_pipeline.errors import (
    ConfigurationError,
    InvalidKeyError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, TransitKey

# OpenBao accepts 1000 strings in a request, the names of fields among them: two for each value.
MOST_VALUES = 450
# A request may have 32 MiB.
MOST_BYTES = 4 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
# Between the tries with a batch of values; for all else, of which a command may need several, only the first of them.
PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
_FEW = 3
# Of AEAD: the others do not tell whether a value is intact, or have no key of their own for each version.
KINDS = frozenset({"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_PASSING = frozenset({412, 429, 500, 502, 503, 504})
_OK, _REDIRECT, _BAD_REQUEST, _FORBIDDEN, _NOT_FOUND, _TOO_LARGE = 200, 300, 400, 403, 404, 413
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PROBE_BYTES = 32


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


class _Plain(HTTPConnection):
    """One that ends with whatever used it."""

    def __del__(self) -> None:
        self.close()


class _Encrypted(HTTPSConnection):
    """The same over TLS."""

    def __del__(self) -> None:
        self.close()


class TransitServer:
    """One key of a transit engine. Safe between threads, each of which has a connection of its own.

    Args:
        address: ``https://vault.example:8200/transit/app``: the server, the path of the engine, and the key.

    Raises:
        ConfigurationError: something else; http is for this machine only, since the token would be readable.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._scheme, self._host, self._port, self._mount, self._key = _parts(address)
        self._local = threading.local()

    def policy(self) -> TransitPolicy:
        """Reads what the server says of the key.

        Raises:
            KeyStoreUnavailableError: it does not answer, or does not let us in.
            KeyStoreDamagedError: there is no such key, or it is of a kind that cannot be rotated here.
        """
        data = self._ask("GET", f"keys/{self._key}")
        try:
            return TransitPolicy(
                str(data["type"]),
                int(data["latest_version"]),
                int(data["min_decryption_version"]),
                int(data["min_encryption_version"]),
                int(data.get("min_available_version", 0)),
                bool(data["derived"]),
                bool(data["deletion_allowed"]),
                bool(data.get("auto_rotate_period")),
                bool(data.get("exportable") or data.get("allow_plaintext_backup")),
            )
        except (KeyError, TypeError, ValueError):
            raise self._strange() from None

    def rotate(self) -> None:
        """Makes the next version, under which applications encrypt from then on; asked once, whatever happens."""
        self._local.connection = None  # a kept one may have ended meanwhile
        self._ask("POST", f"keys/{self._key}/rotate", {}, tries=0)

    def configure(self, **settings: int) -> None:
        """Changes what the server says of the key, such as `min_decryption_version`."""
        self._ask("POST", f"keys/{self._key}/config", settings)

    def trim(self, min_available_version: int) -> None:
        """Destroys every older version."""
        self._ask("POST", f"keys/{self._key}/trim", {"min_available_version": min_available_version})

    def reference(self, version: int) -> TransitKey:
        """Returns what a version is known again by, made anew.

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

    def strangers(self, keys: Sequence[KeyMaterial]) -> list[KeyMaterial]:
        """Returns the keys that the server does not show that it has: it cannot decrypt what only they open."""
        if not keys:
            return []
        references = [raw_of(key).decode().rpartition(":") for key in keys]
        texts = self._decrypted([probe.encode() for probe, _, _ in references], _FEW)
        return [
            key
            for key, (_, _, digest), text in zip(keys, references, texts, strict=True)
            if text is None or hashlib.sha256(text).hexdigest() != digest
        ]

    def rewrapped(self, values: Sequence[bytes]) -> list[bytes | None]:
        """Encrypts each value anew with the newest version; None: the server cannot open it."""
        results = self._of_each("rewrap", values, len(PAUSES_SECONDS))
        return [None if each is None else each.encode() for each in (_text(one, "ciphertext") for one in results)]

    def decrypted(self, values: Sequence[bytes]) -> list[bytes | None]:
        """Decrypts each value; None: the server cannot open it."""
        return self._decrypted(values, len(PAUSES_SECONDS))

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
            body["partial_failure_response_code"] = _OK
        status, answer = self._exchange("POST", f"{what}/{self._key}", body, tries)
        data = answer.get("data")
        results = data.get("batch_results") if isinstance(data, dict) else None
        if isinstance(results, list) and len(results) == len(values) and status in {_OK, _BAD_REQUEST}:
            return results
        if status in {_BAD_REQUEST, _TOO_LARGE} and len(values) > 1:  # its limits may be lower
            half = len(values) // 2
            return [*self._batch(what, values[:half], tries), *self._batch(what, values[half:], tries)]
        raise self._refusal(status, answer, f"{what}/{self._key}")

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, tries: int = _FEW
    ) -> Mapping[str, Any]:
        status, answer = self._exchange(method, path, body, tries)
        if status >= _REDIRECT:
            raise self._refusal(status, answer, path)
        data = answer.get("data", {})
        return data if isinstance(data, dict) else {}

    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, tries: int
    ) -> tuple[int, Mapping[str, Any]]:
        """Sends a request until it is answered by something else than that the server is busy, sealed or away.

        Args:
            tries: how often it is repeated at most.
        """
        pauses = iter(PAUSES_SECONDS[:tries])
        while True:
            try:
                status, answer = self._send(method, f"/v1/{self._mount}/{path}", body)
                reason = f"answers {status}{_said(answer)}"
                if status not in _PASSING:
                    return status, answer
            except (OSError, HTTPException) as error:  # their texts may name anything
                self._local.connection = None
                reason = f"does not answer ({type(error).__name__})"
            if (pause := next(pauses, None)) is None:
                raise KeyStoreUnavailableError(
                    f"{self._server} {reason}; nothing was changed in the database by that: when it is there again and "
                    "unsealed, run the same again"
                )
            time.sleep(pause)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Mapping[str, Any]]:
        connection = self._connection()
        headers = {"X-Vault-Token": _token(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        if namespace := os.environ.get("VAULT_NAMESPACE", "").strip():
            headers["X-Vault-Namespace"] = namespace
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        try:
            answer = json.loads(content) if content else {}
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}

    def _connection(self) -> HTTPConnection:
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._opened()
        return connection

    def _opened(self) -> HTTPConnection:
        if self._scheme == "http":
            return _Plain(self._host, self._port, timeout=TIMEOUT_SECONDS)
        trusted = os.environ.get("VAULT_CACERT", "").strip() or None
        context = ssl.create_default_context(cafile=trusted)
        return _Encrypted(self._host, self._port, timeout=TIMEOUT_SECONDS, context=context)

    @property
    def _server(self) -> str:
        return f"{self._scheme}://{self._host}:{self._port}"

    def _refusal(self, status: int, answer: Mapping[str, Any], path: str) -> KeyStoreError:
        if status == _FORBIDDEN:
            return KeyStoreUnavailableError(
                f"{self._server} refuses {self._mount}/{path}; give the token in VAULT_TOKEN that right (`keyrotation "
                "docs vault` has the policy), or renew it, then run the same again"
            )
        if status == _NOT_FOUND:
            return KeyStoreDamagedError(
                f"{self._server} has no {self._mount}/{path}; correct [format] transit, or have the key put back there"
            )
        if status < _BAD_REQUEST:
            return KeyStoreUnavailableError(
                f"{self._server} sends us elsewhere ({status}); have [format] transit name the active server itself"
            )
        return KeyStoreError(f"{self._server} refuses {self._mount}/{path}: {status}{_said(answer)}")

    def _strange(self) -> KeyStoreDamagedError:
        return KeyStoreDamagedError(
            f"{self.address} does not answer as a key of the transit engine does; correct [format] transit"
        )


@cache
def server_at(address: str) -> TransitServer:
    """Returns the server of an address, always the same, so that connections are kept."""
    return TransitServer(address)


def _parts(address: str) -> tuple[str, str, int, str, str]:
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    host, (mount, _, key) = parts.hostname or "", parts.path.strip("/").rpartition("/")
    whole = parts.scheme in {"http", "https"} and host and mount and key
    if not whole or parts.query or parts.fragment or "@" in parts.netloc or not address.isascii():
        raise ConfigurationError(
            '[format] transit names the key at its server; write "https://vault.example:8200/transit/app": the '
            "server, the path of the engine, and the name of the key"
        )
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise ConfigurationError("[format] transit would send the token unencrypted; write https")
    return parts.scheme, host, port, quote(mount), quote(key, safe="")


def _token() -> str:
    if token := os.environ.get("VAULT_TOKEN", "").strip():
        return token
    try:
        with open(os.path.expanduser("~/.vault-token"), encoding="ascii") as file:  # noqa: PTH111, PTH123
            return file.read().strip()
    except (OSError, ValueError):
        raise KeyStoreUnavailableError(
            "there is no token for Vault; set VAULT_TOKEN, or have it in ~/.vault-token, as Vault's own command has it"
        ) from None


def _chunks(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    begun = size = 0
    for number, value in enumerate(values):
        if number > begun and (number - begun >= MOST_VALUES or size + len(value) > MOST_BYTES):
            yield values[begun:number]
            begun, size = number, 0
        size += len(value)
    if len(values) > begun:
        yield values[begun:]


def _text(result: object, name: str) -> str | None:
    """Returns what a result of a batch holds; None: it holds an error instead."""
    if not isinstance(result, dict) or result.get("error"):
        return None
    text = result.get(name)
    return text if isinstance(text, str) else None


def _said(answer: Mapping[str, Any]) -> str:
    """Returns what the server said first, as one plain line; it never says what was encrypted."""
    errors = answer.get("errors")
    said = " ".join(str(errors[0]).split()) if isinstance(errors, list) and errors else ""
    return f" ({''.join(filter(str.isprintable, said))[:200]})" if said else ""
