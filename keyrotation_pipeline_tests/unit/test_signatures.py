"""A signature says what is used: whoever needs one port takes that port, not the whole `Pipeline`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import keyrotation_pipeline

TOP = Path(keyrotation_pipeline.__file__).parent
# These are handed over as values, in an `Action`, and so have the signature of its field.
CALLBACKS = {"_authorises", "stored_source", "_target", "_refuse_to_cancel", "close_rows"}


def used_of(function: ast.FunctionDef, name: str) -> set[str]:
    """The attributes that a function uses of a parameter; an empty one: it is passed on, or stored."""
    attributes = [
        each
        for each in ast.walk(function)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == name
    ]
    direct = {id(each.value) for each in attributes}
    bare = any(isinstance(each, ast.Name) and each.id == name and id(each) not in direct for each in ast.walk(function))
    return {each.attr for each in attributes} | ({""} if bare else set())


def too_wide(source: str) -> Iterator[str]:
    """The functions that take a `Pipeline` and use one port of it, or none."""
    for function in ast.walk(ast.parse(source if "Pipeline" in source else "")):
        if not isinstance(function, ast.FunctionDef) or function.name in CALLBACKS:
            continue
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        for each in given:
            if each.annotation is None or ast.unparse(each.annotation) != "Pipeline":
                continue
            used = used_of(function, each.arg)
            if len(used) < 2 and "" not in used:
                yield f"{function.name} takes a Pipeline and uses {', '.join(used) or 'nothing'} of it"


def test_no_function_takes_the_pipeline_for_one_port() -> None:
    found = [f"{path.relative_to(TOP)}: {each}" for path in TOP.rglob("*.py") for each in too_wide(path.read_text())]
    assert found == []


def test_a_function_that_takes_the_pipeline_for_one_port_is_found() -> None:
    source = """
def head(pipeline: Pipeline) -> str: return pipeline.ledger.head()
def both(pipeline: Pipeline) -> str: return pipeline.ledger.head(), pipeline.clock.now()
def onward(pipeline: Pipeline) -> str: return head(pipeline), pipeline.clock.now()
"""
    assert list(too_wide(source)) == ["head takes a Pipeline and uses ledger of it"]
