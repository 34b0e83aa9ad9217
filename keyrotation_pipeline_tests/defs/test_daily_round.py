"""The round of every morning reads a part of what there is, and says no more than what was looked at."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import dagster as dg
import pytest

from keyrotation_pipeline.errors import BlockedError, KeyRotationError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.page_reading import LEAST_BYTES_A_DAY, PageSpan, Verification
from keyrotation_pipeline.model.progress import AllowedHours
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, OldRows
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.fakes import V1, FakeWorld

BY_CLOCK = {"dagster/schedule_name": "rotation_calendar"}
BY_HAND = {**BY_CLOCK, "keyrotation/by_hand": "true"}
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
OLD_ROWS, UNDECLARED = ("zero_old_rows", "rows/clients"), ("no_undeclared_ciphertext", "encrypted_columns")
Walked = Callable[[Step | None], Walk]


def large(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of which a day's part is a small one; they stay as they are noted, however many rows there are."""
    monkeypatch.setattr(world.pipeline.inventory, "page_spans", lambda _: tuple(world.database.noted.values()))
    for name, rows in world.database.rows.items():
        world.database.noted[name] = PageSpan(
            name, name, 0, 2048, len(rows), 2 * LEAST_BYTES_A_DAY, world.clock.now(), read=True
        )


