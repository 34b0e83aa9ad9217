"""Splits the SQL that pg_dump and pg_restore print into statements, and selects those that are of one kind.

They name roles, settings and the database itself. The text may be hostile: whoever wrote the archive chose it. So a
statement is only selected if every token of it fits the one form in which pg_dump prints such a statement, and none
of these forms can evaluate an expression.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

# High bytes are part of words, as in the server's own lexer; PostgreSQL's white space is that of ASCII.
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\n\r\f\v]+ | --[^\n]*)
  | (?P<block>/\*)
  | (?P<text>'[^']*(?:''[^']*)*')
  | (?P<quoted>"[^"]*(?:""[^"]*)*")
  | (?P<dollar>\$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?)\$.*?\$(?P=tag)\$)
  | (?P<escape>[eE](?='))
  | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
  | (?P<number>[0-9][A-Za-z0-9_.]*)
  | (?P<cast>::)
  | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"'[^'\\]*(?:(?:''|\\.)[^'\\]*)*'", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_HEADER = re.compile(r"-- (?:Data for )?Name: (.*; Type: .*; Schema: .*; Owner: .*?)(?:; Tablespace: .*)?")
_TYPE = re.compile(r"; Type: ([A-Z][A-Z ]*); Schema: ")
_OWNER = re.compile("; Owner: ")
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_LATIN = {"LATIN5": "9", "LATIN6": "10", "LATIN7": "13", "LATIN8": "14", "LATIN9": "15", "LATIN10": "16"}
_OTHER_CODECS = {
    "EUC_CN": "gb2312", "EUC_JIS_2004": "euc_jis_2004", "KOI8R": "koi8-r", "KOI8U": "koi8-u", "UHC": "cp949",
    "UTF8": "utf-8", "SQL_ASCII": "utf-8", "WIN866": "cp866", "WIN874": "cp874",
}  # fmt: skip


class Token(NamedTuple):
    """A token: `kind` is a group of `_TOKEN`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a dump's table of contents, as the comment above its statements names it; newlines are blanks."""

    kind: str
    schema: str
    name: str
    owner: str

    @property
    def label(self) -> str:
        """Kind, schema and name, as in a list of pg_restore."""
        return " ".join(filter(None, (self.kind, self.schema if self.schema != "-" else "", self.name)))


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a dump, up to its semicolon.

    Args:
        entry: the entry that it belongs to; None before the first.
        session_role: as pg_dump quotes it, the role that has to run it (SET SESSION AUTHORIZATION).
        tablespace, access_method: those that are set where it stands, quoted; "" is the default.
    """

    tokens: tuple[Token, ...]
    entry: Entry | None
    session_role: str | None = None
    tablespace: str = ""
    access_method: str = ""

    @property
    def text(self) -> str:
        """The statement with its own white space and comments."""
        return "".join(token.text for token in self.tokens)

    @property
    def words(self) -> tuple[Token, ...]:
        """The tokens without white space and comments."""
        return tuple(token for token in self.tokens if token.kind != "space")


def decoded(raw: bytes) -> str:
    """Returns a dump's text, by the encoding that it names; bytes that do not fit become surrogates, as in file names.

    Encode it with ``.encode(errors="surrogateescape")`` to send it with `client_encoding` UTF8.
    """
    found = _ENCODING.search(raw)
    name = found[1].decode() if found else "UTF8"
    if name.startswith("LATIN"):
        codec = f"iso8859-{_LATIN.get(name, name.removeprefix('LATIN'))}"
    else:
        codec = _OTHER_CODECS.get(name, name.replace("WIN", "cp").replace("ISO_8859_", "iso8859-"))
    try:
        return raw.decode(codec, errors="surrogateescape")
    except LookupError:
        return raw.decode(errors="surrogateescape")


def statements(text: str) -> Iterator[Statement]:
    r"""Splits a dump without rows (``--schema-only``, also with ``--create``) into its statements.

    Lines for psql (``\connect``) and what only sets up the session are not returned: SET, RESET, set_config.

    Raises:
        ValueError: a quoted text, a comment or the last statement has no end.
    """
    session = _Session()
    for entry, tokens in _split(text, session):
        words = [token for token in tokens if token.kind != "space"]
        if not session.takes(words):
            yield Statement(
                tuple(tokens), entry, session.role, session.of["default_tablespace"],
                session.of["default_table_access_method"],
            )  # fmt: skip


class _Session:
    """The settings that the statements so far have made."""

    def __init__(self) -> None:
        self.role: str | None = None
        self.backslashes = False
        self.of = {"default_tablespace": "", "default_table_access_method": ""}

    def takes(self, words: list[Token]) -> bool:
        """Returns whether a statement only concerns the session, after recording it."""
        shape = shape_of(words)
        if shape.startswith("SELECT pg_catalog . set_config ("):
            return True
        if shape.startswith("SET SESSION AUTHORIZATION "):
            self.role = words[3].text
        elif shape == "RESET SESSION AUTHORIZATION ;":
            self.role = None
        elif not re.match(r"SET [a-z_]+ (?:=|TO) ", shape):
            return False
        elif words[1].text in self.of:
            self.of[words[1].text] = words[3].text.strip("'")
        elif words[1].text == "standard_conforming_strings":
            self.backslashes = words[3].text == "off"
        return True


class _Nesting:
    """Where in a statement the splitter is."""

    def __init__(self) -> None:
        self._parentheses = self._blocks = 0
        self._before = ""

    def ends_at(self, token: Token) -> bool:
        """Returns whether the statement ends at its next token."""
        if token.kind == "word":
            # Only SQL bodies of functions hold statements: BEGIN ATOMIC … END, with CASE … END in them.
            if self._blocks:
                self._blocks += (token.text == "CASE") - (token.text == "END")
            elif token.text == "ATOMIC" and self._before == "BEGIN":
                self._blocks = 1
        elif token.kind == "other":
            self._parentheses += (token.text == "(") - (token.text == ")")
        if token.kind != "space":
            self._before = token.text
        return token.text == ";" and not self._parentheses and not self._blocks


def _split(text: str, session: _Session) -> Iterator[tuple[Entry | None, list[Token]]]:
    entry, header, tokens, nesting, place = None, "", list[Token](), _Nesting(), 0
    while place < len(text):
        if not tokens and text[place] == "\\":
            place = len(text) if (end := text.find("\n", place)) < 0 else end
            continue
        token = _token(text, place, session)
        place += len(token.text)
        if token.kind == "space" and not tokens:
            if found := _HEADER.fullmatch(token.text):
                header = found[1]
            continue
        if session.backslashes and token.kind == "text" and "\\" in token.text and token.text[0] == "'":
            # The text then means the same whatever the setting is.
            token = Token("text", f"E{token.text}")
        tokens.append(token)
        if nesting.ends_at(token):
            if header:
                entry, header = _entry(header, tokens), ""
            yield entry, tokens
            tokens, nesting = [], _Nesting()
    if tokens:
        raise ValueError("the last statement has no end")


def _entry(header: str, tokens: Sequence[Token]) -> Entry | None:
    """Returns the entry that a comment names, in which names are not quoted: the reading that fits the statement."""
    named = {unquoted(token.text).replace("\n", " ").replace("\r", " ") for token in tokens} | {"-"}
    readings = [
        Entry(kind[1], header[kind.end() : owner.start()], header[: kind.start()], header[owner.end() :])
        for kind in _TYPE.finditer(header)
        for owner in _OWNER.finditer(header, kind.end())
    ]
    begins = {token.text for token in tokens[:4]}
    return max(
        readings,
        key=lambda each: (
            (each.schema in named) + (each.name.partition("(")[0] in named) + (each.kind.partition(" ")[0] in begins)
        ),
        default=None,
    )


def unquoted(name: str) -> str:
    """Returns a name without its quotes."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _token(text: str, place: int, session: _Session) -> Token:
    found = _TOKEN.match(text, place)
    if found is None or found.lastgroup is None:  # pragma: no cover  for the type checker
        raise ValueError("there is no token")
    kind = "dollar" if found["dollar"] is not None else found.lastgroup
    if kind == "block":
        return Token("space", text[place : _comment_end(text, place)])
    if kind == "escape":
        return Token("text", found[0] + _escaped(text, place + 1))
    if kind == "text" and session.backslashes:
        return Token("text", _escaped(text, place))
    if kind == "other" and found[0] in {"'", '"'}:
        raise ValueError("a quoted text has no end")
    return Token(kind, found[0])


def _escaped(text: str, place: int) -> str:
    if found := _ESCAPED.match(text, place):
        return found[0]
    raise ValueError("a quoted text has no end")


def _comment_end(text: str, place: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, place):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise ValueError("a comment has no end")


def shape_of(words: Sequence[Token]) -> str:
    """Returns tokens separated by blanks, quoted names as ``""`` and texts as ''."""
    shown = {"text": "''", "dollar": "''", "quoted": '""'}
    return " ".join(shown.get(word.kind, word.text) for word in words)


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
