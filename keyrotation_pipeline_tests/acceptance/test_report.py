"""The compliance report, as a user types it, of a rotation that is finished."""

import json
from pathlib import Path

from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers

__all__ = ["clinic", "officers"]


def test_a_finished_rotation_is_reported_and_nothing_is_overwritten(clinic: Clinic) -> None:
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    clinic.walk(request)

    shown = json.loads(clinic.run("report", "--format", "json"))
    assert shown["schema"] == 1
    (rotation,) = shown["requests"]
    assert (rotation["id"], rotation["status"], rotation["records_reencrypted"]) == (request, "finished", 600)
    assert [(each["officer"], each["refusal"]) for each in rotation["approvals"]] == [
        (officer.name, None) for officer in clinic.officers
    ]
    assert rotation["retirement"]
    assert {key["version"]: key["state"] for key in shown["keys"]} == {"v1": "archived", "v2": "active"}

    page = clinic.folder.path / "report.html"
    clinic.run("report", "--output", str(page))
    assert page.read_text() == clinic.run("report"), "the same audit gives the same bytes"
    clinic.run("audit", "verify", "--anchor", str(page))
    clinic.run("report", "--format", "json", "--output", str(page), expect=1)
    assert "is there already" in clinic.error
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert no_content(page)


def no_content(page: Path) -> bool:
    """None of the plaintexts, and no value of ours."""
    return not any(part in page.read_text() for part in ("name 1", "memo 1", ">v1:", ">v2:"))
