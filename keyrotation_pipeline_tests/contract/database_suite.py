"""What the five ports of a database must do. A test class inherits the suite and has a fixture `subject`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import pytest

from keyrotation_pipeline.errors import BlockedError, FenceError, KeyRotationError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import NEVER_SEARCHED, NEVER_SEEN
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.proof import SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, Shard, TableName
from keyrotation_pipeline.ports.database import (
    DatabaseEnvironment,
    RetirementEvidence,
    TableFencing,
    TableInventory,
    TableRewriting,
)
from keyrotation_pipeline_tests.fakes import RefusedByFenceError

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))
VISITS = EncryptedTable(TableName("public", "visits"), ("notes",))
TABLES = (CLIENTS, VISITS)
REQUEST = "0c" * 16

Row = dict[str, str | None]


class Subject(Protocol):
    """A database under test, whose tables `clients` and `visits` are empty, and how a test gets at its rows.

    `value(1, "Ada")` gives a cell. `read` gives rows in the order of insertion, with cells as ``v1:Ada``; what is no
    value comes as it is stored.
    """

    @property
    def inventory(self) -> TableInventory: ...

    @property
    def rewriting(self) -> TableRewriting: ...

    @property
    def fencing(self) -> TableFencing: ...

    @property
    def evidence(self) -> RetirementEvidence: ...

    @property
    def environment(self) -> DatabaseEnvironment: ...

    @property
    def ring(self) -> KeyRing: ...

    def value(self, version: int, text: str) -> str: ...

    def insert(self, table: EncryptedTable, *rows: Row) -> None: ...

    def update(self, table: EncryptedTable, number: int, column: str, cell: str | None) -> None: ...

    def read(self, table: EncryptedTable) -> list[Row]: ...

    def damaged(self, table: EncryptedTable, number: int, column: str) -> None:
        """Make a value one that does not decrypt, under the version that it has."""

    def slip_past_the_fence(self, table: EncryptedTable, number: int, column: str, cell: str) -> None:
        """Store a cell that the fence refuses, and leave the fence as it was."""

    def locked(self, table: EncryptedTable, number: int) -> AbstractContextManager[None]:
        """While it lasts, somebody holds the row."""

    def old_reader(self) -> AbstractContextManager[Callable[[EncryptedTable], list[Row]]]:
        """While it lasts, somebody reads from one snapshot: gives back what reads a table as they see it."""

    def writer(self, table: EncryptedTable, number: int, column: str, cell: str) -> AbstractContextManager[None]:
        """While it lasts, somebody has written a cell and not committed; they commit at its end."""

    def prepared(self, table: EncryptedTable, number: int, column: str, cell: str) -> AbstractContextManager[None]:
        """The same in a prepared transaction, which is rolled back at its end."""

    def half_fenced(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        """What a process leaves that dies after it has made a fence, and before it has validated it."""

    def transaction(self) -> AbstractContextManager[object]:
        """A transaction of the ledger."""


def nobody(progress: Progress) -> None:
    """Takes reports."""


class _Rows:
    """Rows that several suites begin with."""

    @pytest.fixture
    def mixed(self, subject: Subject) -> Subject:
        """Values of two versions, NULL, and the empty text; six values in all."""
        v = subject.value
        subject.insert(
            CLIENTS,
            {"first_name": v(1, "Ada"), "email": v(2, "a@x")},
            {"first_name": v(2, "Ben"), "email": None},
            {"first_name": "", "email": v(1, "c@x")},
        )
        subject.insert(VISITS, {"notes": v(1, "well")}, {"notes": v(1, "ill")})
        return subject

    @pytest.fixture
    def fenced(self, subject: Subject) -> Subject:
        """Both tables under v3 all through, fenced against v1 and v2."""
        for_two: list[Row] = [{"first_name": subject.value(3, name), "email": ""} for name in ("Ada", "Ben")]
        subject.insert(CLIENTS, *for_two)
        subject.insert(VISITS, {"notes": subject.value(3, "well")})
        for table in TABLES:
            subject.fencing.fence(table, [V1, V2])
        return subject


class TableInventorySuite(_Rows):
    """What every `TableInventory` must do."""

    def test_values_are_counted_by_version_and_by_column(self, mixed: Subject) -> None:
        clients, visits = mixed.inventory.count(TABLES)
        assert (clients.table, clients.rows, clients.empty, clients.unencrypted) == (CLIENTS, 3, 1, 0)
        assert clients.values_by_version == {V1: 2, V2: 2}
        assert clients.by_column == {"first_name": {V1: 1, V2: 1}, "email": {V1: 1, V2: 1}}
        assert (visits.rows, visits.values_by_version) == (2, {V1: 2})
        assert clients.counted_at.utcoffset() is not None

    @pytest.mark.parametrize("spoil", [
        pytest.param(lambda value: "v01" + value[2:], id="v01 is not v1"),
        pytest.param(lambda value: "V1" + value[2:], id="V1 is not v1"),
        pytest.param(lambda value: " " + value, id="space before"),
        pytest.param(lambda value: "v1 " + value[2:], id="space before the colon"),
    ])  # fmt: skip
    def test_a_near_miss_is_unencrypted_and_under_no_version(
        self, subject: Subject, spoil: Callable[[str], str]
    ) -> None:
        subject.insert(CLIENTS, {"first_name": spoil(subject.value(1, "Ada")), "email": "Ben"})
        (counted,) = subject.inventory.count([CLIENTS])
        assert counted.values_by_version == {}
        assert (counted.unencrypted, counted.near_misses) == (2, 1)
        assert counted.unencrypted_by_column == {"first_name": 1, "email": 1}
        assert subject.fencing.old_rows(CLIENTS, [V1], None).rows == 0

    def test_a_sample_holds_so_many_values_a_column_and_of_one_version_only(self, mixed: Subject) -> None:
        (one,) = mixed.inventory.decrypt_sample(VISITS, mixed.ring, 1, {}).columns
        assert (one.version, one.tried, one.opened) == (V1, 1, 1)
        sampled = mixed.inventory.decrypt_sample(CLIENTS, mixed.ring, 9, {}).columns
        assert {(each.column, each.version) for each in sampled} == {
            (column, version) for column in ("first_name", "email") for version in (V1, V2)
        }
        assert all(each.tried == each.opened == 1 for each in sampled)

    def test_pages_are_noted_and_read_and_what_fails_there_is_quarantined(self, mixed: Subject) -> None:
        unread = mixed.inventory.page_spans([CLIENTS])
        assert [(each.table, each.read) for each in unread] == [("clients", False)]
        assert mixed.inventory.unread_since(TABLES) == {"clients": unread[0].since}
        mixed.damaged(CLIENTS, 0, "first_name")
        assert mixed.rewriting.decrypt_spans(CLIENTS, unread, mixed.ring, nobody, lambda: False) == 0
        assert not mixed.inventory.page_spans([CLIENTS])[0].read
        assert mixed.rewriting.decrypt_spans(CLIENTS, unread, mixed.ring, nobody, lambda: True) == 4
        (done,) = mixed.inventory.page_spans([CLIENTS])
        assert done.read
        assert done.since >= unread[0].since
        assert [each.column for each in mixed.inventory.quarantine([CLIENTS])] == ["first_name"]
        mixed.rewriting.decrypt_all(VISITS, mixed.ring, nobody)
        assert all(each.read for each in mixed.inventory.page_spans(TABLES))

    def test_what_is_not_declared_is_noted_and_searched(self, mixed: Subject) -> None:
        inventory = mixed.inventory
        assert inventory.unsearched_since() is None
        noted = inventory.undeclared_spans(TABLES)
        assert inventory.unsearched_since() == min((each.since for each in noted), default=None)
        inventory.search_spans(TABLES, noted, lambda: True)
        spans = inventory.undeclared_spans(TABLES)
        assert inventory.unsearched_since() == min((each.since for each in spans), default=None)
        assert all(each.read and not each.found for each in spans)
        inventory.search_spans(TABLES, spans, lambda: False)
        assert inventory.undeclared_spans(TABLES) == spans
        assert inventory.definitions_found() == ()


class TableRewritingSuite(_Rows):
    """What every `TableRewriting` must do."""

    def test_two_shards_rewrite_a_table_between_them_and_neither_does_it_alone(self, subject: Subject) -> None:
        rows: list[Row] = [{"first_name": subject.value(1, f"A{n}"), "email": None} for n in range(400)]
        subject.insert(CLIENTS, *rows)

        first = subject.rewriting.reencrypt_shard(REQUEST, Shard(CLIENTS, 0, 2), subject.ring, V3, nobody)
        (between,) = subject.inventory.count([CLIENTS])
        second = subject.rewriting.reencrypt_shard(REQUEST, Shard(CLIENTS, 1, 2), subject.ring, V3, nobody)

        assert 0 < first.values < 400
        assert between.values_by_version == {V1: 400 - first.values, V3: first.values}
        assert first.values + second.values == first.rows + second.rows == 400
        assert subject.read(CLIENTS) == [{"first_name": f"v3:A{n}", "email": None} for n in range(400)]

    def test_a_sweep_rewrites_what_is_not_under_the_target_and_nothing_else(self, mixed: Subject) -> None:
        done = mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V2, wait=False)
        assert (done.rows, done.values, done.skipped, done.quarantined) == (2, 2, 0, 0)
        assert mixed.read(CLIENTS) == [
            {"first_name": "v2:Ada", "email": "v2:a@x"},
            {"first_name": "v2:Ben", "email": None},
            {"first_name": "", "email": "v2:c@x"},
        ]
        assert mixed.read(VISITS) == [{"notes": "v1:well"}, {"notes": "v1:ill"}], "another table"
        assert mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V2, wait=True).rows == 0

    @pytest.mark.parametrize("wait", [False, True])
    def test_a_row_that_somebody_holds_is_skipped_and_the_rest_continues(self, mixed: Subject, *, wait: bool) -> None:
        with mixed.locked(CLIENTS, 0):
            done = mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V2, wait=wait)
        assert (done.rows, done.skipped) == (1, 1)
        assert [row["first_name"] for row in mixed.read(CLIENTS)] == ["v1:Ada", "v2:Ben", ""]
        assert mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V2, wait=wait).rows == 1

    def test_what_does_not_decrypt_stays_and_is_quarantined_until_it_is_fixed(self, mixed: Subject) -> None:
        mixed.damaged(CLIENTS, 0, "first_name")
        mixed.update(CLIENTS, 2, "email", "never encrypted")
        done = mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V2, wait=False)
        assert (done.values, done.quarantined) == (0, 2)
        entries = mixed.inventory.quarantine(TABLES)
        assert sorted((str(entry.table), entry.column) for entry in entries) == [
            ("clients", "email"),
            ("clients", "first_name"),
        ]
        assert not any("never" in f"{entry.key}{entry.reason}" for entry in entries)
        (counted,) = mixed.inventory.count([CLIENTS])
        assert counted.unreadable == 2

        mixed.update(CLIENTS, 0, "first_name", mixed.value(2, "Ada"))
        mixed.update(CLIENTS, 2, "email", None)
        assert mixed.inventory.quarantine(TABLES) == ()

    def test_a_full_decrypt_counts_every_value_and_every_failure(self, mixed: Subject) -> None:
        whole = mixed.rewriting.decrypt_all(CLIENTS, mixed.ring, nobody)
        (counted,) = mixed.inventory.count([CLIENTS])
        assert (whole.table, whole.rows, whole.values, whole.failures) == ("clients", 3, 4, 0)
        assert (whole.by_column, whole.empty) == (counted.by_column, counted.empty)
        assert set(whole.by_column) == set(CLIENTS.columns)
        assert whole.empty == 1
        mixed.damaged(CLIENTS, 0, "first_name")
        mixed.update(CLIENTS, 2, "email", "never encrypted")
        spoiled = mixed.rewriting.decrypt_all(CLIENTS, mixed.ring, nobody)
        assert (spoiled.rows, spoiled.values, spoiled.failures) == (3, 4, 2)
        assert sum(sum(counts.values()) for counts in spoiled.by_column.values()) == 2
        assert len(mixed.inventory.quarantine([CLIENTS])) == 2


class TableFencingSuite(_Rows):
    """What every `TableFencing` must do."""

    def test_a_fence_refuses_what_applications_write_under_its_versions_and_takes_the_rest(
        self, subject: Subject
    ) -> None:
        v = subject.value
        subject.insert(CLIENTS, {"first_name": v(3, "Ada"), "email": None})
        subject.fencing.fence(CLIENTS, [V1, V2])
        for version in (1, 2):
            for column in CLIENTS.columns:
                with pytest.raises(RefusedByFenceError) as refused:
                    subject.update(CLIENTS, 0, column, v(version, "Zoe"))
                assert (f"v{version} is retired" in str(refused.value), "Ada" in str(refused.value)) == (True, False)
            with pytest.raises(RefusedByFenceError):
                subject.insert(CLIENTS, {"first_name": None, "email": v(version, "z@x")})
        assert subject.read(CLIENTS) == [{"first_name": "v3:Ada", "email": None}]
        for cell in (v(3, "Zoe"), "", None, "v01:almost"):
            subject.update(CLIENTS, 0, "email", cell)
        assert subject.read(CLIENTS) == [{"first_name": "v3:Ada", "email": "v01:almost"}]

    def test_what_was_let_in_again_is_taken_again(self, fenced: Subject) -> None:
        fenced.fencing.unfence(CLIENTS, V2)
        fenced.update(CLIENTS, 0, "email", fenced.value(2, "a@x"))
        with pytest.raises(RefusedByFenceError):
            fenced.update(CLIENTS, 0, "email", fenced.value(1, "a@x"))
        assert fenced.read(CLIENTS)[0]["email"] == "v2:a@x"

    def test_a_fence_binds_the_pipeline_too(self, fenced: Subject) -> None:
        with pytest.raises(KeyRotationError, match="refused"):
            fenced.rewriting.sweep(REQUEST, CLIENTS, fenced.ring, V1, wait=False)
        assert {row["first_name"] for row in fenced.read(CLIENTS)} == {"v3:Ada", "v3:Ben"}

    def test_a_fence_that_was_never_validated_refuses_and_counts_for_nothing(self, subject: Subject) -> None:
        subject.insert(CLIENTS, {"first_name": subject.value(1, "Ada"), "email": None})
        subject.half_fenced(CLIENTS, [V1, V2])
        assert subject.fencing.fences(CLIENTS) == ()
        assert subject.fencing.all_fences([CLIENTS]) == {CLIENTS: ()}
        # Whoever updates anything of a row with an old value is refused: it is checked as a whole.
        with pytest.raises(RefusedByFenceError):
            subject.update(CLIENTS, 0, "email", subject.value(3, "a@x"))
        subject.fencing.unfence(CLIENTS, V1)
        subject.update(CLIENTS, 0, "email", subject.value(3, "a@x"))
        assert subject.fencing.fences(CLIENTS) == (V2,)

    def test_a_fence_that_was_never_validated_is_validated_by_the_next_attempt(self, subject: Subject) -> None:
        subject.insert(CLIENTS, {"first_name": subject.value(3, "Ada"), "email": None})
        subject.half_fenced(CLIENTS, [V1])
        assert subject.fencing.fence(CLIENTS, [V1])
        assert subject.fencing.fences(CLIENTS) == (V1,)

    def test_whoever_has_written_to_a_table_keeps_it_from_being_fenced(self, mixed: Subject) -> None:
        mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V3, wait=False)
        with mixed.writer(CLIENTS, 0, "email", mixed.value(1, "stale")):
            assert mixed.fencing.old_rows(CLIENTS, [V1, V2], None).rows == 0, "nobody sees it yet"
            assert mixed.fencing.fence(CLIENTS, [V1, V2], wait=False) is False
            with pytest.raises(BlockedError):
                mixed.fencing.fence(CLIENTS, [V1, V2])
            assert mixed.fencing.fences(CLIENTS) == ()
        with pytest.raises(ProofError, match="still holds old values"):
            mixed.fencing.fence(CLIENTS, [V1, V2])
        assert mixed.fencing.fences(CLIENTS) == (V2,), "the application can still update its rows under v1"

    def test_rows_written_under_an_old_version_since_the_promotion_are_counted(self, mixed: Subject) -> None:
        promotion = mixed.evidence.current_xid()
        assert mixed.fencing.old_rows(CLIENTS, [V1], promotion) == OldRows(2, 0)
        mixed.update(CLIENTS, 1, "email", mixed.value(1, "stale"))
        assert mixed.fencing.old_rows(CLIENTS, [V1], promotion) == OldRows(3, 1)
        mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V3, wait=False)
        assert mixed.fencing.old_rows(CLIENTS, [V1], promotion) == OldRows(0, 0)

    def test_old_rows_are_rows_and_not_values(self, mixed: Subject) -> None:
        old = mixed.fencing.old_rows
        assert [old(CLIENTS, versions, None).rows for versions in ([V1], [V2], [V1, V2], [V3], [])] == [2, 2, 3, 0, 0]

    def test_no_row_was_written_since_a_promotion_that_never_was(self, mixed: Subject) -> None:
        assert mixed.fencing.old_rows(CLIENTS, [V1], None).written_since_promotion == 0

    def test_a_fence_names_exactly_what_it_was_given_in_order(self, subject: Subject) -> None:
        subject.fencing.fence(CLIENTS, [V2, V1])
        assert subject.fencing.fences(CLIENTS) == (V1, V2)
        assert subject.fencing.fences(VISITS) == ()
        assert subject.fencing.all_fences([VISITS, CLIENTS]) == {VISITS: (), CLIENTS: (V1, V2)}
        subject.fencing.fence(CLIENTS, [V1])
        assert subject.fencing.fences(CLIENTS) == (V1,)

    def test_an_old_value_keeps_its_version_from_being_fenced(self, mixed: Subject) -> None:
        with pytest.raises(ProofError, match="table clients still holds old values"):
            mixed.fencing.fence(CLIENTS, [V1, V3])
        assert V1 not in mixed.fencing.fences(CLIENTS)

    def test_a_version_is_let_in_again_and_the_others_are_not(self, fenced: Subject) -> None:
        for _ in range(2):
            fenced.fencing.unfence(CLIENTS, V2)
            assert fenced.fencing.fences(CLIENTS) == (V1,)


class RetirementEvidenceSuite(_Rows):
    """What every `RetirementEvidence` must do."""

    @staticmethod
    def moment(subject: Subject) -> SnapshotPosition:
        return SnapshotPosition(subject.evidence.current_xid(), subject.evidence.barrier())

    def prove(self, subject: Subject, moment: SnapshotPosition) -> ZeroOldRows:
        with subject.transaction():
            return subject.evidence.zero_old_rows(TABLES, V2, [V1, V2], moment)

    def test_a_snapshot_that_still_shows_old_values_refuses_the_evidence_until_it_ends(self, mixed: Subject) -> None:
        with mixed.old_reader() as shown:
            moment = self.rotated(mixed)
            assert shown(VISITS) == [{"notes": "v1:well"}, {"notes": "v1:ill"}]
            assert mixed.read(VISITS) == [{"notes": "v3:well"}, {"notes": "v3:ill"}]
            assert len(mixed.evidence.snapshot_blockers(moment)) == 1
            with pytest.raises(BlockedError, match="old values"):
                self.prove(mixed, moment)
        assert mixed.evidence.snapshot_blockers(moment) == ()
        assert self.prove(mixed, moment).values == 6

    def test_a_snapshot_of_later_than_the_proof_refuses_nothing(self, mixed: Subject) -> None:
        moment = self.rotated(mixed)
        with mixed.old_reader() as shown:
            assert shown(VISITS) == [{"notes": "v3:well"}, {"notes": "v3:ill"}]
            assert mixed.evidence.snapshot_blockers(moment) == ()
            assert self.prove(mixed, moment).values == 6

    def test_a_snapshot_of_before_the_last_row_was_replaced_blocks_though_most_were(self, mixed: Subject) -> None:
        mixed.rewriting.sweep(REQUEST, CLIENTS, mixed.ring, V3, wait=False)
        with mixed.old_reader() as shown:
            moment = self.rotated(mixed)
            assert shown(CLIENTS)[0] == {"first_name": "v3:Ada", "email": "v3:a@x"}
            assert shown(VISITS)[0] == {"notes": "v1:well"}
            assert len(mixed.evidence.snapshot_blockers(moment)) == 1

    def test_a_prepared_transaction_may_still_bring_what_it_wrote(self, mixed: Subject) -> None:
        with mixed.prepared(VISITS, 0, "notes", mixed.value(1, "old")):
            moment = SnapshotPosition(mixed.evidence.current_xid(), mixed.evidence.barrier())
            (named,) = mixed.evidence.snapshot_blockers(moment)
            assert "prepared transaction" in named
            assert mixed.rewriting.sweep(REQUEST, VISITS, mixed.ring, V3, wait=False).skipped == 1, "it holds its row"
        assert mixed.evidence.snapshot_blockers(moment) == ()

    def test_what_was_written_after_the_search_is_seen_in_the_retiring_transaction(self, fenced: Subject) -> None:
        moment = self.moment(fenced)
        searched = fenced.evidence.search(TABLES, V2, [V1, V2], nobody)
        fenced.slip_past_the_fence(VISITS, 0, "notes", fenced.value(1, "old"))
        with fenced.transaction(), pytest.raises(FenceError, match=r"table visits, column notes: .*still under v1"):
            fenced.evidence.zero_old_rows(TABLES, V2, [V1, V2], moment, searched)

    def test_a_search_finds_an_old_value_before_anything_is_locked(self, mixed: Subject) -> None:
        with pytest.raises(ProofError, match="v1"):
            mixed.evidence.search(TABLES, V1, [V1], nobody)

    def rotated(self, subject: Subject) -> SnapshotPosition:
        """Everything is under v3 and fenced; the moment after it."""
        for table in TABLES:
            subject.rewriting.sweep(REQUEST, table, subject.ring, V3, wait=False)
            subject.fencing.fence(table, [V1, V2])
        return self.moment(subject)

    def test_a_transaction_id_is_later_than_the_one_before(self, subject: Subject) -> None:
        assert subject.evidence.current_xid() < subject.evidence.current_xid()

    def test_evidence_names_version_tables_and_values(self, fenced: Subject) -> None:
        evidence = self.prove(fenced, self.moment(fenced))
        assert (evidence.version, evidence.tables, evidence.old_values, evidence.values) == (
            V2,
            ("clients", "visits"),
            0,
            3,
        )

    @pytest.mark.parametrize(("table", "column"), [(CLIENTS, "email"), (VISITS, "notes")])
    @pytest.mark.parametrize("version", [pytest.param(1, id="left-over v1"), pytest.param(2, id="v2, the source")])
    def test_an_old_value_of_any_retired_version_refuses_the_evidence(
        self, fenced: Subject, table: EncryptedTable, column: str, version: int
    ) -> None:
        fenced.slip_past_the_fence(table, 0, column, fenced.value(version, "old"))
        moment = self.moment(fenced)
        with pytest.raises(FenceError, match=rf"table {table.name}, column {column}: .*still under v{version}"):
            self.prove(fenced, moment)

    @pytest.mark.parametrize(("table", "column"), [(CLIENTS, "email"), (VISITS, "notes")])
    @pytest.mark.parametrize("cell", ["never encrypted", "v03:almost"])
    def test_an_unencrypted_value_in_any_table_refuses_the_evidence(
        self, fenced: Subject, table: EncryptedTable, column: str, cell: str
    ) -> None:
        moment = self.moment(fenced)
        fenced.update(table, 0, column, cell)
        with pytest.raises(ProofError, match=rf"table {table.name}, column {column}: 1 unencrypted value"):
            self.prove(fenced, moment)

    def test_a_quarantined_value_refuses_the_evidence(self, fenced: Subject) -> None:
        fenced.damaged(VISITS, 0, "notes")
        fenced.rewriting.decrypt_all(VISITS, fenced.ring, nobody)
        moment = self.moment(fenced)
        with pytest.raises(ProofError, match=r"table visits, column notes: .*in quarantine"):
            self.prove(fenced, moment)

    def test_a_table_without_a_whole_fence_refuses_the_evidence(self, fenced: Subject) -> None:
        fenced.fencing.unfence(VISITS, V1)
        moment = self.moment(fenced)
        with pytest.raises(FenceError, match="table visits is not fenced against v1"):
            self.prove(fenced, moment)

    def test_a_fence_made_after_the_proof_refuses_the_evidence(self, fenced: Subject) -> None:
        moment = self.moment(fenced)
        fenced.fencing.unfence(CLIENTS, V1)
        fenced.fencing.fence(CLIENTS, [V1, V2])
        with pytest.raises(FenceError, match=r"fence of table clients .*recreated after the proof"):
            self.prove(fenced, moment)
        assert self.prove(fenced, self.moment(fenced)).values == 3

    def test_a_fence_that_stood_already_may_be_asked_for_again(self, fenced: Subject) -> None:
        moment = self.moment(fenced)
        fenced.fencing.fence(CLIENTS, [V2, V1])
        assert self.prove(fenced, moment).values == 3

    def test_every_refusal_of_evidence_is_one_of_ours(self, subject: Subject) -> None:
        subject.insert(CLIENTS, {"first_name": subject.value(1, "Ada"), "email": None})
        moment = self.moment(subject)
        with pytest.raises(KeyRotationError) as refused:
            self.prove(subject, moment)
        assert isinstance(refused.value, (ProofError, BlockedError))


class DatabaseEnvironmentSuite(_Rows):
    """What every `DatabaseEnvironment` must do."""

    def test_no_database_is_searched_and_seen_whole(self, subject: Subject) -> None:
        unseen = subject.environment.blind_spots()
        assert set(NEVER_SEARCHED) <= set(unseen.unsearched)
        assert (unseen.unseen, unseen.gone) == (NEVER_SEEN, ())


class DatabaseSuite(
    TableInventorySuite, TableRewritingSuite, TableFencingSuite, RetirementEvidenceSuite, DatabaseEnvironmentSuite
):
    """All five, since one database is behind them."""
