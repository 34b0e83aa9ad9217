"""Encrypts columns that held plaintext, or values of another library, so far: what is none of our values in full."""

from collections.abc import Collection, Mapping, Sequence

from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, Labels, Reencryptor, Rows, Value
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, any_value_in
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import CLOSED, NOT_A_VALUE


class PlaintextReencryptor(Reencryptor):
    """`Reencryptor` that also encrypts what some columns held before.

    A text that only begins like a value (``v2: final version``) is plaintext. What is a value in full and does not
    open is never encrypted again; it is a failure, as in any column. So is what another library's key does not open.

    Args:
        begun: the numbers of these columns in a batch, each with what opens its values; None: they are plaintext.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, labels: Labels, begun: Mapping[int, Source | None]) -> None:
        super().__init__(ring, target, labels)
        self._begun = {number: _unchanged if source is None else source.opened for number, source in begun.items()}
        # A rollback goes to an older version, before which applications wrote the old form and do again.
        self._takes_in = target == max(ring.versions)

    @property
    def takes_only_plaintext(self) -> bool:
        """Whether it encrypts plaintext and opens nothing of another library, which the native codec does alike."""
        return self._takes_in and all(opened is _unchanged for opened in self._begun.values())

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """See `Reencryptor.check`; what is of the old form and opens is `NOT_A_VALUE`, as `is_plaintext` takes it."""
        held, failures = super().check(columns)
        return held, [self._judged(each, columns[each.column][each.row]) for each in failures]

    def _judged(self, failure: Failure, value: Value) -> Failure:
        if failure.defect != NOT_A_VALUE or value is None or failure.column not in self._begun:
            return failure
        try:
            self._begun[failure.column](value)
        except ClosedError:
            return Failure(failure.row, failure.column, CLOSED)
        return failure

    def _open_others(
        self, number: int, values: Sequence[Value], rows: Rows, failures: list[Failure]
    ) -> tuple[list[int], list[bytes]]:
        old = _texts_in(values) if number in self._begun else {}
        others = [None if at in old else value for at, value in enumerate(values)]
        chosen, texts = super()._open_others(number, others, rows, failures)
        if not old or not self._takes_in:
            return chosen, texts
        opened = dict(zip(chosen, texts, strict=True)) | self._opened(number, old, failures)
        return sorted(opened), [opened[at] for at in sorted(opened)]

    def _opened(self, number: int, old: Mapping[int, bytes], failures: list[Failure]) -> dict[int, bytes]:
        """Returns what values of the old form hold, by position."""
        opened, texts = self._begun[number], dict[int, bytes]()
        for at, value in old.items():
            try:
                texts[at] = opened(value)
            except ClosedError:
                failures.append(Failure(at, number, CLOSED))
        return texts


def is_plaintext(failure: Failure, begun: Collection[int]) -> bool:
    """Returns whether a value that does not open is of the old form of one of these columns."""
    return failure.column in begun and failure.defect == NOT_A_VALUE


def _unchanged(value: bytes) -> bytes:
    return value


def _texts_in(values: Sequence[Value]) -> dict[int, bytes]:
    """Returns the values that are not ours, by position."""
    return {at: value for at, value in enumerate(values) if value and not any_value_in([value])}
