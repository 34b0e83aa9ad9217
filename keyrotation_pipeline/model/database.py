"""Which database it is, and what the pre-flight says of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """The database that is talked to: ``name@host`` without a password, and the cluster's system identifier."""

    name: str
    system_identifier: str

    def __str__(self) -> str:
        return f"{self.name}, system identifier {self.system_identifier}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What the pre-flight found: `fatal` ones stop the rotation, the others warn. One sentence that says what to do."""

    sentence: str
    fatal: bool
