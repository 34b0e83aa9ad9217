"""From settings to opened ports: the one place that knows which adapter stands behind which port."""

from keyrotation_pipeline.adapters.hardening import harden_process
from keyrotation_pipeline.assembly.alerts import access_audit, alert_channels, flag_sources
from keyrotation_pipeline.assembly.finding import search_database
from keyrotation_pipeline.assembly.home import (
    create_home,
    database_url,
    installed_at,
    kept_ticks,
    require_home,
    server_url,
    system_time,
)
from keyrotation_pipeline.assembly.keystores import convert_key_store, create_key_store, keys_in_store
from keyrotation_pipeline.assembly.pipeline import initialise, open_backups, open_pipeline, side_databases
from keyrotation_pipeline.assembly.services import Door, dagster_services, random_token

__all__ = [
    "Door",
    "access_audit",
    "alert_channels",
    "convert_key_store",
    "create_home",
    "create_key_store",
    "dagster_services",
    "database_url",
    "flag_sources",
    "harden_process",
    "initialise",
    "installed_at",
    "kept_ticks",
    "keys_in_store",
    "open_backups",
    "open_pipeline",
    "random_token",
    "require_home",
    "search_database",
    "server_url",
    "side_databases",
    "system_time",
]
