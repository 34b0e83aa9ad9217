"""Applications of tests: what any application does, in threads, on the key files of a store."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from keyrotation_pipeline.encrypted_type import Attestation, MountedKeyRing, attest
from keyrotation_pipeline_tests.waiting import eventually


def engine_of(url: str) -> Engine:
    """An engine of the application, on psycopg."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)


@contextmanager
def reporting(url: str, keys: Path, name: str = "web-1") -> Iterator[Attestation]:
    """An instance that uses whatever the key store gives it, and has reported itself."""
    engine = engine_of(url)
    attestation = attest(engine, MountedKeyRing(keys), instance=name, every_seconds=0.1)
    try:
        assert eventually(partial(_has_reported, engine, attestation.instance))
        yield attestation
    finally:
        attestation.stop()
        engine.dispose()


def _has_reported(engine: Engine, instance: str) -> bool:
    seen = text("SELECT 1 FROM keyrotation.instance_reports WHERE instance = :instance")
    with engine.connect() as connection:
        return connection.execute(seen, {"instance": instance}).first() is not None


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Inside, `work` runs in a thread of its own; afterwards its event is set, and it is waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
