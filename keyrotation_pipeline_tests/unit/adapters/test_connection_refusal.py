"""What is no connection string, and what libpq says: one sentence each, and no password in it."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from psycopg import OperationalError

from keyrotation_pipeline.adapters.postgres.server.connection import connect, refusal_of
from keyrotation_pipeline.errors import DatabaseUnavailableError

URL = "postgresql://app:hunter2@db:5433/clinic"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("mysql://app:hunter2@db/clinic", "begins with mysql://", id="another database's scheme"),
        pytest.param("postgresql+psycopg://app:hunter2@db/clinic", "begins with postgresql+psycopg://", id="alchemy"),
        pytest.param("postgresql://app:hunter2@db/clinic?ssl=1", "a misspelt parameter", id="unknown parameter"),
        pytest.param("db/clinic hunter2", "is not a PostgreSQL connection string", id="no scheme"),
        pytest.param("host='hunter2", "is not a PostgreSQL connection string", id="open quote"),
    ],
)
def test_what_is_no_connection_string_is_refused_by_its_scheme_alone(url: str, says: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="write postgresql://user@host/name") as refusal:
        connect(url)
    assert says in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("said", "do"),
    [
        ('connection to server at "10.0.0.1", port 5433 failed: Connection refused\n\tIs the server running?', "start"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", "correct the host"),
        ("connection timeout expired", "start it"),
        ("FATAL:  the database system is starting up", "is starting up; wait"),
        ("connection failed: server closed the connection unexpectedly\n\tThis probably means", "ended the connection"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("FATAL:  etwas auf Deutsch: hunter2", "etwas auf Deutsch: ***; fix that"),
        ("", "OperationalError; fix that"),
    ],
)
def test_a_refusal_says_what_to_do(said: str, do: str) -> None:
    sentence = str(refusal_of(OperationalError(said), URL))
    assert sentence.startswith("cannot connect to clinic@db:5433: ")
    assert do in sentence
    assert "\n" not in sentence
    assert "hunter2" not in sentence


@contextmanager
def server_that_answers(*messages: bytes) -> Iterator[int]:
    """Reads one message, answers with the next of these, and so on; of the protocol's version 3. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    opened, _ = listening.accept()
                    with opened:
                        for message in messages:
                            opened.recv(8192)
                            opened.sendall(message)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


ASKS_FOR_PASSWORD = b"R" + struct.pack("!II", 8, 3)  # AuthenticationCleartextPassword
FIELDS = "SFATAL\0VFATAL\0C28P01\0MPasswort-Authentifizierung für Benutzer »app« fehlgeschlagen\0\0".encode()
REFUSES = b"E" + struct.pack("!I", 4 + len(FIELDS)) + FIELDS


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        pytest.param((ASKS_FOR_PASSWORD, REFUSES), "after it got the password; correct user, password or", id="later"),
        pytest.param((REFUSES,), "; fix that, or correct [database] url", id="at once"),
    ],
)
def test_a_server_of_another_language_is_quoted_and_what_to_correct_follows_from_the_password(
    answers: tuple[bytes, ...], says: str
) -> None:
    with server_that_answers(*answers) as port, pytest.raises(DatabaseUnavailableError) as refused:
        connect(f"postgresql://app:hunter2@127.0.0.1:{port}/clinic?sslmode=disable&gssencmode=disable")
    assert "Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen; " in str(refused.value)
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
