"""Expresses what SQL can say of values of bytes that begin with what names their key.

The marker of a key is this prefix, in hexadecimal digits. Values of bytea are judged as text with escapes, of which a
prefix is the text of the bytes' prefix.
"""

from collections.abc import Mapping

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import PIECE_CHARS
from keyrotation_pipeline.adapters.postgres.inventory.marker_sql import KeyedByMarker, RefusalsByMarker
from keyrotation_pipeline.fieldcrypto.formats.marking import LONGEST_JUDGED_BYTES, Prefix
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

# Every prefix begins with this byte.
_BEGINS = "\x01"
_RAW = "(SELECT {what} FROM (SELECT decode({value}, 'escape') OFFSET 0) AS decoded (raw))"
_WHOLE = "CASE WHEN octet_length(raw) BETWEEN {shortest} AND {longest} THEN {condition} ELSE false END"
_TEXT = "encode(decode(known.marker, 'hex'), 'escape')"
_NAMED = own(f"(SELECT {_TEXT} FROM keyrotation.key_markers AS known WHERE known.version = {{n}})")  # noqa: S608
# In bytea, in arrays and rows of it (whose output escapes or doubles backslashes and quotes, once for each level),
# and in text that begins with the base64 of a value, or has its hexadecimal digits.
_STRIPPED = """translate({}, '\\"', '')"""
_PRINTED = "decode(known.marker, 'hex')::text"
_BASE64 = "left(replace(encode(decode(known.marker, 'hex'), 'base64'), e'\\n', ''), length(known.marker) * 2 / 3)"
_MAY_BE_IN = own(f"""CASE width_bucket({{size}}, ARRAY[{{shortest}}, {{chars}}]) WHEN 1 THEN EXISTS (
    SELECT FROM keyrotation.key_markers AS known
    WHERE strpos({{text}}, {_TEXT}) > 0
    OR strpos({_STRIPPED.format("{text}")}, {_STRIPPED.format(_PRINTED)}) > 0
    OR strpos({{text}}, known.marker) > 0 OR strpos({{text}}, upper(known.marker)) > 0
    OR strpos(translate({{text}}, '-_', '+/'), {_BASE64}) > 0) WHEN 2 THEN true END""")
_QUOTED = "regexp_replace({}, '([^A-Za-z0-9])', '\\\\\\1', 'g')"
_NESTED = f"""replace(replace({_QUOTED.format(_PRINTED)}, '\\\\', '\\\\+'), '\\"', '[\\\\"]*"')"""
_HITS = own(f"""keyrotation.key_markers AS known,
LATERAL regexp_matches(translate({{text}}, '-_', '+/'), concat(
    translate(concat({_QUOTED.format(_TEXT)}, '|', {_NESTED}), '-_', '+/'),
    '|(?:', known.marker, '|', upper(known.marker), ')[0-9A-Fa-f]{{{{56}}}}',
    '|(?:^|[^A-Za-z0-9+/])', {_QUOTED.format(_BASE64)}, '[A-Za-z0-9+/]{{{{30}}}}'
), 'g') AS hit""")


class PrefixSql(KeyedByMarker):
    """`FormatSql` for values of bytes that begin with what names their key."""

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.has_prefix`."""
        return sql.SQL("(left({}, 1) = {})").format(value, sql.Literal(_BEGINS))

    def under_another(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.under_another`: nobody constrains the bytes of a label, and bytea has no length."""
        return sql.SQL("{}").format(value)

    def may_be_in(self, size: sql.Composable, text: sql.Composable) -> sql.Composed:
        """See `FormatSql.may_be_in`."""
        return _MAY_BE_IN.format(
            size=size,
            shortest=sql.Literal(self._prefix.shortest),
            chars=sql.Literal(PIECE_CHARS + 1),
            text=sql.SQL('({} COLLATE "C")').format(text),
        )

    def hits(self, text: sql.Composable) -> sql.Composed:
        """See `KeyedByMarker.hits`."""
        return _HITS.format(text=sql.SQL('({} COLLATE "C")').format(text))

    def refusals(self, markers: Mapping[KeyVersion, str]) -> "PrefixRefusals":
        """See `KeyedByMarker.refusals`."""
        return PrefixRefusals(markers)

    def whole(self, value: sql.Composable) -> sql.Composed:
        """See `KeyedByMarker.whole`."""
        whole = sql.SQL(_WHOLE).format(
            shortest=sql.Literal(self._prefix.shortest),
            longest=sql.Literal(LONGEST_JUDGED_BYTES),
            condition=sql.SQL(self._prefix.fits),
        )
        return sql.SQL(_RAW).format(what=whole, value=value)

    def marker(self, value: sql.Composable) -> sql.Composed:
        """See `KeyedByMarker.marker`."""
        what = sql.SQL(f"encode(substr(raw, 1, {self._prefix.size}), 'hex')")
        return sql.SQL(_RAW).format(what=what, value=value)

    def names(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """See `KeyedByMarker.names`."""
        return sql.SQL("starts_with({}, {})").format(value, _NAMED.format(n=sql.Literal(version.number)))


class PrefixRefusals(RefusalsByMarker):
    """`Refusals` of such values; a column's bytes, not its text, are judged."""

    def names(self, text: str, marker: str) -> str:
        """See `RefusalsByMarker.names`."""
        return f"(encode(substr({text}, 1, {len(marker) // 2}), 'hex'::text) = '{marker}'::text)"

    def empty(self, text: str) -> str:
        """See `RefusalsByMarker.empty`."""
        return super().empty(f"encode(substr({text}, 1, 1), 'hex'::text)")
