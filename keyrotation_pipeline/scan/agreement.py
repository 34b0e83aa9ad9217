"""Asks of several values what one cannot show: markers of few bits count where values name the same key."""

from collections import Counter
from collections.abc import Sequence

from keyrotation_pipeline.fieldcrypto.formats import handmade_hex_colon, vault_transit
from keyrotation_pipeline.fieldcrypto.formats.recognised import Recognised
from keyrotation_pipeline.scan import statistics
from keyrotation_pipeline.scan.findings import Tier

FEWEST_HITS = 3
AGREEING_SHARE = 0.8
MOST_KEYS = 8


def tier_of_hits(hits: Sequence[Recognised], values: int) -> Tier | None:
    """Returns how sure the format of these hits is; None where chance or other data explain them.

    Args:
        hits: of one format, in one place.
        values: non-empty values of the place.
    """
    if not hits[0].weak:
        return "possible" if _could_be_hmacs(hits) else "certain"
    bodies = list({hit.body for hit in hits})[: statistics.MOST_VALUES]
    if not statistics.looks_random(bodies):
        return None
    if len(bodies) < FEWEST_HITS:
        return "possible" if len(hits) == values else None
    if hits[0].format == handmade_hex_colon.NAME:
        return _tier_of_parts([len(body) for body in bodies])
    return "certain" if _name_few_keys(hits) else None


def _could_be_hmacs(hits: Sequence[Recognised]) -> bool:
    """Returns whether values of Vault may be HMACs of its transit engine, which look alike: all of a digest's size."""
    return hits[0].format == vault_transit.NAME and {len(hit.body) for hit in hits} in ({28}, {32}, {48}, {64})


def _name_few_keys(hits: Sequence[Recognised]) -> bool:
    """Counts values that differ: one value that stands in many rows agrees with itself."""
    distinct = {(hit.key_id, hit.body) for hit in hits}
    often = [n for n in Counter(key for key, _ in distinct).values() if n >= FEWEST_HITS]
    return sum(often) >= AGREEING_SHARE * len(distinct) and len(often) <= MOST_KEYS


def _tier_of_parts(sizes: Sequence[int]) -> Tier:
    """Three parts of hex whose last one varies are IV, tag and ciphertext; three digests have one length."""
    if len(set(sizes)) > 1:
        return "certain"
    iv_bytes, tag_bytes = 12, 16
    return "likely" if sizes[0] < iv_bytes + 2 * tag_bytes else "possible"
