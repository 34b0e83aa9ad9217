"""Requests to the transit engine of Vault or OpenBao, over HTTP and as Vault's own command makes them.

The address is declared. The token is in VAULT_TOKEN or ``~/.vault-token``; VAULT_CACERT and VAULT_NAMESPACE count, too,
and before each the same of OpenBao: BAO_TOKEN and so on.
A request that may be repeated is, with growing pauses, while the server is sealed, busy or away.
"""

import io
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from keyrotation_pipeline.errors import (
    ConfigurationError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline.regular_files import read_text

# Of one request and its answer; for all else than a batch of values less, since tables may be locked meanwhile.
PATIENCE_SECONDS, LITTLE_SECONDS = 60.0, 10.0
# Between the tries with a batch of values; for all else, of which a command may need several, only the first of them.
PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
FEW, MANY, ONCE = 3, len(PAUSES_SECONDS), 0
OK, REDIRECT, BAD_REQUEST, TOO_LARGE = 200, 300, 400, 413
# Of an answer, in addition to twice the bytes of the request: as much as it asked for, and what stands around that.
SPARE_ANSWER_BYTES = 1 << 20
_FORBIDDEN, _NOT_FOUND = 403, 404
_PASSING = frozenset({412, 429, 500, 502, 503, 504})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# What a header may hold; nothing else is told of a text that is none, since it may hold a token.
_HEADER = re.compile(r"[ -~]+")

Answer = Mapping[str, Any]


class _TooLongError(HTTPException):
    """An answer has more bytes than any that was asked for."""


class _Limited(io.RawIOBase):
    """What comes from a socket, up to a moment of the monotonic clock and a number of bytes.

    A time-out of a socket is one of each byte. An answer, its headers too, could come for ever.
    """

    def __init__(self, sock: socket.socket, until: float, most_bytes: int) -> None:
        self._socket, self._until, self._left = sock, until, most_bytes
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._socket.settimeout(seconds)
        read = self._raw.readinto(buffer)
        self._left -= read or 0
        if self._left < 0:
            raise _TooLongError
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, until: float, most_bytes: int, **more: Any) -> None:  # noqa: ANN401
        super().__init__(sock, *args, **more)
        self.fp.close()
        self.fp = io.BufferedReader(_Limited(sock, until, most_bytes))


class _Plain(HTTPConnection):
    """One that ends with whatever used it."""

    def __del__(self) -> None:
        self.close()


class _Encrypted(HTTPSConnection):
    """The same over TLS."""

    def __del__(self) -> None:
        self.close()


