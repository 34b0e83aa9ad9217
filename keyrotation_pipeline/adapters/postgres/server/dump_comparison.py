"""Compares the definitions in two dumps of databases, such as a dump and a dump of what was restored from it.

The order of objects does not matter, nor do the databases' names. PostgreSQL prints some expressions in another way
once they were reloaded, since its parser simplifies what it reads; these compare equal:

- ``(ARRAY['a'::varchar])::text[]`` and ``ARRAY[('a'::varchar)::text]``: the parser applies a cast of an array
  constructor to its elements (transformArrayExpr in parse_expr.c).
- ``((a AND b) AND c)`` and ``(a AND b AND c)``, and the same with OR: the grammar flattens the operand on the left
  (makeAndExpr in gram.y). BETWEEN, IN and comparisons of rows are stored with such operands.
- ``'x'::text AS text`` and ``'x'::text``: a column without a name takes that of its type (FigureColname). The name is
  left out only where nothing can refer to it, as in the second query of a UNION (get_target_list in ruleutils.c).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from keyrotation_pipeline.adapters.postgres.server.dump_text import (
    Entry,
    Part,
    Statement,
    Token,
    for_database,
    part_of,
    statements,
)

_DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Difference:
    """How an entry of a dump differs in another one.

    Args:
        entry: of the first dump, else of the second.
        what: ``missing``, ``additional``, ``owner``, ``privileges``, ``tablespace`` or ``definition``.
    """

    entry: Entry
    what: str


@dataclass(frozen=True, slots=True)
class _Content:
    """What an entry says, in parts that do not depend on the order of statements."""

    definition: tuple[str, ...]
    owner: tuple[str, ...]
    privileges: tuple[str, ...]
    tablespace: str


def compare(wanted: str, found: str) -> tuple[Difference, ...]:
    """Compares two dumps without rows (``--schema-only --create``), ordered by name.

    Raises:
        ValueError: as `statements`.
    """
    expected, actual = _contents(wanted), _contents(found)
    return tuple(
        difference
        for key in sorted(expected.keys() | actual.keys())
        for difference in _differences(expected.get(key, []), actual.get(key, []))
    )


_Entries: TypeAlias = list[tuple[Entry, _Content]]


def _differences(expected: _Entries, actual: _Entries) -> Iterator[Difference]:
    """Yields the differences of the entries of one name: of several, equal ones belong together."""
    equal = Counter(content for _, content in expected) & Counter(content for _, content in actual)
    expected, actual = _without(expected, equal), _without(actual, equal)
    for (entry, one), (_, other) in zip(expected, actual, strict=False):
        for what in ("definition", "owner", "privileges", "tablespace"):
            if getattr(one, what) != getattr(other, what):
                yield Difference(entry, what)
    yield from (Difference(entry, "missing") for entry, _ in expected[len(actual) :])
    yield from (Difference(entry, "additional") for entry, _ in actual[len(expected) :])


def _without(entries: _Entries, equal: Counter[_Content]) -> _Entries:
    left, rest = Counter(equal), []
    for entry, content in entries:
        if left[content]:
            left[content] -= 1
        else:
            rest.append((entry, content))
    return rest


def _contents(text: str) -> dict[tuple[str, ...], _Entries]:
    """Returns the entries by what identifies them: names in comments are ambiguous, so there may be several."""
    grouped: dict[int, list[Statement]] = defaultdict(list)
    entries: dict[int, Entry] = {}
    for statement in statements(text):
        if statement.entry is not None and not _is_data(statement):
            # Two entries may be equal; each is an object of its own.
            grouped[id(statement.entry)].append(statement)
            entries[id(statement.entry)] = statement.entry
    found: dict[tuple[str, ...], _Entries] = defaultdict(list)
    for number, group in grouped.items():
        entry = entries[number]
        owner = entry.owner if entry.kind == "DEFAULT ACL" else ""
        name = _name(entry)
        found[entry.kind, entry.schema, name, owner].append((entry, _content(group)))
    return found


def _is_data(statement: Statement) -> bool:
    """Returns whether it fills views, sequences or large objects; pg_restore prints some without rows, too.

    The kind of its entry does not say so for certain: comments do not quote names.
    """
    words = [word.text for word in statement.words[:3]]
    return words[0] in {"SELECT", "REFRESH", "BEGIN", "COMMIT"} or words[1:] == ["LARGE", "OBJECT"]


def _name(entry: Entry) -> str:
    if entry.kind in {"DATABASE", "DATABASE PROPERTIES"}:
        return _DATABASE
    return "DATABASE" if entry.name.startswith("DATABASE ") else entry.name


def _content(group: list[Statement]) -> _Content:
    definition, owner, privileges = [], [], []
    tablespace = ""
    for statement in group:
        text = canonical(_with_sorted_roles(for_database(statement, _DATABASE).words))
        match part_of(statement):
            case Part.OWNER:
                owner.append(text)
            case Part.PRIVILEGE | Part.DEFAULT_PRIVILEGE:
                privileges.append(f"{statement.session_role or ''}: {text}")
            case _ if text.startswith(_STORED):
                definition.append(f"{text} {statement.access_method}")
                tablespace = statement.tablespace
            case _:
                definition.append(text)
    return _Content(tuple(sorted(definition)), tuple(sorted(owner)), tuple(sorted(privileges)), tablespace)


def _with_sorted_roles(words: tuple[Token, ...]) -> tuple[Token, ...]:
    """Sorts the roles of a policy, which pg_dump writes in the order in which they were created on the server."""
    if [word.text for word in words[:2]] != ["CREATE", "POLICY"]:
        return words
    texts = [word.text for word in words]
    start = end = texts.index("TO") + 1 if "TO" in texts else 0
    while end and end + 1 < len(words) and texts[end + 1] == ",":
        end += 2
    roles = sorted(words[start : end + 1 : 2])
    return tuple(
        roles[(place - start) // 2] if start <= place <= end and not (place - start) % 2 else word
        for place, word in enumerate(words)
    )


_STORED = ("CREATE TABLE ", "CREATE UNLOGGED TABLE ", "CREATE MATERIALIZED VIEW ")
_Tree: TypeAlias = "list[str | _Tree]"
_CLOSED_BY = {"(": ")", "[": "]"}
# Of types; keywords are in upper case.
_NAME_STARTS = frozenset('abcdefghijklmnopqrstuvwxyz_"')
_INTERNAL_NAMES = {
    "bigint": "int8", "bit varying": "varbit", "boolean": "bool", "character": "bpchar", "character varying": "varchar",
    "double precision": "float8", "integer": "int4", "real": "float4", "smallint": "int2",
    "time with time zone": "timetz", "time without time zone": "time", "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
}  # fmt: skip


def canonical(words: Iterable[Token]) -> str:
    """Returns the statement with one blank between tokens, and expressions as they are printed after a reload."""
    stack: list[_Tree] = [[]]
    for word in words:
        if word.kind == "other" and word.text in _CLOSED_BY:
            stack.append([word.text])
        elif word.kind == "other" and word.text in _CLOSED_BY.values() and len(stack) > 1:
            group = stack.pop()
            stack[-1].append(_flattened([*_with_casts_inside(group), word.text]))
        else:
            stack[-1].append(word.text)
    while len(stack) > 1:  # an open parenthesis without its end
        group = stack.pop()
        stack[-1].extend(group)
    return " ".join(_leaves(_with_casts_inside(stack[0])))


def _leaves(tree: _Tree) -> Iterator[str]:
    for item in tree:
        if isinstance(item, str):
            yield item
        else:
            yield from _leaves(item)


def _flattened(group: _Tree) -> _Tree:
    """``((a AND b) AND c)`` as ``(a AND b AND c)``; the inner group is flat already."""
    inner, operator = group[1], group[2] if len(group) > 3 else None  # noqa: PLR2004
    if isinstance(inner, list) and operator in {"AND", "OR"} and _connectors(inner) == _connectors(group) == {operator}:
        return ["(", *inner[1:-1], *group[2:]]
    return group


def _connectors(group: _Tree) -> set[str]:
    return {item for item in group if isinstance(item, str) and item in {"AND", "OR"}}


def _with_casts_inside(items: _Tree) -> _Tree:
    """``(ARRAY[a, b])::t[]`` as ``ARRAY[(a)::t, (b)::t]``, wherever it stands in a group."""
    done: _Tree = []
    place = 0
    while place < len(items):
        array, cast = items[place], _cast(items, place + 1)
        end = place + 1 + len(cast)
        if cast and items[end : end + 1] == [["[", "]"]] and isinstance(array, list) and _is_array(array[1:-1]):
            done += _cast_elements(array[1:-1], cast)
            place = end + 1
        else:
            done.append(array)
            place += 1
    return _without_default_names(done)


def _without_default_names(items: _Tree) -> _Tree:
    """``'x'::text`` for ``'x'::text AS text``."""
    done: _Tree = []
    place = 0
    while place < len(items):
        done.append(items[place])
        if items[place] == "::" and (cast := _cast(items, place)):
            end = place + len(cast)
            done += items[place + 1 : end]
            array = items[end : end + 1] == [["[", "]"]]
            done += items[end : end + array]
            place = end + array - 1
            named = items[place + 2 : place + 3]
            if items[place + 1 : place + 2] == ["AS"] and named and str(named[0]).strip('"') == _column_name(cast[1:]):
                place += 2
        place += 1
    return done


def _column_name(type_: _Tree) -> str:
    """The name of a column without a name, by its type, as the parser gives it."""
    words = " ".join(str(word) for word in type_ if isinstance(word, str))
    return _INTERNAL_NAMES.get(words) or words.split()[-1].strip('"')


def _cast(items: _Tree, place: int) -> _Tree:
    """Returns ``:: t`` of a cast that stands there, without length and brackets; nothing if none does."""
    if items[place : place + 1] != ["::"]:
        return []
    end = place + 1
    while end < len(items) and isinstance(word := items[end], str) and (word == "." or word[0] in _NAME_STARTS):
        end += 1
    return items[place:end] if end > place + 1 else []


def _is_array(items: _Tree) -> bool:
    return len(items) == 2 and items[0] == "ARRAY" and items[1][0] == "["  # noqa: PLR2004


def _cast_elements(array: _Tree, cast: _Tree) -> _Tree:
    elements: list[_Tree] = [[]]
    for item in array[1][1:-1]:
        if item == ",":
            elements.append([])
        else:
            elements[-1].append(item)
    inside: _Tree = ["["]
    for number, element in enumerate(elements):
        inside += [","] if number else []
        inside += _cast_elements(element, cast) if _is_array(element) else [["(", *element, ")"], *cast]
    return ["ARRAY", [*inside, "]"]]
