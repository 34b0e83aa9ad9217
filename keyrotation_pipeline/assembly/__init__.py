"""From settings to opened ports: the one place that knows which adapter stands behind which port.

A name is imported when it is used: most commands need few of these, and all together take a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.hardening import harden_process
    from keyrotation_pipeline.adapters.secret_homes import wipe_abandoned_keys
    from keyrotation_pipeline.assembly.alerts import access_audit, accesses, alert_channels, flag_sources
    from keyrotation_pipeline.assembly.backups import open_backups, side_databases
    from keyrotation_pipeline.assembly.completing import offered_incidents, offered_requests
    from keyrotation_pipeline.assembly.finding import search_database
    from keyrotation_pipeline.assembly.home import (
        create_home,
        database_url,
        heartbeat_store,
        installed_at,
        require_home,
        server_url,
        system_time,
        ui_address,
        wait,
    )
    from keyrotation_pipeline.assembly.keystores import create_key_store, keys_in_store
    from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
    from keyrotation_pipeline.assembly.services import UiAccess, dagster_services, random_token

_PLACES = {
    "adapters.hardening": ("harden_process",),
    "adapters.secret_homes": ("wipe_abandoned_keys",),
    "assembly.alerts": ("access_audit", "accesses", "alert_channels", "flag_sources"),
    "assembly.backups": ("open_backups", "side_databases"),
    "assembly.completing": ("offered_incidents", "offered_requests"),
    "assembly.finding": ("search_database",),
    "assembly.home": (
        "create_home",
        "database_url",
        "installed_at",
        "heartbeat_store",
        "require_home",
        "server_url",
        "system_time",
        "ui_address",
        "wait",
    ),
    "assembly.keystores": ("create_key_store", "keys_in_store"),
    "assembly.pipeline": ("initialise", "open_pipeline"),
    "assembly.services": ("UiAccess", "dagster_services", "random_token"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "UiAccess",
    "access_audit",
    "accesses",
    "alert_channels",
    "create_home",
    "create_key_store",
    "dagster_services",
    "database_url",
    "flag_sources",
    "harden_process",
    "heartbeat_store",
    "initialise",
    "installed_at",
    "keys_in_store",
    "offered_incidents",
    "offered_requests",
    "open_backups",
    "open_pipeline",
    "random_token",
    "require_home",
    "search_database",
    "server_url",
    "side_databases",
    "system_time",
    "ui_address",
    "wait",
    "wipe_abandoned_keys",
]


def __getattr__(name: str) -> object:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"keyrotation_pipeline.{_PLACE_OF[name]}"), name)
