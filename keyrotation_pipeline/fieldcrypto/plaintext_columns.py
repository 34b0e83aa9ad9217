"""Encrypts columns that held plaintext so far: what is none of our values in full is one of their texts."""

from collections.abc import Collection, Sequence

from keyrotation_pipeline.fieldcrypto.batch import Failure, Labels, Rewriter, Rows, Value
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, any_value_in
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE


class PlaintextRewriter(Rewriter):
    """`Rewriter` that also encrypts the plaintext of some columns.

    A text that only begins like a value (``v2: final version``) is plaintext. What is a value in full and does not
    open is never encrypted again; it is a failure, as in any column.

    Args:
        begun: the numbers of these columns in a batch.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, labels: Labels, begun: Collection[int]) -> None:
        super().__init__(ring, target, labels)
        self._begun = frozenset(begun)
        # A rollback goes to an older version, before which applications wrote plaintext and do again.
        self._takes_in = target == max(ring.versions)

    def _rewrite_column(
        self, number: int, values: Sequence[Value], rows: Rows, nonces: bytes, failures: list[Failure]
    ) -> tuple[list[Value], Sequence[Value]]:
        texts = _texts_in(values) if number in self._begun else {}
        if not texts:
            return super()._rewrite_column(number, values, rows, nonces, failures)
        others = [None if at in texts else value for at, value in enumerate(values)]
        # Of as many nonces as values, those of the values are taken from the front, so none is used twice.
        rewritten, plaintexts = super()._rewrite_column(number, others, rows, nonces, failures)
        if not self._takes_in:
            return rewritten, plaintexts
        own = nonces[-len(texts) * self._generation.nonce_bytes :]
        encrypted = self._encrypt_all(number, list(texts.values()), [rows[at] for at in texts], own)
        new = dict(zip(texts, encrypted, strict=True))
        return (
            [new.get(at, value) for at, value in enumerate(rewritten)],
            [texts.get(at, value) for at, value in enumerate(plaintexts)],
        )


def is_plaintext(failure: Failure, begun: Collection[int]) -> bool:
    """Returns whether a value that does not open is the plaintext of one of these columns."""
    return failure.column in begun and failure.defect == NOT_A_VALUE


def _texts_in(values: Sequence[Value]) -> dict[int, bytes]:
    """Returns the values that are texts, by position."""
    return {at: value for at, value in enumerate(values) if value and not any_value_in([value])}
