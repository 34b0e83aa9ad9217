"""Says of another library's format what there is to know to bring its values into our own. Standard library only.

A source is a package next to those of the formats: `SOURCES` in `__init__.py`, and `codec.py`, whose `source` opens and
seals values as the library does (see `codecs.source.Source`). Nothing else of the program knows it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOption:
    """What a library lets an application choose, and its values do not say.

    Args:
        name: as the configuration and `LegacyKey` have it.
        choices: what may be said; the first is what the library does where nothing is said. (): any name.
        says: what it is, for the reference.
        column: whether it names a column of the row in which a part of each value is.
        optional: whether it may be left out.
    """

    name: str
    choices: tuple[str, ...] = ()
    says: str
    column: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """A format whose library reads one key.

    Args:
        name: as `scan` has it, and `from` of a column.
        package: of its code: `__name__`.
        library: that writes it, in words.
        authenticated: whether a value opens under its own key alone. If not, only padding and UTF-8 tell a wrong key.
        deterministic: whether equal texts have equal values, so that applications can search by them.
        options: each is to be said.
        options_may_clash: whether `codec.require_possible` refuses some of what they can say together.
        seen_as: how `scan` names its values: by `name` where they are recognised, else by what they look like. "": by
            no name of their own.
        text_bytes: the length of the longest text that a value of ``{size}`` bytes can hold, as a term of SQL.
        against: what NIST has against how it derives keys and uses them, a sentence each.
        binary: whether values are bytes, in bytea alone; else they are text, which bytea may hold as ASCII.
        source: where this was read: project, file and version.
    """

    name: str
    package: str
    library: str
    authenticated: bool
    deterministic: bool = False
    options: tuple[SourceOption, ...] = ()
    options_may_clash: bool = False
    seen_as: str
    text_bytes: str = "{size}"
    binary: bool = False
    against: tuple[str, ...] = ()
    source: str = ""
