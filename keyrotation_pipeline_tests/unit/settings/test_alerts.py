"""The sections about incidents: what they take, and the sentence for what they do not."""

from pathlib import Path

import pytest

from keyrotation_pipeline.assembly.alerts import alert_channels, flag_sources
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.model.incidents import Contact, ContactRole
from keyrotation_pipeline.settings import Settings, parse
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

TABLE = '[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
SMTP = '[alerts.smtp]\nhost = "mail.example"\nsender = "keys@clinic.example"\n'
ARN = "arn:aws:sns:us-east-1:123456789012:security"


def parsed(tmp_path: Path, text: str) -> Settings:
    return parse(TABLE + text, tmp_path / "keyrotation.toml")


def test_every_channel_and_contact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://chat.example/T0000-hook")
    text = (
        f'[alerts]\nsns_topic_arn = "{ARN}"\nwebhook_url = {{ env = "HOOK" }}\n{SMTP}'
        '[[contacts]]\nrole = "HIPAA Compliance Officer"\nname = "Ada"\nemail = "ada@clinic.example"\n'
        '[[contacts]]\nrole = "on-call"\nname = "Rotation"\nphone = "+1 555 0100"\n'
        '[[incidents.alarms]]\nname = "key-access"\ntype = "insider"\n'
    )
    declared = parsed(tmp_path, text)
    assert "T0000-hook" not in repr(declared)
    channels = alert_channels(declared, before_any_rotation().pipeline)
    assert [each.name for each in channels.common] == [f"SNS topic {ARN}", "webhook at chat.example"]
    (mail,) = channels.by_role[ContactRole.COMPLIANCE_OFFICER]
    assert mail.name == "mail by mail.example to ada@clinic.example"
    assert [str(each) for each in channels.contacts][1] == "on-call: Rotation, +1 555 0100"
    assert len(flag_sources(declared)) == 1


@pytest.mark.parametrize("channel", [f'[alerts]\nsns_topic_arn = "{ARN}"\n', ""], ids=["SNS only", "no channel"])
def test_a_contact_with_an_address_is_kept_without_a_mail_server(tmp_path: Path, channel: str) -> None:
    contact = '[[contacts]]\nrole = "on-call"\nname = "A"\nemail = "a@b.c"\nphone = "+1 555 0100"\n'
    channels = alert_channels(parsed(tmp_path, channel + contact), before_any_rotation().pipeline)
    assert channels.by_role == {}
    assert channels.contacts == (Contact(ContactRole.ON_CALL, "A", "a@b.c", "+1 555 0100"),)
    assert "on-call: A, a@b.c, +1 555 0100 (gets no mail: add [alerts.smtp])" in channels.in_words


def test_without_the_sections_nobody_is_alerted_and_nothing_is_watched(tmp_path: Path) -> None:
    declared = parsed(tmp_path, "")
    assert alert_channels(declared, before_any_rotation().pipeline).common == ()
    assert flag_sources(declared) == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param('[alerts]\nsns_topic = "x"', "did you mean 'sns_topic_arn'", id="misspelt"),
        pytest.param('[alerts]\nsns_topic_arn = "security"', "is not the ARN of a topic", id="no ARN"),
        pytest.param('[alerts]\nwebhook_url = { env = "UNSET" }', r"\[alerts\] webhook_url names .* UNSET", id="unset"),
        pytest.param(
            f'{SMTP}[[contacts]]\nrole = "boss"\nname = "A"', r"role = \"boss\" is not known; write one of", id="role"
        ),
        pytest.param(
            f'{SMTP}[[contacts]]\nrole = "on-call"\nname = "A"\nemail = "a@b, c@d"',
            "not a mail address",
            id="two addresses",
        ),
        pytest.param('[[incidents.alarms]]\nname = "a"\ntype = "fire"', "type", id="type of an alarm"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        parsed(tmp_path, text)
