"""What one officer signs to confirm a rollout: the canonical text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from keyrotation_pipeline.model.approval import rendered
from keyrotation_pipeline.model.rollout import Goal, Gone

HEADER = "keyrotation-confirmation-v1"


@dataclass(frozen=True, slots=True)
class ConfirmationText:
    """The facts that are signed. `render` gives the canonical bytes, one field a line, ending with a newline.

    Args:
        keys: each version of the goal with its fingerprint.
        gone: silent instances that the officer says have ended.
        audit_head: seq and hash of the event with which this rollout began, so that no other one is meant.
    """

    request: str
    goal: Goal
    database: str
    key_store: str
    keys: Sequence[str]
    gone: Sequence[Gone]
    audit_head: tuple[int, str]

    def render(self) -> bytes:
        """The canonical text in UTF-8.

        Raises:
            ApprovalError: a field holds a character that two people could read differently.
        """
        seq, head = self.audit_head
        return rendered(
            HEADER,
            (
                ("Request", self.request),
                ("Rollout", str(self.goal.aim)),
                ("Confirms", f"every application instance {self.goal.statement()}"),
                ("Database", self.database),
                ("Key store", self.key_store),
                ("Keys", ", ".join(self.keys)),
                ("Gone", ", ".join(map(_named, self.gone)) or "none"),
                ("Audit head", f"{seq} {head}"),
            ),
        )


def _named(gone: Gone) -> str:
    # A name is whatever an application says: quoted, so that none can pass for several.
    at = gone.reported_at.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{json.dumps(gone.name, ensure_ascii=False)} last heard of {at}"
