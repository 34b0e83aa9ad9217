"""Check of the settings that would write ciphertext, as parameters of our statements, into the server's log."""

from collections.abc import Iterator, Mapping

from keyrotation_pipeline.adapters.postgres.preflight.subject import warning
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.quoting import quoted
from keyrotation_pipeline.model.tables import Problem

# Settings that our role may not see are missing from the view.
_SETTINGS = """
SELECT name, setting FROM pg_settings
WHERE name LIKE 'log\\_%' OR name LIKE 'auto\\_explain.%' OR name LIKE 'pgaudit.%'
"""


def no_ciphertext_is_logged(connection: Connection) -> Iterator[Problem]:
    """No setting logs the parameters of statements."""
    settings = {str(name): str(value) for name, value in connection.execute(_SETTINGS)}
    if revealing := revealing_settings(settings):
        role = quoted(connection, connection.info.user)
        yield warning(
            f"the server's log would show ciphertext because of {', '.join(revealing)}; ALTER ROLE "
            f"{role} SET log_parameter_max_length = 0 (or the extension's own setting), or turn these off"
        )


def revealing_settings(settings: Mapping[str, str]) -> tuple[str, ...]:
    """The settings, as ``name = value``, that log statements with their parameters."""
    names: list[str] = []
    if settings.get("log_parameter_max_length", "-1") != "0":
        names += [name for name in ("log_statement",) if settings.get(name) in {"mod", "all"}]
        names += [
            name
            for name in ("log_min_duration_statement", "log_min_duration_sample")
            if settings.get(name, "-1") != "-1"
        ]
        names += [name for name in ("log_transaction_sample_rate",) if float(settings.get(name, "0")) > 0]
        names += [name for name in ("log_duration",) if settings.get(name) == "on" and "log_statement" in names]
    names += [name for name in ("log_parameter_max_length_on_error",) if settings.get(name, "0") != "0"]
    if settings.get("auto_explain.log_parameter_max_length", "-1") != "0":
        names += [name for name in ("auto_explain.log_min_duration",) if settings.get(name, "-1") != "-1"]
    names += [name for name in ("pgaudit.log_parameter",) if settings.get(name) == "on"]
    return tuple(f"{name} = {settings[name]}" for name in names)
