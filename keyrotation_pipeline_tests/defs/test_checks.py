"""Each check passes when its sentence is true, and fails when it is not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import GCM_LIMIT_ENCRYPTIONS, KeyState
from keyrotation_pipeline.model.page_reading import LEAST_BYTES_A_DAY, PageSpan, Verification
from keyrotation_pipeline.model.progress import AllowedHours
from keyrotation_pipeline.model.requests import RotationType, Step, Walk
from keyrotation_pipeline.model.tables import FoundColumn
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.fakes import FERNET_TOKENS, START, V1, V2, FakeWorld

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
Walked = Callable[[Step | None], Walk]
ASSETS = {
    "zero_old_rows": "rows/clients",
    "every_value_decrypts": "retired_key",
    "no_undeclared_ciphertext": "encrypted_columns",
    "retired_versions_are_refused": "encrypted_columns",
    "key_reads_back": "key_version",
    "key_usage_below_gcm_limit": "key_version",
    "rotation_not_overdue": "primary_key_rollout",
}


def test_every_check_passes_after_a_rotation(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    evaluations = dagster.check_run().get_asset_check_evaluations()
    passed = {(each.check_name, each.asset_key.to_user_string()) for each in evaluations if each.passed}
    assert passed >= ASSETS.items()


def old_row(world: FakeWorld) -> None:
    world.database.rows["clients"].append({"first_name": "v1:from a restored dump", "email": None})


def damaged_value(world: FakeWorld) -> None:
    world.database.unreadable.add(("clients", 0, "email"))


def undeclared_column(world: FakeWorld) -> None:
    world.database.findings = (FoundColumn("notes", "body", 3, 0, (V1,)),)


def lost_fence(world: FakeWorld) -> None:
    world.database.fence_state["clients"] = ()


def counted_old_row(world: FakeWorld) -> None:
    old_row(world)
    world.ledger.save_counts(world.pipeline.inventory.count(world.pipeline.tables))


def other_key(world: FakeWorld) -> None:
    world.keys.live[V2] = KeyMaterial.generate()


def lost_archived_key(world: FakeWorld) -> None:
    world.keys.shelf.pop(V1)


def lost_backup(world: FakeWorld) -> None:
    world.vault.backups.pop(V1)


def half_used(world: FakeWorld) -> None:
    world.database.writes = GCM_LIMIT_ENCRYPTIONS // 2 // 4


def used_up(world: FakeWorld) -> None:
    world.database.writes = GCM_LIMIT_ENCRYPTIONS // 4


def eleven_months_and_a_half(world: FakeWorld) -> None:
    world.clock.at += timedelta(days=350)


def a_year_and_a_day(world: FakeWorld) -> None:
    world.clock.at += timedelta(days=367)


def out_of_hours(world: FakeWorld) -> None:
    a_year_and_a_day(world)
    now = world.clock.now()
    never = AllowedHours((now + timedelta(hours=1)).time(), (now + timedelta(hours=2)).time(), "UTC")
    object.__setattr__(world.pipeline, "verification", Verification(90, never))


@pytest.mark.parametrize(
    ("name", "arrange", "severity", "sentence"),
    [
        pytest.param(
            "zero_old_rows", old_row, ERROR, "1 rows of clients under v1; find the writer", id="an old row is back"
        ),
        pytest.param(
            "every_value_decrypts", damaged_value, ERROR, "clients: 1 values do not decrypt", id="a damaged value"
        ),
        pytest.param(
            "no_undeclared_ciphertext", undeclared_column, ERROR, "notes.body (3 values)", id="an undeclared column"
        ),
        pytest.param(
            "retired_versions_are_refused",
            lost_fence,
            ERROR,
            "table clients takes values under v1 again",
            id="no fence",
        ),
        pytest.param(
            "retired_versions_are_refused",
            counted_old_row,
            ERROR,
            "1 value under v1, which is archived",
            id="a value",
        ),
        pytest.param("key_reads_back", other_key, ERROR, "the key store holds another v2", id="another key stored"),
        pytest.param(
            "key_reads_back", lost_archived_key, ERROR, "the key store holds no v1", id="an archived key is lost"
        ),
        pytest.param("key_reads_back", lost_backup, ERROR, "no intact backup of v1", id="a backup is lost"),
        pytest.param("key_usage_below_gcm_limit", half_used, WARN, "50.00% of the limit", id="half of 2^32"),
        pytest.param("key_usage_below_gcm_limit", used_up, ERROR, "100.00% of the limit", id="2^32"),
        pytest.param("rotation_not_overdue", eleven_months_and_a_half, WARN, "is due by", id="a month ahead"),
        pytest.param("rotation_not_overdue", a_year_and_a_day, ERROR, "was due by", id="over 12 months"),
    ],
)
def test_a_check_fails(
    dagster: Dagster,
    walked: Walked,
    name: str,
    arrange: Callable[[FakeWorld], None],
    severity: dg.AssetCheckSeverity,
    sentence: str,
) -> None:
    walked(None)
    arrange(dagster.world)
    evaluation = dagster.check(name, ASSETS[name])

    assert not evaluation.passed
    assert evaluation.severity is severity
    assert sentence in str(evaluation.description)


def test_a_column_in_another_format_is_named_and_fails_nothing(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    dagster.world.database.other_formats = (FERNET_TOKENS,)
    evaluation = dagster.check("no_undeclared_ciphertext", "encrypted_columns")
    assert evaluation.passed
    assert "which a rotation leaves as they are: public.tokens.token (fernet)" in str(evaluation.description)


def test_an_old_row_under_a_compromised_key_fails_the_check(dagster: Dagster) -> None:
    world = dagster.world
    request = open_request(world.pipeline, reason="key on a public page", requested_by="test", incident="INC-1")
    text = world.ledger.approval_text(request.id)
    for officer in world.signatures.configured.officers:
        signature = world.signatures.sign(officer.fingerprint, text)
        add_approval(world.pipeline, world.ledger.walk(request.id), signature)
    for _ in runner.run(world.pipeline, request.id, world.report):
        pass
    assert world.ledger.state.keys[V1].state is KeyState.COMPROMISED
    old_row(world)

    evaluation = dagster.check("zero_old_rows", "rows/clients")

    assert not evaluation.passed
    assert str(evaluation.description).startswith("1 rows of clients under v1; find the writer")
    tables = {each["table"]: each["values_by_version"] for each in world.ledger.facts_of("counted")["tables"]}
    assert tables["clients"]["v1"] == 1, "so that no certificate says otherwise"


@pytest.mark.parametrize("name", ["key_reads_back", "key_usage_below_gcm_limit", "rotation_not_overdue"])
def test_a_check_fails_before_any_key_is_known(dagster: Dagster, name: str) -> None:
    dagster.world.ledger.state.keys.clear()
    dagster.world.keys.primary_version = None
    job = dagster.definitions.resolve_implicit_global_asset_job_def()
    key = dg.AssetCheckKey(dg.AssetKey(ASSETS[name]), name)
    selected = job.get_subset(asset_selection=set(), asset_check_selection={key})
    [evaluation] = selected.execute_in_process(instance=dagster.instance).get_asset_check_evaluations()

    assert not evaluation.passed
    assert "keyrotation init" in str(evaluation.description)


def test_old_rows_only_warn_while_the_rotation_is_under_way(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    evaluation = dagster.check("zero_old_rows", "rows/clients")

    assert not evaluation.passed
    assert evaluation.severity is WARN
    assert str(evaluation.description).startswith("2 rows of clients under v1; the rotation is not finished yet")


@pytest.mark.parametrize(("hours", "passed"), [(1, False), (25, False)], ids=["one hour: warns", "25 hours: overdue"])
@pytest.mark.parametrize("now", [START], ids=["on a known day"])
def test_an_emergency_is_due_within_a_day(dagster: Dagster, requested: Walk, hours: int, passed: bool) -> None:
    emergency = replace(requested, type=RotationType.EMERGENCY, incident="INC-1", requested_at=START)
    dagster.world.ledger.state.requests[requested.id] = emergency
    dagster.world.clock.at = START + timedelta(hours=hours)
    evaluation = dagster.check("rotation_not_overdue", "primary_key_rollout")

    assert evaluation.passed is passed
    assert evaluation.severity is (ERROR if hours > 24 else WARN)
    assert "2026-01-06 09:00 UTC" in str(evaluation.description)


def of_a_gigabyte(world: FakeWorld) -> None:
    """Pages of every table so large that a day's part is a small one; none was ever read."""
    size = 64 * LEAST_BYTES_A_DAY
    for name, rows in world.database.rows.items():
        world.database.noted[name] = PageSpan(name, name, 0, 2048, len(rows), size, world.clock.now(), read=False)


