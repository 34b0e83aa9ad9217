"""A count of old values in which no constraint can stand for a look at the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import NONCE_BYTES, NONCE_PATTERN, VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.model.columns import EncryptedTable

# The head of a value: version and nonce. What follows is proven by decryption; `left` spares detoasting it here.
_HEAD_PATTERN = rf"^{VERSION_PATTERN}:{NONCE_PATTERN}:"
_HEAD_CHARS = len("v999999:") + NONCE_BYTES * 4 // 3 + 1


@dataclass(frozen=True, slots=True)
class Tally:
    """What one table holds, in values: `old` by column and version, `unencrypted` by column; zeros are left out.

    `values` counts all that are neither NULL nor ``''``.
    """

    values: int
    old: dict[tuple[str, KeyVersion], int]
    unencrypted: dict[str, int]


def tally(connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion]) -> Tally:
    """Count the values of a table that are under `versions`, and those that are not encrypted, reading every row.

    The conditions stand in FILTER, never in WHERE, so that the planner has nothing to prove from a fence.
    """
    heaps = relations.heaps(connection, table)
    totals = [0] * (len(table.columns) * (len(versions) + 2))
    for relation in heaps:
        row = connection.execute(_statement(relation, table, versions)).fetchone() or ()
        totals = [total + int(str(each)) for total, each in zip(totals, row, strict=True)]
    figures = iter(totals)
    values, old, unencrypted = 0, {}, {}
    for column in table.columns:
        values += next(figures)
        unencrypted[column] = next(figures)
        for version in versions:
            old[column, version] = next(figures)
    return Tally(
        values,
        {place: number for place, number in old.items() if number},
        {column: number for column, number in unencrypted.items() if number},
    )


def _statement(relation: relations.Relation, table: EncryptedTable, versions: Sequence[KeyVersion]) -> sql.Composed:
    counts: list[sql.Composable] = []
    for column in table.columns:
        text = sql.SQL("({}::text)").format(sql.Identifier(column))
        counts.append(sql.SQL("count(*) FILTER (WHERE {} <> '' COLLATE \"C\")").format(text))
        counts.append(
            sql.SQL(
                'count(*) FILTER (WHERE {text} <> \'\' COLLATE "C" AND left({text}, {n}) COLLATE "C" !~ {head})'
            ).format(text=text, n=sql.Literal(_HEAD_CHARS), head=sql.Literal(_HEAD_PATTERN))
        )
        counts.extend(
            sql.SQL('count(*) FILTER (WHERE left({}, {}) COLLATE "C" = {})').format(
                text, sql.Literal(len(version.prefix)), sql.Literal(version.prefix)
            )
            for version in versions
        )
    return sql.SQL("SELECT {} FROM ONLY {}").format(sql.SQL(", ").join(counts), relation.identifier)
