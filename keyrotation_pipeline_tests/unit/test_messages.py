"""No sentence of a command is too long to be read at three in the morning."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import keyrotation_pipeline

TOP = Path(keyrotation_pipeline.__file__).parent
MOST_CHARS = 200
# What people meet while they rotate has no more words, commands among them.
MOST_WORDS = 25
EVERY_DAY = {"cli", "console", "defs", "incidents", "model", "monitoring", "reporting", "requests", "rotation"}
# A name, a number or a version in its place; ids are longer, and shown with eight digits.
OF_A_NAME = "x" * 8
# What makes a message besides an error: findings of a pre-flight, and reasons to wait.
MAKERS = {"PendingReason", "Problem", "fatal", "warning", "red", "amber"}


def text_of(node: ast.expr) -> str:
    """A literal, or the literal parts of an f-string; empty: neither."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(text_of(each) or OF_A_NAME for each in values)
        case _:
            return ""


def makes_message(function: ast.expr) -> bool:
    match function:
        case ast.Name(name):
            return name in MAKERS
        case ast.Attribute(ast.Call(ast.Name("super")), "__init__"):
            return True
        case ast.Attribute(_, name):
            return name in MAKERS
    return False


def messages(source: str) -> Iterator[tuple[int, str]]:
    """The literals in errors that are raised, in subclasses of errors, and in findings, with their lines."""
    made = [
        each
        for each in ast.walk(ast.parse(source))
        if isinstance(each, ast.Raise) or (isinstance(each, ast.Call) and makes_message(each.func))
    ]
    for each in made:
        parts = {id(part) for outer in ast.walk(each) if isinstance(outer, ast.JoinedStr) for part in outer.values}
        for node in ast.walk(each):
            if isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in parts and (text := text_of(node)):
                yield node.lineno, text


@cache
def sentences(source: str) -> set[tuple[int, str]]:
    """Every sentence of a message, with its line."""
    return {
        (line, sentence) for line, text in messages(source) for sentence in re.split(r"(?<=[.?!:]) (?=[A-Z`])", text)
    }


def too_long(source: str) -> set[tuple[int, str]]:
    """Sentences of more than `MOST_CHARS` characters, with their lines."""
    return {(line, sentence) for line, sentence in sentences(source) if len(sentence) > MOST_CHARS}


def test_messages_of_every_day_have_few_words() -> None:
    found = {
        f"{path.relative_to(TOP)}:{line}: {sentence}"
        for folder in EVERY_DAY
        for path in (TOP / folder).rglob("*.py")
        for line, sentence in sentences(path.read_text())
        if len(sentence.split()) > MOST_WORDS
    }
    assert sorted(found) == []


def test_no_sentence_of_a_message_is_too_long() -> None:
    found = {
        f"{path.relative_to(TOP)}:{line} ({len(sentence)}): {sentence}"
        for path in TOP.rglob("*.py")
        for line, sentence in too_long(path.read_text())
    }
    assert sorted(found) == []


def test_a_number_of_things_is_counted_in_words_that_one_says() -> None:
    signed = TOP / "model" / "comparison.py"  # texts that are stored stay as they were
    found = {
        f"{path.relative_to(TOP)}:{node.lineno}: {text}"
        for path in TOP.rglob("*.py")
        if path != signed and re.search(r"\(e?s\)", source := path.read_text())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and re.search(r"[a-z]\(e?s\)(?![\w ]*->|\s*\))", text := str(node.value))
        if "SELECT" not in text
    }
    assert sorted(found) == []


def test_a_sentence_that_is_too_long_is_found() -> None:
    long = "word " * 41
    assert len(too_long(f'raise KeyError(f"{long}")')) == 1
    assert len(too_long(f'Problem("{long}", fatal=True)')) == 1
    assert too_long(f'raise KeyError("{long[:100]}. {long[:100].capitalize()}")') == set()
