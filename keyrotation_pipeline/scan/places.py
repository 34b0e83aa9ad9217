"""Names one place of a database that holds values: a column, a leaf of its JSON, the elements of its array."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where values were sampled.

    Args:
        table: ``schema.name``, quoted as PostgreSQL would where needed.
        column: as the catalog writes it.
        path: of a leaf inside JSON (also JSON in a text column), elements of arrays inside it as ``[]``; else None.
        elements: whether the values are the elements of a PostgreSQL array.
        type: as ``format_type()`` writes it.
        domain_of: of a domain, the type that it stands for.
    """

    table: str
    column: str
    path: tuple[str, ...] | None
    elements: bool
    type: str
    domain_of: str | None = None

    @property
    def base_type(self) -> str:
        """The type of what is stored."""
        return self.domain_of or self.type
