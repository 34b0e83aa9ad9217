"""Opens rehearsal stages from settings: a pipeline over a restored database, with throw-away keys and officers."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import SecretStr

from keyrotation_pipeline.adapters.openpgp.keyring import ThrowAwayOfficers
from keyrotation_pipeline.adapters.own_schema import schema_of
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.secret_homes import has_memory, secret_home
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.errors import HomeError, RehearsalError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.ports.rehearsals import RehearsalStage
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.backups import BackupSettings, RecoverySettings
from keyrotation_pipeline.settings.key_stores import KeysSettings
from keyrotation_pipeline.settings.sections import (
    ApprovalsSettings,
    AuditSettings,
    DatabaseSettings,
    OfficerSettings,
    RolloutSettings,
)

ACTOR = "rehearsal"


@dataclass(frozen=True, slots=True)
class RestoredStages:
    """`Stages` that follow a configuration in everything that affects duration: tables, shards, workers, throttles."""

    settings: Settings

    @contextmanager
    def opened(self, url: str, ring: KeyRing) -> Iterator[RehearsalStage]:
        """See `Stages.opened`."""
        if not has_memory():
            raise HomeError(
                "a rehearsal holds keys in memory and never on a disk, and this machine has no /dev/shm that can be "
                "written to; rehearse on one that has"
            )
        with secret_home() as memory:
            home = memory / "pipeline"
            home.mkdir(mode=0o700)
            officers = ThrowAwayOfficers(memory, home)
            declared = _for_rehearsal(self.settings, url, home, officers)
            _forget(url)
            initialise(declared, ring, actor=ACTOR)
            with open_pipeline(declared, actor=ACTOR) as pipeline:
                yield RehearsalStage(pipeline, officers.sign)

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """See `Stages.plainly`."""
        try:
            yield
        except psycopg.Error as error:
            # Only names from the catalog: the message could quote a row.
            where = ", ".join(filter(None, (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)))
            raise RehearsalError(
                f"the database refuses with {type(error).__name__} (SQLSTATE {error.sqlstate or 'none'}"
                f"{f': {where}' if where else ''}); fix that before the rotation"
            ) from None


def _for_rehearsal(settings: Settings, url: str, home: Path, officers: ThrowAwayOfficers) -> Settings:
    """Returns the configuration with nothing in it that reaches anything real, and without hours to wait for."""
    roster = tuple(OfficerSettings(name=name, certificate=file) for name, file in officers.certificates)
    return settings.model_copy(
        update={
            "home": home,
            "database": DatabaseSettings.model_construct(url=SecretStr(url), schema_name=settings.database.schema_name),
            "keys": KeysSettings(),
            "approvals": ApprovalsSettings(required=len(roster), officers=roster),
            "rollout": RolloutSettings(mode=RolloutMode.NONE),
            "backup": BackupSettings(),
            "recovery": RecoverySettings(),
            "audit": AuditSettings(),
            "reencryption": settings.reencryption.model_copy(update={"hours": None}),
        }
    )


def _forget(url: str) -> None:
    """Drops what the restored database holds of requests: they were signed for another database, by other officers.

    Updates statistics and visibility, as in a database that has been in use for a while.
    """
    with closing(connect(url)) as connection:
        schema = sql.Identifier(schema_of(connection))
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))
        connection.execute("VACUUM (ANALYZE)")
