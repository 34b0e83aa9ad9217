"""What rises elsewhere that may be an incident?"""

from typing import Protocol

from keyrotation_pipeline.model.incidents import Flag


class FlagSource(Protocol):
    """Something outside that raises flags."""

    def raised(self) -> tuple[Flag, ...]:
        """Every flag that is up now; the same one each time, by its key, until it is taken down there.

        Raises:
            IncidentError: the source does not answer.
        """
