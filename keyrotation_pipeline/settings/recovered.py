"""Adapts the configuration in a backup to the machine and the database on which everything is restored."""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SecretStr, ValidationError

from keyrotation_pipeline.adapters.own_schema import DEFAULT
from keyrotation_pipeline.errors import ConfigurationError, DamagedBackupError
from keyrotation_pipeline.settings.file import FILE_NAME, File, Settings
from keyrotation_pipeline.settings.loading import DATABASE_VARIABLE, home_of, message_for
from keyrotation_pipeline.settings.sections import DatabaseSettings, home_schema
from keyrotation_pipeline.settings.values import absolute, secret_places, setting_at

# What a recovery needs. The other sections name secrets and hosts, which may not be there on the worst day.
_NEEDED = ("keys", "format", "tables", "reencryption", "verification", "approvals", "rollout", "backup", "time_zone")
# Of the home: what only copies of the audit in members of a fleet had, which `reconcile` keeps there.
FORMER_AUDIT = "former-audit"
_HEADING = re.compile(r"\s*\[\s*database\s*\]\s*(#.*)?")
_URL = re.compile(r"\s*url\s*=")
_DOTTED_URL = re.compile(r"(?m)^\s*database\s*\.\s*url\s*=.*$")
_OTHER_PATHS = (
    ("audit", "timestamp_certificates"),
    ("keys", "kubernetes-secret", "kubeconfig"),
    ("backup", "postgres_binaries"),
    ("recovery", "gnupg_home"),
)


@dataclass(frozen=True, slots=True)
class BackedUpConfiguration:
    """The configuration of a backup, to be written into a new directory.

    Args:
        text: of `keyrotation.toml`, with the certificates where `files` has them.
        files: the certificates that it names, by relative path.
        former_audit: the files in `FORMER_AUDIT`, by name.
    """

    text: str
    files: Mapping[str, bytes]
    former_audit: Mapping[str, bytes] = field(default_factory=dict)


