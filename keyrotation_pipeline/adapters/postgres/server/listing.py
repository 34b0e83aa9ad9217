"""Asks the home's own database which members a rule of `[[databases]]` lists.

The answer is no more than a list of names: whoever owns that database may change what it is. So it is read without
power (read-only, no views or foreign tables, whose code would run as our role, no policies), for ten seconds at most,
and what it lists is a member only where officers have signed the rule.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.members import MemberRule
from keyrotation_pipeline.model.tables import MEMBER_NAME
from keyrotation_pipeline.model.visible_text import plain_name

MOST_LISTED = 10_000
LONGEST_SECONDS = 10
# Row security is off in every session of ours: where a policy would run, an error comes instead.
_SETTINGS = f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{LONGEST_SECONDS}s'"
# From the minor releases of August 2024 on.
_NO_FOREIGN_CODE = """
SELECT set_config(name, 'view, foreign-table', true) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'
"""


def listed(connect: Callable[[], Connection], rule: MemberRule, query: str) -> tuple[str, ...]:
    """Returns the names that a query lists, in order.

    Args:
        connect: opens a connection of its own to the home's database.
        query: as the configuration has it.

    Raises:
        PreflightError: it fails, does not end, or lists what cannot be; one sentence that names the rule.
    """
    try:
        with closing(connect()) as connection, connection.transaction():
            connection.execute(_SETTINGS.encode())
            connection.execute(_NO_FOREIGN_CODE)
            rows = connection.execute(query.encode(), prepare=True).fetchmany(MOST_LISTED + 1)
    except psycopg.errors.QueryCanceled:
        raise _refused(rule, f"did not end within {LONGEST_SECONDS} seconds; make it faster") from None
    except psycopg.Error as error:
        why = f"failed ({type(error).__name__}); have it read tables, no views, by schema and name, and write nothing"
        raise _refused(rule, why) from None
    names = list(_names(rule, rows))
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise _refused(rule, f"lists {twice[0]} twice, and a member is one database; correct it")
    return tuple(sorted(names))


def _names(rule: MemberRule, rows: list[tuple[object, ...]]) -> Iterator[str]:
    if len(rows) > MOST_LISTED:
        raise _refused(rule, f"lists more than {MOST_LISTED:,} names; correct it")
    for row in rows:
        name = row[0] if len(row) == 1 else None
        if not isinstance(name, str):
            raise _refused(rule, "does not return one text a row, the name of a database; correct it")
        if not re.fullmatch(MEMBER_NAME, name) or not MemberRule(rule.name).covers(name):
            raise _refused(rule, f"lists {plain_name(name[:63])}, which that name does not match; correct one of them")
        yield name


def _refused(rule: MemberRule, why: str) -> PreflightError:
    return PreflightError(f"query of [[databases]] {rule.name} {why}")
