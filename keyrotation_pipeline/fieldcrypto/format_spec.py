"""Says of a value format what is known of it without its code. Standard library only, so that `scan` stays light.

A format is a package: this in `__init__.py`; `recognise.py`, which tells values without keys; `codec.py`, which opens
and seals them (`codecs.format.Codec`); and `sql.py` (`formats.marking`). The last two are imported when asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.fieldcrypto.format_advice import Advice, Guess
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy


@dataclass(frozen=True, slots=True)
class Derivation:
    """How an application derives keys from what it lists.

    Args:
        name: as the configuration has it.
        function: ``module:name`` of what derives the bytes of a key: from an entry of the list, or, for each column,
            from a key, a table and a column; empty: the format's codec knows.
        for_each_column: whether every column has a key of its own, derived from keys; else keys are derived from texts.
        salted: whether the application has a salt of its own, which is declared.
        pairs: whether each entry is ``SECRET_KEY:SALT_KEY``, of which a new key changes the second half.
        against: what NIST has against it, as a sentence; empty: nothing.
    """

    name: str
    function: str = ""
    for_each_column: bool = False
    salted: bool = False
    pairs: bool = False
    against: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def is_of_passphrases(self) -> bool:
        """Whether keys are derived from texts; else from keys."""
        return not self.for_each_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A setting of `[format]` that some formats take.

    Args:
        name: as the configuration has it.
        takes: its type: `bool`, `str`, an enumeration or a `Literal`; see `settings.value_formats` for further ones.
        says: what it is, for the reference.
        needed: what a format needs that is not said, as the end of a sentence; empty: it may be left out.
        default: what it is where nothing is said.
        layout: of one that says how a value is put together: the layout, in which ``{}`` is what was said.
    """

    name: str
    takes: Any
    says: str
    needed: str = ""
    default: Any = None
    layout: str = ""

    def said_by(self, layout: str) -> str:
        """Returns the line of a configuration that says a layout; empty: this option cannot say it."""
        before, gap, after = self.layout.partition("{}")
        value = layout[len(before) : len(layout) - len(after)]
        if not gap or self.layout.format(value) != layout:
            return ""
        return f"{self.name} = {value}" if value.isdecimal() else f'{self.name} = "{value}"'


TEXT, BYTEA, PATH, ELEMENTS = "text", "bytea", "path", "elements"
COLUMNS = frozenset({TEXT, BYTEA})
OUTSIDE_ARRAYS = COLUMNS | {PATH}
ANYWHERE = OUTSIDE_ARRAYS | {ELEMENTS}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FormatSpec:
    """What there is to know of a value format. Two are equal if they have the same name.

    Args:
        name: as `[format]` and `scan` have it.
        package: of its code: `__name__`.
        identified_by: how the key of a value is told.
        names_versions: whether every value names a version of ours, so that nothing needs a key to tell it.
        markers: whether values name their key by a text of their library's own.
        places: where values may stand: `text` and `bytea` columns, a `path` in jsonb, `elements` of an array.
        options: of `[format]`, besides `name`.
        variable: in which applications usually have their keys; empty: they have none, or each has its own.
        guide: the page about it.
        layout: how a value is put together, or what follows its marker, unless that is declared; empty: it has none.
        layout_option: that says it.
        layouts: those that `probe` tries; empty: what reading a value takes is not known beforehand.
        derivation: unless another is declared; None: the listed entries are the keys.
        derivations: that may be declared.
        limited: whether a key may encrypt only so many values, since a nonce must not repeat.
        held_by_server: whether no key leaves its server.
        row_data: whether associated data may name columns of the row; else it is the same in all rows of a column.
        conditional: whether another column may say which of the values are encrypted.
        template: the section that `init` writes where it finds values of this format, and none of ours; empty: none.
        advice: what `scan` says of its values; None: nothing tells them.
        guesses: what it says of unmarked values that may be of this format.
        convention: how names of columns end by which an application's library is known, and what is said then.
        form_of: the format of which this is a form, with a layout and a derivation of its own.
    """

    name: str
    package: str
    identified_by: IdentifiedBy
    names_versions: bool = False
    markers: bool = False
    places: frozenset[str]
    options: tuple[Option, ...] = ()
    variable: str = ""
    guide: str = ""
    layout: str = ""
    layout_option: str = "layout"
    layouts: Sequence[str] = ()
    derivation: Derivation | None = None
    derivations: tuple[Derivation, ...] = ()
    limited: bool = True
    held_by_server: bool = False
    row_data: bool = False
    conditional: bool = False
    template: str = ""
    advice: Advice | None = None
    guesses: tuple[Guess, ...] = ()
    convention: tuple[str, str] | None = None
    form_of: "FormatSpec | None" = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FormatSpec) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"FormatSpec({self.name})"

    @property
    def other_derivations(self) -> tuple[Derivation, ...]:
        """Those that are tried where values do not open by the declared one: nothing needs to be known for them."""
        return tuple(each for each in self.derivations if not each.salted)

    @property
    def lists_keys(self) -> bool:
        """Whether the application has a list of keys in its library's notation."""
        return not self.names_versions and not self.held_by_server

    def takes(self, option: str) -> bool:
        """Returns whether `[format]` may say this."""
        return any(each.name == option for each in self.options)
