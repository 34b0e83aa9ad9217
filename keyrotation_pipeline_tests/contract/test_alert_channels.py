"""Every channel delivers an alert to something real, and refuses with a sentence that shows no secret."""

import base64
import itertools
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler

from keyrotation_pipeline.adapters import alerts
from keyrotation_pipeline.errors import AlertError, ApprovalError
from keyrotation_pipeline.model.incidents import Alert, Severity
from keyrotation_pipeline.ports.incidents import AlertChannel
from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION, s3_url  # noqa: F401

ALERT = Alert(
    key="incident/INC-2026-001/opened",
    severity=Severity.CRITICAL,
    subject="Incident INC-2026-001: key exposed – two signatures needed",
    text="A key was exposed.\nSign with `keyrotation approve 1a2b --text`.",
    database="clinic@db",
    at=datetime(2026, 11, 25, 3, 0, tzinfo=UTC),
)
SECRET_PATH = "T0000/B0000/a-secret-token"


@dataclass
class Told:
    """What arrived at the other end."""

    subjects: list[str]
    texts: list[str]


@contextmanager
def http_server(status: int, received: list[dict[str, Any]], logins: list[str | None] | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if logins is not None:
                logins.append(self.headers["Authorization"])
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}/{SECRET_PATH}"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A server over HTTP; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def over_webhook() -> Iterator[tuple[AlertChannel, Callable[[], Told]]]:
    from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415

    received: list[dict[str, Any]] = []
    with http_server(200, received) as url:
        yield Webhook(url), lambda: Told([each["subject"] for each in received], [each["text"] for each in received])


