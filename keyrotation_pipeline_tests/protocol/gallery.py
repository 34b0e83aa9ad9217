"""What is generated for docs/protocol.md: the state diagram, the models, the guards; and their counterexamples.

uv run python -m keyrotation_pipeline_tests.protocol.gallery      (a minute or two: each guard's model is explored)
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline_tests.pictures import IMAGES, walk_states
from keyrotation_pipeline_tests.protocol.actors import Transition
from keyrotation_pipeline_tests.protocol.guards import GUARDS, Guard, counterexample
from keyrotation_pipeline_tests.protocol.invariants import Broken
from keyrotation_pipeline_tests.protocol.machine import Machine, request_id
from keyrotation_pipeline_tests.protocol.models import MODELS, ROLLBACK, ROUTINE, Model
from keyrotation_pipeline_tests.protocol.search import explore_with, follow
from keyrotation_pipeline_tests.protocol.state import State

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
DIAGRAM = IMAGES / "walk-states.svg"
TRACES = Path(__file__).with_name("counterexamples.md")
FOUND = Path(__file__).with_name("counterexamples.json")
_DIAGRAM = Model("diagram", "", (ROUTINE, ROLLBACK), 2, instances=1, rows=1, controls=frozenset({"cancel"}), dies=False)
_ID = re.compile(r"0{20,}(\d+)")
_READS = " reads the key store"


def page() -> str:
    """The page as it should be."""
    text = PAGE.read_text()
    for name, made in {"guards": guards, "models": models}.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{made()}{end}{rest.partition(end)[2]}"
    return text


def diagram() -> str:
    """Every change of a walk's phase that is reached, as SVG; what only pauses or resumes it is left out."""
    found: dict[tuple[str, str], set[str]] = {}

    def look(machine: Machine) -> Callable[[State, Transition], None]:
        def note(before: State, step: Transition) -> None:
            if before.ledger == step.after.ledger:
                return
            for number in (1, 2):
                was, now = _phase(machine, before, number), _phase(machine, step.after, number)
                if was != now:
                    found.setdefault((was, now), set()).add(_verb(step.action, number))

        return note

    explore_with(_DIAGRAM, look)
    return walk_states([(was, now, ", ".join(sorted(verbs - {""}))) for (was, now), verbs in sorted(found.items())])


def _phase(machine: Machine, state: State, number: int) -> str:
    request = machine.ledgers.found[state.ledger].state.requests.get(request_id(number))
    return phase_of(request) if isinstance(request, Walk) else "[*]"


def _verb(action: str, number: int) -> str:
    """What moved a walk; nothing for its own due step."""
    if action.startswith("run") and f" {number} " not in action:
        return "a rollback begins"
    return action.split(maxsplit=1)[0] if action.startswith(("request", "cancel")) else ""


def guards() -> str:
    """Which invariant is broken first without each guard."""
    broken = ((guard.name, broken_without(guard)) for guard in GUARDS)
    return "".join(f"- **{name}**: {found.invariant if found else found}.\n" for name, found in broken)


def traces() -> str:
    """The shortest way to that, of each guard."""
    head = "What happens without each guard. A step is that of request 1, unless it says another.\n\n"
    return head + "\n".join(map(_shown, GUARDS))


def _shown(guard: Guard) -> str:
    steps = "; ".join(map(_short, _merged(recorded()[guard.name])))
    return f"## {guard.name}\n\nWhere: {guard.places}. Without it:\n\n{steps}.\n\n**{_broken(guard)}.**\n"


def _broken(guard: Guard) -> str:
    return _ID.sub(r"\1", str(broken_without(guard)))


@cache
def recorded() -> dict[str, list[str]]:
    """The labels of the shortest way to the damage, of each guard by its name."""
    found: dict[str, list[str]] = json.loads(FOUND.read_text())
    return found


def broken_without(guard: Guard) -> Broken | None:
    """Which invariant breaks at the end of the recorded way while a guard is off."""
    return _broken_by_name(guard.name)


@cache
def _broken_by_name(name: str) -> Broken | None:
    guard = next(guard for guard in GUARDS if guard.name == name)
    with guard.off():
        return follow(guard.model, recorded()[name])


def _short(line: str) -> str:
    """A line of a trace, in which a step is that of request 1 unless it says another."""
    line = _ID.sub(r"\1", line).partition(", refused: ")[0] + (", refused" if ", refused: " in line else "")
    line = re.sub(r"^run what is due of \w+ (\d+) \(v\d+ to v\d+\): (\w+)", r"\2 of \1", line)
    line = re.sub(r"\b(?:routine|rollback|emergency|destroy|policy) (\d+) \(v\d+ to v\d+\)", r"\1", line)
    return re.sub(r" of 1\b", "", line)


def _merged(trace: list[str]) -> Iterator[str]:
    """A trace in which both signatures are one line, and an instance's look at the key store and its report."""
    rest = list(trace)
    while rest:
        line = rest.pop(0)
        if line.startswith("Ada signs") and rest and rest[0] == line.replace("Ada", "Ben", 1):
            rest.pop(0)
            line = line.replace("Ada signs", "Ada and Ben sign", 1)
        if line.endswith(_READS) and rest and rest[0] == line.replace(_READS, " reports"):
            rest.pop(0)
            line = f"{line} and reports"
        yield line


def models() -> str:
    """The models, with how many requests, key versions, instances and rows each has."""
    return "".join(
        f"- `{each.name}` ({each.requests}, {each.versions}, {each.instances}, {each.rows}): {each.about}.\n"
        for each in MODELS.values()
    )


if __name__ == "__main__":
    ways = {guard.name: counterexample(guard).counterexample for guard in GUARDS}
    FOUND.write_text(json.dumps(ways, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page())
    DIAGRAM.write_text(diagram())
    TRACES.write_text(traces())
