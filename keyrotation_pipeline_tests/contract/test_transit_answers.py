"""A server at the declared address that answers as no transit engine does, out of malice or because it is another."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import parse_headers

import pytest

from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.formats.vault_transit import connection as client
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import TransitServer

POLICY = {
    "type": "aes256-gcm96",
    "latest_version": 1,
    "min_decryption_version": 1,
    "min_encryption_version": 0,
    "derived": False,
    "deletion_allowed": False,
}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "root")
    monkeypatch.setattr(client, "PAUSES_SECONDS", ())


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[TransitServer]:
    """A server that sends to whoever asks what `answer` does, and then ends the connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                with connection.makefile("rb") as asked:
                    asked.read(int(parse_headers(asked).get("Content-Length") or 0) if asked.readline() else 0)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield TransitServer(f"http://127.0.0.1:{listener.getsockname()[1]}/transit/app")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)


def saying(body: bytes) -> Callable[[socket.socket], None]:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return lambda connection: connection.sendall(head + body)


def without_end(begins: bytes, repeated: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(begins)
        while True:
            connection.sendall(repeated)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(without_end(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536), id="a body"),
        pytest.param(without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99), id="interim answers"),
    ],
)
def test_an_answer_without_end_is_not_read_to_it(answer: Callable[[socket.socket], None]) -> None:
    with answering(answer) as server, pytest.raises(KeyStoreDamagedError, match="its answer does not end where"):
        server.policy()


def test_an_answer_that_comes_slowly_has_no_more_time_than_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LITTLE_SECONDS", 0.3)
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not over.wait(0.05):
            connection.sendall(b"H")

    with answering(drip) as server:
        with pytest.raises(KeyStoreUnavailableError, match=r"does not answer \(TimeoutError\)"):
            server.policy()
        over.set()


def test_a_server_that_hangs_is_waited_for_once_by_a_command_that_asks_it_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "LITTLE_SECONDS", 1.0)
    asked, over = [], threading.Event()

    def hang(connection: socket.socket) -> None:
        asked.append(connection)
        over.wait(60)

    with answering(hang) as server:
        for ask in (server.policy, server.configure, server.rotate, server.policy):
            with pytest.raises(KeyStoreUnavailableError, match=r"does not answer \(TimeoutError\)"):
                ask()
        over.set()
    assert len(asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 200_000, id="brackets within brackets"),
        pytest.param(b'{"data":' * 90_000, id="objects within objects"),
        pytest.param(b"<html>", id="a page"),
        pytest.param(b'{"data":{"latest_version":' + b"9" * 5000 + b"}}", id="a number of 5000 digits"),
        pytest.param(json.dumps({"data": {**POLICY, "latest_version": float("inf")}}).encode(), id="infinity"),
        pytest.param(json.dumps({"data": {**POLICY, "latest_version": 10**12}}).encode(), id="too many versions"),
        pytest.param(json.dumps({"data": {**POLICY, "min_decryption_version": -1}}).encode(), id="less than none"),
        pytest.param(json.dumps({"data": {**POLICY, "type": "\x1b[2J"}}).encode(), id="what moves a terminal's cursor"),
    ],
)
def test_what_is_no_answer_of_the_engine_is_said_in_one_sentence(body: bytes) -> None:
    with answering(saying(body)) as server:
        with pytest.raises(KeyStoreDamagedError, match=r"does not answer as a .*transit engine does") as caught:
            server.policy()
        assert str(caught.value).isprintable()
        with pytest.raises(KeyStoreError, match="does not answer as a"):
            server.decrypted([b"vault:v1:AAAA"])


@pytest.mark.parametrize("text", ["\ud800", "vault:v2:\x00\udfff"])
def test_text_that_is_none_is_no_value(text: str) -> None:
    body = json.dumps({"data": {"batch_results": [{"ciphertext": text, "plaintext": text}]}}).encode()
    with answering(saying(body)) as server:
        for work in (server.rewrapped, server.decrypted):
            with pytest.raises(KeyStoreDamagedError, match="does not answer as a"):
                work([b"vault:v1:AAAA"])


def test_what_a_refusal_says_is_text_or_nothing() -> None:
    body = json.dumps({"errors": [[["deep"]], "second"]}).encode()
    head = b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n" % len(body)
    with (
        answering(lambda connection: connection.sendall(head + body)) as server,
        pytest.raises(KeyStoreError, match=r"refuses transit/keys/app: 422$"),
    ):
        server.policy()
