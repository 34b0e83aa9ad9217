"""Search indexes of the rows of a batch: computes those that the target lacks, and finds those of another text."""

from collections.abc import Iterator, Sequence
from typing import Any

from keyrotation_pipeline.fieldcrypto.batch import Value
from keyrotation_pipeline.fieldcrypto.blind_index import BlindIndexer, BlindIndexForm
from keyrotation_pipeline.fieldcrypto.codecs.format import Format
from keyrotation_pipeline.fieldcrypto.grammar import LONGEST_PREFIX_CHARS, KeyVersion, any_value_in, version_named
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import CompiledIndex
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm, is_odd
from keyrotation_pipeline.model.tables import EncryptedTable

# Of each index, the text in its column for odd numbers and in the other one, by row.
IndexTexts = Sequence[tuple[Sequence[Value], Sequence[Value]]]


class SearchIndexes:
    """Computes the search indexes of one table. An index needs the text, which the native codec gives to nobody.

    Args:
        ring: holds `target` and every version to read.
    """

    def __init__(self, table: EncryptedTable, code: Format, ring: KeyRing, target: KeyVersion) -> None:
        self._code, self._ring, self._target = code, ring, target
        self._begun = frozenset(number for number, name in enumerate(table.columns) if name in table.begun)
        self._indexes = [
            (table.columns.index(each.of), table.label(each.of), judge_of(each.form, ring, target))
            for each in table.indexes
            if each.of in table.columns
        ]

    def missing(
        self,
        columns: Sequence[Sequence[Value]],
        texts: IndexTexts,
        rewritten: Sequence[Sequence[Value]],
        plaintexts: Sequence[Sequence[Value]] = (),
    ) -> list[list[Value]]:
        """Returns what to write into the target's column of each index; None where it stays.

        A value that is rewritten gets a new index, and one that is under the target already gets one if it has none. A
        value that does not decrypt keeps what it has, and so does a column with a text that is no index.

        Args:
            columns: stored values by column.
            texts: as they are stored; (): none.
            rewritten: new values by column.
            plaintexts: of those, where they are known.
        """
        found = []
        for index, (number, label, judge) in enumerate(self._indexes):
            stored = texts[index][0 if is_odd(self._target) else 1] if texts else [None] * len(columns[number])
            new: list[Value] = [None] * len(stored)
            for row, value in enumerate(columns[number]):
                before = (stored[row] or b"").decode(errors="replace")
                is_rewritten = rewritten[number][row] is not None
                if judge.is_wanted(value, before, is_rewritten=is_rewritten) and (not before or judge.is_index(before)):
                    known = plaintexts[number][row] if plaintexts else None
                    new[row] = self._under_target(value, label, judge, known)
            found.append(new)
        return found

    @property
    def compiled(self) -> Sequence[CompiledIndex] | None:
        """What the native codec needs to compute them; None: one of them is only computed in Python."""
        indexes = []
        for number, _, judge in self._indexes:
            if isinstance(judge, BlindJudge):
                return None
            form = judge.indexer.form
            indexes.append(CompiledIndex(number, judge.indexer.key(self._target), form.size_bytes, form.normalise))
        return indexes

    def may_replace(self, texts: IndexTexts) -> bool:
        """Returns whether everything in the target's columns is an index or NULL."""
        return not texts or all(
            not text or judge.is_index(text.decode(errors="replace"))
            for (_, _, judge), both in zip(self._indexes, texts, strict=True)
            for text in both[0 if is_odd(self._target) else 1]
        )

    def completed(
        self, rows: Sequence[tuple[Any, ...]], first: int, indexes: Sequence[Sequence[bytes | int | None]]
    ) -> list[list[Value]]:
        """Returns what to write into the target's column of each index, as the native codec has left it.

        Args:
            rows: of the batch, with values from position `first` on.
            indexes: of each index its texts; the number of a row stands for one to be computed here.
        """
        return [
            [
                self._under_target(value := rows[each][first + number], label, judge, self._as_plaintext(number, value))
                if isinstance(each, int)
                else each
                for each in texts
            ]
            for (number, label, judge), texts in zip(self._indexes, indexes, strict=True)
        ]

    def _under_target(self, value: Value, label: str | None, judge: "Judge", known: Value = None) -> Value:
        """Returns the index of a value, None if it does not decrypt; `known`: its plaintext."""
        text = self._plaintext(value, label) if known is None else known
        return None if text is None else judge.under(self._target, text).encode()

    def missed(self, columns: Sequence[Sequence[Value]], texts: IndexTexts) -> Iterator[tuple[int, int, bool]]:
        """Yields row and column of each value that searches miss, and whether it has no index under its key.

        Else there is the index of another text. One under a version that the ring does not hold is not judged, nor that
        of a value that does not decrypt.
        """
        for (number, label, judge), both in zip(self._indexes, texts, strict=True):
            for row, value in enumerate(columns[number]):
                if value and self._as_plaintext(number, value):
                    continue  # it is of the old form, which has none
                present = [(odd, each[row] or b"") for odd, each in zip((True, False), both, strict=True) if each[row]]
                if present and not self._are_of(value, label, judge, present):
                    yield row, number, False
                elif judge.is_unindexed(value, [index for _, index in present]):
                    yield row, number, True

    def _as_plaintext(self, number: int, value: Value) -> Value:
        """Returns a value that is not ours, of a column that is yet to be encrypted; else None."""
        return value if number in self._begun and value and not any_value_in([value]) else None

    def _are_of(self, value: Value, label: str | None, judge: "Judge", present: Sequence[tuple[bool, bytes]]) -> bool:
        text = self._plaintext(value, label)
        if value and text is None:
            return True
        return all(judge.is_of(text, index.decode(errors="replace"), odd=odd) for odd, index in present)

    def _plaintext(self, value: Value, label: str | None) -> Value:
        if not value:
            return value
        opened = self._code.plaintext(self._ring, value, label)
        return None if isinstance(opened, Defect) else opened


