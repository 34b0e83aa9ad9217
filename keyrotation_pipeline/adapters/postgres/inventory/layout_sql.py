"""Expresses what SQL can say of values of which nothing names the key: their form, and nothing about their key.

Whatever asks for a key counts every value. So what is not counted by decrypting fails closed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from psycopg import sql

from keyrotation_pipeline.fieldcrypto.binding import AFTER, UNKNOWN
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.formats.marking import LONGEST_JUDGED_BYTES
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

_FILLED = "coalesce(octet_length({}) > 0, false)"
# Of raw bytes the text has escapes. OFFSET 0: they are read once.
_RAW_SHAPE = """(SELECT octet_length(raw) BETWEEN {shortest} AND {longest}
        AND substr(raw, 1, {chars}) = decode({head}, 'hex')
    FROM (SELECT decode({value}, 'escape') OFFSET 0) AS decoded (raw))"""
_BEHIND = "substr({text}, strpos({text}, {after}) + 1)"


class NamelessSql(ABC):
    """The part of `FormatSql` that is the same where nothing in a value names its key: it rests on their form."""

    @abstractmethod
    def shape(self, value: sql.Composable) -> sql.Composed:
        """Whether a text has the form of a value."""

    @abstractmethod
    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.has_prefix`."""

    def unencrypted(self, value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.unencrypted`."""
        return sql.SQL("(octet_length({}) > 0 AND NOT ({}))").format(value, self.shape(value))

    def number_named(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.number_named`."""
        return sql.SQL("CASE WHEN {} THEN 0 END").format(self.shape(value))

    def under_another(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.under_another`: the value, since another key changes neither length nor alphabet."""
        return sql.SQL("{}").format(value)

    def longest_under(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.longest_under`."""
        return sql.SQL("max(octet_length({})) FILTER (WHERE {})").format(value, self.has_prefix(value))


class LayoutSql(NamelessSql):
    """`FormatSql` for values of one layout.

    Args:
        bound: associated data stands before each value, as `binding.joined` joins them.
    """

    def __init__(self, layout: Layout, *, bound: bool = False) -> None:
        self._layout = layout
        self._bound = bound
        self._before = f"(?:[0-9a-f]*|{UNKNOWN}){AFTER}" if bound else ""

    def to_be_rewritten(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.to_be_rewritten`: every value may be, and the codec decides."""
        return sql.SQL(_FILLED).format(text)

    def to_be_opened(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:
        """See `FormatSql.to_be_opened`."""
        return self.to_be_rewritten(text, target)

    def under(self, value: sql.Composable, versions: Sequence[KeyVersion]) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.under`: every value may be."""
        return sql.SQL(_FILLED).format(value)

    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.has_prefix`."""
        return self.shape(value)

    def may_be_in(self, size: sql.Composable, text: sql.Composable) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.may_be_in`: nothing tells such a value from other text."""
        return sql.SQL("false").format()

    def is_in(self, text: sql.Composable) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.is_in`."""
        return sql.SQL("false").format()

    def shape(self, value: sql.Composable) -> sql.Composed:
        """Whether a value could be of this layout: its characters, and no more than its shortest length.

        The codec judges lengths and padding exactly. A percent sign would be taken for a parameter.
        """
        if self._layout.is_binary:
            return sql.SQL(_RAW_SHAPE).format(
                value=sql.SQL(_BEHIND).format(text=value, after=sql.Literal(AFTER)) if self._bound else value,
                shortest=sql.Literal(self._layout.shortest_bytes),
                longest=sql.Literal(LONGEST_JUDGED_BYTES),
                chars=sql.Literal(len(self._layout.head)),
                head=sql.Literal(self._layout.head.hex()),
            )
        return sql.SQL("(octet_length({value}) BETWEEN {shortest} AND {longest} AND {value} ~ {pattern})").format(
            value=value,
            shortest=sql.Literal(self._layout.shortest_bytes),
            longest=sql.Literal(LONGEST_JUDGED_BYTES),
            pattern=sql.Literal(f"^{self._before}{self._layout.pattern}$".replace("%", r"\u0025")),
        )
