"""What happened in which order, and the values that fakes and tests share."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import GENESIS, AuditHead
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.keys import StoreOwner
from keyrotation_pipeline.model.tables import EncryptedTable, TableName

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)


# Whose the key store is in a fake world; every audit has this head.
OWNER = StoreOwner("0e" * 16, ("clinic, system identifier 7",), "5a" * 32, AuditHead(0, GENESIS))
SERVER = DatabaseServer("10.0.0.5:5432", 1)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))


class ProcessKilled(BaseException):
    """What a fake raises where a test lets the process die: no `except Exception` catches it, as none stops SIGKILL."""


@dataclass
class Journal:
    """Every change that any fake made, in order; dies before change number `die_at` (counted from 0)."""

    entries: list[str] = field(default_factory=list)
    die_at: int | None = None

    def note(self, entry: str) -> None:
        if self.die_at is not None and len(self.entries) >= self.die_at:
            raise ProcessKilled(entry)
        self.entries.append(entry)
