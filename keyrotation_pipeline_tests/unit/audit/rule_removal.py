"""Every rule of the replay, found in its source, and the replay without one of them.

A rule is a call of `require`, of what is made of such calls, or an `ImpossibleError` that is raised. So a new one is in
the list as soon as it is written, and the test that goes through the list fails until something catches its removal.

``python -m keyrotation_pipeline_tests.unit.audit.rule_removal`` writes `witnesses.json`: for each rule the number of a
hostile chain that achieves something without it.
"""

import ast
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType

import pytest

from keyrotation_pipeline.audit import incidents, request_rules, rules, walk_rules
from keyrotation_pipeline.model import audit_state
from keyrotation_pipeline_tests.unit.audit.honest_chains import installation
from keyrotation_pipeline_tests.unit.audit.hostile_chains import Generator

MODULES: tuple[ModuleType, ...] = (rules, request_rules, walk_rules, incidents, audit_state)


WITNESSES = Path(__file__).with_name("witnesses.json")


@dataclass(frozen=True)
class Rule:
    """One check of one function.

    Args:
        function: that it stands in.
        message: what an event that breaks it "does", with {} for what varies.
    """

    module: ModuleType = field(repr=False)
    function: str
    message: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.function}: {self.message}"


def all_rules() -> tuple[Rule, ...]:
    return tuple(rule for module in MODULES for rule in _rules_of(module))


def _rules_of(module: ModuleType) -> Iterator[Rule]:
    for function in _functions(ast.parse(inspect.getsource(module))):
        if function.name == "require":
            continue
        for node in ast.walk(function):
            if (sentence := _sentence(node)) is not None:
                assert isinstance(node, ast.stmt)
                yield Rule(module, function.name, sentence, node.lineno, node.end_lineno or node.lineno)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _sentence(node: ast.AST) -> str | None:
    match node:
        case ast.Expr(ast.Call(ast.Name("require"), [_, said])):
            return _template(said)
        case ast.Raise(ast.Call(ast.Name("ImpossibleError"), [said])):
            return _template(said)
        case ast.Expr(ast.Call() as call) if _is_rule(_name(call)) or _name(call) == "verified":
            return ast.unparse(call)
        case ast.Assign(value=ast.Call() as call) if _is_rule(_name(call)):
            return ast.unparse(call)
    return None


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def _is_rule(name: str) -> bool:
    return name.lstrip("_").startswith("require_")


def _template(said: ast.expr) -> str:
    match said:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(values):
            return "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in values)
    return ast.unparse(said)


class _Without(ast.NodeTransformer):
    """Removes one rule; what turns an error of another kind into a fault lets it pass."""

    def __init__(self, rule: Rule) -> None:
        self._at = rule.first

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.lineno == self._at else node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        """What is found is used: then it is found without being judged."""
        if node.lineno == self._at and isinstance(node.value, ast.Call):
            match node.value:
                case ast.Call(ast.Attribute() as method, asked):
                    method.attr, node.value.args = "known", asked[:1]
                case ast.Call(ast.Name("require_lines"), [_, _] as arguments):
                    arguments[1] = ast.copy_location(ast.Dict([], []), arguments[1])
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.lineno == self._at else node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        if node.body[-1].lineno == self._at:
            node.body = [ast.copy_location(ast.Raise(), node.body[-1])]
        return node


def without(rule: Rule, patch: pytest.MonkeyPatch) -> None:
    """Take a rule out of the running program."""
    tree = ast.fix_missing_locations(_Without(rule).visit(ast.parse(inspect.getsource(rule.module))))
    code = _code_of(compile(tree, str(rule.module.__file__), "exec"), rule)
    for function in _named(rule):
        patch.setattr(function, "__code__", code)


def _code_of(compiled: CodeType, rule: Rule) -> CodeType:
    for each in compiled.co_consts:
        if isinstance(each, CodeType):
            if each.co_name == rule.function:
                return each
            if any(isinstance(inner, CodeType) and inner.co_name == rule.function for inner in each.co_consts):
                return _code_of(each, rule)
    raise LookupError(str(rule))


def _named(rule: Rule) -> Iterator[FunctionType]:
    holders = [rule.module, *(each for each in vars(rule.module).values() if isinstance(each, type))]
    for holder in holders:
        found = vars(holder).get(rule.function)
        if isinstance(found, FunctionType) and found.__module__ == rule.module.__name__:
            yield found


class Refusals:
    """Where events were refused, as a replay goes on: each line of the rules that led there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at: set[tuple[str | None, int]] = set()
        inner, files = audit_state.ImpossibleError.__init__, {module.__file__ for module in MODULES}

        def noted(error: audit_state.ImpossibleError, *arguments: object) -> None:
            frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the only way to see a caller
            while frame is not None and frame.f_code.co_filename in files:
                self.at.add((frame.f_code.co_filename, frame.f_lineno))
                frame = frame.f_back
            inner(error, *arguments)

        patch.setattr(audit_state.ImpossibleError, "__init__", noted)


def achieves(violations: Callable[[int], list[str]], seed: int) -> bool:
    """Whether a chain achieves something, or stops the program by an error that it does not expect."""
    try:
        return bool(violations(seed))
    except Exception:  # noqa: BLE001  any
        return True


def write_witnesses(chains: int, each: int = 400) -> None:
    """Go through the chains once, and only where a rule refused something once more without it."""
    violations = Generator(installation()).violations
    refusing: dict[Rule, list[int]] = {rule: [] for rule in all_rules()}
    lines = {(r.module.__file__, line): r for r in refusing for line in range(r.first, r.last + 1)}
    with pytest.MonkeyPatch.context() as patch:
        refusals = Refusals(patch)
        for seed in range(chains):
            refusals.at.clear()
            assert violations(seed) == []
            for rule in {lines[at] for at in refusals.at & lines.keys()}:
                refusing[rule].append(seed)
    found: dict[str, int] = {}
    for rule, seeds in refusing.items():
        with pytest.MonkeyPatch.context() as patch:
            without(rule, patch)
            if (witness := next((seed for seed in seeds[:each] if achieves(violations, seed)), None)) is not None:
                found[str(rule)] = witness
    WITNESSES.write_text(f"{json.dumps(found, indent=2, sort_keys=True)}\n")


if __name__ == "__main__":
    write_witnesses(10_000)
