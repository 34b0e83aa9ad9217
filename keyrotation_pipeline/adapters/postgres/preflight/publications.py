"""Checks of logical replication: what we rewrite must reach whoever subscribes."""

from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.preflight.subject import Subject, fatal
from keyrotation_pipeline.model.tables import Problem

# Partitions are published by themselves, or by their root.
_WITHOUT_UPDATES = """
SELECT DISTINCT p.pubname FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
WHERE NOT p.pubupdate AND to_regclass(format('%%I.%%I', t.schemaname, t.tablename)) = ANY (%s::oid[]::regclass[])
ORDER BY p.pubname
"""


def updates_are_published(subject: Subject) -> Iterator[Problem]:
    """A publication without updates never carries a re-encrypted value: its subscribers keep the old one for good."""
    relations = [relation.oid for relation in subject.relations]
    for (name,) in subject.connection.execute(_WITHOUT_UPDATES, (relations,)).fetchall():
        yield fatal(
            f"publication {name} does not publish updates of table {subject.table.name}, so its subscribers would "
            f"keep old values for good; ALTER PUBLICATION {subject.quoted(str(name))} SET (publish = 'insert, update, "
            "delete, truncate'), or take the table out of it"
        )


_SUBSCRIBED = """
SELECT DISTINCT s.subname::text FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid
WHERE r.srrelid = ANY (%s::oid[]) ORDER BY 1
"""


def rows_do_not_come_by_subscription(subject: Subject) -> Iterator[Problem]:
    """What a publisher sends is under its own key: it would undo the rotation, and stop at the fence for good."""
    relations = [relation.oid for relation in subject.relations]
    for (name,) in subject.connection.execute(_SUBSCRIBED, (relations,)).fetchall():
        yield fatal(
            f"table {subject.table.name} receives rows by subscription {name}, which would bring old values back and "
            "stop at the fence; rotate where they come from, or DROP SUBSCRIPTION first"
        )
