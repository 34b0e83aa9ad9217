"""Rollback from each phase on a real database, while an application reads and writes without a pause."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import approve, open_home, working_application
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation import rollback, runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline_tests.acceptance.command import Folder

CLIENTS = 600
pytestmark = pytest.mark.slow
V1 = KeyVersion(1)


@dataclass
class Demo:
    """A demo's home, opened."""

    pipeline: Pipeline
    settings: Settings
    officers: Sequence[DemoOfficer]

    def approved(self, rotation: Walk) -> Walk:
        approve(self.pipeline, rotation, self.officers, lambda _line: None)
        return rotation

    def rotated(self, through: Step | None) -> Walk:
        """A rotation up to one of its steps, None to its end."""
        rotation = open_request(self.pipeline, reason="to be undone", requested_by="test")
        self.walk(self.approved(rotation), through)
        return rotation

    def walk(self, rotation: Walk, through: Step | None = None) -> None:
        for _ in runner.run(self.pipeline, rotation.id, _nobody, through):
            pass

    def undone(self, rotation: Walk) -> Walk:
        opened = rollback.open_rollback(self.pipeline, rotation, reason="undo", requested_by="test")
        self.walk(self.approved(opened))
        return opened


def _nobody(progress: Progress) -> None:
    del progress


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    settings, officers = prepare(tmp_path_factory.mktemp("rollback") / "keyrotation.toml", RolloutMode.NONE)
    with open_home(settings, CLIENTS, lambda _line: None) as pipeline:
        yield Demo(pipeline, settings, officers)


@pytest.mark.parametrize(
    "through",
    [
        pytest.param(Step.KEY_VERSION, id="the key is made"),
        pytest.param(Step.PRIMARY_KEY_ROLLOUT, id="writes have moved"),
        pytest.param(Step.ROWS, id="rows are re-encrypted"),
        pytest.param(Step.ZERO_OLD_ROWS_PROOF, id="the old version is fenced out"),
        pytest.param(Step.RETIRED_KEY, id="the old key has left the applications"),
        pytest.param(None, id="the rotation is finished"),
    ],
)
def test_a_rollback_under_load_loses_no_write_and_leaves_no_value_behind(demo: Demo, through: Step | None) -> None:
    pipeline = demo.pipeline
    with working_application(demo.settings) as application:
        rotation = demo.rotated(through)
        demo.undone(rotation)
        tally = application.stop()

    assert (tally["errors"], tally["lost_writes"], tally["writes"] > 0) == (0, 0, True), tally
    for count in pipeline.inventory.count(pipeline.tables):
        assert (set(count.values_by_version), count.unencrypted, count.unreadable) == ({V1}, 0, 0)
        assert rotation.target in count.fenced_against
        assert V1 not in count.fenced_against
    ring = pipeline.keys.read().ring()
    assert (ring.primary, ring.versions) == (V1, (V1,))
    for table in pipeline.tables:
        assert pipeline.rewriting.decrypt_all(table, ring, _nobody).failures == 0
    registered = pipeline.ledger.keys()
    states = {record.version: record.state for record in registered}
    assert states.pop(V1) is KeyState.ACTIVE
    assert set(states.values()) == {KeyState.ARCHIVED}
    verify_audit(pipeline.ledger)


def test_half_walked_rows_are_rolled_back_from_the_command_line(demo: Demo) -> None:
    folder = Folder(demo.settings.path.parent, [])
    rotation = demo.rotated(Step.PRIMARY_KEY_ROLLOUT)
    for record in runner.run(demo.pipeline, rotation.id, _nobody):
        if record.shard is not None:
            break

    undoing = folder.run("rollback", rotation.id, "--reason", "half way").strip()
    assert json.loads(folder.run("status", "--json"))["rotation"]["phase"] == "rows"
    folder.run("rotate", rotation.id, expect=1)
    assert f"rotation {rotation.id[:8]} is paused" in folder.printed[-1]
    demo.approved(demo.pipeline.ledger.walk(undoing))
    reported = folder.run("rotate", undoing)

    assert "ROLLBACK POST-MORTEM" in reported
    assert f"Stopped rotation {rotation.id[:8]}" in reported
    status = json.loads(folder.run("status", "--json", "--count"))
    assert (status["primary"], status["rotation"]) == ("v1", None)
    assert {key["state"] for key in status["key_versions"] if key["version"] != "v1"} == {"archived"}
    folder.run("verify")
    folder.run("audit", "verify")


def test_a_rotation_is_paused_and_resumed_from_the_command_line(demo: Demo) -> None:
    folder = Folder(demo.settings.path.parent, [])
    rotation = demo.rotated(Step.DUAL_KEY_ROLLOUT)
    folder.run("pause", rotation.id)
    folder.run("rotate", rotation.id, expect=1)
    folder.run("resume", rotation.id)
    folder.run("rotate", rotation.id, "--through", "primary_key_rollout")
    demo.undone(rotation)
