"""What is exported, by the reference parsers; and the alert rules, which name nothing that is not exported."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as older_format

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.incidents.opening import open_incident, prepare
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.status import RotationStatus, Status, TableStatus
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount, TableName
from keyrotation_pipeline.monitoring.metrics import in_open_metrics, metrics_of
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline_tests.fakes import fake_pipeline, rotation_of

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "keyrotation.rules.yaml"
V1, V2 = KeyVersion(1), KeyVersion(2)
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
HOSTILE = 'web"1\\\n# EOF\nkeyrotation_attention 0\u202e'


def full() -> Status:
    """A status that has a sample of every metric."""
    world = fake_pipeline()
    walk, pipeline = rotation_of(world), world.pipeline
    prepare(
        pipeline, open_incident(pipeline, Flag("", "test", "insider", "copied a key", pipeline.clock.now())), "test"
    )
    table = EncryptedTable(TableName.parse("clients"), ("email",))
    count = TableCount(table, 1000, {V1: 700, V2: 300}, 0, 2, 0, 3, (), NOW)
    rotation = RotationStatus(
        walk=replace(walk, blocked_by="the disk is full; make room"), phase="rows", approvals_required=2,
        progress=0.25, eta_seconds=90, at_work=True,
        pending=PendingReason(PendingCode.INSTANCES, "instances", f"{HOSTILE}: not seen"),
        tables=(TableProgress("clients", 1, 4, 0.3, 290, 12.5),),
    )  # fmt: skip
    return replace(
        overview(pipeline),
        generated_at=NOW, database=HOSTILE, primary=V2, rotation=rotation, audit=AuditHead(41, "a" * 64),
        tables=(TableStatus(table, count, {V1: 700, V2: 300}, ()),), next_rotation_due=NOW + timedelta(days=300),
        last_backup=NOW - timedelta(hours=3), attention=("one", "two"), warnings=(),
    )  # fmt: skip


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Numbers by name and label values, without those of the database."""
    return {
        (each.name, *(value for label, value in each.labels.items() if label != "database")): each.value
        for family in open_metrics(text)  # type: ignore[no-untyped-call]
        for each in family.samples
    }


def test_the_reference_parsers_read_the_same_in_both_formats() -> None:
    text = in_open_metrics(full())
    new, old = (
        [(family.name, family.type, sample.labels, sample.value) for family in families for sample in family.samples]
        for families in (open_metrics(text), older_format(text))  # type: ignore[no-untyped-call]
    )
    assert new == old
    assert {kind for _, kind, _, _ in new} == {"gauge"}
    assert {labels["database"] for _, _, labels, _ in new} == {
        r"web" + '"' + r"1\\n# EOF\nkeyrotation_attention 0\u202e"
    }


def test_every_value_is_a_number_in_json_too() -> None:
    values = [sample["value"] for each in metrics_of(full()) for sample in each.as_json()["samples"]]
    assert [value for value in values if isinstance(value, bool)] == []


