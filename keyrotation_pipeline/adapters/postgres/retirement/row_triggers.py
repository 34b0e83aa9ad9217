"""Finds the triggers by which whoever writes one column of a table may set another one, without a right on it.

A BEFORE trigger may change the row that a statement writes, and the server asks for rights on the columns that the
statement names alone. What a function does cannot be known in general. So a trigger counts unless its function cannot
set any of some columns: code of the server or of an extension that is given none of their names, or PL/pgSQL that runs
with the writer's own rights and mentions the row only to set other columns, to read, and to return it.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# tgtype 1: for each row; 2: BEFORE; 4: on INSERT; 16: on UPDATE. A trigger on UPDATE OF columns fires for statements
# that name one of them, whatever other triggers change.
_TRIGGERS = """
SELECT format('trigger %%s of %%s', t.tgname, t.tgrelid::regclass), p.oid::regprocedure::text,
       t.tgtype & 4 <> 0, t.tgtype & 16 <> 0,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)),
       l.lanname, p.prosecdef, p.prosrc, t.tgargs,
       l.lanname IN ('c', 'internal') AND (p.oid < 16384 OR EXISTS (
           SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'))
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
WHERE t.tgrelid = ANY (%s::bigint[]::oid[]) AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 3 = 3
ORDER BY 1
"""

_TOKEN = re.compile(
    r"""(?P<skipped>--[^\n]*|\s+)
    |(?P<comment>/\*)
    |(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|(?:[bBnNxX]|[uU]&)?'(?:[^']|'')*'|\$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$)
    |(?P<unicode>[uU]&")
    |"(?P<quoted>(?:[^"]|"")*)"
    |(?P<word>[^\W\d][\w$]*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# What follows a variable that is read, and never one that is set.
_READ = frozenset({"is", "<", ">", "!", "|", "then", "and", "or"})


@dataclass(frozen=True, slots=True)
class RowTrigger:
    """A trigger that may set a column that the statement does not name.

    Args:
        name: with its table.
        function: with its arguments.
        events: on which it fires: INSERT, UPDATE.
    """

    name: str
    function: str
    events: tuple[str, ...]


def setting(
    connection: Connection, tree: Sequence[relations.Relation], columns: Collection[str]
) -> tuple[RowTrigger, ...]:
    """Returns the triggers of a tree that may set one of these columns for a statement that names none of them."""
    rows = connection.execute(_TRIGGERS, ([each.oid for each in tree],)).fetchall()
    found = []
    for name, function, on_insert, on_update, of, language, definer, body, arguments, installed in rows:
        named = cast("list[str]", of)
        events = [("INSERT", on_insert), ("UPDATE", on_update and not (named and set(named) <= set(columns)))]
        fires = tuple(event for event, is_one in events if is_one)
        if installed:
            sets = any(each.decode(errors="replace") in columns for each in cast("bytes", arguments).split(b"\0"))
        else:
            sets = language != "plpgsql" or definer is True or may_set(str(body), columns)
        if fires and sets:
            found.append(RowTrigger(str(name), str(function), fires))
    return tuple(found)


def may_set(body: str, columns: Collection[str]) -> bool:
    """Returns whether a trigger function in PL/pgSQL may return a row with one of these columns set.

    Args:
        body: its source; what cannot be read counts as one that may.
    """
    try:
        texts = [*_words(body), "", ""]
    except ValueError:
        return True
    returned = {texts[place + 1] for place, text in enumerate(texts) if text == "return"}
    return not returned <= {"new", "old", "null"} or any(
        _is_open(texts, place, columns)
        for place, text in enumerate(texts)
        if text == "new" or (text == "old" and "old" in returned)
    )


def _is_open(texts: Sequence[str], place: int, columns: Collection[str]) -> bool:
    """Returns whether a mention of the row may set one of the columns, or pass the row on to what may."""
    if texts[place + 1] != ".":
        return not (place and texts[place - 1] == "return" and texts[place + 1] == ";")
    return texts[place + 2] in {"*", *columns} and texts[place + 3] not in _READ


def _words(body: str) -> Iterator[str]:
    """Yields each token but spaces and comments, of texts a quote alone; names as the server understands them.

    Raises:
        ValueError: there is something that is not read here.
    """
    place = 0
    while place < len(body):
        found = cast("re.Match[str]", _TOKEN.match(body, place))
        place, kind = found.end(), str(found.lastgroup)
        if kind == "comment":
            place = _after_comment(body, place)
        elif kind == "unicode" or (kind == "other" and found[0] in "\"'\\"):
            raise ValueError(kind)
        elif kind == "quoted":
            yield found["quoted"].replace('""', '"')
        elif kind in {"word", "other"}:
            yield found[0].lower()
        elif kind == "text":
            yield "'"


def _after_comment(body: str, place: int) -> int:
    """Returns where a comment ends, which may contain others."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(body, place)
        if edge is None:
            raise ValueError(place)
        place, depth = edge.end(), depth + (1 if edge[0] == "/*" else -1)
    return place
