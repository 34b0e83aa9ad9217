"""A rehearsal: what a rotation would run into, and how long it would take, by one that was carried out on a backup."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from keyrotation_pipeline.model.events import EventKind, Fact
from keyrotation_pipeline.model.facts import Version
from keyrotation_pipeline.model.request import Step

# Their time grows with the rows; that of the others does not.
GROW_WITH_ROWS = frozenset({Step.ROWS, Step.ZERO_OLD_ROWS_PROOF, Step.RETIRED_KEY})
# What they take on the real database is up to its applications.
ROLLOUTS = (Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ARCHIVED_KEY)
NOT_REHEARSED = (
    "rollouts: no application reads the restored database",
    "the application's load beside it, standbys, and the disk of the real server",
    "officers' signatures (throw-away officers signed), the key store and the places of backups in use",
    "owners, grants, and what a role without power cannot restore (publications, event triggers, foreign servers)",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What would stop the rotation.

    Args:
        step: where; ``request`` before the first one.
        sentence: what the real rotation would say there.
    """

    step: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Rehearsed(Fact):
    """A rehearsal that was carried out, as far as it came.

    Args:
        request: whose rotation; None: the next one, which nobody has requested yet.
        dump, made_at: the backup that was restored.
        server: into which, in one plain phrase.
        dump_rows, rows_now: rows of the declared tables in the backup, and in the database in use.
        seconds: by step, as measured on the backup; only of steps that came to their end.
        findings: empty: nothing that was rehearsed would stop it.
    """

    kind: ClassVar = EventKind.REHEARSED
    request: str | None
    source: Version
    target: Version
    dump: str
    made_at: datetime
    server: str
    dump_rows: int
    rows_now: int
    seconds: Mapping[str, float]
    findings: tuple[Finding, ...]

    @property
    def predicted_seconds(self) -> Mapping[str, float]:
        """By step, for the database as it is now; without the rollouts."""
        ratio = self.rows_now / self.dump_rows if self.dump_rows else 1.0
        return {
            step: seconds * (ratio if step in GROW_WITH_ROWS else 1.0)
            for step, seconds in self.seconds.items()
            if step not in ROLLOUTS
        }

    @property
    def total_seconds(self) -> float | None:
        """All of it without the rollouts; None where the rehearsal did not come to its end."""
        return None if self.findings else sum(self.predicted_seconds.values())
