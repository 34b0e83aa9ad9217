"""Everything that a backup, a recovery test or a destruction gets, opened."""

from dataclasses import dataclass

from keyrotation_pipeline.assurance.seals import Seals
from keyrotation_pipeline.ports.backup_places import BackupPlace, LocalPlace
from keyrotation_pipeline.ports.backups import ConfigurationFiles, DatabaseDumps, DumpRestorer, KeyFiles
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Objectives:
    """How long a recovery may take, and how old the newest backup may be, both in seconds."""

    rto_seconds: int
    rpo_seconds: int


@dataclass(frozen=True, slots=True)
class BackupSite:
    """The rotation's ports, and where its backups are.

    Args:
        local: the directory in which sets are made.
        key_files: makes files of keys in it; `dumps` those of the database, `configurations` those of the rest.
        seals: signs manifests, and tells ours from others.
        offsite: further places, each of which gets a copy.
        recipients: how many can decrypt what is made.
        keep_local_days: local files older than this go when a newer one is verified.
    """

    pipeline: Pipeline
    local: LocalPlace
    key_files: KeyFiles
    seals: Seals
    offsite: tuple[BackupPlace, ...]
    dumps: DatabaseDumps
    configurations: ConfigurationFiles
    restorer: DumpRestorer
    recipients: int
    keep_local_days: int
    objectives: Objectives

    @property
    def places(self) -> tuple[BackupPlace, ...]:
        """Every place, in the order in which a disaster would turn to them."""
        return (*self.offsite, self.local)
