"""Expresses what SQL can say of values with a MAC of a key: their shape, and whether a retired key has signed them.

A MAC is ``sha256(outer ‖ sha256(inner ‖ body))``, which built-in functions compute; the two blocks of each retired key
are in a private table (`retired_signing_keys`). Nothing here can tell a current key: its signing key never comes here.

Each value, a token, is decoded once. There is no percent sign here, since these expressions stand in statements with
parameters.
"""

from collections.abc import Sequence

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import PIECE_CHARS
from keyrotation_pipeline.adapters.postgres.inventory.layout_sql import NamelessSql
from keyrotation_pipeline.fieldcrypto.formats.marking import Mac
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

# One row: the token without its MAC, and the MAC. OFFSET 0: it is decoded once.
_DECODED = """(SELECT substr(raw, 1, octet_length(raw) - {mac}), substr(raw, octet_length(raw) - {mac} + 1)
    FROM (SELECT {raw} OFFSET 0) AS decoded (raw) OFFSET 0
) AS token (body, mac)"""

_SIGNED = "sha256(half.outer_block || sha256(half.inner_block || token.body)) = token.mac"

_UNDER = own("""(CASE WHEN {shape} THEN (
    SELECT coalesce(bool_or({signed}), false) OR count(half.version) < {number}
    FROM {token} LEFT JOIN keyrotation.retired_signing_halves AS half ON half.version IN ({versions})
) ELSE false END)""")

_TO_BE_REWRITTEN = own("""(CASE WHEN {value} IS NULL OR octet_length({value}) = 0 THEN false WHEN {shape} THEN EXISTS (
    SELECT FROM {token} JOIN keyrotation.retired_signing_halves AS half ON half.version <> {target} WHERE {signed}
) ELSE true END)""")


# Tokens anywhere in a text that a retired key has signed. The padding is made again, since JSON, HTML and URLs escape
# it. Only what has the form of a token is decoded.
_HITS = own("""
regexp_matches({text}, {begins}, 'g') AS hit,
LATERAL (SELECT hit[1] || repeat('=', mod(4 - mod(octet_length(hit[1]), 4), 4))) AS padded (value),
LATERAL (
    SELECT CASE WHEN {shape} THEN {raw} END OFFSET 0
) AS decoded (raw),
LATERAL (
    SELECT substr(raw, 1, octet_length(raw) - {mac}), substr(raw, octet_length(raw) - {mac} + 1) OFFSET 0
) AS token (body, mac)
JOIN keyrotation.retired_signing_halves AS half ON {signed}
""")


def hits(mac: Mac, text: sql.Composable) -> sql.Composed:
    """Returns a FROM list with a row, of `half.version`, for each token in a text that a retired key has signed."""
    return _HITS.format(
        text=sql.SQL('({} COLLATE "C")').format(text),
        begins=sql.Literal(f"({mac.begins}[{mac.characters}]+)"),
        shape=filled(mac.shape, sql.SQL("padded.value")),
        raw=filled(mac.raw, sql.SQL("padded.value")),
        mac=sql.Literal(mac.mac_bytes),
        signed=sql.SQL(_SIGNED),
    )


def filled(template: str, value: sql.Composable) -> sql.Composed:
    """Returns an expression of a `Mac` over a value."""
    return sql.SQL(template).format(value=value)


class MacSql(NamelessSql):
    """`FormatSql` for values of which the MAC tells the key."""

    def __init__(self, mac: Mac) -> None:
        self._mac = mac

    def to_be_rewritten(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:
        """See `FormatSql.to_be_rewritten`: a retired key has signed it, or it is no token.

        A token under a key that is neither retired nor the target is for the full decrypt to find.
        """
        value = sql.SQL('({} COLLATE "C")').format(text)
        return self._composed(_TO_BE_REWRITTEN, value, target=sql.Literal(target.number))

    def to_be_opened(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.to_be_opened`: a MAC takes the server 10 µs, and the codec opens the token in one."""
        return sql.SQL("coalesce(octet_length({}) > 0, false)").format(text)

    def under(self, value: sql.Composable, versions: Sequence[KeyVersion]) -> sql.Composed:
        """See `FormatSql.under`; without the signing key of one of the versions, every token counts."""
        numbers = sql.SQL(", ").join(sql.Literal(version.number) for version in sorted(set(versions)))
        return self._composed(_UNDER, value, number=sql.Literal(len(set(versions))), versions=numbers)

    def shape(self, value: sql.Composable) -> sql.Composed:
        """See `NamelessSql.shape`."""
        return filled(self._mac.shape, value)

    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.has_prefix`."""
        return sql.SQL("({} ~ {})").format(value, sql.Literal(self._mac.prefix))

    def may_be_in(self, size: sql.Composable, text: sql.Composable) -> sql.Composed:
        """See `FormatSql.may_be_in`."""
        return sql.SQL(
            "CASE width_bucket({size}, ARRAY[{shortest}, {chars}]) WHEN 1 THEN strpos({text}, {begins}) > 0 "
            "WHEN 2 THEN true END"
        ).format(
            size=size,
            shortest=sql.Literal(self._mac.shortest),
            chars=sql.Literal(PIECE_CHARS + 1),
            text=text,
            begins=sql.Literal(self._mac.begins),
        )

    def is_in(self, text: sql.Composable) -> sql.Composed:
        """See `FormatSql.is_in`."""
        return sql.SQL("EXISTS (SELECT FROM {})").format(hits(self._mac, text))

    def _composed(self, template: own, value: sql.Composable, **others: sql.Composable) -> sql.Composed:
        token = sql.SQL(_DECODED).format(raw=filled(self._mac.raw, value), mac=sql.Literal(self._mac.mac_bytes))
        return template.format(value=value, shape=self.shape(value), token=token, signed=sql.SQL(_SIGNED), **others)
