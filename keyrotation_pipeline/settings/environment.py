"""What child processes get of the environment: no keys, and secrets only where they are used."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from keyrotation_pipeline.settings.loading import DATABASE_VARIABLE

KEY_VARIABLES = "ENCRYPTION_"
AWS_VARIABLES = "AWS_"
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
DAGSTER_STORAGE_VARIABLE = "DAGSTER_PG_URL"


def child_environment(**variables: str) -> dict[str, str]:
    """Our environment without any `ENCRYPTION_*`, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(KEY_VARIABLES)}
    return {**kept, **variables}


def bare_environment(
    path: Path | None, variables: Mapping[str, str] = NO_VARIABLES, *, aws: bool = False
) -> dict[str, str]:
    """The same without the secrets that a configuration names, for children that look none of them up.

    Args:
        path: of the configuration; None: there is none.
        aws: leave the credentials of AWS.
    """
    secret = {DATABASE_VARIABLE, *(_secret_variables(path) if path else ())}
    gone = () if aws else (AWS_VARIABLES,)
    kept = {name: value for name, value in child_environment().items() if not name.startswith(gone)}
    return {**{name: value for name, value in kept.items() if name not in secret}, **variables}


def _secret_variables(path: Path) -> Iterator[str]:
    """Each NAME that stands as ``{ env = "NAME" }`` in a configuration; `init` has not written it yet."""
    if path.exists():
        yield from _named(tomllib.loads(path.read_text(encoding="utf-8")))


def _named(value: object) -> Iterator[str]:
    match value:
        case {"env": str(name)}:
            yield name
        case dict():
            for each in value.values():
                yield from _named(each)
        case list():
            for each in value:
                yield from _named(each)


def dagster_storage_url() -> str | None:
    """SQLAlchemy URL of Dagster's own storage, where it is not to be the embedded server."""
    return os.environ.get(DAGSTER_STORAGE_VARIABLE) or None
