import inspect
import pickle

import pytest

from keyrotation_pipeline import errors
from keyrotation_pipeline.errors import DecryptionError, KeyRotationError, UnknownKeyVersionError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, KeyRotationError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_reaches_another_process_as_it_is(kind: type[KeyRotationError]) -> None:
    error = errors.restored(kind, ("clients.email is NULL; fill it",), {"version": "v2"})
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(arrived), str(arrived), arrived.version) == (kind, str(error), "v2")


@pytest.mark.parametrize("kind", [UnknownKeyVersionError, DecryptionError])
def test_the_sentence_is_not_made_twice(kind: type[UnknownKeyVersionError | DecryptionError]) -> None:
    error = kind("v2")
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(arrived), arrived.version) == (str(error), "v2")
