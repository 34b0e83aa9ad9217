"""Standstill: while this is held, no step of a request is running."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.requests import WALK, Request, Step
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.conductor import Task

# The engine obeys a pause within a second; other steps end by themselves, or keep us waiting.
PATIENCE_SECONDS = 15.0
PAUSE_SECONDS = 0.5


@contextmanager
def standstill(pipeline: Pipeline, rotation: Request) -> Iterator[None]:
    """Hold the lock of every step and shard of a request that may not begin a new one: it is paused, or over.

    Raises:
        BlockedError: a step is still running; names who runs it.
    """
    until = pipeline.clock.monotonic() + PATIENCE_SECONDS
    with ExitStack() as held:
        for task in _tasks(pipeline):
            _take(pipeline, held, f"{rotation.id}/{task}", until)
        yield


def _tasks(pipeline: Pipeline) -> Iterator[Task]:
    yield from map(Task, WALK)
    for table in pipeline.tables:
        yield from (Task(Step.ROWS, Shard(table, index, pipeline.shards)) for index in range(pipeline.shards))


def _take(pipeline: Pipeline, held: ExitStack, name: str, until: float) -> None:
    patience_seconds = until - pipeline.clock.monotonic()
    for _ in attempts(pipeline.clock, pause_seconds=PAUSE_SECONDS, patience_seconds=patience_seconds):
        try:
            held.enter_context(pipeline.ledger.lock(name))
        except BlockedError as blocked:
            refusal = blocked
        else:
            return
    raise refusal