def test_values_that_are_not_due_yet_are_not_called_read(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(None)
    world = dagster.world
    of_a_gigabyte(world)
    monkeypatch.setattr(world.pipeline.rewriting, "decrypt_spans", lambda *_: 0)
    first = dagster.check("every_value_decrypts", "retired_key")
    world.clock.at += timedelta(days=91)
    later = dagster.check("every_value_decrypts", "retired_key")

    assert (first.passed, first.severity, later.passed, later.severity) == (False, WARN, False, WARN)
    assert str(first.description).startswith("under way: 0 % of 3 pages were read within 90 days")
    assert str(later.description).startswith("behind: 0 % of 3 pages were read within 90 days")
    assert "billing.Invoices, clients not since" in str(later.description)
    assert any("not every value of clients was decrypted since" in each for each in overview(world.pipeline).attention)


def test_a_value_found_damaged_stays_found_on_days_when_it_is_not_read(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    dagster.world.clock.at += timedelta(days=1)
    damaged_value(dagster.world)
    seen = [dagster.check("every_value_decrypts", "retired_key") for _ in range(2)]

    assert [each.metadata["values_read_now"].value for each in seen] == [4, 0]
    assert not any(each.passed for each in seen)


@pytest.mark.parametrize(
    ("arrange", "launched"),
    [
        pytest.param(lambda _: None, False, id="the proof and its evidence have just read all"),
        pytest.param(a_year_and_a_day, True, id="some are due"),
        pytest.param(lambda world: world.database.noted.clear(), True, id="some are to be decrypted"),
        pytest.param(lambda world: world.database.searched.clear(), True, id="some are to be searched"),
        pytest.param(out_of_hours, False, id="some are due, at another hour"),
    ],
)
def test_the_schedule_launches_a_run_where_something_is_to_be_read(
    dagster: Dagster, walked: Walked, arrange: Callable[[FakeWorld], None], launched: bool
) -> None:
    walked(None)
    dagster.check_run()
    arrange(dagster.world)
    schedule = dagster.definitions.get_repository_def().get_schedule_def("rolling_decrypt")
    context = dg.build_schedule_context(
        dagster.instance, dagster.world.clock.at, resources={"keyrotation": dagster.resource}
    )
    asked = schedule.evaluate_tick(context)

    assert bool(asked.run_requests) is launched
    assert bool(asked.skip_message) is not launched


def test_nothing_is_read_during_a_rotation_that_reads_everything(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    of_a_gigabyte(dagster.world)
    evaluation = dagster.check("every_value_decrypts", "retired_key")

    assert evaluation.metadata["values_read_now"].value == 0
    assert not evaluation.passed


def test_a_row_under_a_key_that_applications_lack_is_a_failure_while_the_next_rotation_is_under_way(
    dagster: Dagster, walked: Walked
) -> None:
    walked(None)
    open_request(dagster.world.pipeline, reason="the next", requested_by="test")
    old_row(dagster.world)
    evaluation = dagster.check("zero_old_rows", "rows/clients")

    assert (evaluation.passed, evaluation.severity) == (False, ERROR)
    assert str(evaluation.description).startswith("1 rows of clients under v1; find the writer")
