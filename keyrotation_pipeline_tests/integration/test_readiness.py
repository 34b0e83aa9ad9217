"""The pre-flight on a real database with real backups and certificates: what is seen, measured, and left as it was."""

from types import SimpleNamespace

import pytest

from keyrotation_pipeline.adapters.postgres.preflight import server
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.model.status import Check, Light
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline_tests.backup_sites import Clinic


def by_name(clinic: Clinic) -> dict[str, Check]:
    return {check.name: check for check in readiness(clinic.site).checks}


def test_everything_is_looked_at_and_nothing_is_left_behind(
    local_clinic: Clinic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back_up(local_clinic.site)
    before = local_clinic.connection.execute("SELECT max(ctid), sum(octet_length(name)) FROM public.clients").fetchone()
    checks = by_name(local_clinic)

    # No application runs here that names its primary, and both of two officers must sign.
    assert {check.name for check in checks.values() if check.light is Light.RED} == {
        "applications_name_their_primary",
        "more_officers_than_required",
    }
    assert checks["database_backup_is_fresh"].light is Light.GREEN
    assert checks["disk_is_large_enough"].light is Light.GREEN  # the embedded server's disk is seen
    assert "for 5 rows" in checks["duration_is_known"].value
    assert "by 5 rows of this database" in checks["duration_is_known"].value
    assert checks["log_shows_no_rows"].light is Light.AMBER
    assert checks["role_is_no_superuser"].light is Light.AMBER
    assert local_clinic.connection.execute("SELECT to_regclass('keyrotation.speed_sample')").fetchone() == (None,)
    after = local_clinic.connection.execute("SELECT max(ctid), sum(octet_length(name)) FROM public.clients").fetchone()
    assert after == before

    full_disk = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(server, "shutil", full_disk)
    full = by_name(local_clinic)
    assert full["disk_is_large_enough"].light is Light.RED
    assert "duration_is_known" not in full
