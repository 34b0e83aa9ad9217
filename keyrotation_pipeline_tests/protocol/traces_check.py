"""Looks up every step of every audit that a test produces in the explorer's relation.

A folder of tests imports the fixture into its `conftest.py`.
`TEST_DUMPS_STEPS=FILE pytest …` adds each step that was seen to a file, with how often and the test.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline_tests.fakes.chain import FakeChain
from keyrotation_pipeline_tests.protocol.traces import beyond, relation
from keyrotation_pipeline_tests.protocol.traces_recorder import Examined, examined, install, recording

for _chain in (AuditChain, FakeChain):
    install(_chain)


@contextmanager
def _followed(test: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as directory:
        with recording(Path(directory) / "commands") as recorded:
            yield
        found = examined(recorded)
    _dump(test, found)
    unknown = sorted(found.steps.keys() - relation() - beyond())
    assert not unknown, f"{len(unknown)} step(s) of an audit are unknown to the protocol's model: {unknown[0]}"


@pytest.fixture(autouse=True)
def audits_follow_the_protocol(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails where product code made a step in an audit that the explorer never reached."""
    with _followed(request.node.nodeid):
        yield


@pytest.fixture(autouse=True, scope="module")
def audits_of_the_module_follow_the_protocol(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same of a home that several tests share."""
    with _followed(request.node.nodeid):
        yield


def _dump(test: str, found: Examined) -> None:
    if (file := os.environ.get("TEST_DUMPS_STEPS")) is not None:
        with Path(file).open("a") as steps:
            steps.writelines(f"{number}\t{test}\t{step}\n" for step, number in found.steps.items())
            steps.write(f"{found.skipped}\t{test}\t(skipped)\n")
