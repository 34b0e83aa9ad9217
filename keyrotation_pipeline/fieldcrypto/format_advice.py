"""Says what can be done about the values of a format today, for `scan`. Standard library only."""

from dataclasses import dataclass

from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is known of a format whose values were recognised.

    Args:
        identified_by: how the key of a value is told, unless values name keys though they need not.
        steps: by which an application that reads two keys moves values to another one, without this program.
        one_key: what reads one key only; empty, too, where `elsewhere` says on what it depends.
        where: for which applications and keys values are rotated in place; empty: for all, or for none.
        also: what is declared besides the place.
        elsewhere: the whole sentence about places that cannot be declared; empty: it is made of the steps.
        source: where this is read, and the structure of values: project, file and commit, or a specification. "Not
            read": known from elsewhere.
    """

    identified_by: IdentifiedBy
    steps: str = ""
    one_key: str = ""
    where: str = ""
    also: str = ""
    elsewhere: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What is said of unmarked values that may be of a format.

    Args:
        name: as `scan` has it.
        places: that can be declared; see `FormatSpec.places`.
        next: one sentence.
        reads_two_keys: whether their library does; None where it is not known.
    """

    name: str
    places: frozenset[str]
    next: str
    reads_two_keys: bool | None
