"""Encrypts columns that held plaintext, or values of another library, so far: what is none of our values in full.

And gives such columns their old form back.
"""

from collections.abc import Collection, Mapping, Sequence

from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, Labels, Reencryptor, Rows, Value
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, any_value_in, version_named
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import CLOSED, NOT_A_VALUE, Defect, DefectKind


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


class OldFormWriter(PlaintextReencryptor):
    """`Reencryptor` that also gives some columns their old form back: plaintext, or that of another library.

    Every value of ours in these columns is opened, whatever its version, and what it is replaced by is opened again and
    compared. A value is left, as a failure, if its text is itself one, which would be decrypted once more, or if
    nothing of the old form can hold it.

    Args:
        begun: as for `PlaintextReencryptor`.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, labels: Labels, begun: Mapping[int, Source | None]) -> None:
        super().__init__(ring, target, labels, begun)
        self._takes_in = False
        self._sealed = {number: _stored_text if source is None else source.sealed for number, source in begun.items()}

    def _reencrypt_column(
        self, number: int, values: Sequence[Value], rows: Rows, nonces: bytes, failures: list[Failure]
    ) -> tuple[list[Value], Sequence[Value]]:
        if number not in self._begun:
            return super()._reencrypt_column(number, values, rows, nonces, failures)
        new: list[Value] = [None] * len(values)
        for at, value in enumerate(values):
            if not value or not any_value_in([value]):
                continue
            if (text := self._try_to_open(value, rows[at], at, number, failures)) is None:
                continue
            if (former := self._former(number, text)) is None:
                failures.append(
                    Failure(
                        at, number, Defect(DefectKind.NO_OLD_FORM, version_named(value.partition(b":")[0].decode()))
                    )
                )
            new[at] = former
        return new, new

    def _former(self, number: int, text: bytes) -> Value:
        """Returns a text in the old form of a column; None: it cannot be had back from that."""
        try:
            former = self._sealed[number](text)
            is_same = self._begun[number](former) == text
        except ClosedError:
            return None
        return former if is_same and not any_value_in([former]) else None


def is_plaintext(failure: Failure, begun: Collection[int]) -> bool:
    """Returns whether a value that does not open is of the old form of one of these columns."""
    return failure.column in begun and failure.defect == NOT_A_VALUE


def _unchanged(value: bytes) -> bytes:
    return value


def _stored_text(text: bytes) -> bytes:
    """Returns a text as PostgreSQL stores it in UTF-8.

    Raises:
        ClosedError: it stores none with a zero byte, or that is not UTF-8.
    """
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ClosedError from None
    if b"\0" in text:
        raise ClosedError
    return text


def _texts_in(values: Sequence[Value]) -> dict[int, bytes]:
    """Returns the values that are not ours, by position."""
    return {at: value for at, value in enumerate(values) if value and not any_value_in([value])}
