"""Reads what `keyrotation exec` needs of a configuration, on an application's host: `[format]` alone."""

import tomllib
from pathlib import Path

from pydantic import ValidationError

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.settings.loading import config_path, message_for
from keyrotation_pipeline.settings.value_formats import FormatSettings
from keyrotation_pipeline.settings.values import Section


class _ApplicationFile(Section):
    format: FormatSettings = FormatSettings()


def load_format(option: Path | None = None) -> FormatSettings:
    """Reads `[format]`; the other sections may be missing, and name what is not on this host.

    Raises:
        ConfigurationError: there is no such file, or the section is wrong.
    """
    path = config_path(option)
    try:
        content = tomllib.loads(read_text(path))
        needed = {name: content[name] for name in ("format",) if name in content}
        return _ApplicationFile.model_validate(needed, context={"directory": path.parent}).format
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        failure = f"{path} cannot be read as TOML; copy [format] of the pipeline's keyrotation.toml there"
    except ValidationError as error:
        failure = message_for(error.errors(include_url=False), needed)
    raise ConfigurationError(failure)
