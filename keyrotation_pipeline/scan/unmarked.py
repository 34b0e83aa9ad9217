"""Judges values that no format marks: do encoding, bytes and lengths fit encryption, and does anything else fit too?"""

from binascii import b2a_base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keyrotation_pipeline.scan import heads, names, statistics
from keyrotation_pipeline.scan.readings import SHORTEST_BYTES, Reading
from keyrotation_pipeline.scan.report import Tier

AEAD, CBC = "unknown-aead", "unknown-cbc"
BLOCK_BYTES = 16
# Nonce of 12 bytes and tag of 16.
AEAD_BYTES = 28
FEWEST_VALUES = 3
# From here on, values of two lengths only are rather two kinds of tokens.
MANY_VALUES = 8
_DIGEST_BYTES = frozenset((16, 20, 28, 32, 48, 64))
# Of digests, keys, signatures, tokens.
_TOKEN_BYTES = _DIGEST_BYTES | {18, 21, 24, 30, 33, 36, 40, 60, 65, 72, 80, 96, 128, 256, 384, 512}
_KINDS_OF_TOKENS = 4
# How files, compressed data and certificates begin.
_MAGIC = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF", b"PK\x03\x04", b"\x1f\x8b", b"RIFF", b"OggS", b"ID3", b"-----",
    b"BZh",    b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x78\x01", b"\x78\x5e",
    b"\x78\x9c", b"\x78\xda", b"SQLite format", b"PAR1", b"fLaC",
    b"\x00\x00\x00\x18ftyp", b"\x00\x00\x00\x1cftyp", b"\x00\x00\x00 ftyp", b"\x00\x00\x01\x00",
    b"II*\x00", b"MM\x00*", b"wOF",
    b"HYLL", b"\x11\x8b\x7f", b"\x12\x8b\x7f", b"\x13\x8b\x7f", b"\x14\x8b\x7f",
    b"\x1aE\xdf\xa3", b"\x80\x04\x95", b"\x30\x82", b"\xca\xfe\xba\xbe", b"\x7fELF", b"\x00asm", b"ssh-",
)  # fmt: skip
_CLEARLY_MAGIC = 0.05
_FEW_BROKEN = 0.1
_PREFIXES_SHOWN = 3
_ENCODINGS = {"raw": "Bytes", "hex": "Hex", "base64": "Base64", "base64url": "Base64url"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What unmarked values are.

    Args:
        format: `AEAD` or `CBC`.
        tier: ``likely`` or ``possible``.
        readings: those that it is about.
        note: encoding and sizes, a prefix that they share.
        has_one_layout: whether nonce, ciphertext and tag may be all there is to them, behind one prefix at most.
    """

    format: str
    tier: Tier
    readings: Sequence[Reading]
    note: str
    has_one_layout: bool


def judge(readings: Sequence[Reading], name: str, fewest: float, *, evidence: bool = False) -> Judgement | None:
    """Finds the most frequent kind of values that may be encrypted; None where nothing speaks for encryption.

    Args:
        readings: of its values, without a format; those in no encoding are left aside.
        name: of the column, or of the leaf.
        fewest: values that are worth a finding.
        evidence: whether a column next to it holds an IV, a tag or a blind index of each value, or its key's name.
    """
    groups: dict[tuple[bool, int, str], list[Reading]] = {}
    for reading in _with_shared_prefixes(readings):
        kind = (reading.prefix != "", reading.parts, reading.encoding.removesuffix("url"))
        groups.setdefault(kind, []).append(reading)
    broken = sum(reading.broken for reading in readings)
    for group in sorted(groups.values(), key=len, reverse=True):
        if len(group) < max(fewest, broken / _FEW_BROKEN):
            break
        tier = _tier(group, name, evidence=evidence)
        if tier is None and (behind := _behind_heads(group)):
            group, tier = behind, _tier(behind, name, evidence=evidence)  # noqa: PLW2901
        if tier is not None:
            sizes = [len(reading.raw) for reading in group]
            of_blocks = all(size % BLOCK_BYTES == 0 for size in sizes)
            return Judgement(
                CBC if of_blocks else AEAD, tier, group, _note(group, sizes), _has_one_layout(group, sizes)
            )
    return None


def _with_shared_prefixes(readings: Sequence[Reading]) -> list[Reading]:
    """Returns what is encoded. A prefix counts if three values or all have it; else text is plain, and bytes whole."""
    encoded = [reading for reading in readings if reading.encoding]
    prefixes = Counter(reading.prefix for reading in encoded if reading.prefix)
    shared = {
        prefix for prefix, n in prefixes.items() if n >= min(FEWEST_VALUES, len(encoded)) and n * 20 >= len(encoded)
    }
    found: list[Reading] = []
    for reading in encoded:
        if not reading.prefix:
            found.append(reading)
        elif reading.prefix in shared:
            start = len(reading.prefix) if reading.encoding == "raw" else 0
            found.append(reading._replace(raw=reading.raw[start:]))
        elif reading.encoding == "raw":
            found.append(reading._replace(prefix=""))
    return found


def _behind_heads(group: Sequence[Reading]) -> list[Reading]:
    """Returns the values without what all of them begin and end with, as with a version; none where that is nothing."""
    raws = list({reading.raw for reading in group[: statistics.MOST_VALUES]})
    if len(raws) < FEWEST_VALUES or any(raw.startswith(_MAGIC) for raw in raws):
        return []
    start, end = heads.shared_head(raws), heads.shared_tail(raws)
    if not start + end or min(map(len, raws)) - start - end < SHORTEST_BYTES:
        return []
    return [_cut(reading, start, len(reading.raw) - end) for reading in group]


def _cut(reading: Reading, start: int, stop: int) -> Reading:
    raw = reading.raw[start:stop]
    text = b2a_base64(raw, newline=False).decode() if reading.encoding.startswith("base64") else ""
    return reading._replace(raw=raw, text=text, head=True)


def _tier(group: Sequence[Reading], name: str, *, evidence: bool) -> Tier | None:
    by_raw = {reading.raw: reading for reading in group}
    distinct = list(by_raw.values())[: statistics.MOST_VALUES]
    raws = [reading.raw for reading in distinct]
    if not _looks_encrypted(distinct, raws):
        return None
    sizes = Counter(map(len, raws))
    named = names.promises_encryption(name) or names.is_prefix_of_ciphertext(group[0].prefix)
    other = names.promises_other_randomness(name, fit_for_url=distinct[0].encoding == "base64url")
    tier = "likely" if evidence else _tier_of_sizes(sizes, distinct[0])
    if named:
        return None if len(raws) < FEWEST_VALUES and tier is None else "likely" if tier else "possible"
    if other and not evidence:
        return "possible" if tier == "likely" else None
    return tier


def _looks_encrypted(distinct: Sequence[Reading], raws: Sequence[bytes]) -> bool:
    magic = sum(raw.startswith(_MAGIC) for raw in raws)
    by_chance = max(1, _CLEARLY_MAGIC * len(raws)) if len(raws) >= FEWEST_VALUES else 0
    if min(map(len, raws)) < SHORTEST_BYTES or magic > by_chance:
        return False
    in_base64 = distinct[0].encoding.startswith("base64")
    if statistics.looks_random(raws):
        return not in_base64 or statistics.uses_whole_alphabet([reading.text for reading in distinct])
    return len(raws) >= MANY_VALUES and _are_random_blocks(raws)


def _are_random_blocks(raws: Sequence[bytes]) -> bool:
    """Returns whether deterministic encryption made these: texts that begin alike share blocks, each one random."""
    sizes = {len(raw) for raw in raws}
    if len(sizes) == 1 or any(size % BLOCK_BYTES for size in sizes) or not _are_neighbouring_blocks(sizes):
        return False
    blocks = dict.fromkeys(raw[at : at + BLOCK_BYTES] for raw in raws for at in range(0, len(raw), BLOCK_BYTES))
    return statistics.looks_random(list(blocks)[: statistics.MOST_VALUES])


def _tier_of_sizes(sizes: Counter[int], example: Reading) -> Tier | None:
    """Judges lengths: digests and tokens have few of them, and digests are usually written in hex.

    Bytes, and hex of them, may be anything that is random; nobody writes that in base64 in many lengths.
    """
    in_hex = example.encoding == "hex" and not example.parts
    best: Tier = "possible" if in_hex or example.head or example.encoding == "raw" else "likely"
    values, kinds = sizes.total(), set(sizes)
    if len(kinds) == 1:
        (size,) = kinds
        return "possible" if size >= AEAD_BYTES and size not in _TOKEN_BYTES else None
    if values < FEWEST_VALUES or (kinds <= _DIGEST_BYTES and (in_hex or not _are_neighbouring_blocks(kinds))):
        return "possible"
    if all(size % BLOCK_BYTES == 0 for size in kinds):
        if best == "possible":
            return "likely" if values >= MANY_VALUES and not kinds <= _TOKEN_BYTES else best
        return best if _are_neighbouring_blocks(kinds) or not kinds <= _TOKEN_BYTES else "possible"
    if len(kinds) <= _KINDS_OF_TOKENS and kinds <= _TOKEN_BYTES:
        return "possible"
    return best if len(kinds) > 2 or values < MANY_VALUES else "possible"  # noqa: PLR2004


def _are_neighbouring_blocks(kinds: set[int]) -> bool:
    """Returns whether texts of this and that length fill one block more: 16 and 32, 32 and 48 bytes, not 32 and 64."""
    return any(size + BLOCK_BYTES in kinds and size % BLOCK_BYTES == 0 for size in kinds)


def _has_one_layout(group: Sequence[Reading], sizes: Sequence[int]) -> bool:
    prefixes = {reading.prefix for reading in group}
    return min(sizes) >= AEAD_BYTES and len(prefixes) == 1 and not any(each.head or each.wrapped for each in group)


def _note(group: Sequence[Reading], sizes: Sequence[int]) -> str:
    """Describes the values in one sentence. A prefix is shown only if three values share it: of one it is content."""
    shortest, longest = min(sizes), max(sizes)
    said = [f"{shortest} bytes each" if shortest == longest else f"{shortest} to {longest} bytes each"]
    if group[0].parts:
        said.append(f"in {group[0].parts} parts")
    if shortest < AEAD_BYTES and shortest % BLOCK_BYTES:
        said.append("too short to hold nonce and tag")
    if any(reading.wrapped for reading in group):
        said.append("encoded twice")
    if group[0].head:
        said.append("without bytes that all values begin or end with")
    if group[0].prefix:
        prefixes = Counter(reading.prefix for reading in group).most_common(_PREFIXES_SHOWN)
        shown = ", ".join(f"`{prefix}`" for prefix, n in prefixes if n >= FEWEST_VALUES)
        said.append(f"behind the prefix {shown}" if shown else "behind a prefix")
    return f"{_ENCODINGS[group[0].encoding]}: {', '.join(said)}."
