"""Nothing without a quorum is ever accepted, nothing honest is ever rejected, and each rule is needed for that."""

import re
from types import ModuleType

import pytest

from keyrotation_pipeline.audit import incidents, rules
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.model import audit_state
from keyrotation_pipeline_tests.unit.audit.honest_chains import Installation, installation
from keyrotation_pipeline_tests.unit.audit.hostile_chains import Generator, chained

CHAINS, BATCHES = 10_000, 10


@pytest.fixture(scope="module")
def made() -> Installation:
    return installation()


@pytest.fixture(scope="module")
def generator(made: Installation) -> Generator:
    return Generator(made)


def test_nothing_honest_is_rejected(made: Installation, generator: Generator) -> None:
    for name, bodies in made.chains.items():
        state = LedgerState(made.verify).apply(chained(bodies))
        assert (name, state.faults) == (name, ())
        assert list(generator.judge.violations(bodies, state, state.counted)) == []


@pytest.mark.parametrize("batch", range(BATCHES))
def test_nothing_without_a_quorum_is_accepted(generator: Generator, batch: int) -> None:
    size = CHAINS // BATCHES
    found = [each for seed in range(batch * size, (batch + 1) * size) for each in generator.violations(seed)]
    assert found == []


RULES = (
    "another line Request", "another line Action", "another line From", "another line To", "another line Audit head",
    "another line Reason", "another line Start by", "too few have signed", "is signed by", "closes an incident",
    "is over other answers", "another line Finish by", "is by a request to", "gives up other",
    "is a (routine|emergency) request",
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_without_one_rule_something_is_accepted(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    require = audit_state.require

    def without(holds: bool, otherwise: str) -> None:
        if not re.search(rule, otherwise):
            require(holds, otherwise)

    modules: tuple[ModuleType, ...] = (rules, incidents, audit_state)
    for module in modules:
        monkeypatch.setattr(module, "require", without)
    assert any(generator.violations(seed) for seed in range(CHAINS))
