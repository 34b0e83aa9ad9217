"""Each host that a configuration names is one line for officers, without what is secret in an address."""

from pathlib import Path

import pytest

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.model.checkpoints import COSIGNATURE, VerifierKey
from keyrotation_pipeline.settings import parse
from keyrotation_pipeline.settings.hosts import backups_sealed_by, hosts_of, unsigned_modules

KEY = str(VerifierKey("w.example/w1", COSIGNATURE, bytes(32)))
TABLE = '[[tables]]\nname = "clients"\ncolumns = ["email"]\n'
KUBECONFIG = """
current-context: clinic
contexts: [{name: clinic, context: {cluster: east}}, {name: other, context: {cluster: west}}]
clusters:
- {name: east, cluster: {server: "https://10.0.0.1:6443"}}
- {name: west, cluster: {server: "https://west.example"}}
"""
SECRET = '[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\nnamespace = "n"\nname = "s"\n'
AWS = '[keys]\nstore = "aws-secrets-manager"\n[keys.aws-secrets-manager]\nsecret_id = "x"\n'
ARN = "arn:aws:kms:eu-central-1:111122223333:key/8f0a1c9e-0000-4000-8000-00000000000"
SMTP = '[alerts.smtp]\nsender = "a@b.example"\nhost = '


@pytest.mark.parametrize(("text", "hosts"), [
    pytest.param("", (), id="none"),
    pytest.param(f'{SMTP}"mail.example"\n', ("alerts.smtp mail.example:587 with STARTTLS",), id="mail"),
    pytest.param(
        f'{SMTP}"localhost"\nport = 25\nstarttls = false\n', ("alerts.smtp localhost:25 without STARTTLS",),
        id="mail without TLS",
    ),
    pytest.param(
        '[alerts]\nwebhook_url = "https://Hooks.example:8443/services/T0/secret?token=secret"\n',
        ("alerts.webhook_url https://hooks.example:8443",), id="a webhook",
    ),
    pytest.param(
        '[alerts]\nsns_topic_arn = "arn:aws:sns:eu-central-1:123456789012:t"\n',
        ("alerts.sns_topic_arn arn:aws:sns:eu-central-1:123456789012:t at AWS",), id="a topic",
    ),
    pytest.param(
        '[audit]\ntimestamp_url = "http://tsa.example/tsr"\ntimestamp_certificates = ["x.pem"]\n',
        ("audit.timestamp_url http://tsa.example",), id="an authority",
    ),
    pytest.param(
        f'[audit]\nwitness = [{{ url = "https://w.example/x", key = "{KEY}" }}, "s3-object-lock"]\n'
        '[backup.s3]\nbucket = "b"\nprefix = "k/"\n',
        (f"audit.witness https://w.example/x with the key {KEY}", "audit.witness s3://b/k/checkpoints/",
         "backup.s3 b at AWS"),
        id="witnesses",
    ),
    pytest.param(
        '[backup.s3]\nbucket = "b"\nregion_name = "eu-central-1"\n', ("backup.s3 b at AWS eu-central-1",), id="a bucket"
    ),
    pytest.param(
        '[backup.s3]\nbucket = "b"\nendpoint_url = "http://user:secret@minio:9000/x"\n',
        ("backup.s3 b at http://minio:9000",), id="a bucket elsewhere",
    ),
    pytest.param(AWS, ("keys AWS",), id="keys in AWS"),
    pytest.param(
        f'{AWS}endpoint_url = "https://vault.example"\n', ("keys https://vault.example",), id="keys elsewhere"
    ),
    pytest.param(SECRET, ("keys Kubernetes at its own cluster",), id="keys in the cluster"),
    pytest.param(
        f'{SECRET}kubeconfig = "config"\n', ("keys Kubernetes at https://10.0.0.1:6443",), id="keys of a kubeconfig"
    ),
    pytest.param(
        f'{SECRET}kubeconfig = "config"\ncontext = "other"\n', ("keys Kubernetes at https://west.example",),
        id="keys of another context",
    ),
    pytest.param(
        f'{SECRET}[keys.kubernetes-secret.aws-archive]\nprefix = "a"\nregion_name = "us-east-1"\n',
        ("keys AWS us-east-1", "keys Kubernetes at its own cluster"), id="an archive in AWS",
    ),
    pytest.param(
        f'[keys.seal]\nkind = "aws-kms"\nkey_id = "{ARN}1"\nearlier = ["{ARN}0"]\nregion_name = "eu-west-1"\n',
        (f"keys earlier sealed by aws-kms {ARN}0 at AWS eu-west-1",
         f"keys sealed by aws-kms {ARN}1 at AWS eu-west-1 with recovery officers"),
        id="a seal",
    ),
    pytest.param(
        '[keys.seal]\nkind = "pkcs11"\nmodule = "/lib/p.so"\ntoken_label = "a b"\nkey_label = "k"\npin = "1"\n'
        f'earlier = ["{ARN}0", "pkcs11:token=old;object=k"]\n',
        (f"keys earlier sealed by aws-kms {ARN}0 at AWS",
         "keys earlier sealed by pkcs11 pkcs11:token=old;object=k at /lib/p.so",
         "keys sealed by pkcs11 pkcs11:token=a%20b;object=k at /lib/p.so with recovery officers"),
        id="a token",
    ),
    pytest.param(
        '[incidents]\nalarms = [{ name = "x", type = "insider" }]\nendpoint_url = "https://watch.example"\n',
        ("incidents https://watch.example",), id="alarms",
    ),
    pytest.param(
        f'{SMTP}"mail; keys https://evil"\n', ("alerts.smtp mail%3B%20keys%20https://evil:587 with STARTTLS",),
        id="a name that would be two",
    ),
])  # fmt: skip
def test_each_host_is_one_line(tmp_path: Path, text: str, hosts: tuple[str, ...]) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)

    assert hosts_of(parse(TABLE + text, tmp_path / "keyrotation.toml")) == hosts


