"""Only decrypting tells the key of a value: everything opens with the new key alone, and the old login is refused.

Outside of the retiring transaction every value is decrypted with the new key alone, and then again and again what was
written meanwhile, until that is little. Inside, while nobody can write, what was written since is decrypted once more.
Relations that are too large to be read inside are not locked, and only their new pages are read there.
A row counts as written since by its `xmin`: not below the oldest transaction that was in progress when the reading
before began, since what that did not see was written by such a transaction or a later one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, cast

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import check_rows, required
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence, Fence, ReadAgain
from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.inventory.counts import unindexed_rows, written_since
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, from_page
from keyrotation_pipeline.adapters.postgres.retirement import login_fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, DefinitionChangedError, FenceError, ProofError
from keyrotation_pipeline.fieldcrypto.codecs.format import column_reencryptors, format_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows

# Decrypted within a tenth of a second. The application's writers wait for that, for reading through the relations that
# are locked, and then until the key store has answered.
MOST_VALUES_LEFT = 5000
_READINGS = 8
_OLDEST = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


@dataclass
class ByDecrypting(Evidence):
    """Values that name no key and show none: a count of them is by decrypting, and rests on who may write."""

    refusal: ClassVar[Fence] = login_fence
    _alone: KeyRing = field(init=False)
    _since: int = field(init=False)

    def old_rows(self, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """See `Evidence.old_rows`."""
        keys = required(self.keys, self.table)
        found = keys.old_rows(self.table, versions, promotion_xid)
        if not self.table.indexes:
            return found
        return replace(found, unindexed=unindexed_rows(self.connection, self.table, keys.ring().primary))

    def search(self, versions: Sequence[KeyVersion], report: Report) -> tuple[int, int | None]:
        """See `Evidence.search`: decrypts all with the new key alone, then what was written meanwhile.

        Raises:
            BlockedError: also if more is written than can be decrypted.
        """
        given, alone = required(self.keys, self.table), self._new_key_alone(versions)
        since = oldest_in_progress(self.connection)
        decrypted = decrypt_all(given.connect, self.table, alone, report, given.limits)
        if decrypted.failures:
            self._refuse(versions, decrypted.failures)
        if decrypted.wrongly_indexed:
            raise ProofError(f"{decrypted.wrong_indexes}, then run this step again")
        if unindexed := unindexed_rows(self.connection, self.table, alone.primary):
            raise FenceError(
                f"table {self.table.name}: {counted(unindexed, 'row')} with a value that has no search index "
                "under its key, so searches would miss it; find what writes without one"
            )
        for _ in range(_READINGS):
            before, since = since, oldest_in_progress(self.connection)
            if self._require_written_since(alone, before) <= MOST_VALUES_LEFT:
                return decrypted.values, since
        raise BlockedError(
            f"table {self.table.name} is written faster than what is written can be decrypted; run this step again at "
            "a quieter time"
        )

    def prepare(self, versions: Sequence[KeyVersion]) -> None:
        """See `Evidence.prepare`."""
        self._alone = self._new_key_alone(versions)

    def require_zero(self, versions: Sequence[KeyVersion], again: ReadAgain) -> int:  # noqa: ARG002
        """See `Evidence.require_zero`: decrypts what was written since the search."""
        name = str(self.table.name)
        self._since = oldest_in_progress(self.connection)
        before = again.searched.since.get(name) if again.searched else None
        counted = self._require_written_since(self._alone, before, again.first, again.changed)
        return again.searched.values[name] if again.searched else counted

    def lock_out(self, again: ReadAgain) -> bool:
        """See `Evidence.lock_out`: then decrypts what was written since `require_zero`."""
        tree = relations.tree(self.connection, self.table)
        lock_writers_out(self.connection, self.table, [each for each in tree if each.oid not in again.first])
        self._require_written_since(self._alone, self._since, again.first)
        return True

    def refused_by(self) -> str:
        """See `Evidence.refused_by`: who can write, also by rights of a role that belong to no relation."""
        who = login_fence.writers(self.connection, self.table, relations.tree(self.connection, self.table))
        return f"writers {', '.join(sorted(who.others | who.administrators))}"

    def remade(self, place: str) -> FenceError:
        """See `Evidence.remade`."""
        # Rights are in the same catalog rows as the rest of the definition, such as another home's constraint.
        return DefinitionChangedError(
            f"{place} or the rights on it were changed after the proof, so the old login may have written "
            "meanwhile; find out who changed them"
        )

    def _new_key_alone(self, retired: Sequence[KeyVersion]) -> KeyRing:
        """Returns a ring of nothing but the primary."""
        ring = required(self.keys, self.table).ring()
        if ring.primary in retired:
            raise ProofError(
                f"the key store names {ring.primary} as primary, which is to be retired; run this step again"
            )
        return KeyRing({ring.primary: ring.material(ring.primary)}, ring.primary)

    def _require_written_since(
        self,
        alone: KeyRing,
        since: int | None,
        first_pages: Mapping[int, int] = MappingProxyType({}),
        whole: AbstractSet[int] = frozenset(),
    ) -> int:
        """Decrypts what was written since; returns how many values that was.

        Args:
            since: a full transaction id; None: all rows.
            first_pages: by oid, the page at which reading a relation begins; nothing before it is read.
            whole: the oids of relations of which every row is read.

        Raises:
            FenceError, ProofError: a value does not open with this key alone; counts them.
        """
        values, failed, table = 0, Counter[tuple[str, Defect]](), self.table
        columns = column_reencryptors(format_of(table.format), alone, alone.primary, table.labels)
        for relation in countable(self.connection, table):
            first = first_pages.get(relation.oid)
            if first is not None:
                where = from_page(first)
            elif since is None or relation.oid in whole:
                where = sql.SQL("")
            else:
                where = sql.SQL("WHERE {}").format(written_since(since))
            for held, failures in check_rows(self.connection, relation, columns, where):
                values += len(failures) + sum(each.total() - each[None] for each in held)
                failed.update((table.columns[each.column], each.defect) for each in failures)
        for (column, defect), number in failed.items():
            what = (
                f"table {table.name}, column {column}: {counted(number, 'value')} written since the last full decrypt"
            )
            if defect.kind is DefectKind.UNKNOWN_KEY:
                raise FenceError(f"{what} cannot be opened with {alone.primary} alone; find what writes them")
            raise ProofError(f"{what}: {defect}; fix or remove each, then run `keyrotation rotate` again")
        return values

    def _refuse(self, retired: Sequence[KeyVersion], failures: int) -> None:
        """Says which of the values that do not open with the new key are under a retired one."""
        if rows := required(self.keys, self.table).old_rows(self.table, retired, None).rows:
            raise FenceError(
                f"table {self.table.name}: {counted(rows, 'row')} with values under "
                f"{' or '.join(map(str, retired))} again; look for transactions older than the login's fence, or "
                "instances with an old key"
            )
        raise ProofError(
            f"table {self.table.name}: {counted(failures, 'value')} cannot be decrypted; fix or remove them "
            "(`keyrotation inventory` lists them), then run `keyrotation rotate` again"
        )


def oldest_in_progress(connection: Connection) -> int:
    """Returns the oldest transaction that is in progress, or the next one: whatever is not visible now is not older."""
    return cast("tuple[int]", connection.execute(_OLDEST).fetchone())[0]


def lock_writers_out(connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation]) -> None:
    """Waits for whoever is writing to relations, and lets nobody write to them until the transaction ends.

    Raises:
        BlockedError: a writer does not end within the session's `lock_timeout`.
    """
    try:
        for relation in tree:
            connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE MODE").format(relation.identifier))
    except psycopg.errors.LockNotAvailable:
        raise BlockedError(
            f"table {table.name} is written by a transaction that does not end, or changed by a session; wait for "
            "its end, then run this step again"
        ) from None
