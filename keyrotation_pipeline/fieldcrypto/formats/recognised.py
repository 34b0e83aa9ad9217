"""What a recogniser reports about one value."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Recognised:
    """A value has the structure of a format.

    Args:
        format: its name.
        key_id: of the key that encrypted the value, where the value names one, as the library's users write it.
        weak: the structure is fulfilled by chance once in some thousand random values, so that only several values
            that name the same key are evidence.
        body: bytes on which a judgement of several values rests (never shown).
    """

    format: str
    key_id: str | None = None
    weak: bool = False
    body: bytes = field(default=b"", repr=False)
