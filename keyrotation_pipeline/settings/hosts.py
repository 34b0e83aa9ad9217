"""Names the hosts that a configuration makes the pipeline talk to, and the secrets for them, as officers sign them.

The database has a line of its own there; its standbys (`[database] standbys`), which are queried directly, have none.
A host is named as the configuration does: what boto3 takes from the environment instead (``AWS_ENDPOINT_URL``, a
region) is not known here.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.wrapping_keys import PKCS11, kind_of
from keyrotation_pipeline.model.checkpoints import VerifierKey
from keyrotation_pipeline.model.witnesses import Witness
from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.settings.backups import S3Settings
from keyrotation_pipeline.settings.file import Settings
from keyrotation_pipeline.settings.key_stores import KeysSettings, KubernetesStoreSettings, SealSettings
from keyrotation_pipeline.settings.sections import SmtpSettings
from keyrotation_pipeline.settings.values import absolute, secret_places

KEYS = "keys"
# Their secrets are sent to nobody: the first says which database is ours, the second is a variable of the application.
UNSENT = ("[database", "[format", "[recovery", "[tables")
_LOGIN = "[alerts.smtp] password"
_RECOVERY = " with recovery "
_ALONE = f"{_RECOVERY}sealed"


def hosts_of(settings: Settings) -> tuple[str, ...]:
    """Each host with the setting that names it, in order: ``alerts.smtp mail.example:587 with STARTTLS``."""
    return tuple(sorted({*_alerts(settings), *_backups(settings), *_keys(settings.keys), *_transit(settings)}))


def secrets_in(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Where secrets are that are sent, in order: ``alerts.smtp.password in the variable SMTP_PASSWORD``.

    That is the login of a mail server, and of other secrets what is in a file outside the directory of the
    configuration: an address that holds a secret names its own host, which is signed.

    Args:
        content: the configuration as parsed TOML.
        path: of its file.
    """
    named = (each for each in secret_places(content) if not each[0].startswith(UNSENT))
    return tuple(
        sorted(
            f"{setting.replace('[', '').replace('] ', '.')} in the {'variable' if kind == 'env' else 'file'} {place}"
            for setting, kind, name in named
            if setting == _LOGIN or (kind == "file" and _is_outside(name, path.parent))
            for place in [_plain(name) + (_leading_outside(name, path.parent) if kind == "file" else "")]
        )
    )


def _is_outside(name: str, folder: Path) -> bool:
    return not Path(os.path.realpath(absolute(Path(name), folder))).is_relative_to(os.path.realpath(folder))


def _leading_outside(name: str, folder: Path) -> str:
    """Where a link leads that is in the directory of the configuration, if that is outside of it."""
    named = absolute(Path(name), folder)
    is_link = named.is_relative_to(folder) and _is_outside(name, folder)
    return f" that leads to {_plain(os.path.realpath(named))}" if is_link else ""


def may_log_in(settings: Settings, signed: Collection[str]) -> bool:
    """Whether officers have signed the mail server, and the place of the password for it."""
    return settings.alerts.smtp is not None and {
        smtp_line(settings.alerts.smtp),
        *secrets_of(settings, "alerts.smtp."),
    } <= set(signed)


def secrets_of(settings: Settings, setting: str) -> tuple[str, ...]:
    """The places of secrets of one setting, as `secrets_in` names them."""
    return tuple(each for each in settings.secrets if each.startswith(setting))


def smtp_line(smtp: SmtpSettings) -> str:
    """The mail server in a line that officers sign."""
    return f"alerts.smtp {_plain(smtp.host)}:{smtp.port} {'with' if smtp.starttls else 'without'} STARTTLS"


def transit_line(address: str) -> str:
    """The server of a transit engine in a line that officers sign."""
    return f"{KEYS} {_address(address)}"


def backups_sealed_by(settings: Settings, signed: Collection[str] | None) -> str | None:
    """Returns the wrapping key under which backups hold keys, as officers signed it last; None: under none.

    A key that the configuration alone names seals none: whoever writes it could make every backup theirs.

    Args:
        signed: the hosts; None: nothing is pinned yet.

    Raises:
        ConfigurationError: the configuration does not name that key, or names another host for it.
    """
    seal = settings.keys.seal
    if signed is None:
        return seal.name if seal is not None and seal.recovery == "sealed" else None
    if not any(each.startswith(f"{KEYS} sealed by ") and each.endswith(_ALONE) for each in signed):
        return None
    for name in () if seal is None else (seal.name, *seal.earlier):
        if seal is not None and f"{KEYS} {_sealed_by(seal, name)}{_ALONE}" in signed:
            return name
    raise ConfigurationError(
        "officers signed another key or host for [keys.seal]; restore it, or keep the signed key in earlier until "
        "`keyrotation policy` is signed"
    )


