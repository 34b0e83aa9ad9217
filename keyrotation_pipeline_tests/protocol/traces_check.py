"""Looks up every step of every audit that the tests of a module produce in the explorer's relation, at its end.

`TEST_DUMPS_STEPS=FILE pytest …` adds each step that was seen to a file, with how often and the module.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline_tests.fakes.chain import FakeChain
from keyrotation_pipeline_tests.protocol.traces import beyond, relation
from keyrotation_pipeline_tests.protocol.traces_recorder import Examined, examined, install, recording

for _chain in (AuditChain, FakeChain):
    install(_chain)


@pytest.fixture(autouse=True, scope="module")
def audits_follow_the_protocol(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails where product code made a step in an audit that the explorer never reached."""
    with tempfile.TemporaryDirectory() as directory:
        with recording(Path(directory) / "commands") as recorded:
            yield
        found = examined(recorded)
    _dump(request.node.nodeid, found)
    unknown = sorted(found.steps.keys() - relation() - beyond())
    assert not unknown, f"steps of an audit that the protocol's model lacks: {len(unknown)}, such as {unknown[0]}"


def _dump(module: str, found: Examined) -> None:
    if (file := os.environ.get("TEST_DUMPS_STEPS")) is not None:
        with Path(file).open("a") as steps:
            steps.writelines(f"{number}\t{module}\t{step}\n" for step, number in found.steps.items())
            steps.write(f"{found.skipped}\t{module}\t(skipped)\n")
