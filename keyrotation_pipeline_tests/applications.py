"""Applications of tests: what any application does, in threads, on the key files of a store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine

from keyrotation_pipeline.encrypted_type import Attestation, MountedKeyRing, attest


def engine_of(url: str) -> Engine:
    """An engine of the application, on psycopg."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)


@contextmanager
def reporting(url: str, keys: Path, name: str = "web-1") -> Iterator[Attestation]:
    """An instance that reports itself and uses whatever the key store gives it."""
    engine = engine_of(url)
    attestation = attest(engine, MountedKeyRing(keys), instance=name, every_seconds=0.1)
    try:
        yield attestation
    finally:
        attestation.stop()
        engine.dispose()
