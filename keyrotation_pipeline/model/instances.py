"""Application instances, as they report themselves."""

from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


@dataclass(frozen=True, slots=True)
class Instance:
    """One application instance as it last reported itself."""

    name: str
    reads: tuple[KeyVersion, ...]
    writes: KeyVersion
    reported_at: datetime
