"""Finds what stands next to a value in a column or JSON key of its own: IV, tag, salt, blind index, the key's name."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.scan import names
from keyrotation_pipeline.scan.readings import companion_bytes
from keyrotation_pipeline.scan.report import Place

# In a table, a column `nonce` may be anybody's.
_IV_PARTS = frozenset(("iv", "nonce"))
_PART_BYTES = {
    "iv": (8, 12, 16, 24),
    "nonce": (8, 12, 16, 24),
    "tag": (16,),
    "auth_tag": (16,),
    "mac": (32,),
    "hmac": (32,),
}
_TAGS = ("tag", "auth_tag")
# Digests have these, too.
_SALTS = frozenset(("salt", "mac", "hmac"))
_LONGEST_SALT_BYTES, _BLIND_INDEX_BYTES = 64, range(4, 65)
_SAMPLE = 50
# Steps of a path that are no names: an element, and any key of an object whose keys vary.
_UNNAMED = ("[]", "*")
# Names of keys are few among many values.
_MOST_KEYS = 20
_WORDS = {
    "iv": "the IV",
    "nonce": "the nonce",
    "tag": "the tag",
    "auth_tag": "the tag",
    "salt": "a salt",
    "mac": "a MAC",
}

Values = Sequence[str | bytes]


@dataclass(frozen=True, slots=True)
class Companions:
    """What belongs to the values of one place.

    Args:
        iv: the column that holds their IV or nonce.
        iv_bytes: the size of each.
        tag: whether a column holds their tag.
        salt: whether a column holds a salt of each.
        attr_encrypted: whether both columns are named as attr_encrypted names them.
        notes: a sentence for each column.
        evidence: whether one of them, named after the place, says that its values are encrypted: not a salt or MAC.
    """

    iv: str | None = None
    iv_bytes: int | None = None
    tag: bool = False
    salt: bool = False
    attr_encrypted: bool = False
    notes: tuple[str, ...] = ()
    evidence: bool = False


class Table:
    """The places of one table, by their neighbourhood: its columns, or the keys of one JSON object."""

    def __init__(self, samples: Mapping[Place, Values]) -> None:
        self._neighbours: dict[tuple[str, ...], dict[str, Values]] = defaultdict(dict)
        for place, values in samples.items():
            self._neighbours[_neighbourhood(place)][name_of(place)] = values

    def of_value(self, place: Place) -> Companions:
        """Returns what stands next to the values of a place."""
        own, neighbours = name_of(place), self._neighbours[_neighbourhood(place)]
        iv, attr_encrypted, notes, evidence, parts = None, False, [], False, set()
        for other, values in neighbours.items():
            if other == own:
                continue
            if names.blind_index_of(own, other) and _have_one_size(values, _BLIND_INDEX_BYTES):
                notes.append(
                    f"Blind index in `{other}`: leave it alone, unless it is derived from the key that changes."
                )
                evidence = True
            elif (part := names.part_of(own, other)) is not None and _is_part(part, values):
                parts.add(part)
                notes.append(f"`{other}` holds {_WORDS.get(part, 'the name of the key')}.")
                iv = other if part in _IV_PARTS and (place.path or other != "nonce") else iv
                evidence = evidence or iv is not None or (part not in _SALTS and names.is_part_of(own, other))
                attr_encrypted = attr_encrypted or names.is_attr_encrypted_pair(own, other)
        return Companions(
            iv, companion_bytes(neighbours[iv][0]) if iv else None, not parts.isdisjoint(_TAGS), "salt" in parts,
            attr_encrypted, tuple(notes), evidence,
        )  # fmt: skip

    def is_part(self, place: Place) -> bool:
        """Returns whether a place holds a part of the values of another one, and no values of its own."""
        own, neighbours = name_of(place), self._neighbours[_neighbourhood(place)]
        return any(
            other != own and (part := names.part_of(other, own)) in _PART_BYTES and _is_part(part, neighbours[own])
            for other in neighbours
        )


def name_of(place: Place) -> str:
    """Returns the name that says what a place holds: of its column, or of the last key of its path."""
    keys = [key for key in place.path or () if key not in _UNNAMED]
    return keys[-1] if keys else place.column


def _neighbourhood(place: Place) -> tuple[str, ...]:
    return () if place.path is None else (place.column, *place.path[:-1])


def _is_part(part: str, values: Values) -> bool:
    if part in _PART_BYTES:
        return _have_one_size(values, _PART_BYTES[part])
    if part == "salt":
        return all(len(value) <= 2 * _LONGEST_SALT_BYTES for value in values[:_SAMPLE])
    return len(set(values)) <= _MOST_KEYS and all(len(value) <= 2 * _LONGEST_SALT_BYTES for value in values[:_SAMPLE])


def _have_one_size(values: Values, allowed: Sequence[int]) -> bool:
    sizes = {companion_bytes(value) for value in values[:_SAMPLE]}
    return len(sizes) == 1 and sizes <= set(allowed)
