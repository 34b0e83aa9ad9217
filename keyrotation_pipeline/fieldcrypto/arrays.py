"""Re-encrypts the elements of arrays: takes the text of a PostgreSQL array apart, and replaces some elements.

Everything between the elements is kept as it is: dimensions, lower bounds, NULLs and the other elements. The compiled
codec does the same while every element is good (`codec_arrays.h`).

Source: PostgreSQL, "Array Input and Output Syntax".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, ReencryptedBatch, Value, ValueReencryptor

# Dimensions with lower bounds, where they do not begin with 1; then braces, commas, quoted and plain elements.
_BOUNDS = re.compile(rb"((?:\[-?\d+:-?\d+\])+)=")
_BOUND = re.compile(rb"\[(-?\d+):(-?\d+)\]")
_TOKEN = re.compile(rb'([{},])|"((?:[^"\\]|\\.)*)"|((?:[^{},"\\]|\\.)+)', re.DOTALL)
# Bytes that an array without quotes and further dimensions does not have between its braces.
_MARKS = frozenset(b'"\\{}')
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_SPECIAL = re.compile(rb'(["\\])')


@dataclass(frozen=True, slots=True)
class ArrayText:
    """An array as the server writes it.

    Args:
        parts: what is between the elements: one more than there are elements.
        elements: each without quotes and escapes; None for NULL.
        subscripts: of each element, such as ``[3]`` or ``[1][2]``.
    """

    parts: tuple[bytes, ...]
    elements: tuple[bytes | None, ...]
    subscripts: tuple[str, ...]
    _written: tuple[bytes, ...]

    def replaced(self, new: Sequence[bytes | None]) -> bytes | None:
        """Returns the text with new elements; None: every one is None, which leaves an element as it is."""
        if not any(new):
            return None
        written = [old if value is None else _quoted(value) for old, value in zip(self._written, new, strict=True)]
        return b"".join(each for pair in zip(self.parts, (*written, b""), strict=True) for each in pair)


def array_text(text: bytes) -> ArrayText:
    """Takes the text of an array apart.

    Raises:
        ValueError: it is not the text of an array.
    """
    if (simple := _simple(text)) is not None:
        return simple
    bounds = _BOUNDS.match(text)
    start = bounds.end() if bounds else 0
    parts, elements, written, between = [], list[bytes | None](), [], [text[:start]]
    depth = dimensions = 0
    at = start
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError("this is not the text of an array")
        mark, quoted, plain = found.groups()
        if mark is not None:
            depth += {b"{": 1, b"}": -1}.get(mark, 0)
            dimensions = max(dimensions, depth)
            between.append(mark)
        else:
            parts.append(b"".join(between))
            between = []
            written.append(found[0])
            elements.append(_ESCAPE.sub(rb"\1", quoted) if plain is None else None if plain == b"NULL" else plain)
        at = found.end()
    if depth or not dimensions:
        raise ValueError("this is not the text of an array")
    parts.append(b"".join(between))
    lower = [int(low) for low, _ in _BOUND.findall(bounds[1])] if bounds else [1] * dimensions
    return ArrayText(tuple(parts), tuple(elements), tuple(_subscripts(parts, lower)), tuple(written))


def _simple(text: bytes) -> ArrayText | None:
    """Returns an array of one dimension without anything quoted, which is the usual case."""
    written = tuple(text[1:-1].split(b","))
    if text[:1] != b"{" or text[-1:] != b"}" or b"" in written or not _MARKS.isdisjoint(text[1:-1]):
        return None
    between = (b"{", *[b","] * (len(written) - 1), b"}")
    elements = tuple(None if each == b"NULL" else each for each in written)
    return ArrayText(between, elements, tuple(f"[{number}]" for number in range(1, len(written) + 1)), written)


def _subscripts(parts: Sequence[bytes], lower: Sequence[int]) -> Iterable[str]:
    place = list(lower)
    for number, part in enumerate(parts[:-1]):
        if number:
            closed = part.count(b"}")
            place[len(place) - 1 - closed] += 1
            place[len(place) - closed :] = lower[len(lower) - closed :]
        yield "".join(f"[{each}]" for each in place)


def _quoted(value: bytes) -> bytes:
    return b'"' + _SPECIAL.sub(rb"\\\1", value) + b'"'


def reencrypt_elements(
    reencryptors: Sequence[ValueReencryptor], columns: Sequence[Sequence[Value]], arrays: frozenset[int]
) -> ReencryptedBatch:
    """Re-encrypts one batch as `ValueReencryptor.reencrypt`; the columns `arrays` hold texts of arrays of values.

    Args:
        reencryptors: one for each column, to which its values may be bound.
    """
    new, failures = list[list[Value]](), list[Failure]()
    for number, column in enumerate(columns):
        flat = _Flat(column) if number in arrays else None
        rewritten = reencryptors[number].reencrypt([flat.elements if flat else column])
        new.append(flat.joined(rewritten.columns[0]) if flat else rewritten.columns[0])
        failures += _of_column(number, flat, rewritten.failures)
    return ReencryptedBatch(new, failures)


def check_elements(
    reencryptors: Sequence[ValueReencryptor], columns: Sequence[Sequence[Value]], arrays: frozenset[int]
) -> tuple[list[Held], list[Failure]]:
    """Decrypts every value as `ValueReencryptor.check`; the columns `arrays` hold texts of arrays of values."""
    held, failures = list[Held](), list[Failure]()
    for number, column in enumerate(columns):
        flat = _Flat(column) if number in arrays else None
        found, failed = reencryptors[number].check([flat.elements if flat else column])
        held += found
        failures += _of_column(number, flat, failed)
    return held, failures


class _Flat:
    """The elements of all arrays of a column, one after another."""

    def __init__(self, arrays: Sequence[Value]) -> None:
        self._arrays = [None if each is None else array_text(each) for each in arrays]
        present = [(row, each) for row, each in enumerate(self._arrays) if each is not None]
        self.elements = [element for _, each in present for element in each.elements]
        self._names = [(row, subscripts) for row, each in present for subscripts in each.subscripts]

    def joined(self, new: Sequence[Value]) -> list[Value]:
        """Returns each array with its new elements; None where it stays as it is."""
        rest = iter(new)
        return [None if each is None else each.replaced([next(rest) for _ in each.elements]) for each in self._arrays]

    def named(self, number: int) -> tuple[int, str]:
        """Returns the row and the subscripts of an element."""
        return self._names[number]


def _of_column(number: int, flat: _Flat | None, failures: Iterable[Failure]) -> Iterable[Failure]:
    for failure in failures:
        row, element = flat.named(failure.row) if flat else (failure.row, "")
        yield Failure(row, number, failure.defect, element)