def backed_up(files: Mapping[str, bytes]) -> BackedUpConfiguration:
    """Takes from a backup's files those that its configuration names, and the former audit, and nothing else.

    A certificate that was outside the configuration's directory is named at its new place, inside it.

    Raises:
        DamagedBackupError: there is no configuration among them, or it is not TOML.
    """
    try:
        text = files[FILE_NAME].decode()
        content = tomllib.loads(text)
    except (KeyError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise DamagedBackupError(
            f"the backup's configuration holds no {FILE_NAME} that can be read; name an older backup with --set"
        ) from None
    wanted = dict[str, bytes]()
    for named in dict.fromkeys(_certificates(content)):
        if (place := _place_of(named, files)) is not None:
            wanted[place] = files[place]
            text = text if place == named else _renamed(text, named, place)
    of_former = (Path(each) for each in files)
    former = {each.name: files[str(each)] for each in of_former if str(each.parent) == FORMER_AUDIT}
    return BackedUpConfiguration(_with_url(text), wanted, former)


def _certificates(content: Mapping[str, Any]) -> Iterator[str]:
    """Every certificate and SSH key that a configuration names."""
    for officer in _at(content, "approvals", "officers") or ():
        for key in ("certificate", "ssh_key"):
            if isinstance(officer, dict) and isinstance(named := officer.get(key), str):
                yield named
    for named in _at(content, "backup", "recipients") or ():
        if isinstance(named, str):
            yield named


def _place_of(named: str, files: Mapping[str, bytes]) -> str | None:
    """Returns under which name a backup has a certificate: the same, or another one with the same end."""
    tail = str(PurePosixPath(*(part for part in PurePosixPath(named).parts if part not in {"/", "..", "~"})))
    ends = (each for each in files if each.endswith(f"/{tail}") or tail.endswith(f"/{each}"))
    return tail if tail in files else min(ends, default=None, key=lambda each: abs(len(each) - len(tail)))


def _renamed(text: str, named: str, place: str) -> str:
    """Names another path in a configuration, if it is written plainly there; else leaves it unchanged."""
    return text.replace(f'"{named}"', json.dumps(place)).replace(f"'{named}'", json.dumps(place))


def _with_url(text: str) -> str:
    """Has a configuration take the database's URL from a variable, unless it says where the URL is.

    Else it would name the lost database, or the embedded one.
    """
    if isinstance(_at(before := tomllib.loads(text), "database", "url"), dict):
        return text
    setting = f'url = {{ env = "{DATABASE_VARIABLE}" }}'
    lines = text.splitlines()
    heading = next((number for number, line in enumerate(lines) if _HEADING.fullmatch(line)), None)
    if _DOTTED_URL.search(text):
        edited = _DOTTED_URL.sub(f"database.{setting}", text)
    elif heading is None:
        edited = f"{text}\n[database]\n{setting}\n"
    else:
        rest = lines[heading + 1 :]
        end = next((number for number, line in enumerate(rest) if line.lstrip().startswith("[")), len(rest))
        kept = [line for line in rest[:end] if not _URL.match(line)]
        edited = "\n".join([*lines[: heading + 1], setting, *kept, *rest[end:], ""])
    wanted = {**before, "database": {**before.get("database", {}), "url": {"env": DATABASE_VARIABLE}}}
    try:
        return edited if tomllib.loads(edited) == wanted else text
    except tomllib.TOMLDecodeError:
        return text


def over_database(text: str, path: Path, url: str) -> Settings:
    """Checks what a recovery needs of a configuration, over another database than the one that it names.

    Raises:
        ConfigurationError: see `load`.
    """
    content = tomllib.loads(text)
    needed = {name: content[name] for name in _NEEDED if name in content}
    try:
        file = File.model_validate(needed, context={"directory": path.parent})
    except ValidationError as error:
        raise ConfigurationError(message_for(error.errors(include_url=False), needed)) from None
    database = DatabaseSettings.model_construct(url=SecretStr(url), schema_name=_schema(content))
    sections = {name: getattr(file, name) for name in File.model_fields} | {"database": database}
    return Settings.model_construct(**sections, path=path, home=home_of(path))


_SEAL = re.compile(r"(?m)^\[keys\.seal\][^\n]*\n(?:(?!\[)[^\n]*(?:\n|\Z))*")


def without_seal(text: str) -> str:
    """Returns a configuration in which `[keys.seal]` is a comment.

    Raises:
        ConfigurationError: it is not a section of its own there.
    """
    edited = _SEAL.sub(lambda found: "".join(f"# {line}\n" for line in found[0].splitlines()), text)
    if "seal" in tomllib.loads(edited).get("keys", {}):
        raise ConfigurationError(f"[keys.seal] cannot be taken out of {FILE_NAME}; remove it by hand, then recover")
    return edited


def schema_named(text: str) -> str:
    """Returns the schema of the home that a configuration names.

    Raises:
        ConfigurationError: it cannot be one.
    """
    return _schema(tomllib.loads(text))


def _schema(content: Mapping[str, Any]) -> str:
    return home_schema(str(_at(content, "database", "schema") or DEFAULT))


def url_assignment(text: str, member: str = "") -> str:
    """Says where a configuration takes the URL of the database, or a member's, from, as the beginning of a sentence."""
    content = tomllib.loads(text)
    urls = {each.get("name"): each.get("url") for each in content.get("databases", ())}
    section = f"[[databases]] {member}" if member else "[database]"
    match urls.get(member) if member else _at(content, "database", "url"):
        case {"env": str(name)}:
            return f"export {name}="
        case {"file": str(name)}:
            return f"write into the file {name}: "
        case _:
            return f"write as {section} url in {FILE_NAME}: "


def to_provide(text: str, directory: Path) -> tuple[str, ...]:
    """Names every variable that a configuration names and that is not set here, and every file that is not here.

    Without the database's URL, see `url_assignment`, and the application's own keys, which the key store has again.
    """
    content = tomllib.loads(text)
    missing = dict[str, None]()
    provided = {"database": {**content.get("database", {}), "url": None}, "format": None}
    for setting, kind, name in secret_places({**content, **provided}):
        if kind == "env" and not os.environ.get(name):
            missing[f"set {name}, which {setting} names"] = None
        if kind == "file" and not absolute(Path(name), directory).exists():
            missing[f"put the file {name} there, which {setting} names"] = None
    for place in _OTHER_PATHS:
        found = _at(content, *place)
        for name in found if isinstance(found, list) else [found]:
            if isinstance(name, str) and not absolute(Path(name), directory).exists():
                missing[f"put {name} there, which {setting_at(place)} names"] = None
    for name in _certificates(content):
        if not absolute(Path(name), directory).exists():
            missing[f"put the certificate {name} there; the backup does not have it"] = None
    return tuple(missing)


def _at(content: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401  whatever TOML has there
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