class Judge:
    """Judges and computes the indexes of one form that names the version of each."""

    def __init__(self, form: IndexForm, ring: KeyRing, target: KeyVersion) -> None:
        self._ring, self._prefix = ring, target.prefix
        self.indexer = Indexer(form, ring)
        self.is_index, self.under = form.is_index, self.indexer.under

    def is_wanted(self, value: Value, before: str, *, is_rewritten: bool) -> bool:
        """Returns whether a value needs an index under the target in place of what is there."""
        return bool(value) and (is_rewritten or not before.startswith(self._prefix))

    def is_unindexed(self, value: Value, present: Sequence[bytes]) -> bool:
        """Returns whether a value has no index under the version that it names."""
        version = version_named((value or b"")[:LONGEST_PREFIX_CHARS].decode("latin-1"))
        return version is not None and not any(each.startswith(version.prefix.encode()) for each in present)

    def is_of(self, text: Value, index: str, *, odd: bool) -> bool:  # noqa: ARG002
        """Returns whether an index is of a text, or under a version that the ring does not hold."""
        version = version_named(index)
        if version is not None and version not in self._ring.versions:
            return True
        return version is not None and text is not None and self.under(version, text) == index


class BlindJudge(Judge):
    """The same of blind_index, whose indexes name no version: whoever writes a value writes its indexes with it.

    So the index next to a value under the target is under the target, too; a proof computes it again. An empty text,
    which its library does not encrypt, has an index. Only the column of the target is judged: an index takes
    milliseconds.
    """

    def __init__(self, form: BlindIndexForm, ring: KeyRing, target: KeyVersion) -> None:
        self._target = target
        self.is_index, self.under = form.is_index, BlindIndexer(form, ring).under
        self._same_column = [each for each in ring.versions if is_odd(each) == is_odd(target)]
        self._of_nothing: str | None = None

    def is_wanted(self, value: Value, before: str, *, is_rewritten: bool) -> bool:
        """See `Judge.is_wanted`."""
        if value == b"":
            self._of_nothing = self._of_nothing or self.under(self._target, b"")
            return before != self._of_nothing
        return value is not None and (is_rewritten or not before)

    def is_unindexed(self, value: Value, present: Sequence[bytes]) -> bool:
        """Returns whether a value has no index at all."""
        return value is not None and not present

    def is_of(self, text: Value, index: str, *, odd: bool) -> bool:
        """See `Judge.is_of`."""
        if odd != is_odd(self._target):
            return True
        return text is not None and any(self.under(each, text) == index for each in self._same_column)


def judge_of(form: IndexForm | BlindIndexForm, ring: KeyRing, target: KeyVersion) -> Judge:
    """Returns what judges indexes of a form."""
    return BlindJudge(form, ring, target) if isinstance(form, BlindIndexForm) else Judge(form, ring, target)
