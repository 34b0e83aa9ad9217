"""Dagster's storage: dagster-postgres on the server that DAGSTER_PG_URL names.

By itself dagster-postgres wants that variable, and a server that answers, merely to load `dagster.yaml`: even
`dg check defs` in a fresh clone would fail. Without the variable nothing is kept: what there is ends with the process.
"""

import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage

from keyrotation_pipeline.settings.environment import dagster_storage_url


class InstanceStorage(DagsterPostgresStorage):
    """`storage.custom` of `dagster.yaml`; takes no configuration, so that no URL stands in a file or a process list."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No configuration."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Any:  # noqa: ANN401, ARG003
        """The storage that the environment names, else one that is forgotten; Dagster takes any."""
        if (url := dagster_storage_url()) is not None:
            return cls(url, inst_data=inst_data)
        return DagsterSqliteStorage(_forgotten().name, inst_data)


@cache
def _forgotten() -> tempfile.TemporaryDirectory[str]:
    """A directory that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="keyrotation-dagster-", ignore_cleanup_errors=True)
