"""Classifies the sampled values of one table, column by column and together.

One finding for each format in a place: what is encrypted in two formats is two jobs. What belongs to a value but
stands in another column (an IV, a blind index, a key's name) is a note of that finding, and no finding itself.
Markers of few bits count where several values name the same key.
"""

from binascii import b2a_base64
from collections import Counter
from collections.abc import Mapping, Sequence

from keyrotation_pipeline.fieldcrypto.formats.recognised.text_prefixes import writer_of
from keyrotation_pipeline.fieldcrypto.formats.recogniser import GCM_IV_BYTES, Recognised
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.scan import statistics, unmarked
from keyrotation_pipeline.scan.advice import ATTR_ENCRYPTED, Advice, advice_for, advice_for_unmarked
from keyrotation_pipeline.scan.companions import Table, name_of
from keyrotation_pipeline.scan.readings import PLAIN, Reading, read
from keyrotation_pipeline.scan.report import Finding, Place, Tier

FEWEST_HITS = 3
AGREEING_SHARE = 0.8
# Of base64, but not of base62.
_SYMBOLS = frozenset("+/=")
# From here on, texts would rather differ in length.
_MANY = 8
MOST_KEYS = 8


def tier_of_hits(hits: Sequence[Recognised], values: int) -> Tier | None:
    """Returns how sure the format of these hits is; None where chance or other data explain them.

    Args:
        hits: of one format, in one place; all weak, or none.
        values: non-empty values of the place.
    """
    bodies = list({hit.body for hit in hits})[: statistics.MOST_VALUES]
    texts = [b2a_base64(body, newline=False).decode() for body in bodies] if hits[0].in_base64 else []
    if texts and not statistics.uses_whole_alphabet(texts):
        return None
    if not hits[0].weak:
        return _tier_of_whole(hits, bodies, texts)
    if not statistics.looks_random(bodies):
        return None
    if len(bodies) < FEWEST_HITS:
        return "possible" if len(hits) == values else None
    if hits[0].by_size:
        return _tier_of_parts([len(body) for body in bodies])
    return "certain" if _name_few_keys(hits) else None


def _tier_of_whole(hits: Sequence[Recognised], bodies: Sequence[bytes], texts: Sequence[str]) -> Tier:
    """Judges values whose structure is whole, and might still be tokens or salted digests of the same sizes."""
    if _could_be_hmacs(hits) or (texts and not (_SYMBOLS & set("".join(texts)) and statistics.looks_random(bodies))):
        return "possible"
    return "likely" if texts and _have_a_digests_size(hits) else "certain"


def _have_a_digests_size(hits: Sequence[Recognised]) -> bool:
    """Returns whether all that follows a nonce, or a salt, is as long as SHA-256 or longer digests; of many values."""
    sizes = {len(hit.body) - GCM_IV_BYTES for hit in hits}
    return len(hits) > _MANY and sizes in ({32}, {48}, {64})


def _could_be_hmacs(hits: Sequence[Recognised]) -> bool:
    """Returns whether values may be HMACs of their library, which look alike: all of a digest's size."""
    return hits[0].or_hmac and {len(hit.body) for hit in hits} in ({28}, {32}, {48}, {64})


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


Values = Sequence[str | bytes]
# Unmarked values that are fewer than this among others are not reported.
_FEWEST_UNMARKED = 0.02
_MOST_KEY_IDS = 20
_FEWEST_OF_A_PREFIX = 3


def classify_table(samples: Mapping[Place, Values]) -> tuple[Finding, ...]:
    """Returns what the values of a table's places are, in the order of the places. Never raises; shows no value.

    Args:
        samples: by place, whole scalar values, since a cut one has no structure: ``str`` of text, ``bytes`` of bytea;
            leaves of JSON and elements of arrays are places of their own. A JSON object that is one encrypted value
            comes as its text.
    """
    filled = {place: filled for place, values in samples.items() if (filled := [value for value in values if value])}
    table = Table(filled)
    findings: list[Finding] = []
    for place, values in filled.items():
        if not table.is_part(place):
            findings += _classify(place, values, table)
    return tuple(findings)


