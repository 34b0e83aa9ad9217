"""Names the hosts that a configuration makes the pipeline talk to, in the lines that officers sign.

The database has a line of its own there; its standbys (`[database] standbys`), which are queried directly, have none.
A host is named as the configuration does: what boto3 takes from the environment instead (``AWS_ENDPOINT_URL``, a
region) is not known here.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.settings.file import Settings
from keyrotation_pipeline.settings.key_stores import KeysSettings, KubernetesStoreSettings

KEYS = "keys"


def hosts_of(settings: Settings) -> tuple[str, ...]:
    """Each host with the setting that names it, in order: ``alerts.smtp mail.example:587 with STARTTLS``."""
    return tuple(sorted({*_alerts(settings), *_backups(settings), *_keys(settings.keys), *_transit(settings)}))


def _alerts(settings: Settings) -> Iterator[str]:
    alerts, incidents, audit = settings.alerts, settings.incidents, settings.audit
    if alerts.webhook_url is not None:
        yield f"alerts.webhook_url {_address(alerts.webhook_url.get_secret_value())}"
    if alerts.sns_topic_arn is not None:
        yield f"alerts.sns_topic_arn {alerts.sns_topic_arn} at {_aws(alerts.endpoint_url)}"
    if (smtp := alerts.smtp) is not None:
        yield f"alerts.smtp {_plain(smtp.host)}:{smtp.port} {'with' if smtp.starttls else 'without'} STARTTLS"
    if audit.timestamp_url is not None:
        yield f"audit.timestamp_url {_address(audit.timestamp_url.get_secret_value())}"
    if incidents.alarms or incidents.cloudtrail_bucket is not None:
        yield f"incidents {_aws(incidents.endpoint_url, incidents.region_name)}"


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


def _transit(settings: Settings) -> Iterator[str]:
    if settings.format.transit is not None:
        yield f"{KEYS} {_address(settings.format.transit)}"


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
