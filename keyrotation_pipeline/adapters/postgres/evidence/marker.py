"""A marker in each value names its key: SQL counts by it, and a CHECK refuses it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence, Fence
from keyrotation_pipeline.adapters.postgres.inventory import counts, key_markers
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.backups import TableContent
from keyrotation_pipeline.model.tables import OldRows, TableCount


@dataclass
class ByMarker(Evidence):
    """Values that name their key by a marker, of our format or of another library."""

    refusal: ClassVar[Fence] = fence

    def count(self) -> TableCount:
        """See `Evidence.count`: in SQL, unless a value names no key that is known here."""
        self._publish_missing()
        counted = counts.count_by_names(self.connection, self.table)
        if counted is None and self.keys is not None:  # a key was replaced, or a value names none
            key_markers.publish(self.connection, self.table.format, self.keys.ring())
            counted = counts.count_by_names(self.connection, self.table)
        return super().count() if counted is None else replace(counted, fenced_against=self.fences())

    def rows_seen(self, version: KeyVersion, seconds: float) -> int | None:
        """See `Evidence.rows_seen`."""
        self._publish_missing()
        rows = counts.rows_seen(self.connection, self.table, version, seconds)
        # A value that names no key counts as seen, until it is decrypted.
        if not rows or self.keys is None or self.table.format.names_versions:
            return rows
        return super().rows_seen(version, seconds)

    def content(self, ring: Callable[[], KeyRing] | None) -> TableContent:
        """See `Evidence.content`."""
        count = counts.count_by_names(self.connection, self.table)
        if count is None:
            return super().content(ring)
        return TableContent(
            self.table,
            count.rows,
            {column: dict(count.by_column[column]) for column in self.table.columns},
            {p.name: count.unencrypted_by_column.get(p.name, 0) for p in self.table.places if p.source_key},
        )

    def publish(self, ring: KeyRing, target: KeyVersion) -> None:  # noqa: ARG002
        """See `Evidence.publish`: the marker of every key, unless values name our versions themselves."""
        key_markers.publish(self.connection, self.table.format, ring)

    def markers(self) -> Mapping[KeyVersion, str]:
        """See `Evidence.markers`."""
        if not self.table.format.spec.markers:
            return {}
        self._publish_missing()
        return key_markers.stored(self.connection)

    def old_rows(self, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """See `Evidence.old_rows`."""
        self._publish_missing()
        return super().old_rows(versions, promotion_xid)

    def fence(self, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `Evidence.fence`."""
        if self.keys is not None and self.table.format.spec.markers:
            key_markers.publish(self.connection, self.table.format, self.keys.ring())
        return super().fence(versions, wait=wait)

    def _publish_missing(self) -> None:
        if self.keys is not None and key_markers.missing(self.connection, self.table.format):
            key_markers.publish(self.connection, self.table.format, self.keys.ring())
