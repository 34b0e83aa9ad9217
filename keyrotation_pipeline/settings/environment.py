"""What child processes get of the environment: everything but keys."""

import os

KEY_VARIABLES = "ENCRYPTION_MASTER_KEY"
DAGSTER_STORAGE_VARIABLE = "DAGSTER_PG_URL"


def child_environment(**variables: str) -> dict[str, str]:
    """Our environment without any `ENCRYPTION_MASTER_KEY*`, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(KEY_VARIABLES)}
    return {**kept, **variables}


def dagster_storage_url() -> str | None:
    """SQLAlchemy URL of Dagster's own storage, where it is not to be the embedded server."""
    return os.environ.get(DAGSTER_STORAGE_VARIABLE) or None
