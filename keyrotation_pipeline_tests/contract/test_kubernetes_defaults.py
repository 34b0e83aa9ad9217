"""The stand-in adds to an object what the real API server was recorded to add; `test_admission.py` asks that one."""

import copy

import pytest

from keyrotation_pipeline_tests.kubernetes_standin.defaults import neutral, recorded
from keyrotation_pipeline_tests.kubernetes_standin.objects import Objects
from keyrotation_pipeline_tests.kubernetes_standin.samples import NAME, samples


@pytest.mark.parametrize("plural", recorded())
def test_an_object_is_completed_as_it_was_recorded(plural: str) -> None:
    for number, each in enumerate(recorded()[plural]):
        wanted = copy.deepcopy(each["sent"])
        wanted["metadata"]["name"] = f"{NAME}-{number}"
        answered = neutral(Objects().create(plural, "default", wanted))
        assert answered == each["answered"]


def test_every_sample_is_recorded() -> None:
    assert {plural for plural, _ in samples()} == set(recorded())
    assert sum(map(len, recorded().values())) == len(list(samples()))
