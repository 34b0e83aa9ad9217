"""Defines what SQL must say of a value format, and finds the SQL of a declared one."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import grammar_sql
from keyrotation_pipeline.adapters.postgres.inventory.fernet_sql import FernetSql
from keyrotation_pipeline.adapters.postgres.inventory.layout_sql import LayoutSql
from keyrotation_pipeline.fieldcrypto.codecs.layout import layout_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import AES_GCM, FERNET, NATIVE, ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


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


_FERNET = FernetSql()
_SQL: Mapping[str, Callable[[ValueFormat], FormatSql]] = MappingProxyType(
    {
        NATIVE.name: lambda _declared: grammar_sql,
        FERNET.name: lambda _declared: _FERNET,
        AES_GCM.name: lambda declared: LayoutSql(layout_of(declared.layout)),
    }
)


def sql_of(declared: ValueFormat) -> FormatSql:
    """Returns the SQL of a declared format."""
    return _SQL[declared.name](declared)
