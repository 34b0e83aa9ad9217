"""Expresses in SQL what search indexes of our own format show without a key: the version that each of them names."""

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import unencrypted
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, IndexedColumn, Relation
from keyrotation_pipeline.fieldcrypto.grammar import LONGEST_PREFIX_CHARS, KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import is_odd

# The name of a version with its colon, which begins a value as it begins an index; '' where there is none.
_PREFIX = f"left({{text}}, strpos(left({{text}}, {LONGEST_PREFIX_CHARS}), ':'))"
_UNINDEXED = "{value} <> '' AND {of_value} NOT IN (coalesce({of_odd}, ''), coalesce({of_even}, ''))"


# Of values and indexes that name no version.
_UNINDEXED_UNDER = "{value} IS NOT NULL AND {index} IS NULL"
# An empty text is not encrypted and has an index all the same, perhaps under an earlier key with the same column.
_EMPTY_AND_INDEXED = "octet_length({value}) = 0 AND {index} IS NOT NULL"


def unindexed(
    relation: Relation, index: IndexedColumn, alias: str = "", target: KeyVersion | None = None
) -> sql.Composed:
    """Returns whether a value has no index under the version that it names; false or NULL where there is no value.

    Args:
        alias: of the relation, one of ours; empty: it has none.
        target: under which every value needs an index, where values and indexes name no version; None: no value does.
    """
    if not index.index.form.names_versions:
        if target is None:
            return sql.SQL("false").format()
        stored = places.stored(relation.columns[index.number], alias)
        return sql.SQL(_UNINDEXED_UNDER).format(value=stored, index=_column_of(index, alias, target))
    column = relation.columns[index.number]
    value = places.text(column, alias)
    odd, even = (_as_text(each, alias) for each in index.columns)
    found = sql.SQL(_UNINDEXED).format(value=value, of_value=_prefix(value), of_odd=_prefix(odd), of_even=_prefix(even))
    if not column.place.source:
        return found
    # What is still of the old form needs none, whatever it begins with; CASE, since judging all of it costs more.
    return sql.SQL("(CASE WHEN {} THEN NOT {} ELSE false END)").format(found, unencrypted(value))


def any_unindexed(relation: Relation, alias: str = "", target: KeyVersion | None = None) -> sql.Composed:
    """Returns whether a row has such a value."""
    conditions = [sql.SQL("({})").format(unindexed(relation, index, alias, target)) for index in relation.indexes]
    return sql.SQL(" OR ").join([*conditions, sql.SQL("false")])


def any_to_be_opened(relation: Relation, alias: str = "", target: KeyVersion | None = None) -> sql.Composed:
    """Returns whether the engine opens a row for its indexes: all that `any_unindexed` finds, and empty texts.

    Of the index of an empty text only the codec sees under which key it is.
    """
    conditions = [
        sql.SQL(f"({_EMPTY_AND_INDEXED})").format(
            value=places.stored(relation.columns[each.number], alias),
            index=_column_of(each, alias, target),
        )
        for each in relation.indexes
        if target is not None and not each.index.form.names_versions
    ]
    return sql.SQL(" OR ").join([any_unindexed(relation, alias, target), *conditions])


def _column_of(index: IndexedColumn, alias: str, target: KeyVersion) -> sql.Composable:
    return places.stored(index.odd if is_odd(target) else index.even, alias)


def _as_text(column: Column, alias: str) -> sql.Composable:
    return sql.SQL('({}::text COLLATE "C")').format(places.stored(column, alias))


def _prefix(text: sql.Composable) -> sql.Composed:
    return sql.SQL(_PREFIX).format(text=text)
