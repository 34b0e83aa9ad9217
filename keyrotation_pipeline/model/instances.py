"""Application instances, as they report themselves, or are seen from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


@dataclass(frozen=True, slots=True)
class Decrypted:
    """What an instance still decrypted under a version that it no longer writes: how often, and when last."""

    version: KeyVersion
    values: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Failed:
    """What an instance could not decrypt.

    Args:
        version: as the values name it; ``none``: they name none.
        minutes: how many in each minute, by its beginning.
    """

    version: str
    values: int
    last_at: datetime
    minutes: Mapping[datetime, int]


@dataclass(frozen=True, slots=True)
class Instance:
    """One application instance as it was last seen.

    Args:
        reads: none: not known.
        writes: None: not known.
        reported_at: aware, by the clock of the database.
        silent: it has not been heard of for so long that it may have ended, or may still run.
        names_primary: it says that what it writes is the primary that was named to it. False: it writes the only key
            that it has, or it does not say.
    """

    name: str
    reads: tuple[KeyVersion, ...]
    writes: KeyVersion | None
    reported_at: datetime
    silent: bool = False
    decrypted: tuple[Decrypted, ...] = ()
    failed: tuple[Failed, ...] = ()
    names_primary: bool = True
