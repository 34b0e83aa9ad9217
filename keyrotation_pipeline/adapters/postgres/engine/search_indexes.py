"""Search indexes of the rows of a batch: computes those that the target lacks, and finds those of another text."""

from collections.abc import Iterator, Sequence

from keyrotation_pipeline.fieldcrypto.batch import Value
from keyrotation_pipeline.fieldcrypto.codecs.format import Format
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, is_index, is_odd, version_of
from keyrotation_pipeline.model.tables import EncryptedTable

# Of each index, the text in its column for odd numbers and in the other one, by row.
IndexTexts = Sequence[tuple[Sequence[Value], Sequence[Value]]]


class SearchIndexes:
    """Computes the search indexes of one table. An index needs the text, which the native codec never gives away.

    Args:
        ring: holds `target` and every version to read.
    """

    def __init__(self, table: EncryptedTable, code: Format, ring: KeyRing, target: KeyVersion) -> None:
        self._code, self._ring, self._target = code, ring, target
        self._indexes = [
            (table.columns.index(each.of), table.label(each.of), Indexer(each.form, ring))
            for each in table.indexes
            if each.of in table.columns
        ]

    def missing(
        self, columns: Sequence[Sequence[Value]], texts: IndexTexts, rewritten: Sequence[Sequence[Value]]
    ) -> list[list[Value]]:
        """Returns what to write into the target's column of each index; None where it stays.

        A value that is rewritten gets a new index, and one that is under the target already gets one if it has none. A
        value that does not decrypt keeps what it has, and so does a column with a text that is no index.

        Args:
            columns: stored values by column.
            texts: as they are stored; (): none.
            rewritten: new values by column.
        """
        prefix, found = self._target.prefix.encode(), []
        for index, (number, label, indexer) in enumerate(self._indexes):
            stored = texts[index][0 if is_odd(self._target) else 1] if texts else [None] * len(columns[number])
            new: list[Value] = [None] * len(stored)
            for row, value in enumerate(columns[number]):
                before = stored[row] or b""
                is_wanted = value and (rewritten[number][row] is not None or not before.startswith(prefix))
                if value and is_wanted and (not before or is_index(before.decode(errors="replace"))):
                    text = self._plaintext(value, label)
                    new[row] = None if text is None else indexer.under(self._target, text).encode()
            found.append(new)
        return found

    def wrong(self, columns: Sequence[Sequence[Value]], texts: IndexTexts) -> Iterator[tuple[int, int]]:
        """Yields row and column of each value next to which there is an index of another text, or no index at all.

        An index under a version that the ring does not hold is not judged, nor that of a value that does not decrypt.
        """
        for (number, label, indexer), both in zip(self._indexes, texts, strict=True):
            for row, value in enumerate(columns[number]):
                present = [each[row] for each in both if each[row]]
                if present and not self._are_of(value, label, indexer, present):
                    yield row, number

    def _are_of(self, value: Value, label: str | None, indexer: Indexer, present: Sequence[Value]) -> bool:
        text = self._plaintext(value, label) if value else value
        if value and text is None:
            return True
        return all(self._is_of(text, indexer, (each or b"").decode(errors="replace")) for each in present)

    def _is_of(self, text: Value, indexer: Indexer, index: str) -> bool:
        version = version_of(index)
        if version is not None and version not in self._ring.versions:
            return True
        return version is not None and text is not None and indexer.under(version, text) == index

    def _plaintext(self, value: bytes, label: str | None) -> Value:
        opened = self._code.plaintext(self._ring, value, label)
        return None if isinstance(opened, Defect) else opened
