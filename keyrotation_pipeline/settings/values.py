"""The building blocks of settings: paths relative to the file, secrets named by their place, numbers, sections."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StrictInt, ValidationInfo
from pydantic_core import PydanticCustomError

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.regular_files import read_text

_DATABASE = "database"


def absolute(path: Path, directory: Path) -> Path:
    """Returns the path that a setting names, relative to the directory of its file."""
    return Path(os.path.normpath(directory / path.expanduser()))


def _absolute(path: Path, info: ValidationInfo) -> Path:
    return absolute(path, info.context["directory"]) if info.context else path


def _secret(value: object, info: ValidationInfo, section: str) -> SecretStr:
    """Reads the secret behind ``{ env = "NAME" }`` or ``{ file = "PATH" }``; a bare string must not hold a secret."""
    setting = f"[{section}] {info.field_name}"
    match value:
        case {"env": str(name), **rest} if not rest:
            found = os.environ.get(name)
            if not found:
                raise ConfigurationError(f"{setting} names the environment variable {name}, which is not set; set it")
        case {"file": str(name), **rest} if not rest:
            found = _read_secret(setting, _absolute(Path(name), info))
        case str() if value and not _holds_password(value):
            found = value
        case _:
            raise ConfigurationError(
                f'{setting} may hold a secret; say only where it is, as {{ env = "NAME" }} or {{ file = "PATH" }}'
            )
    if section != _DATABASE and not set(found).isdisjoint("\n\r\0"):
        raise ConfigurationError(f"{setting} holds more than one line, as a key or a file of credentials; name another")
    return SecretStr(found)


def _holds_password(url: str) -> bool:
    try:
        return "password" in url.lower() or urlsplit(url).password is not None
    except ValueError:
        return True


def _read_secret(setting: str, path: Path) -> str:
    try:
        return read_text(path).strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            f"{setting} names the file {path}, which cannot be read as a regular file of text; create it, or name "
            "another"
        ) from None


def repeated(names: Iterable[str]) -> str | None:
    """Returns the first of the names that occurs more than once."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def parts_of(address: str) -> SplitResult | None:
    """Takes ``http://…`` or ``https://…`` apart; None: it is none.

    Nor is one with a backslash or white space: clients of HTTP take others for its host than `urlsplit` does.
    """
    if is_hidden(address) or not set(address).isdisjoint("\\ "):
        return None
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in {"http", "https"} and parts.hostname else None


def _endpoint(address: str) -> str:
    """Checks the address of a server, as boto3 takes it."""
    if parts_of(address) is None:
        raise PydanticCustomError("endpoint", "it is no address of a server, such as https://aws.example:4566")
    return address


def require_address(setting: str, secret: SecretStr) -> None:
    """Refuses what is no address to send something to, and one that would send its password unencrypted.

    Raises:
        ConfigurationError: names the setting alone, since the address may hold a secret.
    """
    parts = parts_of(secret.get_secret_value())
    if parts is None:
        raise ConfigurationError(f"{setting} is not the address of a server; write http://… or https://…")
    if parts.scheme == "http" and parts.password is not None and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(f"{setting} would send its password unencrypted; write https")


def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine, so that nobody else reads what is sent to it."""
    return host in {"localhost", "127.0.0.1", "::1"}


def setting_at(place: Sequence[str]) -> str:
    """Returns a setting as sentences name it: ``[section] name``."""
    *parents, name = place
    return f"[{'.'.join(parents)}] {name}" if parents else name


def secret_places(content: object, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """Yields each ``{ env = "NAME" }`` and ``{ file = "PATH" }`` in parsed TOML: setting, ``env`` or ``file``, name."""
    if isinstance(content, dict):
        named = [(kind, content[kind]) for kind in ("env", "file") if isinstance(content.get(kind), str)]
        if place and named:
            yield from ((setting_at(place), *each) for each in named)
        else:
            for key, each in content.items():
                yield from secret_places(each, (*place, key))
    elif isinstance(content, list):
        for each in content:
            yield from secret_places(each, place)


def secret_in(section: str) -> BeforeValidator:
    """Returns a validator that reads a secret of this section."""

    def look_up(value: object, info: ValidationInfo) -> SecretStr:
        return _secret(value, info, section)

    return BeforeValidator(look_up)


SettingPath = Annotated[Path, AfterValidator(_absolute)]
Secret = Annotated[SecretStr, secret_in(_DATABASE)]
Text = Annotated[str, Field(min_length=1)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Count = Annotated[StrictInt, Field(ge=0)]
Positive = Annotated[StrictInt, Field(ge=1)]


class Section(BaseModel):
    """One section: frozen; unknown settings are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)
