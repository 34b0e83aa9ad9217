"""The generated parts of docs/protocol.md: the state diagram, the guards with their counterexamples, the models."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline_tests.protocol.actors import Transition
from keyrotation_pipeline_tests.protocol.guards import GUARDS, Guard, counterexample
from keyrotation_pipeline_tests.protocol.machine import Machine, request_id
from keyrotation_pipeline_tests.protocol.models import MODELS, ROLLBACK, ROUTINE, Model
from keyrotation_pipeline_tests.protocol.search import explore_with
from keyrotation_pipeline_tests.protocol.state import State

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
_DIAGRAM = Model("diagram", "", (ROUTINE, ROLLBACK), 2, instances=1, rows=1, controls=frozenset({"cancel"}), dies=False)
_ID = re.compile(r"0{20,}(\d+)")
_READS = " reads the key store"


def page() -> str:
    """The page as it should be."""
    text = PAGE.read_text()
    for name, made in {"diagram": diagram, "guards": gallery, "models": models}.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{made()}{end}{rest.partition(end)[2]}"
    return text


def diagram() -> str:
    """Every change of a walk's phase that is reached, as Mermaid text; what only pauses or resumes it is left out."""
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
    arrows = ((was, now, ", ".join(sorted(verbs - {""}))) for (was, now), verbs in sorted(found.items()))
    lines = [f"    {was} --> {now}{f': {label}' if label else ''}" for was, now, label in arrows]
    return "\n".join(("```mermaid", "stateDiagram-v2", *lines, "```", ""))


def _phase(machine: Machine, state: State, number: int) -> str:
    request = machine.ledgers.found[state.ledger].state.requests.get(request_id(number))
    return phase_of(request) if isinstance(request, Walk) else "[*]"


def _verb(action: str, number: int) -> str:
    """What moved a walk; nothing for its own due step."""
    if action.startswith("run") and f" {number} " not in action:
        return "a rollback begins"
    return action.split(maxsplit=1)[0] if action.startswith(("request", "cancel")) else ""


def gallery() -> str:
    """What happens without each guard."""
    return "\n".join(_shown(guard) for guard in GUARDS)


def _shown(guard: Guard) -> str:
    found = counterexample(guard)
    assert found.broken is not None
    steps = "; ".join(map(_short, _merged(found.counterexample)))
    broken = _ID.sub(r"\1", str(found.broken))
    return f"### {guard.name}\n\nWhere: {guard.places}. Without it:\n\n{steps}.\n\n**{broken}.**\n"


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
    """The models and their bounds."""
    lines = ["| model | what happens in it | requests | versions | instances | rows |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{each.name}` | {each.about} | {each.requests} | {each.versions} | {each.instances} | {each.rows} |"
        for each in MODELS.values()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
