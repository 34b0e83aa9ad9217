"""One look of the console: every fact that it shows of the database is of one moment."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.console import look as look_module
from keyrotation_pipeline.console.gathering import console
from keyrotation_pipeline.console.look import AnchorsBefore, one_look
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.monitoring.status import Outside
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.backup_sites import Clinic


def test_what_is_requested_during_a_look_is_in_the_next_one(local_clinic: Clinic) -> None:
    with (
        open_backups(local_clinic.settings, actor="console") as site,
        open_backups(local_clinic.settings, actor="test") as other,
    ):
        ledger = site.pipeline.ledger
        before = replace(site.pipeline, anchors=AnchorsBefore(site.pipeline.anchors))
        with one_look(site.pipeline) as look:
            request = open_request(other.pipeline, reason="yearly", requested_by="test")
            assert ledger.requests() == ()
            assert ledger.head() == look.status.audit
            require_verified(before)
            with pytest.raises(AuditError, match="cut off"):
                require_verified(site.pipeline)  # the home has a later head than the snapshot
        shown = console(site.pipeline)
    assert not [each for each in look.status.attention if "audit" in each]
    assert request.id in {each.request.id for each in shown.status.requests}
    assert shown.pending is not None
    assert shown.pending.request.id == request.id


def test_what_is_outside_is_asked_again_if_something_has_happened_since(
    local_clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        open_backups(local_clinic.settings, actor="console") as site,
        open_backups(local_clinic.settings, actor="test") as other,
    ):
        asked: list[Outside] = []

        def of(pipeline: Pipeline) -> Outside:
            asked.append(Outside.of(pipeline))
            if len(asked) == 1:
                open_request(other.pipeline, reason="yearly", requested_by="test")
            return asked[-1]

        monkeypatch.setattr(look_module, "Outside", SimpleNamespace(of=of))
        with one_look(site.pipeline) as look:
            assert [each.request.reason for each in look.status.requests] == ["yearly"]
    assert len(asked) == 2
