"""What the checks of one table get, and the two kinds of problem that they yield."""

from dataclasses import dataclass

from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.quoting import quoted
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, Problem


@dataclass(frozen=True, slots=True)
class Subject:
    """One declared table with every relation of its tree, and the version to re-encrypt to."""

    connection: Connection
    table: EncryptedTable
    relations: tuple[Relation, ...]
    target: KeyVersion

    @property
    def heaps(self) -> tuple[Relation, ...]:
        """The relations that hold rows and are updated one by one."""
        return tuple(relation for relation in self.relations if relation.kind == "r")

    @property
    def columns(self) -> list[str]:
        """Declared columns, as a query parameter."""
        return list(self.table.columns)

    def quoted(self, *parts: str) -> str:
        """A name as it is typed in a statement."""
        return quoted(self.connection, *parts)


def fatal(sentence: str) -> Problem:
    """A problem that stops the rotation."""
    return Problem(sentence, fatal=True)


def warning(sentence: str) -> Problem:
    """A problem that should be known before."""
    return Problem(sentence, fatal=False)
