"""Refuses a configured secret that is a key, or another secret than its own: it would be sent to somebody's server.

A path is refused wherever it leads into the home, the key store or the backups, and where another setting, or a client
of AWS, Vault, Kubernetes or PostgreSQL, has a secret of its own. So is a variable. A value is compared with the keys
whose fingerprints are known: those in the manifests of the local backups, before anything is connected to, and later
those that the audit has registered. No setting of `keyrotation.toml` imports a key by `env` or `file`.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.key_search import key_in
from keyrotation_pipeline.model.backups import is_manifest
from keyrotation_pipeline.regular_files import read_bytes
from keyrotation_pipeline.settings.backups import SecretPlace
from keyrotation_pipeline.settings.file import Settings
from keyrotation_pipeline.settings.hosts import UNSENT
from keyrotation_pipeline.settings.values import absolute, secret_places, setting_at

AWS_VARIABLES, VAULT_VARIABLES = "AWS_", ("VAULT_", "BAO_")
# What clients send of the environment: boto3, libpq, Dagster's storage, and whatever goes through a proxy.
SENT_VARIABLES = re.compile(
    rf"({AWS_VARIABLES}|{'|'.join(VAULT_VARIABLES)}).*|PGPASSWORD|DAGSTER_PG_URL|[A-Z]+_PROXY", re.IGNORECASE
)
# boto3 sends what is in these files.
AWS_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
# Where clients have credentials of their own.
_CREDENTIAL_FILES = (*AWS_TOKEN_FILES, "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "KUBECONFIG", "PGPASSFILE")
_CREDENTIAL_PLACES = ("~/.aws", "~/.gnupg", "~/.kube", "~/.netrc", "~/.pgpass", "~/.ssh", "~/.vault-token")
_OWN_VARIABLES = re.compile(rf"{SENT_VARIABLES.pattern}|ENCRYPTION_.*|KEYROTATION_DATABASE_URL", re.IGNORECASE)
_FINGERPRINT = re.compile(rb'"fingerprint": *"([0-9a-f]{64})"')
SHOWN_FINGERPRINT_CHARS = 16


def require_no_key_files(settings: Settings, content: Mapping[str, Any]) -> None:
    """Refuses a secret whose file is in the home, the key store or the backups, or is a file of the key store.

    Args:
        content: the configuration as parsed TOML.

    Raises:
        ConfigurationError: names the setting, the file, and where it is.
    """
    places = {
        "the key store": settings.keys_directory,
        "the directory of backups": settings.backup_directory,
        "the home": settings.home,
    }
    named = [
        (setting, absolute(Path(name), settings.path.parent))
        for setting, kind, name in secret_places(content)
        if kind == "file"
    ]
    named += [(f"the variable {name}", Path(os.environ[name])) for name in AWS_TOKEN_FILES if os.environ.get(name)]
    key_files = _identities(settings) if named else {}
    for setting, path in named:
        inside = (name for name, place in places.items() if _is_in(path, place))
        if found := next(inside, key_files.get(_identity(path))):
            raise ConfigurationError(
                f"{setting} names the file {path} in {found}, and nothing there is ever sent anywhere; put the "
                "secret elsewhere, and name that"
            )


def require_own_places(settings: Settings, content: Mapping[str, Any]) -> None:
    """Refuses a secret that is sent, where its file or variable is that of something else, too.

    Args:
        content: the configuration as parsed TOML.

    Raises:
        ConfigurationError: names the setting, its file or variable, and whose that is.
    """
    named = list(secret_places(content))
    for number, (setting, kind, name) in enumerate(named):
        if setting.startswith(UNSENT):
            continue
        others = [each for place, each in enumerate(named) if place != number]
        taken = _variable_of(name, others) if kind == "env" else _file_of(settings, setting, name, others)
        if taken is not None:
            what = "variable" if kind == "env" else "file"
            raise ConfigurationError(
                f"{setting} names the {what} {name}, which is that of {taken} and sent to nobody else; name "
                f"another {what} for it"
            )


def _variable_of(name: str, others: Iterable[tuple[str, str, str]]) -> str | None:
    """Returns what else takes a variable, in words; None: nothing."""
    of_others = (setting for setting, kind, other in others if (kind, other) == ("env", name))
    return next(of_others, "a client or an application" if _OWN_VARIABLES.fullmatch(name) else None)


def _file_of(settings: Settings, setting: str, name: str, others: Iterable[tuple[str, str, str]]) -> str | None:
    """Returns what else takes a file, or has it in its directory; None: nothing."""
    path, folder = absolute(Path(name), settings.path.parent), settings.path.parent
    places = [(other, absolute(Path(each), folder)) for other, kind, each in others if kind == "file"]
    places += [(other, each) for other, each in _paths(settings, ()) if other != setting]
    places += [(each, Path(each).expanduser()) for each in _CREDENTIAL_PLACES]
    places += [
        (f"the variable {variable}", Path(each))
        for variable in _CREDENTIAL_FILES
        for each in os.environ.get(variable, "").split(os.pathsep)
        if each
    ]
    mine = _identity(path)
    same = (other for other, place in places if _is_in(path, place) or (mine is not None and mine == _identity(place)))
    return next(same, None)


def _paths(value: object, place: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Each path of a section, with the name of its setting."""
    match value:
        case Path():
            yield setting_at(place), value
        case BaseModel():
            for name, field in type(value).model_fields.items():
                if name not in {"path", "home"}:  # the file itself, and what has a check of its own
                    yield from _paths(getattr(value, name), (*place, field.alias or name))
        case tuple():
            for each in value:
                yield from _paths(each, place)


