"""Splits documents (JSON, XML, hstore) into their leaves, by path; keys that vary from row to row become one ``*``."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Path = tuple[str, ...]
ANY_KEY, ELEMENT = "*", "[]"

# Beyond this many paths of one column nothing more is looked at.
MOST_PATHS = 256
# A JSON text of more characters is not parsed.
MOST_CHARS = 4 * 2**20
# JSON in a string inside JSON, and so on.
_DEEPEST_TEXT = 2
# An object with more keys than this over all rows, or whose keys hardly ever repeat, is a map from something to values.
_MOST_KEYS = 64
_FEW_KEYS = 12
_REPEATED = 2.0
# A key that is data rather than a name: long, with a run of digits, an address, hexadecimal.
_DATA = re.compile(r"[0-9]{4}|.@|[\x00-\x1f]|^[0-9a-fA-F-]{12,}$|^.{41,}$|^[0-9]+$", re.DOTALL)
# The keys of an object that is one encrypted value: of Active Record Encryption, of ZITADEL, of CipherStash. It stays
# whole, as compact JSON of these in this order, as the library writes them; jsonb sorts them.
_ONE_VALUE = (("p", "h"), ("CryptoType", "Algorithm", "KeyID", "Crypted"))
_OF_EQL = ("v", "k", "i", "c", "sv")
# Terms by which EQL 3 searches; its scalars have no `k`.
_SCALAR_OF_EQL_3 = {"v", "i", "c", "hm", "op", "ob", "bf"}

# Numbers do not matter, and may be too long to be converted.
_DECODER = json.JSONDecoder(parse_int=bool, parse_float=bool, parse_constant=bool)
_ELEMENT_TEXT = re.compile(r"<([^\s<>/!?&]{1,64})(?:\s[^<>]*)?>([^<>]+)</\1\s*>")
_HSTORE_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)', re.DOTALL)
_HSTORE_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Leaves(NamedTuple):
    """The texts in documents, by path.

    Args:
        complete: whether there are no more paths than these.
    """

    by_path: Mapping[Path, list[str]]
    complete: bool


def leaves_of(documents: Sequence[str]) -> Leaves:
    """Returns the strings in JSON texts; what is not JSON has none.

    An object that is one encrypted value in itself is a leaf.
    """
    return _leaves([parsed for text in documents if (parsed := _parsed(text)) is not None])


def texts_in_xml(documents: Sequence[str]) -> Leaves:
    """Returns the text of elements without children, by the element's name."""
    found: defaultdict[Path, list[str]] = defaultdict(list)
    for document in documents:
        for name, text in _ELEMENT_TEXT.findall(document):
            found[(name,)].append(text)
    return Leaves(dict(list(found.items())[:MOST_PATHS]), len(found) <= MOST_PATHS)


def values_in_hstore(documents: Sequence[str]) -> Leaves:
    """Returns the values of hstore in its text form, by key."""
    return _leaves([dict(_pairs(document)) for document in documents])


def looks_like_json(text: str) -> bool:
    """Returns whether a text may be a JSON object or array."""
    return text.lstrip()[:1] in {"{", "["}


def _pairs(document: str) -> Iterator[tuple[str, str]]:
    for key, value in _HSTORE_PAIR.findall(document):  # of NULL it is empty
        yield _HSTORE_ESCAPE.sub(r"\1", key), _HSTORE_ESCAPE.sub(r"\1", value)


def _parsed(text: str) -> Any:  # noqa: ANN401  JSON
    """Returns what a JSON text holds; None where it is none, or too large or deep."""
    if len(text) > MOST_CHARS:
        return None
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _leaves(documents: Sequence[Any]) -> Leaves:
    """Goes through all documents together, a level at a time: only so it shows which keys vary."""
    found: dict[Path, list[str]] = {}
    complete = True
    level: dict[Path, list[tuple[Any, int]]] = {(): [(document, 0) for document in documents]}
    while level:
        below: defaultdict[Path, list[tuple[Any, int]]] = defaultdict(list)
        for path, nodes in level.items():
            if texts := list(_texts(nodes)):
                found[path] = texts
            for key, node in _children(nodes):
                below[(*path, key)].append(node)
        room = MOST_PATHS - len(found)
        complete = complete and len(below) <= room
        level = dict(list(below.items())[:room])
    return Leaves(found, complete)


def _texts(nodes: Sequence[tuple[Any, int]]) -> Iterator[str]:
    for node, _ in nodes:
        if isinstance(node, str) and node:
            yield node
        elif isinstance(node, dict) and (keys := _keys_of_value(node)):
            yield json.dumps({key: node[key] for key in keys}, separators=(",", ":"))


def _children(nodes: Sequence[tuple[Any, int]]) -> Iterator[tuple[str, tuple[Any, int]]]:
    objects: list[tuple[dict[str, Any], int]] = []
    for node, depth in nodes:
        match node:
            case str() if depth < _DEEPEST_TEXT and looks_like_json(node):
                if isinstance(inner := _parsed(node), dict) and not _keys_of_value(inner):
                    objects.append((inner, depth + 1))
            case dict() if not _keys_of_value(node):
                objects.append((node, depth))
            case list():
                yield from ((ELEMENT, (each, depth)) for each in node)
    keys = Counter(key for node, _ in objects for key in node)
    varies = len(keys) > _MOST_KEYS or (len(keys) > _FEW_KEYS and keys.total() < _REPEATED * len(keys))
    for node, depth in objects:
        for key, value in node.items():
            yield ANY_KEY if varies or _DATA.search(key) else key, (value, depth)


def _keys_of_value(node: Mapping[str, Any]) -> Path:
    """Returns the keys of an object that is one encrypted value; none: it is not."""
    found = next((keys for keys in _ONE_VALUE if node.keys() == set(keys)), ())
    return tuple(key for key in _OF_EQL if key in node) if not found and _is_of_eql(node) else found


def _is_of_eql(node: Mapping[str, Any]) -> bool:
    place = node.get("i")
    if not (isinstance(place, dict) and {"t", "c"} <= place.keys() and "v" in node):
        return False
    if node.get("k") == "sv":
        return isinstance(node.get("sv"), list)
    return "c" in node and (node.get("k") == "ct" or node.keys() <= _SCALAR_OF_EQL_3)