def _alerts(settings: Settings) -> Iterator[str]:
    alerts, incidents, audit = settings.alerts, settings.incidents, settings.audit
    if alerts.webhook_url is not None:
        yield f"alerts.webhook_url {_address(alerts.webhook_url.get_secret_value())}"
    if alerts.sns_topic_arn is not None:
        yield f"alerts.sns_topic_arn {alerts.sns_topic_arn} at {_aws(alerts.endpoint_url)}"
    if (smtp := alerts.smtp) is not None:
        yield smtp_line(smtp)
    if audit.timestamp_url is not None:
        yield f"audit.timestamp_url {_address(audit.timestamp_url.get_secret_value())}"
    yield from map(str, witnesses_of(settings))
    if incidents.alarms or incidents.cloudtrail_bucket is not None:
        yield f"incidents {_aws(incidents.endpoint_url, incidents.region_name)}"


def witnesses_of(settings: Settings) -> tuple[Witness, ...]:
    """The witnesses that a configuration names, as values."""
    return tuple(
        Witness(_checkpoints(settings) if each.key is None else each.url, VerifierKey.parse(each.key or ""))
        for each in settings.audit.witness
    )


def _checkpoints(settings: Settings) -> str:
    s3 = settings.backup.s3
    return "" if s3 is None else f"s3://{_plain(s3.bucket)}/{_plain(checkpoints_in(s3))}/"


def checkpoints_in(s3: S3Settings) -> str:
    """The prefix of locked checkpoints in the bucket of backups."""
    return f"{s3.prefix.strip('/')}/checkpoints".lstrip("/")


def _backups(settings: Settings) -> Iterator[str]:
    if (s3 := settings.backup.s3) is not None:
        yield f"backup.s3 {_plain(s3.bucket)} at {_aws(s3.endpoint_url, s3.region_name)}"


def _keys(keys: KeysSettings) -> Iterator[str]:
    if keys.store == "aws-secrets-manager" and keys.aws is not None:
        yield f"{KEYS} {_aws(keys.aws.endpoint_url, keys.aws.region_name)}"
    if keys.store == "kubernetes-secret" and (secret := keys.kubernetes) is not None:
        yield f"{KEYS} Kubernetes at {_api_server(secret)}"
        if (archive := secret.aws_archive) is not None:
            yield f"{KEYS} {_aws(archive.endpoint_url, archive.region_name)}"
    if (seal := keys.seal) is not None:
        yield f"{KEYS} {_sealed_by(seal, seal.name)}{_RECOVERY}{seal.recovery}"
        yield from (f"{KEYS} earlier {_sealed_by(seal, name)}" for name in seal.earlier if name != seal.name)


def _sealed_by(seal: SealSettings, name: str) -> str:
    kind = kind_of(name)
    if kind == PKCS11:
        module = seal.module if kind == seal.kind else None
        return f"sealed by {kind} {name} at {'its own module' if module is None else _plain(str(module))}"
    endpoint, region = (seal.endpoint_url, seal.region_name) if kind == seal.kind else (None, None)
    return f"sealed by {kind} {name} at {_aws(endpoint, region)}"


def unsigned_modules(settings: Settings, signed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields kind and name of each wrapping key whose module, which runs as code, no signed host of keys names."""
    seal = settings.keys.seal
    for name in () if seal is None or seal.module is None else (seal.name, *seal.earlier):
        at = f" at {_plain(str(seal.module))} " if seal is not None else ""
        if kind_of(name) == PKCS11 and not any(f"sealed by {PKCS11} " in each and at in f"{each} " for each in signed):
            yield PKCS11, name


def _transit(settings: Settings) -> Iterator[str]:
    if settings.format.held_at is not None:
        yield transit_line(settings.format.held_at)


def _aws(endpoint_url: str | None, region_name: str | None = None) -> str:
    if endpoint_url is not None:
        return _address(endpoint_url)
    return f"AWS {_plain(region_name)}" if region_name else "AWS"


def _address(url: str) -> str:
    """Scheme, host and port; no user, no path, nothing else that may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{_plain(parts.hostname or '')}{port}"


def _plain(name: str) -> str:
    """A name that cannot be taken for several."""
    return quote(name, safe=":/.@*-_[]")


def _api_server(secret: KubernetesStoreSettings) -> str:
    """The server of the context in the kubeconfig that the configuration names."""
    if secret.kubeconfig is None:
        return f"context {_plain(secret.context)}" if secret.context else "its own cluster"
    try:
        content = yaml.safe_load(read_text(secret.kubeconfig))
        context = _named(content["contexts"], secret.context or content["current-context"])["context"]
        return _address(_named(content["clusters"], context["cluster"])["cluster"]["server"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        return f"what {_plain(str(secret.kubeconfig))} says"


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(each for each in entries if each["name"] == name)
