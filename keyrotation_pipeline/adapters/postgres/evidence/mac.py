"""The MAC of each value tells its key: SQL computes it under retired keys, and triggers refuse these.

The signing key of a key that still encrypts never comes into the database, so what is under one is decrypted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import required
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence, Fence
from keyrotation_pipeline.adapters.postgres.inventory import retired_signing_keys
from keyrotation_pipeline.adapters.postgres.retirement import mac_fence
from keyrotation_pipeline.errors import FenceError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.tables import OldRows, TableCount


@dataclass
class ByMac(Evidence):
    """Values that name no key and are signed with it."""

    refusal: ClassVar[Fence] = mac_fence

    def count(self) -> TableCount:
        """See `Evidence.count`."""
        if self.keys is not None:
            retired_signing_keys.withdraw_wrong(self.connection, self.table.format, self.keys.ring())
        return super().count()

    def publish(self, ring: KeyRing, target: KeyVersion) -> None:
        """See `Evidence.publish`: the signing key of every key but the target."""
        retired_signing_keys.publish(self.connection, self.table.format, ring, target)

    def old_rows(self, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """See `Evidence.old_rows`."""
        if retired_signing_keys.missing(self.connection, versions):
            # A version that may still encrypt, before its promotion or before the rows are re-encrypted.
            return required(self.keys, self.table).old_rows(self.table, versions, promotion_xid)
        return super().old_rows(versions, promotion_xid)

    def search(self, versions: Sequence[KeyVersion], report: Report) -> tuple[int, int | None]:
        """See `Evidence.search`; a database that was restored since its proof may have no signing keys.

        Raises:
            FenceError: also if one is not there, by which the table refuses a key.
        """
        if absent := retired_signing_keys.missing(self.connection, versions):
            raise FenceError(
                f"table {self.table.name}: its database has no signing key of {', '.join(map(str, absent))} any more, "
                "by which it would refuse that; find out who removed it, or whether the database was restored"
            )
        return super().search(versions, report)

    def fence(self, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `Evidence.fence`."""
        if self.keys is not None:
            # A fence that was lifted took the signing key with it, and a restored database may have none.
            missing = retired_signing_keys.missing(self.connection, versions)
            retired_signing_keys.store(self.connection, self.table.format, self.keys.ring(), missing)
        return super().fence(versions, wait=wait)

    def refused_by(self) -> str:
        """See `Evidence.refused_by`: without the signing keys the triggers are as they were, and refuse nothing."""
        return retired_signing_keys.identity(self.connection)
