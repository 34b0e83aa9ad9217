"""Finds, reads and checks the configuration file; a wrong setting becomes one plain sentence."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from keyrotation_pipeline.errors import ConfigurationError, HomeError
from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.settings.file import FILE_NAME, File, Settings
from keyrotation_pipeline.settings.hosts import secrets_in
from keyrotation_pipeline.settings.secrets import (
    AWS_VARIABLES,
    VAULT_VARIABLES,
    backed_up_fingerprints,
    require_no_key_files,
    require_no_keys,
    require_own_places,
)
from keyrotation_pipeline.settings.values import secret_places


def message_for(errors: Sequence[ErrorDetails], content: Mapping[str, Any]) -> str:
    """Writes one plain sentence for the first error; a misspelt name comes first, since it often causes the others."""
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    *parents, last = first["loc"]
    if isinstance(last, int):  # an item of a list is named by the list
        *parents, last = parents
    place = _place(parents, content)
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(last), _known(parents), n=1, cutoff=0)[0]
        return f"{place} has no setting {str(last)!r}; did you mean {nearest!r}?"
    if first["type"] == "missing":
        return f"{place} lacks {str(last)!r}; add it"
    message = first["msg"].replace("a valid tuple", "a list").replace("Tuple should", "the list should")
    message = message.removesuffix(" after validation, not 0")
    return f"{place} {last}: {message[:1].lower()}{message[1:]}; correct it"


def _place(parents: Sequence[int | str], content: Mapping[str, Any]) -> str:
    """Returns the TOML heading of a location: ``[keys.file]``, ``[[tables]] clients``; for the top level the file."""
    names = ".".join(str(part) for part in parents if isinstance(part, str))
    index = next((part for part in parents if isinstance(part, int)), None)
    if not names:
        return FILE_NAME
    if index is None:
        return f"[{names}]"
    entry: Any = content
    for part in parents:
        entry = entry[part]
    label = entry.get("name") if isinstance(entry, Mapping) else None
    return f"[[{names}]] {label or f'number {index + 1}'}"


def _known(parents: Sequence[int | str]) -> list[str]:
    """Lists the settings that a location knows."""
    model: type[BaseModel] = File
    for part in parents:
        if isinstance(part, str):
            field = next(f for name, f in model.model_fields.items() if part in {name, f.alias})
            model = _section_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


HOME_NAME = ".keyrotation"
DATABASE_VARIABLE = "KEYROTATION_DATABASE_URL"
MINIMUM_APPROVALS = 2


def config_path(option: Path | None = None) -> Path:
    """Returns the configuration's path: `--config`, else `KEYROTATION_CONFIG`, else the current directory's file."""
    return Path(os.path.abspath(option or os.environ.get("KEYROTATION_CONFIG") or FILE_NAME))  # noqa: PTH100  keeps symlinks


def home_of(path: Path) -> Path:
    """Returns the home that belongs to a configuration file."""
    named = os.environ.get("KEYROTATION_HOME")
    return Path(os.path.abspath(named)) if named else path.parent / HOME_NAME  # noqa: PTH100


def process_environment() -> dict[str, str]:
    """Returns a copy of the process environment, for `init` and `probe` alone: they read keys from there."""
    return dict(os.environ)


def postgres_options() -> str:
    """Returns ``PGOPTIONS``, which libpq takes where a connection string has no options."""
    return os.environ.get("PGOPTIONS", "")


def started_by_uv() -> bool:
    """Returns whether `uv run` started this process, whose PATH is then not that of the user's shell."""
    return "UV_RUN_RECURSION_DEPTH" in os.environ


def database_variable() -> str | None:
    """Returns the database URL in `KEYROTATION_DATABASE_URL`, which `init` uses before there is a file."""
    return os.environ.get(DATABASE_VARIABLE) or None


def load(option: Path | None = None) -> Settings:
    """Reads and checks the configuration.

    Raises:
        HomeError: there is no file, and none was named explicitly.
        ConfigurationError: anything in it is wrong; one sentence that names the setting.
    """
    path = config_path(option)
    try:
        text = read_text(path)
    except FileNotFoundError:
        if option or os.environ.get("KEYROTATION_CONFIG"):
            raise ConfigurationError(f"{path} is not there; correct --config or KEYROTATION_CONFIG") from None
        raise HomeError(
            f"there is no {FILE_NAME} in {path.parent}; run `keyrotation init` or `keyrotation demo`"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            f"{path} cannot be read as a regular file of UTF-8 text; correct its rights or its content"
        ) from None
    return parse(text, path)


def parse(text: str, path: Path) -> Settings:
    """Checks the text of a configuration file that is, or will be, at `path`.

    Raises:
        ConfigurationError: see `load`.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{path.name} is not valid TOML: {str(error)[:1].lower()}{str(error)[1:]}; correct it"
        ) from None
    context = {"directory": path.parent}
    try:
        file = File.model_validate(content, context=context)
    except ValidationError as error:
        raise ConfigurationError(message_for(error.errors(include_url=False), content)) from None
    settings = Settings.model_construct(
        **{name: getattr(file, name) for name in File.model_fields},
        path=path,
        home=home_of(path),
        secrets=secrets_in(content, path),
    )
    if settings.approvals.required < MINIMUM_APPROVALS and not settings.is_demo:
        raise ConfigurationError(
            "[approvals] required is 1, but no one person may rotate keys alone; write required = 2 or more"
        )
    require_no_key_files(settings, content)
    require_own_places(settings, content)
    require_no_keys(settings, backed_up_fingerprints(settings))
    return settings


KEY_VARIABLES = "ENCRYPTION_"
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# Set by `keyrotation up` for the code that it serves.
CONSOLE_VARIABLE = "KEYROTATION_CONSOLE"
DAGSTER_STORAGE_VARIABLE = "DAGSTER_PG_URL"


def child_environment(key_variable: str | None = None, **variables: str) -> dict[str, str]:
    """Returns our environment without any `ENCRYPTION_*` and without `key_variable`, plus `variables`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(KEY_VARIABLES) and name != key_variable
    }
    return {**kept, **variables}


def bare_environment(
    path: Path | None, variables: Mapping[str, str] = NO_VARIABLES, *, aws: bool = False, vault: bool = False
) -> dict[str, str]:
    """Returns the same without the secrets that a configuration names, for children that need none of them.

    Args:
        path: of the configuration; None: there is none.
        aws: keep the AWS credentials.
        vault: keep the token of Vault.
    """
    secret = {DATABASE_VARIABLE, *(_secret_variables(path) if path else ())}
    gone = (*(() if aws else (AWS_VARIABLES,)), *(() if vault else VAULT_VARIABLES))
    kept = {name: value for name, value in child_environment().items() if not name.startswith(gone)}
    return {**{name: value for name, value in kept.items() if name not in secret}, **variables}


def _secret_variables(path: Path) -> Iterator[str]:
    """Yields each NAME that occurs as ``{ env = "NAME" }`` in a configuration; `init` has not written it yet."""
    if path.exists():
        named = secret_places(tomllib.loads(read_text(path)))
        yield from (name for _, kind, name in named if kind == "env")


def dagster_storage_url() -> str | None:
    """Returns the SQLAlchemy URL of Dagster's own storage, if it is not the embedded server."""
    return os.environ.get(DAGSTER_STORAGE_VARIABLE) or None


def console_path() -> str | None:
    """Returns where the server of these Dagster pages serves the console; None: it does not, as in other projects."""
    return os.environ.get(CONSOLE_VARIABLE) or None
