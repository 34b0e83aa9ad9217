"""Tables whose rows lie on other servers, though the catalogue here calls them ordinary."""

from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.preflight.subject import Subject, fatal
from keyrotation_pipeline.model.tables import Problem

_CITUS = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
_DISTRIBUTED = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid::oid = ANY (%s::oid[]))"


def rows_are_on_this_server(subject: Subject) -> Iterator[Problem]:
    """A table that Citus distributes is an empty heap here: to find nothing in it would mean nothing."""
    connection = subject.connection
    if connection.execute(_CITUS).fetchone() != (True,):
        return
    oids = [relation.oid for relation in subject.relations]
    if connection.execute(_DISTRIBUTED, (oids,)).fetchone() == (True,):
        yield fatal(
            f"table {subject.table.name} is distributed by Citus, so that its rows lie on other servers, where they "
            "would be neither seen nor re-encrypted; rotate a database that holds its rows itself (docs/scaling.md)"
        )
