"""Which tests hold each guard that a page of docs/security names."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from keyrotation_pipeline_tests.reference.markdown import code, page_of

_INTRODUCTION = """
Each page of [security](../security.md) numbers what its attacker can try; these tests show what stops it, by their
names or files in `keyrotation_pipeline_tests/`.
"""


def guard_tests() -> dict[str, dict[str, list[str]]]:
    """By page and number: the tests, or the files of tests."""
    return tomllib.loads(Path(__file__).with_name("guards.toml").read_text())


def page() -> str:
    """The page."""
    return page_of("Tests that hold each guard", _parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    for attacker, guards in guard_tests().items():
        yield f"## {attacker.replace('-', ' ').capitalize()}"
        yield "\n".join(f"{number}. {', '.join(map(code, tests))}" for number, tests in guards.items())
