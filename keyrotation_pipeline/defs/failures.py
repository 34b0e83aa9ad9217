"""Failures as Dagster stores and shows them: one sentence, never the text of an unexpected exception."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from keyrotation_pipeline.errors import KeyRotationError

PACKAGE = Path(__file__).parent.parent


@contextmanager
def step_failures() -> Iterator[None]:
    """Turn any exception into a failed step with one sentence; `from None`, since a cause may carry parameters."""
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, its text must not be stored
        raise dg.Failure(message_of(error), allow_retries=False) from None


def message_of(error: Exception) -> str:
    """The message of an expected failure; of a defect its type and place, never its text."""
    if isinstance(error, KeyRotationError):
        return str(error)
    return (
        f"unexpected {type(error).__name__} at {_place(error)}; nothing was recorded as done, please report this defect"
    )


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
