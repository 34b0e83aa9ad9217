"""Intents: what the audit says was about to happen, by which a step that was killed knows its own traces again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from keyrotation_pipeline.ports.pipeline import Pipeline

KEY_CREATION_INTENDED = "key_creation_intended"
KEY_IMPORT_INTENDED = "key_import_intended"
KEY_RESTORE_INTENDED = "key_restore_intended"
PRIMARY_CHANGE_INTENDED = "primary_change_intended"
RETIREMENT_INTENDED = "retire_key_intended"
CANCEL_INTENDED = "cancel_intended"


def announce(pipeline: Pipeline, event: str, facts: Mapping[str, Any], request: str | None) -> None:
    """Record that something is about to happen. Committed before it does, even when the process dies next."""
    pipeline.ledger.append(event, facts, request)


def announced(pipeline: Pipeline, event: str, request: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Facts of every such intent in the audit, oldest first; with `request`, of that request only."""
    for stored in pipeline.ledger.events():
        content = json.loads(stored.body)
        if content["event"] == event and request in {None, content["request"]}:
            yield content["facts"]
