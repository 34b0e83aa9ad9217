"""Reads from a table of the home's own database which members a rule of `[[databases]]` lists.

The answer is no more than a list of names: whoever owns the table may change what it is. So it is read as any table of
others is, without running code of its owner, and what it lists is a member only where officers have signed the rule.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.relations import CORRECT_TABLES, PLAIN_TEXTS, Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.model.members import Listing, MemberRule
from keyrotation_pipeline.model.tables import MEMBER_NAME, EncryptedTable, Place
from keyrotation_pipeline.model.visible_text import plain_name

MOST_LISTED = 10_000
LONGEST_SECONDS = 10
_SETTINGS = f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{LONGEST_SECONDS}s'"


def listed(connection: Connection, rule: MemberRule, listing: Listing) -> tuple[str, ...]:
    """Returns the names that a table of the home's own database lists, in order.

    Raises:
        PreflightError: it cannot be read, takes longer than ten seconds, or lists what cannot be; one sentence that
            names the rule.
    """
    # The place of a value is a column, too, of which another one says in which rows it counts.
    table = EncryptedTable.of(listing.table, [Place(listing.column, when=listing.when)])
    try:
        # Rolled back: only this restores the settings of a surrounding transaction.
        with connection.transaction(force_rollback=True):
            connection.execute(_SETTINGS.encode())
            found = (name for each in countable(connection, table) for name in _read(connection, each))
            names = list(_names(rule, islice(found, MOST_LISTED + 1)))
    except (BlockedError, PreflightError) as error:
        said = str(error).replace(CORRECT_TABLES, "correct the query")
        raise PreflightError(f"query of [[databases]] {rule.name}: {said}") from None
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise _refused(rule, f"lists {twice[0]} twice, and a member is one database; correct it")
    return tuple(sorted(names))


def _read(connection: Connection, relation: Relation) -> list[object]:
    (column,) = relation.columns
    if column.type_oid not in PLAIN_TEXTS:
        raise PreflightError(
            f"column {relation.label}.{column.name} is of type {column.type_sql}, and names are text; name another one"
        )
    where = sql.SQL("") if column.when is None else sql.SQL("WHERE {}").format(sql.Identifier(column.when.name))
    query = sql.SQL("SELECT {} FROM ONLY {} {} LIMIT {}").format(
        sql.Identifier(column.name), relation.identifier, where, sql.Literal(MOST_LISTED + 1)
    )
    with heap_scan(connection, relation.label, relation.oid):
        return [name for (name,) in connection.execute(query).fetchall()]


def _names(rule: MemberRule, found: Iterable[object]) -> Iterator[str]:
    for number, name in enumerate(found):
        if number == MOST_LISTED:
            raise _refused(rule, f"lists more than {MOST_LISTED:,} names; correct it")
        if not isinstance(name, str):
            raise _refused(rule, "lists a row without a name; correct it")
        if not re.fullmatch(MEMBER_NAME, name) or not MemberRule(rule.name).covers(name):
            raise _refused(rule, f"lists {plain_name(name[:63])}, which that name does not match; correct one of them")
        yield name


def _refused(rule: MemberRule, why: str) -> PreflightError:
    return PreflightError(f"query of [[databases]] {rule.name} {why}")
