"""`status --nagios`: the form and the exit codes of the Monitoring Plugins guidelines."""

import re
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from keyrotation_pipeline.cli.status import Service, check
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.model.status import RotationStatus, Status
from keyrotation_pipeline_tests.fakes import fake_pipeline, rotation_of
from keyrotation_pipeline_tests.unit.cli.test_status_text import status, table

# 'label'=value[UOM];[warn];[crit];[min];[max]
PERFORMANCE = re.compile(r"[a-z_]+=-?[0-9.]+(s|%)?(;[0-9.]*){0,4}")


def failing(error: Exception) -> Callable[[], Status]:
    def take() -> Status:
        raise error

    return take


def calm() -> Status:
    return replace(status(table("clients", 7)), attention=(), database="clinic@db")


def rotating() -> Status:
    walk = rotation_of(fake_pipeline())
    return replace(calm(), rotation=RotationStatus(walk, "rows", 2, 0.25, 90, None, at_work=True))


@pytest.mark.parametrize(
    ("take", "service", "line"),
    [
        pytest.param(calm, Service.OK, "KEYROTATION OK - clinic@db: primary v2, no rotation is open | ", id="calm"),
        pytest.param(rotating, Service.OK,
                     "KEYROTATION OK - clinic@db: routine v1 to v2, step 4 of 9, Rows, 25% | ", id="rotating"),
        pytest.param(lambda: replace(calm(), warnings=("a certificate expires",)), Service.WARNING,
                     "KEYROTATION WARNING - clinic@db: a certificate expires | ", id="a warning"),
        pytest.param(lambda: replace(calm(), attention=("a|b\n\u202e", "two"), warnings=("three",)), Service.CRITICAL,
                     r"KEYROTATION CRITICAL - clinic@db: a/b\n\u202e (2 more: keyrotation status) | ", id="attention"),
        pytest.param(failing(KeyStoreError("the store is gone; mount it")), Service.UNKNOWN,
                     "KEYROTATION UNKNOWN - the store is gone; mount it", id="a refusal"),
        pytest.param(failing(psycopg.errors.UndefinedTable("row data")), Service.UNKNOWN,
                     "KEYROTATION UNKNOWN - the database refused or ended a statement (UndefinedTable", id="an answer"),
        pytest.param(failing(psycopg.OperationalError("row data")), Service.UNKNOWN,
                     "KEYROTATION UNKNOWN - the connection to the database was lost", id="the connection"),
        pytest.param(failing(ZeroDivisionError("row data")), Service.UNKNOWN,
                     "KEYROTATION UNKNOWN - a defect (ZeroDivisionError)", id="a defect"),
    ],
)  # fmt: skip
def test_one_line_and_the_state(
    take: Callable[[], Status], service: Service, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(take) is service
    printed = capsys.readouterr().out
    assert printed.startswith(line)
    assert printed.count("\n") == 1
    assert "row data" not in printed
    _, bar, performance = printed.partition(" | ")
    assert bool(bar) == (service is not Service.UNKNOWN)
    assert [each for each in performance.split() if not PERFORMANCE.fullmatch(each)] == []


def test_performance_data_are_the_numbers_of_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    check(rotating)
    assert capsys.readouterr().out.partition(" | ")[2].split() == [
        "attention=0;;0;0", "warnings=0;0;;0", "incidents=0;;;0", "audit_seq=1234;;;0", "backup_age=11100s;;;0",
        "recovery_test_age=1036800s;;;0", "rotation_progress=25.00%;;;0;100", "approvals=2;;;0;2",
        "rotation_eta=90s;;;0",
    ]  # fmt: skip
