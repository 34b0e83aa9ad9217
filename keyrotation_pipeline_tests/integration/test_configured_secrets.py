"""A setting that names a secret never makes the pipeline send a key: to a mail server, a webhook or a database."""

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.alerts import alert_channels
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.errors import AlertError, ConfigurationError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.model.incidents import Alert, ContactRole, Severity
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline_tests.backup_sites import Clinic
from keyrotation_pipeline_tests.fakes import START, V1, V2
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of

SMTP = """
[[contacts]]
role = "security-officer"
name = "Security Officer"
email = "security@clinic.example"
[alerts.smtp]
host = "127.0.0.1"
port = {port}
sender = "rotation@clinic.example"
starttls = false
user = "rotation"
password = {password}
"""


class MailServer(Controller):
    """A mail server that keeps the passwords it is given."""

    def __init__(self) -> None:
        self.passwords: list[bytes] = []
        self.taken: list[object] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        super().__init__(self, hostname="127.0.0.1", port=port, auth_require_tls=False, authenticator=self.authenticate)

    async def handle_DATA(self, _server: object, _session: object, envelope: object) -> str:  # noqa: N802
        self.taken.append(envelope)
        return "250 OK"

    def authenticate(self, _server: object, _session: object, _envelope: object, _how: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.passwords.append(data.password)
        return AuthResult(success=True)


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A running one."""
    server = MailServer()
    server.start()
    yield server
    server.stop()


def key_file(clinic: Clinic) -> Path:
    return clinic.settings.keys_directory / "v2.key"


def a_link(clinic: Clinic) -> str:
    link = clinic.directory / "password"
    link.symlink_to(key_file(clinic))
    return f'{{ file = "{link}" }}'


def a_hard_link(clinic: Clinic) -> str:
    (clinic.directory / "password").hardlink_to(key_file(clinic))
    return '{ file = "password" }'


def a_copy(clinic: Clinic) -> str:
    (clinic.directory / "password").write_text(f"{base64_of(clinic.ring.material(V2))}\n")
    return '{ file = "password" }'


def a_link_on_the_way(clinic: Clinic) -> str:
    """``..`` is taken by name, and not by where the link leads."""
    (clinic.directory / "aside").symlink_to("/usr/bin")
    return '{ file = "aside/../.keyrotation/keys/v2.key" }'


PASSWORDS: dict[str, Callable[[Clinic], str]] = {
    "the file of a key": lambda clinic: f'{{ file = "{key_file(clinic)}" }}',
    "a path that leads there": lambda _: '{ file = ".keyrotation/../.keyrotation/keys/v2.key" }',
    "a link on the way": a_link_on_the_way,
    "a symbolic link to it": a_link,
    "a hard link to it": a_hard_link,
    "a copy of a key": a_copy,
    "a variable with a key": lambda _: '{ env = "SMTP_PASSWORD" }',
}


@pytest.mark.parametrize("how", PASSWORDS)
def test_no_key_goes_to_a_mail_server_as_its_password(
    local_clinic: Clinic, mail_server: MailServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", base64_of(local_clinic.ring.material(V2)))
    configure(local_clinic, SMTP.format(port=mail_server.port, password=PASSWORDS[how](local_clinic)))

    refusal = message_of(lambda: alert(local_clinic))
    assert mail_server.passwords == []
    assert refusal.startswith("[alerts.smtp] password ")
    assert ("in the key store, and nothing" in refusal) == (how not in {"a copy of a key", "a variable with a key"})
    assert base64_of(local_clinic.ring.material(V2)) not in refusal


def the_recovery_key(clinic: Clinic) -> str:
    """On one line, since several are no password anyway."""
    (clinic.directory / "recovery.asc").write_text(base64.b64encode(clinic.secret_key()).decode())
    configure(clinic, '[recovery]\nsecret_key = { file = "recovery.asc" }\n')
    return '{ file = "recovery.asc" }'


def another_name_of_it(clinic: Clinic) -> str:
    the_recovery_key(clinic)
    (clinic.directory / "password").hardlink_to(clinic.directory / "recovery.asc")
    return '{ file = "password" }'


def a_copy_of_the_exported_key(clinic: Clinic) -> str:
    (clinic.directory / "password").write_bytes(clinic.secret_key())
    return '{ file = "password" }'


def the_process(clinic: Clinic) -> str:
    (clinic.directory / "password").symlink_to("/proc/self/cmdline")
    return '{ file = "password" }'


def a_file_of_a_client(clinic: Clinic) -> str:
    (clinic.directory / "credentials").write_text("hunter2")
    return '{ file = "credentials" }'


# What each refusal names; the files have text that would do as a password.
OF_OTHERS: dict[str, tuple[Callable[[Clinic], str], str]] = {
    "the recovery key": (the_recovery_key, r"is that of \[recovery\] secret_key"),
    "another name of it": (another_name_of_it, r"is that of \[recovery\] secret_key"),
    "the exported key": (a_copy_of_the_exported_key, "holds more than one line"),
    "the environment of the process": (lambda _: '{ file = "/proc/self/environ" }', "cannot be read"),
    "a link into /proc": (the_process, "cannot be read"),
    "the URL of the database": (lambda _: '{ file = "url" }', r"is that of \[database\] url"),
    "a certificate": (lambda clinic: f'{{ file = "{clinic.officer.certificate}" }}', "is that of |more than one line"),
    "a secret of AWS": (lambda _: '{ env = "AWS_SECRET_ACCESS_KEY" }', "is that of a client or an application"),
    "the token of Vault": (lambda _: '{ env = "VAULT_TOKEN" }', "is that of a client or an application"),
    "the password of PostgreSQL": (lambda _: '{ env = "PGPASSWORD" }', "is that of a client or an application"),
    "the file of AWS": (a_file_of_a_client, "is that of the variable AWS_SHARED_CREDENTIALS_FILE"),
}


@pytest.mark.parametrize("what", OF_OTHERS)
def test_no_other_secret_goes_to_a_mail_server_as_its_password(
    local_clinic: Clinic, mail_server: MailServer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "VAULT_TOKEN", "PGPASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(local_clinic.directory / "credentials"))
    place, sentence = OF_OTHERS[what]
    configure(local_clinic, SMTP.format(port=mail_server.port, password=place(local_clinic)))

    refusal = message_of(lambda: alert(local_clinic))
    assert re.search(sentence, refusal), refusal
    assert refusal.startswith("[alerts.smtp] password ")
    assert mail_server.passwords == []


def test_no_two_settings_share_a_variable(local_clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.example/x")
    configure(
        local_clinic,
        '[alerts]\nwebhook_url = { env = "HOOK" }\n'
        '[audit]\ntimestamp_url = { env = "HOOK" }\ntimestamp_certificates = ["x.pem"]\n',
    )

    refusal = message_of(lambda: settings.load(local_clinic.settings.path))
    assert refusal.startswith("[alerts] webhook_url names the variable HOOK, which is that of [audit] timestamp_url")


@pytest.mark.parametrize("text", [
    pytest.param('[alerts.smtp]\nhost = "mail.example"\nsender = "a@b"\nstarttls = false\nuser = "u"\n', id="mail"),
    pytest.param('[alerts]\nwebhook_url = {{ file = "address" }}\n', id="a webhook"),
    pytest.param('audit.timestamp_url = {{ file = "address" }}\naudit.timestamp_certificates = []\n', id="authority"),
])  # fmt: skip
def test_no_password_is_sent_unencrypted_to_another_machine(local_clinic: Clinic, text: str) -> None:
    (local_clinic.directory / "address").write_text("http://u:hunter2@hooks.example/x")
    path = local_clinic.settings.path
    path.write_text(text.format() + path.read_text() if text.startswith("audit.") else path.read_text() + text.format())

    refusal = message_of(lambda: settings.load(local_clinic.settings.path))
    assert "password unencrypted" in refusal
    assert "hunter2" not in refusal


def test_another_password_is_sent(local_clinic: Clinic, mail_server: MailServer) -> None:
    (local_clinic.directory / "password").write_text("hunter2\n")
    configure(local_clinic, SMTP.format(port=mail_server.port, password='{ file = "password" }'))
    alert(local_clinic)
    assert mail_server.passwords == [], "nobody has signed it"
    have_signed(local_clinic)
    alert(local_clinic)

    assert mail_server.passwords == [b"hunter2"]


def test_a_password_goes_to_no_server_and_from_no_place_that_officers_have_not_signed(
    local_clinic: Clinic, mail_server: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "hunter2")
    monkeypatch.setenv("OTHER", "of something else")
    before = local_clinic.settings.path.read_text()
    place = '{ env = "SMTP_PASSWORD" }'
    configure(local_clinic, SMTP.format(port=mail_server.port, password=place))
    text = have_signed(local_clinic)
    assert f"\nHosts: alerts.smtp 127.0.0.1:{mail_server.port} without STARTTLS\n" in text
    assert "\nSecrets: alerts.smtp.password in the variable SMTP_PASSWORD\n" in text
    assert "hunter2" not in text
    (outside := tmp_path.parent / f"{tmp_path.name}-outside").write_text("of something else")
    evil = MailServer()
    evil.start()
    try:
        for port, other in (
            (evil.port, place),
            (mail_server.port, '{ env = "OTHER" }'),
            (mail_server.port, f'{{ file = "{outside}" }}'),
        ):
            local_clinic.settings.path.write_text(before + SMTP.format(port=port, password=other))
            alert(local_clinic)
            assert evil.passwords == mail_server.passwords == []
            assert len(evil.taken) + len(mail_server.taken) > 0, "the alert itself is sent"
            attention = attention_of(local_clinic)
            assert any("mail is sent without its password until officers" in each for each in attention)
            assert any("names other hosts than officers signed (alerts.smtp" in each for each in attention)
    finally:
        evil.stop()
    local_clinic.settings.path.write_text(before + SMTP.format(port=mail_server.port, password=place))
    alert(local_clinic)
    assert mail_server.passwords == [b"hunter2"]
    assert not any("mail is sent" in each for each in attention_of(local_clinic))


def test_a_link_that_leads_elsewhere_than_what_was_signed_is_another_place(
    local_clinic: Clinic, mail_server: MailServer, tmp_path: Path
) -> None:
    (password := local_clinic.directory / "password").write_text("hunter2")
    configure(local_clinic, SMTP.format(port=mail_server.port, password='{ file = "password" }'))
    have_signed(local_clinic)
    (outside := tmp_path.parent / f"{tmp_path.name}-other").write_text("of something else")
    password.unlink()
    password.symlink_to(outside)
    alert(local_clinic)

    assert mail_server.passwords == []
    assert any(f"password that leads to {outside} is new" in each for each in attention_of(local_clinic))


def test_a_list_in_another_database_is_not_the_signed_one(local_clinic: Clinic, mail_server: MailServer) -> None:
    """Whoever writes the configuration may name a database of their own, in which they have signed everything."""
    (local_clinic.directory / "password").write_text("hunter2\n")
    configure(local_clinic, SMTP.format(port=mail_server.port, password='{ file = "password" }'))
    have_signed(local_clinic)
    roster = json.loads((file := local_clinic.settings.home / "anchors" / "roster.json").read_text())
    roster["roster"]["officers"][0]["fingerprint"] = "A" * 40
    file.write_text(json.dumps(roster))  # this home has seen others than the database names
    alert(local_clinic)

    assert mail_server.passwords == []


def test_a_webhook_whose_address_is_outside_waits_until_officers_have_signed_where(
    local_clinic: Clinic, tmp_path: Path
) -> None:
    (outside := tmp_path.parent / f"{tmp_path.name}-hook").write_text("http://127.0.0.1:9/x")
    configure(local_clinic, f'[alerts]\nwebhook_url = {{ file = "{outside}" }}\n')
    declared = settings.load(local_clinic.settings.path)
    with open_pipeline(declared, actor="test") as pipeline:
        (channel,) = alert_channels(declared, pipeline).common
        with pytest.raises(
            AlertError, match=r"gets nothing until officers have signed alerts\.webhook_url in the file"
        ):
            channel.deliver(Alert("incident/1", Severity.CRITICAL, "a subject", "a text", "clinic@db", START))
    have_signed(local_clinic)
    with open_pipeline(declared, actor="test") as pipeline:
        (channel,) = alert_channels(declared, pipeline).common
        with pytest.raises(AlertError, match="does not answer"):
            channel.deliver(Alert("incident/1", Severity.CRITICAL, "a subject", "a text", "clinic@db", START))


def test_no_secret_lies_among_what_the_pipeline_keeps(local_clinic: Clinic) -> None:
    before = local_clinic.settings.path.read_text()
    backup = next(local_clinic.backups.glob("*.gpg"))
    places = {
        local_clinic.settings.home / "backup-signing-key.pem": "the home",
        local_clinic.settings.keys_directory / "archive" / "v9.key": "the key store",
        backup: "the directory of backups",
    }
    for path, place in places.items():
        for section in ("[recovery]\nsecret_key", "[recovery]\npassphrase", "[alerts]\nwebhook_url"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
            local_clinic.settings.path.write_text(f'{before}{section} = {{ file = "{path}" }}\n')
            refusal = message_of(lambda: settings.load(local_clinic.settings.path))
            said = (f"names the file {path} in {place}", "cannot be read", "more than one line", "no address")
            assert any(each in refusal.replace("not the address", "no address") for each in said)


SETTINGS = {
    "a parameter of a webhook": '[alerts]\nwebhook_url = "https://hooks.example/x?token={quoted}"\n',
    "a path of a webhook": '[alerts]\nwebhook_url = "https://hooks.example/{urlsafe}/x"\n',
    "the user of a mail server": '[alerts.smtp]\nhost = "mail"\nsender = "a@b"\nuser = "{hex}"\n',
    "the name of a contact": '[[contacts]]\nrole = "on-call"\nname = "{base64}"\n',
    "an authority": '[audit]\ntimestamp_url = "https://tsa.example/{urlsafe}"\ntimestamp_certificates = ["x.pem"]\n',
    "a bucket's server": '[backup.s3]\nbucket = "b"\nendpoint_url = "http://s3.example/{hex}"\n',
    "a standby": 'database.standbys = ["postgresql://u@standby/x?application_name={quoted}"]\n',
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_holds_a_key(local_clinic: Clinic, setting: str) -> None:
    raw = raw_of(local_clinic.ring.material(V1))
    base64_text, urlsafe = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    forms = {"quoted": quote(base64_text, safe=""), "urlsafe": urlsafe, "hex": raw.hex(), "base64": base64_text}
    before = local_clinic.settings.path.read_text()
    more = SETTINGS[setting].format(**forms)
    top = more.startswith("database.")
    text = before.replace("[database]", f"[database]\n{more.removeprefix('database.')}") if top else before + more
    local_clinic.settings.path.write_text(text)

    refusal = message_of(lambda: settings.load(local_clinic.settings.path))
    assert "holds an encryption key (fingerprint " in refusal
    assert not [form for form in forms.values() if form in refusal]


CREDENTIALS = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "https_proxy"]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_no_credential_in_the_environment_is_a_key(
    local_clinic: Clinic, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, base64_of(local_clinic.ring.material(V1)))

    assert message_of(lambda: settings.load(local_clinic.settings.path)).startswith(f"the variable {name} holds an ")


def test_another_name_of_the_key_that_signs_backups_is_no_secret(local_clinic: Clinic) -> None:
    (local_clinic.directory / "other").hardlink_to(local_clinic.settings.home / "backup-signing-key.pem")
    configure(local_clinic, '[recovery]\npassphrase = { file = "other" }\n')

    assert "in the home, and nothing" in message_of(lambda: settings.load(local_clinic.settings.path))


def test_no_token_that_aws_gets_is_a_file_of_keys(local_clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(key_file(local_clinic)))

    assert "in the key store, and nothing" in message_of(lambda: settings.load(local_clinic.settings.path))


def test_no_database_is_connected_to_with_a_key_as_its_password(local_clinic: Clinic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        password = quote(base64_of(local_clinic.ring.material(V1)), safe="")
        url = f"postgresql://app:{password}@127.0.0.1:{listening.getsockname()[1]}/clinic"
        (local_clinic.directory / "url").write_text(url)

        refusal = message_of(lambda: open_and_close(local_clinic.settings.path))
        with pytest.raises(TimeoutError):
            listening.accept()
    assert refusal.startswith("[database] url holds an encryption key")


def test_a_key_that_is_registered_and_not_backed_up_here_is_known_too(local_clinic: Clinic) -> None:
    for file in local_clinic.backups.iterdir():
        file.unlink()
    key = base64_of(local_clinic.ring.material(V1))
    configure(local_clinic, f'[[contacts]]\nrole = "on-call"\nname = "{key}"\n')

    assert settings.load(local_clinic.settings.path).contacts[0].name == key
    assert message_of(lambda: open_and_close(local_clinic.settings.path)).startswith("[contacts] name holds an ")


def test_a_key_that_is_about_to_be_imported_is_known_before_anything_is_made(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = ring_of(1, 2)
    monkeypatch.setenv("A_PASSWORD", base64_of(ring.material(V1)))
    (tmp_path / "url").write_text(database_url)
    path = tmp_path / "keyrotation.toml"
    path.write_text(
        '[database]\nurl = { file = "url" }\n[[tables]]\nname = "clients"\ncolumns = ["name"]\n'
        '[alerts.smtp]\nhost = "mail"\nsender = "a@b"\nuser = "u"\npassword = { env = "A_PASSWORD" }\n'
    )

    assert message_of(lambda: initialise(settings.load(path), ring, actor="test")).startswith("[alerts.smtp] password")
    assert not (tmp_path / ".keyrotation").exists()


def test_a_recovery_key_is_no_key_of_the_database(local_clinic: Clinic, tmp_path: Path) -> None:
    outside = tmp_path / "recovery"
    outside.write_bytes(raw_of(local_clinic.ring.material(V1)))
    configure(local_clinic, '[recovery]\nsecret_key = { file = "recovery" }\n')

    def use() -> None:
        with recovery_key(settings.load(local_clinic.settings.path)):
            raise AssertionError("it was opened")

    assert message_of(use).startswith("[recovery] secret_key holds an encryption key")


def have_signed(clinic: Clinic) -> str:
    """Has the hosts and secrets of the configuration signed; returns the text."""
    with open_pipeline(settings.load(clinic.settings.path), actor="test") as pipeline:
        asked = open_policy(pipeline, reason="mail", requested_by="dba")
        text = pipeline.ledger.approval_text(asked.id)
        for officer in clinic.signers:
            add_approval(pipeline, asked, officer.sign(text))
        change_policy(pipeline, pipeline.ledger.request(asked.id))
    return text.decode()


def attention_of(clinic: Clinic) -> Sequence[str]:
    with open_pipeline(settings.load(clinic.settings.path), actor="test") as pipeline:
        return overview(pipeline).attention


def configure(clinic: Clinic, more: str) -> None:
    clinic.settings.path.write_text(clinic.settings.path.read_text() + more)


def alert(clinic: Clinic) -> None:
    declared = settings.load(clinic.settings.path)
    with open_pipeline(declared, actor="test") as pipeline:
        now = pipeline.clock.now()
        for channel in alert_channels(declared, pipeline).by_role[ContactRole.SECURITY_OFFICER]:
            channel.deliver(Alert("incident/1", Severity.CRITICAL, "a subject", "a text", "clinic@db", now))


def open_and_close(path: Path) -> None:
    with open_pipeline(settings.load(path), actor="test"):
        pass


def message_of(action: Callable[[], object]) -> str:
    """Why it was refused; empty if it was not."""
    try:
        action()
    except ConfigurationError as error:
        return str(error)
    return ""
