"""The key versions that the ledger has registered, as a hint at what values are under."""

import re
from collections.abc import Collection

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion

_THERE = own("SELECT to_regclass('keyrotation.key_versions') IS NOT NULL")
# Not that view, which computes more.
_REGISTERED = own("""
SELECT DISTINCT keyrotation.facts(body) ->> 'version' FROM keyrotation.audit_events WHERE event = 'key_registered'
""")
# Another library's key is registered as archived, and in no other state, so that a forged event turns none into one.
_SOURCES = own("""
SELECT keyrotation.facts(body) ->> 'version' FROM keyrotation.audit_events WHERE event = 'source_key_imported'
EXCEPT
SELECT keyrotation.facts(body) ->> 'version' FROM keyrotation.audit_events
WHERE event = 'key_registered' AND keyrotation.facts(body) ->> 'state' <> 'archived'
""")
_NAME = re.compile(VERSION_PATTERN, re.ASCII)
# Far more than a ledger can be behind its data.
MOST_UNREGISTERED = 20


def _is_there(connection: Connection) -> bool:
    ((there,),) = connection.execute(_THERE).fetchall()
    return bool(there)


def registered(connection: Connection) -> tuple[KeyVersion, ...]:
    """Returns the versions that events have registered: a hint at what most values are under, not a trusted fact."""
    rows = connection.execute(_REGISTERED).fetchall() if _is_there(connection) else []
    names = (str(name) for (name,) in rows)
    return tuple(sorted(KeyVersion.parse(name) for name in names if _NAME.fullmatch(name)))


def leaves_plaintext(connection: Connection, retired: Collection[KeyVersion]) -> bool:
    """Returns whether an older version is left than a retired one, as after a rollback: applications write plaintext.

    The keys of other libraries do not count: whenever they were imported, nothing is encrypted under them.
    """
    sources = {str(name) for (name,) in connection.execute(_SOURCES).fetchall()} if _is_there(connection) else set()
    known = [version for version in registered(connection) if str(version) not in sources]
    newest = max((version for version in known if version in retired), default=None)
    return newest is not None and any(version < newest for version in known if version not in retired)


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
