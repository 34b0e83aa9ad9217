"""A rotation for a later day, as people type it: signed now, refused until then, announced to a real webhook."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from typer.testing import CliRunner

from keyrotation_pipeline import settings
from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.requests import with_short_ids
from keyrotation_pipeline_tests.acceptance.nights import Night
from keyrotation_pipeline_tests.acceptance.test_incident import Clinic, clinic  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_reference import typed
from keyrotation_pipeline_tests.conducting import Conducted
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server
from keyrotation_pipeline_tests.pages import block

BERLIN = ZoneInfo("Europe/Berlin")


def local(days: int) -> datetime:
    """Nine o'clock in Berlin, so many days from now."""
    return (datetime.now(BERLIN) + timedelta(days=days)).replace(hour=9, minute=0, second=0, microsecond=0)


def refusal(of: Clinic, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--config", str(of.file)])
    assert isinstance(result.exception, KeyRotationError), (result.output, result.exception)
    return str(result.exception)


def planned(of: Clinic, at: datetime) -> str:
    return of.shown("request", "--reason", "yearly", "--not-before", f"{at:%Y-%m-%dT%H:%M}").splitlines()[-1]


def announced(of: Clinic, received: list[dict[str, Any]]) -> list[str]:
    """What the webhook has got after the daemon's sensor has looked twice."""
    declared = settings.load(of.file)
    resource = PipelineResource(str(of.file))
    with dg.DagsterInstance.ephemeral() as instance:
        conducted = Conducted(build_definitions(declared.encrypted_tables, 1, resource), instance, resource)
        for _ in range(2):
            result = conducted.tick("alert_delivery")
            assert isinstance(result, dg.SkipReason)
            assert result.skip_message == "every alert is delivered"
    return [each["subject"] for each in received if each["key"].startswith("rotation/")]


def test_a_planned_rotation_waits_for_its_day_and_is_announced(clinic: Clinic) -> None:  # noqa: F811
    received: list[dict[str, Any]] = []
    with http_server(200, received) as url:
        (clinic.folder.path / "webhook").write_text(url)
        alerts = 'time_zone = "Europe/Berlin"\nalerts.webhook_url = { file = "webhook" }\n'
        clinic.file.write_text(alerts + clinic.file.read_text())
        clinic.shown("backup")
        far, near = local(10), local(3)
        request = planned(clinic, far)
        clinic.sign(request)
        assert announced(clinic, received) == []
        clinic.shown("cancel", request)
        assert announced(clinic, received) == []

        request = planned(clinic, near)
        assert announced(clinic, received) == []  # nobody has signed it
        clinic.sign(request)
        subject = f"Scheduled Encryption Key Rotation - {near:%Y-%m-%d}"
        assert announced(clinic, received) == [subject]

        sentence = f"rotation {request} does not start before {near.astimezone(UTC):%Y-%m-%d %H:%M} UTC; wait until"
        for command in (
            ["rotate", request],
            ["rotate", request, "--dry-run"],
            ["rotate", request, "--dry-run", "--json"],
        ):
            assert with_short_ids(refusal(clinic, *command)).startswith(with_short_ids(sentence))
        (listed,) = json.loads(clinic.shown("requests", "--json"))
        assert datetime.fromisoformat(listed["not_before"]) == near
        shown = json.loads(clinic.shown("status", "--json"))["rotation"]
        assert (shown["phase"], shown["waiting_for"].startswith(sentence)) == ("requested", True)
        assert f"not before {near.astimezone(UTC):%Y-%m-%d %H:%M} UTC, start by" in clinic.shown("requests")
        assert f"\nNot before: {near.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\nStart by: " in clinic.shown(
            "approve", request, "--text"
        )

        text = clinic.shown("requests", "--announcement", request)
        assert text.startswith(
            f"Subject: {subject}\n\nTeam,\n\nWe will be performing a routine encryption key rotation"
        )
        assert re.search(rf"- {near:%Y-%m-%d} 09:00 Europe/Berlin \(.* UTC\), not earlier: Deploy dual-key", text)
        assert "Point of contact: Security Officer, Privacy Officer (no address is configured" in text
        assert json.loads(clinic.shown("requests", "--announcement", request, "--json"))["text"] in text
        assert text.partition("\n\n")[2] in received[-1]["text"]

        clinic.shown("cancel", request)
        assert announced(clinic, received) == [subject, f"Cancelled: {subject}"]


def test_a_date_that_cannot_be_meant_is_one_sentence(clinic: Clinic) -> None:  # noqa: F811
    clinic.shown("backup")
    urgent = ["--not-before", f"{local(3):%Y-%m-%d}", "--emergency", "INC-7"]
    for options, sentence in (
        (["--not-before", "2026-01-01"], "has passed; give a later one"),
        (["--not-before", "2126-01-01"], "is more than 366 days away; give an earlier one"),
        (["--not-before", "soon"], "--not-before is not a date or time; write it as 2026-01-31"),
        (urgent, "request it without --not-before"),
    ):
        assert sentence in refusal(clinic, "request", "--reason", "yearly", *options)
    assert clinic.shown("requests", "--json").strip() == "[]"


def test_the_page_plans_a_rotation_as_it_says(night: Night) -> None:
    night.shell("keyrotation backup")
    reported = typed(night, block("planned"))
    day = f"{datetime.now(UTC) + timedelta(days=14):%Y-%m-%d}"
    for seen in (
        f"Subject: Scheduled Encryption Key Rotation - {day}",
        "approved by Privacy Officer: 2 of 2",
        f"does not start before {day} 09:00 UTC",
        "is cancelled",
    ):
        assert seen in " ".join(reported.split())
