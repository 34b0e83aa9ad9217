"""Reads rows of `keyrotation.incident_flag`: any tool may insert one, so nothing in them is trusted."""

from collections.abc import Collection

from keyrotation_pipeline.adapters.postgres.ledger.transactions import LedgerSession
from keyrotation_pipeline.model.incidents import Flag

ROW = "row "
_AT_ONCE = 200
# Longer texts are refused, so no more of them is read. A time that Python cannot represent counts as missing.
_FLAGS = """
    SELECT id, keyrotation.readable(source, 300) AS source, keyrotation.readable(type, 100) AS type,
           keyrotation.readable(description, 1000) AS description,
           CASE WHEN discovered_at BETWEEN '1900-01-01' AND '9000-01-01' THEN discovered_at END AS discovered_at,
           keyrotation.readable(scope, 1000) AS scope, keyrotation.readable(impact, 1000) AS impact,
           ARRAY(SELECT coalesce(keyrotation.readable(version, 20), '') FROM unnest(key_versions) AS version LIMIT 100)
               AS key_versions
    FROM keyrotation.incident_flag WHERE id <> ALL (%s::bigint[]) ORDER BY id LIMIT %s
"""


class RaisedFlags(LedgerSession):
    """Reads the flags that tools raise. The audit, not a row, says which were taken."""

    def raised_flags(self, taken: Collection[str]) -> tuple[Flag, ...]:
        """See `Ledger.raised_flags`."""
        ids = [int(number) for key in taken if (number := key.removeprefix(ROW)) != key and number.isdecimal()]
        return tuple(
            Flag(
                key=f"{ROW}{row['id']}",
                source=row["source"],
                type=row["type"],
                description=row["description"],
                discovered_at=row["discovered_at"],
                scope=row["scope"],
                impact=row["impact"],
                versions=tuple(row["key_versions"]),
            )
            for row in self.query(_FLAGS, (ids, _AT_ONCE))
        )
