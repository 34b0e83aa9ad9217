"""The generated `verify.py` gives the answers of the audit over the hostile chains that the audit is searched with."""

from pathlib import Path

import pytest

from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline_tests.fakes.event_key import verify_event
from keyrotation_pipeline_tests.packs import Judge, offline_judge
from keyrotation_pipeline_tests.unit.audit.honest_chains import CORRUPT, UNDATED, Body, Installation, installation
from keyrotation_pipeline_tests.unit.audit.hostile_chains import Generator, chained

CHAINS = 60


def good_signatures(made: Installation) -> dict[str, str]:
    """Every signature that somebody made; whoever is corrupt signs anything, with any date."""
    signed = {
        f"{officer} {text.hex()}": "no time" if officer in UNDATED else at.isoformat()
        for (officer, text), at in made.made.items()
    }
    return {**signed, **dict.fromkeys(CORRUPT, "at any time")}


def here(made: Installation, bodies: list[Body]) -> list[str]:
    try:
        return list(LedgerState(made.verify, verify_event=verify_event).apply(chained(bodies)).faults)
    except AuditError as error:
        return [str(error)]


@pytest.fixture
def made() -> Installation:
    return installation()


def test_the_generated_program_gives_the_same_answers_over_hostile_chains(made: Installation, tmp_path: Path) -> None:
    generator, refused = Generator(made), 0
    with offline_judge(tmp_path, good_signatures(made)) as judge:
        for bodies in made.chains.values():
            assert answer(judge, bodies) == []
        for seed in range(CHAINS):
            _, bodies, done = generator.chain(seed)
            expected = here(made, bodies)
            assert (seed, done, answer(judge, bodies)) == (seed, done, expected)
            refused += bool(expected)
    assert refused > CHAINS // 4


def answer(judge: Judge, bodies: list[Body]) -> list[str]:
    """Without what only the clock says, which a replay does not ask."""
    return [each for each in judge(tuple(chained(bodies)), {}) if not each.endswith("which is in the future")]
