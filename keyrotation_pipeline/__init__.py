"""Rotate application-level encryption keys in PostgreSQL with zero downtime, and prove it.

Applications import `keyrotation_pipeline.encrypted_type`; everything else is the pipeline (extra ``pipeline``).
`KeyRotation` is the pipeline as a Dagster component, found here by `dg`; applications never import it.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

COMPONENT = "KeyRotation"


def __getattr__(name: str) -> Any:  # noqa: ANN401  of a module
    if name == COMPONENT:
        return import_module("keyrotation_pipeline.component").KeyRotation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *([COMPONENT] if find_spec("dagster") else [])]
