"""Classifies the sampled values of one table, column by column and together.

One finding for each format in a place: what is encrypted in two formats is two jobs. What belongs to a value but stands
in another column (an IV, a blind index, a key's name) is a note of that finding, and no finding itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from keyrotation_pipeline.fieldcrypto.formats.recognised import Recognised
from keyrotation_pipeline.scan import agreement, unmarked
from keyrotation_pipeline.scan.advice import advice_for
from keyrotation_pipeline.scan.companions import Companions, Table, name_of
from keyrotation_pipeline.scan.findings import Finding, Tier
from keyrotation_pipeline.scan.places import Place
from keyrotation_pipeline.scan.readings import PLAIN, Reading, read

Values = Sequence[str | bytes]
ATTR_ENCRYPTED = "attr_encrypted"
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
    table = Table.of(filled)
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
    guess = unmarked.judge(others, name_of(place), fewest, has_iv=companions.iv is not None) if others else None
    plain = len(values) - len(readings) + sum(not reading.encoding for reading in others)
    unknown = sum(reading.encoding != "" for reading in others) - (len(guess.readings) if guess else 0)
    notes = (*_rest_notes(plain, unknown, len(values)), *companions.notes)
    found = [
        _finding(
            place, name, tier, _recognised(hits), len(values), _notes(hits) + notes,
            wrapped=any(reading.wrapped or reading.prefix for reading in hits),
        )
        for name, tier, hits in marked
    ]  # fmt: skip
    if guess is not None:
        found.append(_of_unmarked(place, guess, len(values), companions, notes))
    return found


def _marked(readings: Sequence[Reading], values: int) -> tuple[list[tuple[str, Tier, list[Reading]]], list[Reading]]:
    """Returns formats with their readings, the most frequent first; and the others: unmarked, or hits by chance."""
    by_format: dict[str, list[Reading]] = {}
    others: list[Reading] = []
    for reading in readings:
        of_kind = others if reading.hit is None else by_format.setdefault(reading.hit.format, [])
        of_kind.append(reading)
    found: list[tuple[str, Tier, list[Reading]]] = []
    for name, hits in sorted(by_format.items(), key=lambda item: -len(item[1])):
        tier = agreement.tier_of_hits(_recognised(hits), values)
        if tier is not None:
            found.append((name, tier, hits))
        else:
            others += [reading._replace(hit=None) for reading in hits]
    return found, others


def _recognised(readings: Sequence[Reading]) -> list[Recognised]:
    return [reading.hit for reading in readings if reading.hit is not None]


def _finding(
    place: Place,
    name: str,
    tier: Tier,
    hits: Sequence[Recognised],
    values: int,
    notes: Sequence[str],
    *,
    wrapped: bool = False,
) -> Finding:
    keys = Counter(hit.key_id for hit in hits if hit.key_id)
    advice = advice_for(name, place, wrapped=wrapped, names_keys=keys.total() == len(hits))
    return Finding(
        place, name, tier, len(hits) / values, values, tuple(key for key, _ in keys.most_common(_MOST_KEY_IDS)),
        advice.identified_by, advice.reads_two_keys, advice.next, tuple(notes),
    )  # fmt: skip


def _of_unmarked(
    place: Place, guess: unmarked.Judgement, values: int, companions: Companions, notes: Sequence[str]
) -> Finding:
    name = ATTR_ENCRYPTED if companions.attr_encrypted else guess.format
    advice = advice_for(name, place, wrapped=False, names_keys=False)
    return Finding(
        place, name, guess.tier, len(guess.readings) / values, values, (), advice.identified_by, advice.reads_two_keys,
        advice.next, (guess.note, *notes, *_lockbox_note(place)),
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


def _lockbox_note(place: Place) -> tuple[str, ...]:
    if not name_of(place).endswith("_ciphertext"):
        return ()
    note = (
        "Named as Lockbox names its columns: it reads older keys by `previous_versions`, and keyrotation rotates its "
        'master key in place (`[format] name = "lockbox"`, `keyrotation docs lockbox`).'
    )
    return (note,)
