"""The bound of NIST SP 800-38D: 2^32 encryptions a key with random nonces; half of them is the time to plan."""

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.keys import KeyUsage
from keyrotation_pipeline_tests.fakes import V2


@pytest.mark.parametrize(
    ("by_applications", "by_rotations", "half_used", "exhausted"),
    [
        pytest.param(0, 0, False, False, id="none"),
        pytest.param(2**31 - 2, 1, False, False, id="just under half"),
        pytest.param(2**31 - 1, 1, True, False, id="half, of both kinds together"),
        pytest.param(2**32 - 1, 0, True, False, id="one left"),
        pytest.param(2**31, 2**31, True, True, id="the limit"),
    ],
)
def test_bound(by_applications: int, by_rotations: int, half_used: bool, exhausted: bool) -> None:
    usage = KeyUsage(V2, by_applications, by_rotations)

    assert (usage.half_used, usage.exhausted) == (half_used, exhausted)
    assert usage.share == (by_applications + by_rotations) / 2**32


@pytest.mark.parametrize(("version", "limit"), [(V2, "2^32"), (KeyVersion(2, 2), "2^80")])
def test_the_sentence_names_the_limit_and_says_what_it_rests_on(version: KeyVersion, limit: str) -> None:
    sentence = KeyUsage(version, 2**31, 0).message
    assert sentence.startswith(f"{version} encrypted at most 2,147,483,648 values")
    assert sentence.endswith(
        f"of the limit {limit}, by the writes in the server's statistics, which a reset or a crash empties"
    )
