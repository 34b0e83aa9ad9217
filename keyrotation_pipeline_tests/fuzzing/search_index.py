"""A search index of a column, as docs/guides/search-indexes.md has it for other languages."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyrotation_pipeline_tests.fuzzing import native_values
from keyrotation_pipeline_tests.fuzzing.columns import Row
from keyrotation_pipeline_tests.fuzzing.formats import Keys, NativeValues


@dataclass(frozen=True)
class SearchIndex:
    """Two columns that take turns.

    Args:
        of: the encrypted column.
    """

    of: str

    @property
    def columns(self) -> tuple[str, str]:
        return f"{self.of}_odd", f"{self.of}_even"

    @property
    def ddl(self) -> tuple[str, ...]:
        return tuple(f"{name} text" for name in self.columns)

    @property
    def declared(self) -> str:
        odd, even = self.columns
        return f'{{ of = "{self.of}", odd = "{odd}", even = "{even}" }}'

    def computed(self, table: str, keys: Keys, values: Mapping[str, str | None]) -> list[tuple[str, str | None]]:
        """Both columns of a text: in each the index under the newest key of such a number."""
        text, found = values[self.of], []
        for remainder, column in zip((1, 0), self.columns, strict=True):
            found.append((column, None if text is None else self._index(table, keys, text, remainder)))
        return found

    def finds(self, table: str, keys: Keys, values: Mapping[str, str | None], row: Row) -> bool:
        """Whether a search for its text finds a row, with whichever keys an instance has."""
        computed = self.computed(table, keys, values)
        return values[self.of] is None or any(row[column] == index for column, index in computed if index is not None)

    def _index(self, table: str, keys: Keys, text: str, remainder: int) -> str | None:
        assert isinstance(keys.library, NativeValues)
        held = keys.library.keys
        versions = [version for version in held if native_values.number(version) % 2 == remainder]
        if not versions:
            return None
        newest = max(versions, key=native_values.number)
        return native_values.index(newest, held[newest], text, f"{table}.{self.of}")