def look_for_old_rows(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tables that are counted, looked through or searched from now on."""
    asked: list[str] = []
    fencing, inventory = world.pipeline.fencing, world.pipeline.inventory
    for port, name in (*((inventory, each) for each in ("count", "discover", "search_spans")), (fencing, "old_rows")):
        method = getattr(port, name)

        def noted(*given: object, method: Callable[..., object] = method, name: str = name) -> object:
            asked.append(name)
            return method(*given)

        monkeypatch.setattr(port, name, noted)
    return asked


@pytest.mark.parametrize(
    ("tags", "asked"),
    [
        pytest.param(BY_CLOCK, set(), id="by the clock"),
        pytest.param(
            BY_HAND, {"count", "discover", "search_spans", "old_rows"}, id="launched by a person with its tag"
        ),
        pytest.param({}, {"count", "discover", "search_spans", "old_rows"}, id="after a rotation, or manually"),
    ],
)
def test_only_the_daily_round_reads_no_row_of_a_large_fenced_database_that_was_just_searched(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], asked: set[str]
) -> None:
    walked(None)
    dagster.check_run()
    large(dagster.world, monkeypatch)
    seen = look_for_old_rows(dagster.world, monkeypatch)
    run = dagster.check_run(**tags)

    assert set(seen) == asked
    assert run.success
    assert all(each.passed for each in run.get_asset_check_evaluations() if each.check_name == "zero_old_rows")


def test_a_light_by_the_clock_says_what_refuses_old_rows_and_when_they_were_counted(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(None)
    large(dagster.world, monkeypatch)
    evaluation = dagster.check(*OLD_ROWS, **BY_CLOCK)

    assert evaluation.passed
    said = "0 rows of clients under v1: the database refuses them (seen now); last counted "
    assert str(evaluation.description).startswith(said)


def no_fence(world: FakeWorld) -> None:
    world.database.fence_state["clients"] = ()


def counted_since(world: FakeWorld) -> None:
    world.ledger.save_counts(world.pipeline.inventory.count(world.pipeline.tables))


@pytest.mark.parametrize("arrange", [no_fence, counted_since])
def test_old_rows_are_counted_by_the_clock_where_nothing_refuses_them_or_the_last_count_found_some(
    dagster: Dagster, walked: Walked, arrange: Callable[[FakeWorld], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(None)
    large(dagster.world, monkeypatch)
    dagster.world.database.rows["clients"].append({"first_name": "v1:from a restored dump", "email": None})
    arrange(dagster.world)
    evaluation = dagster.check(*OLD_ROWS, **BY_CLOCK)

    assert (evaluation.passed, evaluation.severity) == (False, ERROR)
    assert str(evaluation.description).startswith("1 rows of clients under v1; find the writer")


@pytest.mark.parametrize(
    ("error", "severity"),
    [(PreflightError("column clients.email is of type jsonb"), ERROR), (BlockedError("clients is locked"), WARN)],
)
def test_a_table_that_cannot_be_looked_at_is_not_green_and_keeps_the_others_from_nothing(
    dagster: Dagster,
    walked: Walked,
    monkeypatch: pytest.MonkeyPatch,
    error: KeyRotationError,
    severity: dg.AssetCheckSeverity,
) -> None:
    walked(None)
    no_fence(dagster.world)
    look = dagster.world.pipeline.fencing.old_rows

    def old_rows(table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        if str(table.name) == "clients":
            raise error
        return look(table, versions, promotion_xid)

    monkeypatch.setattr(dagster.world.pipeline.fencing, "old_rows", old_rows)
    evaluations = dagster.check_run(**BY_CLOCK).get_asset_check_evaluations()
    seen = {each.asset_key.to_user_string(): each for each in evaluations if each.check_name == "zero_old_rows"}

    assert {name: each.passed for name, each in seen.items()} == {"rows/clients": False, "rows/billing.Invoices": True}
    assert (seen["rows/clients"].severity, seen["rows/clients"].description) == (
        severity,
        f"clients was not checked: {error}",
    )


def test_small_tables_are_counted_again_each_day_and_large_ones_keep_the_time_of_their_last_count(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(None)
    world = dagster.world
    large(world, monkeypatch)
    world.database.noted["clients"] = PageSpan("clients", "clients", 0, 2048, 2, 8192, world.clock.now(), read=True)
    before = {str(each.table.name): each for each in world.ledger.counts(world.pipeline.tables)}
    world.database.rows["clients"].append({"first_name": "v2:Di", "email": None})
    world.database.rows["billing.Invoices"].append({"first_name": "v2:Di", "email": None})
    dagster.check_run(**BY_CLOCK)
    after = {str(each.table.name): each for each in world.ledger.counts(world.pipeline.tables)}

    assert after["clients"].rows == before["clients"].rows + 1
    assert after["billing.Invoices"] == before["billing.Invoices"]


def test_what_was_found_undeclared_stays_found_when_it_is_not_searched(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    world = dagster.world
    dagster.check_run()
    assert dagster.check(*UNDECLARED, **BY_CLOCK).passed
    world.database.findings = (FoundColumn("copy", "body", 3, 0, (V1,)),)
    found = dagster.check(*UNDECLARED, **BY_CLOCK)
    now = world.clock.now()
    never = AllowedHours((now + timedelta(hours=1)).time(), (now + timedelta(hours=2)).time(), "UTC")
    object.__setattr__(world.pipeline, "verification", Verification(90, never))
    world.database.findings = ()
    later = dagster.check(*UNDECLARED, **BY_CLOCK)

    assert [each.severity for each in (found, later) if not each.passed] == [ERROR, ERROR]
    assert "copy.body (3 values)" in str(later.description)
    assert later.metadata["pages_searched_now"].value == 0
    object.__setattr__(world.pipeline, "verification", Verification(90, None))
    world.clock.at += timedelta(days=1)
    assert dagster.check(*UNDECLARED, **BY_CLOCK).passed


def test_what_was_not_searched_is_not_called_free_of_values(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(None)
    world = dagster.world
    dagster.check_run()
    monkeypatch.setattr(world.pipeline.inventory, "search_spans", lambda *_: 0)
    world.clock.at += timedelta(days=91)
    late = dagster.check(*UNDECLARED, **BY_CLOCK)

    assert (late.passed, late.severity) == (False, WARN)
    assert str(late.description).startswith("behind: 0 % of 1 pages elsewhere were searched within 90 days")
    since = "undeclared places were not all searched since 2026-"
    assert [each for each in overview(world.pipeline).attention if each.startswith(since)]
