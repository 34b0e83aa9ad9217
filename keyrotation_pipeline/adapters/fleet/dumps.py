"""Dumps the members of a fleet, whose errors name the one that they come from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from keyrotation_pipeline.adapters.fleet.members import naming
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import DumpSource, DumpUnderWay


@dataclass(frozen=True)
class MemberDump:
    """`DumpSource` of one member."""

    name: str
    source: DumpSource

    @contextmanager
    def dumping(self, tables: Sequence[EncryptedTable]) -> Iterator[DumpUnderWay]:
        """See `DumpSource.dumping`."""
        with naming_in_backup(self.name), self.source.dumping(tables) as under_way:
            yield under_way


@contextmanager
def naming_in_backup(name: str) -> Iterator[None]:
    """Has errors inside name a member; a server that goes away is one."""
    try:
        with naming(name):
            yield
    except psycopg.Error as error:
        raise BackupError(
            f"database {name}: it stopped answering ({type(error).__name__}); when it is back, run `keyrotation backup`"
        ) from None
