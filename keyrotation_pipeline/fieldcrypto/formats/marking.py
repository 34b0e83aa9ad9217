"""What a format's `sql.py` says, as text of PostgreSQL: where values name their key, or by what MAC they are told.

In each expression `{value}` stands for a value under "C". There is no percent sign: these stand in statements with
parameters. Standard library only.
"""

from dataclasses import dataclass
from importlib import import_module

from keyrotation_pipeline.fieldcrypto.format_spec import FormatSpec

# PostgreSQL needs four bytes per character to match a value, and can allocate at most 1 GB at once.
LONGEST_JUDGED_BYTES = 128 * 1024 * 1024
JUDGED = f"octet_length({{value}}) <= {LONGEST_JUDGED_BYTES}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """Where values of text name their key: `MARKING` of a `sql.py`.

    Args:
        begins: how every value begins.
        whole: a condition on `{value}`: it is all of a value, as the parser judges it.
        before, after: what stands around the marker.
        marker: the marker that stands in `{value}`, which is whole.
        at_start: whether `before` is the value's beginning; else it is searched for.
        added: what a value that names no key gets, here with any marker; empty: every value names one.
        grows: the beginning of a value, as a regular expression, if its marker may be longer under another key; empty:
            all markers are of one length.
        elsewhere: what stands before and after a marker in other text, as regular expressions; not so in a fence.
    """

    begins: str
    whole: str
    before: str
    after: str
    marker: str
    at_start: bool = True
    added: str = ""
    elsewhere: tuple[str, str]
    grows: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """Where values of bytes, each of which begins with 0x01, name their key: in this prefix; `MARKING` of a `sql.py`.

    Args:
        size: in bytes, of `raw`.
        fits: a condition on `raw`, which has as many bytes as the shortest value.
        shortest: in bytes.
    """

    size: str
    fits: str
    shortest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac:
    """How a MAC, HMAC-SHA-256 over all that stands before it, is found in a value: `MAC` of a `sql.py`.

    Args:
        shape: a condition on `{value}`: it has the form of a value, as the parser judges it.
        raw: the bytes of `{value}`, which has that form; the MAC ends them.
        mac_bytes: its length.
        begins: how every value begins that is searched for in other text.
        characters: of values, as the inside of a bracket expression.
        prefix: the beginning of every value, as a regular expression.
        shortest: in characters, without padding.
    """

    shape: str
    raw: str
    mac_bytes: int
    begins: str
    characters: str
    prefix: str
    shortest: int


def marking_of(spec: FormatSpec) -> Marking | Prefix:
    """Returns where values name their key, of a format of which `FormatSpec.markers` says that they do."""
    marking: Marking | Prefix = import_module(f"{spec.package}.sql").MARKING
    return marking


def mac_of(spec: FormatSpec) -> Mac:
    """Returns how a MAC is found, of a format whose keys are told by it."""
    mac: Mac = import_module(f"{spec.package}.sql").MAC
    return mac