class TransitConnection:
    """The server of one key. Safe between threads, each of which has a connection of its own.

    Args:
        address: ``https://vault.example:8200/transit/app``: the server, the path of the engine, and the key.

    Raises:
        ConfigurationError: something else; http is for this machine only, since the token would be readable.
    """

    def __init__(self, address: str) -> None:
        self._scheme, self._host, self._port, self._mount, self.key = _parts(address)
        self._local = threading.local()
        self.withheld: str | None = None
        self._silent_until = 0.0  # of the monotonic clock: not asked for little things after a time-out

    def exchange(self, method: str, path: str, body: object, tries: int) -> tuple[int, Answer]:
        """Sends a request until it is answered by something else than that the server is busy, sealed or away.

        Little things are asked of a server that hangs once, and for as long again not at all: a command asks many, and
        says of each that there was no answer.

        Args:
            path: below that of the engine.
            tries: how often it is repeated at most.

        Raises:
            KeyStoreUnavailableError: that it is, or that nothing is to be sent to it.
        """
        if tries == ONCE:  # a kept connection may have ended meanwhile
            self._local.connection = None
        pauses = iter(PAUSES_SECONDS[:tries])
        patience = PATIENCE_SECONDS if tries == MANY else LITTLE_SECONDS
        while True:
            if tries != MANY and time.monotonic() < self._silent_until:
                raise self._away(f"does not answer ({TimeoutError.__name__})")
            try:
                status, answer = self._send(method, f"/v1/{self._mount}/{path}", body, patience)
                reason = f"answers {status}{_said(answer)}"
                if status not in _PASSING:
                    return status, answer
            except ssl.SSLCertVerificationError:
                raise KeyStoreUnavailableError(
                    f"{self._server} shows no certificate that is trusted here; name the file of its authority in "
                    "VAULT_CACERT"
                ) from None
            except _TooLongError:
                self._local.connection = None
                raise self._no_engine("its answer does not end where one of that engine would") from None
            except (OSError, HTTPException) as error:  # their texts may name anything
                self._local.connection = None
                reason = f"does not answer ({type(error).__name__})"
                if isinstance(error, TimeoutError):
                    self._silent_until = time.monotonic() + LITTLE_SECONDS
                    pauses = pauses if tries == MANY else iter(())
            if (pause := next(pauses, None)) is None:
                raise self._away(reason)
            time.sleep(pause)

    def _away(self, reason: str) -> KeyStoreUnavailableError:
        return KeyStoreUnavailableError(
            f"{self._server} {reason}; nothing was changed in the database by that: when it is there again and "
            "unsealed, run the same again"
        )

    def refusal(self, status: int, answer: Answer, path: str) -> KeyStoreError:
        """Returns what is wrong where an answer is none that was hoped for."""
        if status == _FORBIDDEN:
            return KeyStoreUnavailableError(
                f"{self._server} refuses {self._mount}/{path}; give the token in VAULT_TOKEN that right (`keyrotation "
                "docs vault` has the policy), or renew it, then run the same again"
            )
        if status == _NOT_FOUND:
            return KeyStoreDamagedError(
                f"{self._server} has no {self._mount}/{path}; correct [format] transit, or have the key put back there"
            )
        if REDIRECT <= status < BAD_REQUEST:
            return KeyStoreUnavailableError(
                f"{self._server} sends us elsewhere ({status}); have [format] transit name the active server itself"
            )
        if status < REDIRECT:
            return self._no_engine(f"it answers {self._mount}/{path} with something else")
        return KeyStoreError(f"{self._server} refuses {self._mount}/{path}: {status}{_said(answer)}")

    def _no_engine(self, why: str) -> KeyStoreDamagedError:
        return KeyStoreDamagedError(
            f"{self._server} does not answer as a transit engine does: {why}, and nothing was changed; correct "
            "[format] transit, or find out what is there, then run this again"
        )

    @property
    def _server(self) -> str:
        return f"{self._scheme}://{self._host}:{self._port}"

    def _send(self, method: str, path: str, body: object, patience: float) -> tuple[int, Answer]:
        if self.withheld is not None:
            raise KeyStoreUnavailableError(self.withheld)
        connection = self._connection()
        connection.timeout = patience
        if connection.sock is not None:
            connection.sock.settimeout(patience)
        content = b"" if body is None else json.dumps(body).encode()
        until, most_bytes = time.monotonic() + patience, 2 * len(content) + SPARE_ANSWER_BYTES
        connection.response_class = partial(_Response, until=until, most_bytes=most_bytes)  # type: ignore[assignment]
        headers = {"X-Vault-Token": _token(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        name, namespace = _variable("NAMESPACE")
        if namespace:
            headers["X-Vault-Namespace"] = _header(namespace, name)
        connection.request(method, path, content or None, headers)
        response = connection.getresponse()
        content = response.read()
        try:
            answer = json.loads(content) if content else {}
        except (ValueError, RecursionError):  # the latter: brackets within brackets
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}

    def _connection(self) -> HTTPConnection:
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._opened()
        return connection

    def _opened(self) -> HTTPConnection:
        if self._scheme == "http":
            return _Plain(self._host, self._port)
        name, trusted = _variable("CACERT")
        try:
            context = ssl.create_default_context(cafile=trusted or None)
        except OSError:
            raise KeyStoreUnavailableError(f"{name} names no file of certificates; correct it") from None
        return _Encrypted(self._host, self._port, context=context)


def _parts(address: str) -> tuple[str, str, int, str, str]:
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    host, (mount, _, key) = parts.hostname or "", parts.path.strip("/").rpartition("/")
    whole = (
        parts.scheme in {"http", "https"}
        and host
        and mount
        and key
        and _HEADER.fullmatch(address)
        and " " not in address
    )
    if not whole or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            '[format] transit names the key at its server; write "https://vault.example:8200/transit/app": the '
            "server, the path of the engine, and the name of the key"
        )
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ConfigurationError("[format] transit would send the token unencrypted; write https")
    return parts.scheme, host, port, quote(mount), quote(key, safe="")


def _variable(name: str) -> tuple[str, str]:
    """Returns the name and the text of a variable; an empty text: it is not set."""
    found = ((each, os.environ.get(each, "").strip()) for each in (f"BAO_{name}", f"VAULT_{name}"))
    return next((each for each in found if each[1]), (f"VAULT_{name}", ""))


def _token() -> str:
    name, token = _variable("TOKEN")
    if token:
        return _header(token, name)
    try:
        return _header(read_text(os.path.expanduser("~/.vault-token"), "ascii").strip(), "~/.vault-token")  # noqa: PTH111
    except (OSError, ValueError):
        raise KeyStoreUnavailableError(
            "there is no token for Vault; set VAULT_TOKEN, or have it in ~/.vault-token, as Vault's own command has it"
        ) from None


def _header(text: str, place: str) -> str:
    if _HEADER.fullmatch(text) is None:
        raise KeyStoreUnavailableError(f"{place} holds something else than what it should; correct it")
    return text


def _said(answer: Answer) -> str:
    """Returns what the server said first, as one plain line; it never says what was encrypted."""
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    said = " ".join(first.split()) if isinstance(first, str) else ""
    return f" ({''.join(filter(str.isprintable, said))[:200]})" if said else ""
