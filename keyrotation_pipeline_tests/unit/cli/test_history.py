"""`history`: what happened to one request or incident, in words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.cli import history as module
from keyrotation_pipeline.errors import IncidentError, RequestError
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.control import set_pace
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened as opened_incident
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FakeWorld:
    world = before_any_rotation()

    @contextmanager
    def opened(_declared: object, actor: str) -> Iterator[Pipeline]:
        del actor
        yield world.pipeline

    monkeypatch.setattr(module, "open_pipeline", opened)
    monkeypatch.setattr(settings, "load", lambda _path: None)
    return world


def test_a_request_is_told_from_its_request_to_its_end(world: FakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    walk = approved(world)
    set_pace(world.ledger, walk, {"rows_per_second": 20}, None)
    list(runner.run(world.pipeline, walk.id, world.report))
    module.history(walk.id[:6])
    told = capsys.readouterr().out.splitlines()
    assert told[1] == f'routine rotate {walk.id[:8]}, v1 to v2: {RequestStatus.FINISHED}; "yearly rotation"'
    said = [line.partition(" UTC  ")[2].partition(" (")[0] for line in told[2:]]
    wanted = [
        "routine rotation v1 to v2 requested", "signed by Ada", "signed by Ben", "pace set: 20 rows/s a shard",
        "running", "v2 became active", "rows finished", "key retired v1", "finished",
    ]  # fmt: skip
    assert [each for each in said if each in wanted] == wanted
    assert told[-1].endswith(f"every event: `keyrotation audit log --request {walk.id[:8]}`")

    module.history(walk.id, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["id"], document["status"]) == (walk.id, "finished")
    assert document["events"][0]["said"] == wanted[0]


def test_an_incident_is_told_with_its_rotation(world: FakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    incident = opened_incident(world)[0].id
    module.history(incident)
    told = capsys.readouterr().out
    assert "UTC  discovered" in told
    assert "incident opened" in told
    assert told.endswith(f"more: `keyrotation incident report {incident}`\n")


@pytest.mark.parametrize(("subject", "refusal"), [("abcdef", RequestError), ("INC-2026-009", IncidentError)])
def test_what_is_not_there_is_refused(world: FakeWorld, subject: str, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        module.history(subject)
