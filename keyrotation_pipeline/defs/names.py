"""Asset keys, and op names that are valid whatever a table is called."""

import hashlib
import re

import dagster as dg

from keyrotation_pipeline.model.columns import TableName
from keyrotation_pipeline.model.request import Step

ROTATION_TAG = "keyrotation/rotation"


def step_key(step: Step) -> dg.AssetKey:
    """The asset of a step of the walk."""
    return dg.AssetKey(str(step))


def rows_key(table: TableName) -> dg.AssetKey:
    """``rows/clients``, ``rows/billing.Invoices``."""
    return dg.AssetKey(["rows", _plain(str(table), r"[^A-Za-z0-9_.-]")])


def rows_op_name(table: TableName) -> str:
    """The op of that asset; Dagster allows letters, digits and underscores."""
    return f"rows__{_plain(str(table), r'[^A-Za-z0-9_]')}"


def _plain(name: str, refused: str) -> str:
    plain = re.sub(refused, "_", name)
    # Two names that differ only in what was replaced must stay two names.
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
