"""Selects the statements of a dump that name roles, settings and the database itself.

The text may be hostile: whoever wrote the archive chose it. So a statement is only selected if every token of it fits
the one form in which pg_dump prints such a statement, and none of these forms can evaluate an expression.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from itertools import pairwise

from keyrotation_pipeline.adapters.postgres.server.dump_text import Statement, Token, shape_of, unquoted


class Part(Enum):
    """What a statement of a dump is about."""

    DATABASE = "creates the database"
    DATABASE_OPTION = "connection limit of the database, or that it is a template"
    DATABASE_SETTING = "setting of the database"
    ROLE_SETTING = "setting of a role in the database"
    DATABASE_COMMENT = "comment on the database"
    OWNER = "owner of an object"
    PRIVILEGE = "privilege on an object"
    DEFAULT_PRIVILEGE = "privilege on future objects"
    OTHER = "everything else"


# Shapes: tokens separated by blanks, quoted names as "", texts as ''. pg_dump writes keywords in upper case, and other
# names in lower case.
_ID = r'(?:""|[a-z_][a-z0-9_$]*)'
_NAME = rf"{_ID}(?: \. {_ID}){{0,2}}"
_ARGUMENTS = r"""\( (?:(?:""|[A-Za-z0-9_$]+|[.,*\[\]()]) )*\)"""
_ROLE = rf"(?:{_ID}|PUBLIC)"
_OWNED = (
    "TABLE|SEQUENCE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SCHEMA|DATABASE|TYPE|DOMAIN|COLLATION|CONVERSION|LANGUAGE|"
    "PROCEDURAL LANGUAGE|PUBLICATION|SUBSCRIPTION|SERVER|FOREIGN DATA WRAPPER|EVENT TRIGGER|STATISTICS|"
    "TEXT SEARCH DICTIONARY|TEXT SEARCH CONFIGURATION"
)
_GRANTABLE = "TABLE|SEQUENCE|SCHEMA|DATABASE|TYPE|DOMAIN|LANGUAGE|FOREIGN DATA WRAPPER|FOREIGN SERVER"
_PRIVILEGE = rf"[A-Z]+(?: \( {_ID} \))?"
_GRANT = rf"(?:GRANT|REVOKE(?: GRANT OPTION FOR)?) {_PRIVILEGE}(?: , {_PRIVILEGE})* ON "
_GRANTEE = rf" (?:TO|FROM) {_ROLE}(?: WITH GRANT OPTION)? ;"
_VALUE = rf"(?:''|{_ID}|[0-9.]+)"
_SET = rf"SET {_ID}(?: \. {_ID})* (?:TO|=) {_VALUE}(?: , {_VALUE})* ;"
_FORMS: Mapping[Part, re.Pattern[str]] = {
    Part.DATABASE: re.compile(rf"CREATE DATABASE {_ID} .*", re.DOTALL),
    Part.DATABASE_OPTION: re.compile(rf"ALTER DATABASE {_ID} (?:CONNECTION LIMIT = -? ?[0-9]+|IS_TEMPLATE = true) ;"),
    Part.DATABASE_SETTING: re.compile(rf"ALTER DATABASE {_ID} {_SET}"),
    Part.ROLE_SETTING: re.compile(rf"ALTER ROLE {_ID} IN DATABASE {_ID} {_SET}"),
    Part.DATABASE_COMMENT: re.compile(rf"COMMENT ON DATABASE {_ID} IS '' ;"),
    Part.OWNER: re.compile(
        rf"ALTER (?:(?:{_OWNED}) {_NAME}|LARGE OBJECT [0-9]+|(?:FUNCTION|PROCEDURE|AGGREGATE) {_NAME} {_ARGUMENTS}|"
        rf"OPERATOR (?:{_ID} \. )?\S+ {_ARGUMENTS}|OPERATOR (?:CLASS|FAMILY) {_NAME} USING {_ID}) OWNER TO {_ID} ;"
    ),
    Part.PRIVILEGE: re.compile(
        rf"{_GRANT}(?:(?:{_GRANTABLE}) {_NAME}|LARGE OBJECT [0-9]+|(?:FUNCTION|PROCEDURE) {_NAME} {_ARGUMENTS})"
        rf"{_GRANTEE}"
    ),
    Part.DEFAULT_PRIVILEGE: re.compile(
        rf"ALTER DEFAULT PRIVILEGES FOR ROLE {_ID}(?: IN SCHEMA {_ID})? {_GRANT}[A-Z]+(?: [A-Z]+)?{_GRANTEE}"
    ),
}


def part_of(statement: Statement) -> Part:
    """Returns what a statement is about: OTHER, unless its form is one that cannot evaluate an expression."""
    shape = shape_of(statement.words)
    return next((part for part, form in _FORMS.items() if form.fullmatch(shape)), Part.OTHER)


def setting_of(statement: Statement) -> str | None:
    """Returns the name of the setting that a DATABASE_SETTING or ROLE_SETTING sets, in lower case; None for others."""
    if part_of(statement) not in {Part.DATABASE_SETTING, Part.ROLE_SETTING}:
        return None
    words = [word.text for word in statement.words]
    start = words.index("SET") + 1
    end = next(place for place, word in enumerate(words) if word in {"TO", "="} and place > start)
    return "".join(map(unquoted, words[start:end])).lower()


def for_database(statement: Statement, name: str) -> Statement:
    """Returns the statement with the name of the database that it is about replaced; others as they are.

    Every statement that `part_of` selects can name one only where it is replaced.

    Args:
        name: not quoted.
    """
    entry = statement.entry
    of_database = entry is not None and (entry.kind.startswith("DATABASE") or entry.name.startswith("DATABASE "))
    if not of_database and part_of(statement) is Part.OTHER:
        return statement
    tokens = list(statement.tokens)
    places = [place for place, token in enumerate(tokens) if token.kind != "space"]
    for keyword, named in pairwise(places):
        if tokens[keyword] == Token("word", "DATABASE"):
            tokens[named] = Token("quoted", '"' + name.replace('"', '""') + '"')
            return replace(statement, tokens=tuple(tokens))
    return statement
