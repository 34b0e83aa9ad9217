"""Puts JSON envelopes together again that arrive as leaves: Active Record Encryption in json and jsonb columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keyrotation_pipeline.fieldcrypto.formats import rails_ar_encryption
from keyrotation_pipeline.fieldcrypto.formats.recognised import Recognised
from keyrotation_pipeline.scan.places import Place

Values = Sequence[str | bytes]
_PAYLOAD, _IV, _TAG, _KEY = ("p",), ("h", "iv"), ("h", "at"), ("h", "i")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One envelope in a place of its own.

    Args:
        place: of the whole envelope.
        hits: one for each.
        parts: the places of its leaves.
    """

    place: Place
    hits: tuple[Recognised, ...]
    parts: frozenset[Place]


def find(samples: Mapping[Place, Values]) -> tuple[Envelope, ...]:
    """Returns the envelopes among the places of a table; those within another one's header belong to it."""
    found: list[Envelope] = []
    for place, parent in _candidates(samples):
        parts = frozenset(part for part in samples if _is_within(part, place, parent))
        if not any(place in other.parts or parts <= other.parts for other in found) and (
            hits := _hits(samples, place, parent)
        ):
            found.append(Envelope(place, hits, parts))
    return tuple(found)


def _candidates(samples: Mapping[Place, Values]) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Yields places whose leaves have an envelope's keys, outer ones first."""
    parents = [
        (place, place.path[: -len(_PAYLOAD)])
        for place in samples
        if place.path is not None and place.path[-1:] == _PAYLOAD
    ]
    for leaf, parent in sorted(parents, key=lambda item: len(item[1])):
        if all(replace(leaf, path=(*parent, *keys)) in samples for keys in (_IV, _TAG)):
            yield replace(leaf, path=parent or None), parent


def _is_within(part: Place, place: Place, parent: tuple[str, ...]) -> bool:
    below = part.path[len(parent) :] if part.path is not None and part.path[: len(parent)] == parent else ()
    return replace(part, path=place.path) == place and below[:1] in (("p",), ("h",))


def _hits(samples: Mapping[Place, Values], place: Place, parent: tuple[str, ...]) -> tuple[Recognised, ...]:
    """Judges the leaves, row by row where there are as many of each; keys are named by some rows or by all."""
    payloads, ivs, tags = (samples[replace(place, path=(*parent, *keys))] for keys in (_PAYLOAD, _IV, _TAG))
    if not all(
        rails_ar_encryption.envelope({"p": payloads[min(at, len(payloads) - 1)], "h": {"iv": iv, "at": tag}})
        for at, (iv, tag) in enumerate(zip(ivs, tags, strict=False))
    ):
        return ()
    keys = [rails_ar_encryption.reference(key) for key in samples.get(replace(place, path=(*parent, *_KEY)), ())]
    keys += [None] * (len(ivs) - len(keys))
    return tuple(Recognised(rails_ar_encryption.NAME, key) for key in keys[: len(ivs)])
