"""Find the configuration file, read it, check it."""

import os
import tomllib
from pathlib import Path

from pydantic import ValidationError

from keyrotation_pipeline.errors import ConfigurationError, HomeError
from keyrotation_pipeline.settings.sections import FILE_NAME, File, Settings
from keyrotation_pipeline.settings.sentences import sentence_for

HOME_NAME = ".keyrotation"
DATABASE_VARIABLE = "KEYROTATION_DATABASE_URL"
MINIMUM_APPROVALS = 2


def config_path(option: Path | None = None) -> Path:
    """Which file is meant: `--config`, else `KEYROTATION_CONFIG`, else the one in the current directory."""
    return Path(os.path.abspath(option or os.environ.get("KEYROTATION_CONFIG") or FILE_NAME))  # noqa: PTH100  keeps symlinks


def home_of(path: Path) -> Path:
    """The home that belongs to a configuration file."""
    named = os.environ.get("KEYROTATION_HOME")
    return Path(os.path.abspath(named)) if named else path.parent / HOME_NAME  # noqa: PTH100


def process_environment() -> dict[str, str]:
    """A copy of the process environment, for `init` alone: it imports keys from there."""
    return dict(os.environ)


def database_variable() -> str | None:
    """The database URL in `KEYROTATION_DATABASE_URL`, which `init` uses before there is a file."""
    return os.environ.get(DATABASE_VARIABLE) or None


def load(option: Path | None = None) -> Settings:
    """Read and check the configuration.

    Raises:
        HomeError: there is no file, and none was asked for by name.
        ConfigurationError: anything in it is wrong; one sentence that names the setting.
    """
    path = config_path(option)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if option or os.environ.get("KEYROTATION_CONFIG"):
            raise ConfigurationError(f"{path} is not there; correct --config or KEYROTATION_CONFIG") from None
        raise HomeError(
            f"there is no {FILE_NAME} in {path.parent}; run `keyrotation init` or `keyrotation demo`"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path} cannot be read as UTF-8 text; correct its rights or its content") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Settings:
    """Check the text of a configuration file that stands, or will stand, at `path`.

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
        raise ConfigurationError(sentence_for(error.errors(include_url=False), content)) from None
    settings = Settings.model_construct(
        **{name: getattr(file, name) for name in File.model_fields}, path=path, home=home_of(path)
    )
    if settings.approvals.required < MINIMUM_APPROVALS and not settings.is_demo:
        raise ConfigurationError(
            "[approvals] required is 1, but no one person may rotate keys alone; write required = 2 or more"
        )
    return settings
