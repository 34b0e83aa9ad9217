"""Whether a rotation may begin: a list of checks, each with a light, what was seen, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyrotation_pipeline.model.database import Problem


class Light(StrEnum):
    """Green: looked at and good. Amber: to be known before, or not seen. Red: a request is refused, or cannot begin."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Check:
    """One box of the checklist.

    Args:
        name: the truth wanted, as an identifier.
        value: what was seen.
        do: what to do about it; empty: nothing.
    """

    name: str
    light: Light
    value: str
    do: str = ""


def green(name: str, value: str) -> Check:
    """Looked at, and good."""
    return Check(name, Light.GREEN, value)


def amber(name: str, value: str, do: str) -> Check:
    """To be known before; or it was not seen."""
    return Check(name, Light.AMBER, value, do)


def red(name: str, value: str, do: str) -> Check:
    """What a request is refused for, or what stops its rotation before anything is done."""
    return Check(name, Light.RED, value, do)


def in_two(sentence: str) -> tuple[str, str]:
    """A sentence as this program writes them: what is the case, and what to do about it."""
    value, _, do = sentence.partition("; ")
    return value, do


def of_problem(problem: Problem) -> Check:
    """A problem of the pre-flight as a check."""
    return Check(problem.check, Light.RED if problem.fatal else Light.AMBER, *in_two(problem.sentence))


@dataclass(frozen=True, slots=True)
class Readiness:
    """Every check, in the order of the list."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether no check is red."""
        return not self.of(Light.RED)

    def of(self, light: Light) -> Sequence[Check]:
        """The checks of one light."""
        return tuple(check for check in self.checks if check.light is light)

    def as_json(self) -> dict[str, Any]:
        """The object of `preflight --json`, without what says where and when."""
        return {
            "ready": self.ready,
            "checks": [
                {"name": each.name, "light": str(each.light), "value": each.value, "do": each.do}
                for each in self.checks
            ],
        }
