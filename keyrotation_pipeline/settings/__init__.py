"""Parses `keyrotation.toml` once into frozen values; with `encrypted_type`, the only place that reads the environment.

Every wrong setting is one `ConfigurationError` whose sentence names the setting and, for a misspelt one, the nearest
known setting. Relative paths are relative to the file.
"""

from keyrotation_pipeline.settings.file import DEMO_MARKER, FILE_NAME, Settings
from keyrotation_pipeline.settings.loading import (
    DATABASE_VARIABLE,
    config_path,
    database_variable,
    home_of,
    load,
    parse,
    process_environment,
    started_by_uv,
)
from keyrotation_pipeline.settings.sections import MemberSettings

__all__ = [
    "DATABASE_VARIABLE",
    "DEMO_MARKER",
    "FILE_NAME",
    "MemberSettings",
    "Settings",
    "config_path",
    "database_variable",
    "home_of",
    "load",
    "parse",
    "process_environment",
    "started_by_uv",
]