def sealed_by(key_id: str, more: str = "") -> str:
    return f'{TABLE}[keys.seal]\nkind = "aws-kms"\nkey_id = "{ARN}{key_id}"\n{more}'


@pytest.mark.parametrize(("now", "under"), [
    pytest.param(sealed_by("0", 'recovery = "sealed"'), "0", id="as signed"),
    pytest.param(sealed_by("0"), "0", id="another recovery"),
    pytest.param(sealed_by("1", f'earlier = ["{ARN}0"]\nrecovery = "sealed"'), "0", id="another key, not signed yet"),
    pytest.param(sealed_by("1", 'recovery = "sealed"'), None, id="another key alone"),
    pytest.param(sealed_by("0", 'recovery = "sealed"\nendpoint_url = "https://x.example"'), None, id="another host"),
    pytest.param(sealed_by("0", 'recovery = "sealed"\nregion_name = "eu-west-1"'), None, id="another region"),
    pytest.param(TABLE, None, id="no section any more"),
])  # fmt: skip
def test_backups_are_sealed_by_the_key_that_officers_signed_or_not_made(
    tmp_path: Path, now: str, under: str | None
) -> None:
    path = tmp_path / "keyrotation.toml"
    signed = hosts_of(parse(sealed_by("0", 'recovery = "sealed"'), path))
    if under is None:
        with pytest.raises(ConfigurationError, match=r"officers signed another key or host for \[keys\.seal\]"):
            backups_sealed_by(parse(now, path), signed)
    else:
        assert backups_sealed_by(parse(now, path), signed) == f"{ARN}{under}"


@pytest.mark.parametrize(("signed", "under"), [
    pytest.param((), None, id="nothing"),
    pytest.param(hosts_of(parse(sealed_by("1"), Path("keyrotation.toml"))), None, id="that recipients open them"),
    pytest.param(None, f"{ARN}0", id="before anything is pinned"),
])  # fmt: skip
def test_a_configuration_alone_seals_no_backup(
    tmp_path: Path, signed: tuple[str, ...] | None, under: str | None
) -> None:
    declared = parse(sealed_by("0", 'recovery = "sealed"'), tmp_path / "keyrotation.toml")
    assert backups_sealed_by(declared, signed) == under


@pytest.mark.parametrize("text", [
    '[alerts]\nwebhook_url = \'{}\'\n',
    '[audit]\ntimestamp_url = \'{}\'\ntimestamp_certificates = ["x.pem"]\n',
    '[backup.s3]\nbucket = "b"\nendpoint_url = \'{}\'\n',
])  # fmt: skip
@pytest.mark.parametrize("address", ["https://evil.example\\@mail.example/x", "https://mail.example /x", "ftp://x/y"])
def test_an_address_that_clients_take_for_another_host_is_none(tmp_path: Path, text: str, address: str) -> None:
    """Requests sends to ``evil.example`` what `urlsplit` says is for ``mail.example``."""
    with pytest.raises(ConfigurationError, match="address of a server"):
        parse(TABLE + text.format(address), tmp_path / "keyrotation.toml")


@pytest.mark.parametrize("content", ["", "[", "clusters: 1", "current-context: x", "\x00"])
def test_a_kubeconfig_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config").write_text(content)
    declared = parse(f'{TABLE}{SECRET}kubeconfig = "config"\n', tmp_path / "keyrotation.toml")

    assert hosts_of(declared) == (f"keys Kubernetes at what {tmp_path}/config says",)


@pytest.mark.parametrize(("witness", "sentence"), [
    pytest.param('"s3-object-lock"', "needs a bucket", id="no bucket"),
    pytest.param('[{ url = "https://w.example" }]', "needs the key", id="no key"),
    pytest.param('["http://w.example"]', "is not encrypted", id="not encrypted"),
    pytest.param(f'[{{ url = "https://u:p@w.example", key = "{KEY}" }}]', "without user", id="with a password"),
    pytest.param(f'[{{ url = "https://w\u0435.example", key = "{KEY}" }}]', "write https", id="Cyrillic"),
    pytest.param(f'[{{ url = "https://w.example", key = "{KEY[:-2]}xx" }}]', "none of a witness", id="another key"),
    pytest.param(f'[{{ url = "https://w.example", key = "{KEY}" }}, {{ url = "https://x.example", key = "{KEY}" }}]',
                 "twice", id="one key for two"),
])  # fmt: skip
def test_a_witness_that_cannot_be_one_is_refused(tmp_path: Path, witness: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        parse(f"{TABLE}[audit]\nwitness = {witness}\n", tmp_path / "keyrotation.toml")


@pytest.mark.parametrize(
    ("module", "unsigned"),
    [
        pytest.param("/lib/p.so", [], id="as signed"),
        pytest.param("/lib/p", ["pkcs11:token=a;object=k"], id="the beginning of it"),
        pytest.param("/lib/q.so", ["pkcs11:token=a;object=k"], id="another"),
    ],
)
def test_a_module_counts_as_signed_by_its_whole_path(tmp_path: Path, module: str, unsigned: list[str]) -> None:
    section = f'[keys.seal]\nkind = "pkcs11"\nmodule = "{module}"\ntoken_label = "a"\nkey_label = "k"\npin = "1"\n'
    signed = [
        "alerts x at /lib/q.so",
        "keys sealed by pkcs11 pkcs11:token=b;object=k at /lib/p.so with recovery officers",
    ]
    found = unsigned_modules(parse(TABLE + section, tmp_path / "keyrotation.toml"), signed)
    assert [name for _, name in found] == unsigned
