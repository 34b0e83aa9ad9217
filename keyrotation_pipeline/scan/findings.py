"""What a scan reports about one place. Holds counts and names, never a value."""

from dataclasses import dataclass
from typing import Literal

from keyrotation_pipeline.scan.places import Place

Tier = Literal["certain", "likely", "possible"]
IdentifiedBy = Literal["marker", "mac", "decrypt"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One format in one place.

    Args:
        place: where.
        format: its name, or what its bytes look like (``unknown-aead``, ``unknown-cbc``) where nothing marks it.
        tier: ``certain``: a format's own grammar; ``likely``: bytes and lengths fit encryption only; ``possible``: they
            fit other data as well.
        share: of the non-empty sampled values, 0 to 1.
        values: non-empty values looked at.
        key_ids: of the keys that the values themselves name, the most frequent first.
        identified_by: how the key of a value is recognised.
        reads_two_keys: whether the library of the format can read two keys; None where the library is not known.
        next: one sentence: rotate in place, migrate, or why not yet.
        notes: sentences: plaintext among ciphertext, values encrypted twice, blind index, companion columns.
    """

    place: Place
    format: str
    tier: Tier
    share: float
    values: int
    key_ids: tuple[str, ...]
    identified_by: IdentifiedBy
    reads_two_keys: bool | None
    next: str
    notes: tuple[str, ...]
