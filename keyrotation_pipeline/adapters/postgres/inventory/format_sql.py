"""Defines what SQL must say of a value format, and finds the SQL of a declared one."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import grammar_sql, key_markers, mac_sql, retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.layout_sql import LayoutSql
from keyrotation_pipeline.adapters.postgres.inventory.mac_sql import MacSql
from keyrotation_pipeline.adapters.postgres.inventory.marker_sql import KeyedByMarker, MarkerSql
from keyrotation_pipeline.adapters.postgres.inventory.prefix_sql import PrefixSql
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.marking import Prefix, mac_of, marking_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy


class FormatSql(Protocol):
    """Expressions over one value; the module `grammar_sql` has them for the native format.

    Each `value` is a text under "C", as `places.text` returns it.
    """

    def to_be_rewritten(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:
        """Whether a text is neither empty nor known to be under `target`: its row is left to rewrite."""

    def to_be_opened(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:
        """Whether the engine opens a text to see that: a cheaper condition, which leaves out no text of the former."""

    def under(self, value: sql.Composable, versions: Sequence[KeyVersion]) -> sql.Composed:
        """Whether a value is under one of these versions, as the fence judges it; at least one version."""

    def unencrypted(self, value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:
        """Whether a value is neither empty nor of this format; `expected`: the versions of most values."""

    def number_named(self, value: sql.Composable) -> sql.Composed:
        """The number of the version that a value names; 0 for one that names none; NULL for other texts."""

    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """Whether a value begins as values of this format do."""

    def under_another(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """A text that constraints judge like the value under `version`, where `has_prefix` is true."""

    def longest_under(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """Aggregates the length in characters of the longest value under `version`; NULL without values."""

    def may_be_in(self, size: sql.Composable, text: sql.Composable) -> sql.Composed:
        """Whether a value of this format may occur anywhere in a text; quick; true for a large one.

        Args:
            size: the text's length in bytes, or a lower bound of it.
        """

    def is_in(self, text: sql.Composable) -> sql.Composed:
        """Whether a value that could need a retired key occurs anywhere in a text."""


class NamingSql(FormatSql, Protocol):
    """The same where values name their key, so that SQL can count them by it."""

    def value_class(self, value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:
        """Classifies a value, as `grammar_sql.value_class` does, or as `UNNAMED`: it names no known key."""


class Refusals(Protocol):
    """What a CHECK says of values under retired keys; the module `grammar_sql` has it for the native format."""

    def refusal(self, text: str, versions: Iterable[KeyVersion], *, other_generation: bool = False) -> str:
        """Returns a boolean expression that is true, or fails with SQLSTATE 22P02 and names only the retired version.

        Args:
            text: a column as text, exactly as PostgreSQL prints it.
            versions: the retired versions, at least one.
            other_generation: of our own format, whether the same numbers are refused in the other generation, too.

        Returns:
            Exactly the text that ``pg_get_constraintdef`` of PostgreSQL 14 to 18 prints.

        Raises:
            ProofError: by what values name one of them is not known.
        """

    def refusal_in_array(self, array: str, versions: Iterable[KeyVersion]) -> str:
        """Returns the same for every element of an array; a CHECK cannot have a subquery."""

    def versions_refused(self, constraint: str) -> tuple[KeyVersion, ...]:
        """Returns the versions named in a constraint that `refusal` made, in order."""

    def knows(self, versions: Iterable[KeyVersion]) -> bool:
        """Returns whether `refusal` can be made for these versions."""


def create_tables_for(connection: Connection, declared: ValueFormat) -> None:
    """Creates the tables of ours that SQL about a declared format reads, unless they exist."""
    retired_signing_keys.create_for(connection, declared)
    key_markers.create_for(connection, declared)


def sql_of(declared: ValueFormat) -> FormatSql:
    """Returns the SQL of a declared format, by how the key of a value is told."""
    match declared.identified_by:
        case IdentifiedBy.MARKER:
            return naming_sql_of(declared)
        case IdentifiedBy.MAC:
            return MacSql(mac_of(declared.spec))
        case IdentifiedBy.DECRYPT:
            return LayoutSql(layout_of(declared), bound=bool(declared.aad))


def naming_sql_of(declared: ValueFormat) -> NamingSql:
    """Returns the same of a format whose values name their key."""
    return _by_marker(declared) if declared.spec.markers else grammar_sql


def hits_of(declared: ValueFormat, text: sql.Composable) -> tuple[sql.Composable, sql.Composable]:
    """Returns a FROM list with a row for each value in a text, and the version in it; not for the native format."""
    if declared.spec.markers:
        return _by_marker(declared).hits(text), sql.SQL("known.version")
    return mac_sql.hits(mac_of(declared.spec), text), sql.SQL("half.version")


def refusals_of(connection: Connection, declared: ValueFormat) -> Refusals:
    """Returns what a CHECK says of a declared format, which names its keys in each value."""
    if declared.spec.markers:
        key_markers.create_for(connection, declared)
        return _by_marker(declared).refusals(key_markers.stored(connection))
    return grammar_sql


def _by_marker(declared: ValueFormat) -> KeyedByMarker:
    """Returns the SQL of a format whose values name their key by a marker of its library."""
    marking = marking_of(declared.spec)
    return PrefixSql(marking) if isinstance(marking, Prefix) else MarkerSql(marking)
