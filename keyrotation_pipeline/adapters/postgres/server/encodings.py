r"""Our texts in databases whose encoding lacks some of their characters: names, reasons, sentences.

A database in LATIN1 has no typographic quotation marks, and an insert of one fails. So what the encoding lacks is
stored as ``\u{2019}`` and read back as the character that it stands for.
"""

import codecs
import re
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# These hold every text: UTF8 by its nature, SQL_ASCII since it takes bytes as they are.
_HOLD_ALL = frozenset({"UTF8", "SQL_ASCII"})
_SINGLE_BYTE = re.compile(r"(?:LATIN|ISO_8859_|WIN)[0-9]+")
_ESCAPED = re.compile(r"\\u\{([0-9a-f]{1,6})\}")


def codec_of(connection: Connection) -> str | None:
    """The codec of what the database can hold; None: it holds every text.

    Of encodings with several bytes a character only ASCII is relied on, since Python's tables differ from PostgreSQL's.
    """
    name = connection.info.parameter_status("server_encoding") or "UTF8"
    if name in _HOLD_ALL:
        return None
    if _SINGLE_BYTE.fullmatch(name):
        try:
            return codecs.lookup(name.replace("WIN", "cp")).name
        except LookupError:
            pass
    return "ascii"


def storable(value: Any, codec: str | None) -> Any:  # noqa: ANN401  any parameter
    """A parameter that the database can hold; what is no text stays as it is."""
    if codec is None:
        return value
    match value:
        case str():
            return "".join(_stored(character, codec) for character in re.split(r"(\\(?=u\{)|[^\x00-\x7f])", value))
        case Jsonb():
            return Jsonb(storable(value.obj, codec))
        case Mapping():
            return {storable(name, codec): storable(each, codec) for name, each in value.items()}
        case list() | tuple():
            return [storable(each, codec) for each in value]
        case _:
            return value


def readable(value: Any, codec: str | None) -> Any:  # noqa: ANN401  any column
    """What `storable` was given, out of what the database holds."""
    if codec is None:
        return value
    match value:
        case str():
            return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)
        case Mapping():
            return {readable(name, codec): readable(each, codec) for name, each in value.items()}
        case list():
            return [readable(each, codec) for each in value]
        case _:
            return value


def _stored(part: str, codec: str) -> str:
    """A part of a text: plain ASCII, or one character that may have to be escaped."""
    if part == "\\":
        return r"\u{5c}"
    try:
        part.encode(codec)
    except UnicodeEncodeError:
        return f"\\u{{{ord(part):x}}}"
    return part