def test_the_numbers_are_those_of_the_status() -> None:
    shown = full()
    assert shown.rotation is not None
    walk = shown.rotation.walk
    found = samples(in_open_metrics(shown))
    expected = {
        ("keyrotation_status_timestamp_seconds",): NOW.timestamp(),
        ("keyrotation_attention",): 2,
        ("keyrotation_warnings",): 0,
        ("keyrotation_primary_version",): 2,
        ("keyrotation_audit_head_seq",): 41,
        ("keyrotation_last_backup_timestamp_seconds",): (NOW - timedelta(hours=3)).timestamp(),
        ("keyrotation_last_recovery_test_timestamp_seconds",): 0,
        ("keyrotation_recovery_test_failed",): 0,
        ("keyrotation_incidents_open",): 1,
        ("keyrotation_rotation_info", walk.id, "routine", "v1", "v2", "rows"): 1,
        ("keyrotation_rotation_progress_ratio",): 0.25,
        ("keyrotation_rotation_eta_seconds",): 90,
        ("keyrotation_rotation_at_work",): 1,
        ("keyrotation_rotation_blocked", "the disk is full; make room"): 1,
        ("keyrotation_rotation_rows_done", "clients"): 300,
        ("keyrotation_rotation_rows_left", "clients"): 700,
        ("keyrotation_rotation_rows_per_second", "clients"): 12.5,
        ("keyrotation_table_rows", "clients"): 1000,
        ("keyrotation_table_values", "clients", "v1"): 700,
        ("keyrotation_table_unreadable", "clients"): 3,
        ("keyrotation_table_unencrypted", "clients"): 2,
        ("keyrotation_requests_pending",): 2,
    }
    assert {key: found[key] for key in expected} == expected
    assert [key for key in found if key[0] == "keyrotation_rotation_waiting"] == [
        ("keyrotation_rotation_waiting", "instances")
    ], "no sentence, so that a series does not end with each name"
    approvals = {key[1]: value for key, value in found.items() if key[0] == "keyrotation_request_approvals"}
    assert approvals == {each.request.id: len(each.signed_by) for each in shown.requests}


def test_nothing_is_claimed_that_is_not_known() -> None:
    shown = replace(full(), rotation=None, tables=(), primary=None, next_rotation_due=None, last_backup=None,
                    incidents=(), requests=())  # fmt: skip
    found = samples(in_open_metrics(shown))
    assert {key[0].removeprefix("keyrotation_") for key in found} == {
        "status_timestamp_seconds", "attention", "warnings", "primary_version", "audit_head_seq",
        "last_backup_timestamp_seconds", "last_recovery_test_timestamp_seconds", "recovery_test_failed",
        "incidents_open", "requests_pending",
    }  # fmt: skip
    assert found["keyrotation_primary_version",] == found["keyrotation_last_backup_timestamp_seconds",] == 0


def test_a_rate_is_of_what_runs_now() -> None:
    shown = full()
    assert shown.rotation is not None
    idle = samples(in_open_metrics(replace(shown, rotation=replace(shown.rotation, at_work=False))))
    assert idle["keyrotation_rotation_rows_per_second", "clients"] == 0


def test_no_key_material_and_no_fingerprint_is_exported() -> None:
    shown = full()
    text = in_open_metrics(shown)
    assert [key.fingerprint for key in shown.key_versions if key.fingerprint[:16] in text] == []


def rules() -> list[Mapping[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_names_metrics_and_labels_that_exist(rule: Mapping[str, Any]) -> None:
    exported: dict[str, set[str]] = {}
    for family in open_metrics(in_open_metrics(full())):  # type: ignore[no-untyped-call]
        for each in family.samples:
            exported.setdefault(each.name, set()).update(each.labels)
    named = set(re.findall(r"keyrotation_\w+", rule["expr"]))
    assert named
    assert named <= set(exported)
    said = " ".join(rule["annotations"].values())
    labels = set(re.findall(r"\$labels\.(\w+)", said))
    aggregated = re.findall(r"by \((\w+)\)", rule["expr"])
    known = set(aggregated) if re.match(r"\w+ by", rule["expr"]) else set.union(*(exported[name] for name in named))
    assert labels <= known
    assert set(rule["annotations"]) == {"summary", "action"}
    assert "`keyrotation " in rule["annotations"]["action"]
    assert rule["labels"]["severity"] in {"warning", "critical"}


def test_one_silent_pipeline_among_several_is_alerted() -> None:
    """Its series end with a failed scrape, and those of the others make `absent` false (tried with promtool)."""
    [silent] = [rule for rule in rules() if rule["alert"] == "KeyrotationSilent"]
    metric = "keyrotation_status_timestamp_seconds"
    assert f"last_over_time({metric}[7d])) unless on (database) {metric}" in " ".join(silent["expr"].split())
