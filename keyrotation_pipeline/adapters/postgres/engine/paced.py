"""The pace that an operator has set, read from the audit, where the engine also looks whether it may go on."""

import json

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.audit import read
from keyrotation_pipeline.model.progress import PaceSet

_NEWEST = """
SELECT body FROM keyrotation.audit_events WHERE event = %s AND request = %s ORDER BY seq DESC LIMIT 1
"""


def paced(connection: Connection, request: str, limits: Limits) -> Limits:
    """The limits at the pace that was set last; as they are where none was, or what was written is none.

    It decides about speed alone, so that it is taken without verifying the chain; `audit verify` does that.
    """
    row = connection.execute(_NEWEST, (str(PaceSet.kind), request)).fetchone()
    if row is None:
        return limits
    try:
        pace = read(PaceSet, json.loads(str(row[0]))["facts"]).checked()
    except (KeyRotationError, ValueError, KeyError, TypeError):
        return limits
    return limits.at_pace(pace)