def require_no_keys(settings: Settings, fingerprints: Collection[str]) -> None:
    """Refuses a setting, or a credential in the environment, that holds one of these keys.

    Raises:
        ConfigurationError: names the setting and the fingerprint.
    """
    for setting, text in (*_texts(settings, ()), *_credentials()):
        require_no_key(setting, text, fingerprints)


def require_no_key(setting: str, text: bytes, fingerprints: Collection[str]) -> None:
    """Refuses one secret that holds one of these keys; raises as `require_no_keys`."""
    if (found := key_in(text, fingerprints)) is not None:
        raise ConfigurationError(
            f"{setting} holds an encryption key (fingerprint {found[:SHOWN_FINGERPRINT_CHARS]}), which is never sent "
            "anywhere; write the secret that belongs there"
        )


def backed_up_fingerprints(settings: Settings) -> frozenset[str]:
    """The fingerprints of all keys in the manifests of the local backups, which need not be ours: they only refuse."""
    found = set[str]()
    for path in _files_in(settings.backup_directory):
        if is_manifest(path.name):
            found.update(each.decode() for each in _FINGERPRINT.findall(_content(path)))
    return frozenset(found)


def _texts(value: object, place: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Each text of a section, with the name of its setting; of a secret that is read later, that of its variable."""
    match value:
        case SecretStr():
            yield setting_at(place), _bytes(value.get_secret_value())
        case str():
            yield setting_at(place), _bytes(value)
        case SecretPlace(env=str(name)):
            yield setting_at(place), _bytes(os.environ.get(name, ""))
        case BaseModel():
            for name, field in type(value).model_fields.items():
                yield from _texts(getattr(value, name), (*place, field.alias or name))
        case tuple():
            for each in value:
                yield from _texts(each, place)


def _credentials() -> Iterator[tuple[str, bytes]]:
    """What of the environment is sent to a server."""
    for name, value in os.environ.items():
        if SENT_VARIABLES.fullmatch(name):
            yield f"the variable {name}", _content(Path(value)) if name in AWS_TOKEN_FILES else _bytes(value)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _is_in(path: Path, place: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(place))


def _identities(settings: Settings) -> Mapping[tuple[int, int] | None, str]:
    """The files of the home and of the key store, and where each is; other names may link to them."""
    found = {_identity(path): "the home" for path in _files_in(settings.home)}
    for folder, _, names in os.walk(settings.keys_directory):
        found |= {_identity(Path(folder) / name): "the key store" for name in names}
    return {identity: place for identity, place in found.items() if identity is not None}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _files_in(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except (OSError, ValueError):
        return b""