def _classify(place: Place, values: Values, table: Table) -> list[Finding]:
    readings = [reading for value in values if (reading := read(value)) is not PLAIN]
    if not readings:
        return []
    marked, others = _marked(readings, len(values))
    companions = table.of_value(place)
    fewest = _FEWEST_UNMARKED * len(values)
    guess = unmarked.judge(others, name_of(place), fewest, evidence=companions.evidence) if others else None
    plain = len(values) - len(readings) + sum(not reading.encoding for reading in others)
    unknown = sum(reading.encoding != "" for reading in others) - (len(guess.readings) if guess else 0)
    notes = (*_rest_notes(plain, unknown, len(values)), *companions.notes)
    found = [_of_marked(place, *marked, len(values), notes) for marked in marked]
    if guess is not None:
        writer = writer_of(guess.readings[0].prefix) or guess.format
        name = ATTR_ENCRYPTED if companions.attr_encrypted else writer
        notes = (guess.note, *notes, *_conventions(place))
        advice = advice_for_unmarked(name, place, companions, has_one_layout=guess.has_one_layout)
        found.append(_finding(place, name, guess.tier, len(guess.readings), len(values), notes, advice))
    return found


def _marked(readings: Sequence[Reading], values: int) -> tuple[list[tuple[str, Tier, list[Reading]]], list[Reading]]:
    """Returns formats with their readings, the most frequent first; and the others: unmarked, or hits by chance.

    Weak hits never profit from strong ones of their format: they count where they agree among themselves.
    """
    alike: dict[tuple[str, bool], list[Reading]] = {}
    others: list[Reading] = []
    for reading in readings:
        hit = reading.hit
        of_kind = others if hit is None else alike.setdefault((hit.format, hit.weak), [])
        of_kind.append(reading)
    found: dict[str, tuple[Tier, list[Reading]]] = {}
    for (name, _), hits in sorted(alike.items()):  # of a format, the strong ones first
        tier = tier_of_hits(_recognised(hits), values)
        if tier is not None:
            found.setdefault(name, (tier, []))[1].extend(hits)
        else:
            others += [reading._replace(hit=None) for reading in hits]
    return sorted(((name, *of) for name, of in found.items()), key=lambda each: -len(each[2])), others


def _recognised(readings: Sequence[Reading]) -> list[Recognised]:
    return [reading.hit for reading in readings if reading.hit is not None]


def _of_marked(
    place: Place, name: str, tier: Tier, hits: Sequence[Reading], values: int, notes: Sequence[str]
) -> Finding:
    keys = Counter(hit.key_id for hit in _recognised(hits) if hit.key_id)
    wrapped = any(reading.wrapped or reading.prefix for reading in hits)
    advice = advice_for(name, place, wrapped=wrapped, names_keys=keys.total() == len(hits))
    notes = (*_notes(hits), *notes)
    return _finding(place, name, tier, len(hits), values, notes, advice, keys, wrapped=wrapped)


def _finding(
    place: Place,
    name: str,
    tier: Tier,
    found: int,
    values: int,
    notes: tuple[str, ...],
    advice: Advice,
    keys: Counter[str] | None = None,
    *,
    wrapped: bool = False,
) -> Finding:
    """Returns a finding of so many of a place's values, of which some name keys."""
    keys = keys or Counter()
    return Finding(
        place, name, tier, found / values, values, tuple(key for key, _ in keys.most_common(_MOST_KEY_IDS)),
        advice.identified_by, advice.reads_two_keys, advice.next, (*notes, *filter(None, [advice.note])), wrapped,
    )  # fmt: skip


def _notes(hits: Sequence[Reading]) -> tuple[str, ...]:
    """Notes about values of a format that are not stored as its library stores them."""
    notes: list[str] = []
    if wrapped := sum(reading.wrapped for reading in hits):
        notes.append(f"{wrapped} values are a token inside base64 or hex once more: encoded or encrypted twice.")
    if prefixed := Counter(reading.prefix for reading in hits if reading.prefix):
        prefix, n = prefixed.most_common(1)[0]
        shown = f" `{prefix}`" if n >= _FEWEST_OF_A_PREFIX else ""
        notes.append(f"{prefixed.total()} values stand behind a prefix{shown}.")
    return tuple(notes)


def _rest_notes(plain: int, unknown: int, values: int) -> tuple[str, ...]:
    counts = ((plain, "look like plaintext"), (unknown, "are encoded in another way and were not judged"))
    return tuple(f"{n} of {values} values {what}." for n, what in counts if n)


def _conventions(place: Place) -> tuple[str, ...]:
    """Notes about libraries that are known by how they name columns."""
    known = filter(None, (each.convention for each in SPECS.values()))
    return tuple(note for ending, note in known if name_of(place).endswith(ending))