class _Mailbox(MessageHandler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.messages.append(message)


@contextmanager
def mail_server() -> Iterator[tuple[_Mailbox, int]]:
    """An SMTP server without TLS, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    mailbox = _Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield mailbox, port
    finally:
        controller.stop()


@contextmanager
def over_mail() -> Iterator[tuple[AlertChannel, Callable[[], Told]]]:
    from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer  # noqa: PLC0415

    with mail_server() as (mailbox, port):
        channel = Mail(SmtpServer("127.0.0.1", port, starttls=False), "keyrotation@clinic.example", OFFICERS)
        yield channel, lambda: _mailed(mailbox.messages)


OFFICERS = ("security@clinic.example", "privacy@clinic.example")


def _mailed(messages: Sequence[Message]) -> Told:
    from email.header import decode_header, make_header  # noqa: PLC0415

    assert all(message["To"] == ", ".join(OFFICERS) for message in messages)
    subjects = [str(make_header(decode_header(message["Subject"]))) for message in messages]
    return Told(subjects, [bytes(message.get_payload(decode=True)).decode() for message in messages])


@pytest.fixture
def topic(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[AlertChannel, Callable[[], Told]]:  # noqa: F811
    import boto3  # noqa: PLC0415

    from keyrotation_pipeline.adapters.alerts.sns import SnsTopic  # noqa: PLC0415

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    sns = boto3.client("sns", endpoint_url=s3_url, region_name=REGION)
    sqs: Any = boto3.client("sqs", endpoint_url=s3_url, region_name=REGION)
    arn = sns.create_topic(Name="keyrotation")["TopicArn"]
    queue = sqs.create_queue(QueueName="security-team")["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)

    def reported() -> Told:
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        bodies = [json.loads(each["Body"]) for each in messages]
        return Told([each["Subject"] for each in bodies], [each["Message"] for each in bodies])

    return SnsTopic(arn, s3_url), reported


def require_received(reported: Told, subject: str) -> None:
    assert reported.subjects == [subject]
    (text,) = reported.texts
    assert "A key was exposed." in text
    assert "`keyrotation approve 1a2b --text`" in text


def test_a_webhook_gets_it() -> None:
    with over_webhook() as (channel, reported):
        channel.deliver(ALERT)
        require_received(reported(), ALERT.subject)


@pytest.mark.parametrize(("login", "sent"), [("", None), ("u:p@", f"Basic {base64.b64encode(b'u:p').decode()}")])
def test_a_webhook_gets_no_login_but_the_one_in_its_address(
    login: str, sent: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415

    (netrc := tmp_path / "netrc").write_text("default login somebody password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    logins: list[str | None] = []
    with http_server(200, [], logins) as url:
        Webhook(url.replace("http://", f"http://{login}")).deliver(ALERT)
    assert logins == [sent]


def test_mail_gets_it() -> None:
    with over_mail() as (channel, reported):
        channel.deliver(ALERT)
        require_received(reported(), f"[keyrotation] {ALERT.subject}")


def test_an_sns_topic_gets_it(topic: tuple[AlertChannel, Callable[[], Told]]) -> None:
    channel, reported = topic
    channel.deliver(ALERT)
    require_received(reported(), ALERT.subject.replace("–", "?"))


@pytest.mark.parametrize("status", [500, 403, 302, 308], ids=str)
def test_a_webhook_that_refuses_or_redirects_is_one_sentence_without_its_address(status: int) -> None:
    from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415

    received: list[dict[str, Any]] = []
    with (
        http_server(status, received) as url,
        pytest.raises(AlertError, match=rf"HTTP status {status}; check") as caught,
    ):
        Webhook(url).deliver(ALERT)
    assert len(received) == 1
    assert SECRET_PATH not in str(caught.value)
    assert caught.value.__cause__ is None


@contextmanager
def trickling(answer: bytes, received: list[bytes]) -> Iterator[int]:
    """A server that sends a byte of its answer now and then, for as long as the test runs; its port."""
    stopped = Event()

    def serve(listener: socket.socket) -> None:
        while not stopped.is_set():
            with suppress(OSError), listener.accept()[0] as connection:
                connection.settimeout(0.05)
                with suppress(TimeoutError):
                    received.append(connection.recv(65_536))
                for byte in itertools.cycle(answer):
                    connection.sendall(bytes([byte]))
                    if stopped.wait(0.05):
                        return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _webhook(port: int) -> AlertChannel:
    from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415

    return Webhook(f"http://127.0.0.1:{port}/{SECRET_PATH}")


def _mail(port: int) -> AlertChannel:
    from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer  # noqa: PLC0415

    return Mail(SmtpServer("127.0.0.1", port, starttls=False), "keyrotation@clinic.example", OFFICERS)


def _topic(port: int) -> AlertChannel:
    from keyrotation_pipeline.adapters.alerts.sns import SnsTopic  # noqa: PLC0415

    return SnsTopic(f"arn:aws:sns:{REGION}:123456789012:t", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("channel", "answer"),
    [(_webhook, b"HTTP/1.1 200 OK\r\n"), (_mail, b"220-wait\r\n"), (_topic, b"HTTP/1.1 200 OK\r\n")],
    ids=["webhook", "mail", "topic"],
)
def test_a_server_that_answers_byte_by_byte_is_left(
    channel: Callable[[int], AlertChannel], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(alerts, "LONGEST_SECONDS", 0.4)
    with (
        trickling(answer, []) as port,
        pytest.raises(AlertError, match=r"does not answer within 0 seconds; check \[alerts\]") as caught,
    ):
        channel(port).deliver(ALERT)
    assert SECRET_PATH not in str(caught.value)


def test_the_body_of_a_webhooks_answer_is_not_waited_for() -> None:
    received: list[bytes] = []
    with trickling(b"HTTP/1.1 200 OK\r\n\r\n", received) as port:
        _webhook(port).deliver(ALERT)
    assert len(received) == 1


def test_a_topic_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with (
        serving(Handler) as port,
        pytest.raises(AlertError, match=r"does not accept alerts \(503\)"),
    ):
        _topic(port).deliver(ALERT)
    assert len(asked) == 1


def test_mail_by_a_host_that_cannot_be_one_is_one_sentence() -> None:
    from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer  # noqa: PLC0415

    with pytest.raises(AlertError, match=r"mail by a\.\.b .* is not accepted \(UnicodeError\)"):
        Mail(SmtpServer("a..b"), "keyrotation@clinic.example", OFFICERS).deliver(ALERT)


def test_a_webhook_at_a_host_that_cannot_be_one_is_one_sentence() -> None:
    from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415

    with pytest.raises(AlertError, match=r"webhook at a\.\.b does not answer") as caught:
        Webhook(f"http://a..b/{SECRET_PATH}").deliver(ALERT)
    assert SECRET_PATH not in str(caught.value)


def test_a_webhook_that_is_not_there_is_one_sentence_without_its_address() -> None:
    from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415

    with http_server(200, []) as url:
        pass
    with pytest.raises(AlertError, match=r"webhook at 127\.0\.0\.1 does not answer") as caught:
        Webhook(url).deliver(ALERT)
    assert SECRET_PATH not in str(caught.value)


def test_a_mail_server_that_cannot_encrypt_gets_nothing() -> None:
    from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer  # noqa: PLC0415

    with mail_server() as (mailbox, port):
        server = SmtpServer("127.0.0.1", port, user="u", password="hunter2")
        with pytest.raises(AlertError, match=r"is not accepted \(SMTPNotSupportedError\)") as caught:
            Mail(server, "keyrotation@clinic.example", OFFICERS).deliver(ALERT)
    assert mailbox.messages == []
    assert "hunter2" not in f"{caught.value}{server!r}"


def test_a_topic_that_is_not_there_is_one_sentence(topic: tuple[AlertChannel, Callable[[], Told]], s3_url: str) -> None:  # noqa: F811
    from keyrotation_pipeline.adapters.alerts.sns import SnsTopic  # noqa: PLC0415

    with pytest.raises(AlertError, match=r"does not accept alerts \(NotFound"):
        SnsTopic(f"arn:aws:sns:{REGION}:123456789012:gone", s3_url).deliver(ALERT)


@pytest.mark.parametrize("subject", ["two\nBcc: x@y.example", "a\u202eb", "zero\u200bwidth"], ids=ascii)
def test_a_subject_cannot_become_a_second_header(subject: str) -> None:
    with pytest.raises(ApprovalError):
        replace(ALERT, subject=subject)
