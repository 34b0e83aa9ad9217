"""Splits the SQL that pg_dump and pg_restore print into statements."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
