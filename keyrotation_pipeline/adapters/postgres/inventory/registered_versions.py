"""The key versions that the ledger has registered, as a hint at what values are under."""

from collections.abc import Collection

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

_THERE = own("SELECT to_regclass('keyrotation.key_versions') IS NOT NULL")
_REGISTERED = own("SELECT version FROM keyrotation.key_versions WHERE version BETWEEN 1 AND 999999")
# Far more than a ledger can be behind its data.
MOST_UNREGISTERED = 20


def registered(connection: Connection) -> tuple[KeyVersion, ...]:
    """Returns the versions that events have registered: a hint at what most values are under, not a trusted fact."""
    ((there,),) = connection.execute(_THERE).fetchall()
    rows = connection.execute(_REGISTERED).fetchall() if there else []
    return tuple(sorted(KeyVersion(int(str(number))) for (number,) in rows))


def listed_versions(found: Collection[KeyVersion], known: Collection[KeyVersion]) -> tuple[KeyVersion, ...]:
    """Returns the versions that a count or a finding names: the registered ones and a few others, in order.

    Whoever can write to a table can use a million versions, and every count is recorded, signed and displayed. Of the
    others the lowest are named, which come next in turn, and the highest, since no number is used twice.

    Args:
        found: versions of values.
        known: the registered versions.
    """
    others = sorted(set(found).difference(known))
    if len(others) > MOST_UNREGISTERED:
        others = [*others[: MOST_UNREGISTERED - 1], others[-1]]
    return tuple(sorted({*others, *set(found).intersection(known)}))
