"""What a value of the second generation costs the native codec, as a ratio to one of the first.

uv run python -m benchmarks.codec [--rounds 15] [--json FILE]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.processes import machine
from keyrotation_pipeline.fieldcrypto.batch import Value
from keyrotation_pipeline.fieldcrypto.binding import associated_data
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

LABEL = "clients.email"
LENGTHS = (10, 100, 2_000, 8_000)
# A batch: as many rows as the engine reads at once, less for long ones.
BATCH_ROWS, BATCH_CHARS = 1_000, 4_000_000
V1, V2, V3X, V4X = KeyVersion(1), KeyVersion(2), KeyVersion(3, 2), KeyVersion(4, 2)
RING = KeyRing({version: KeyMaterial.generate() for version in (V1, V2, V3X, V4X)}, V4X)
FIRST_WITHIN = "within the first"
# What is measured: the version that values have and the one they get, and whether the pipeline wrote them.
WAYS = {
    FIRST_WITHIN: (V1, V2, False),
    "into the second": (V1, V4X, False),
    "within it, written by a rotation": (V3X, V4X, True),
    "within it, written by applications": (V3X, V4X, False),
    "back, written by a rotation": (V4X, V2, True),
    "back, written by applications": (V4X, V2, False),
}


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    results = {chars: measured(chars, options.rounds) for chars in LENGTHS}
    table = Table("characters", *WAYS)
    for chars, ways in results.items():
        first = ways[FIRST_WITHIN]
        cells = []
        for times in ways.values():
            # Ratios within a round: what slows the whole machine slows both.
            ratio = statistics.median(each / base for each, base in zip(times, first, strict=True))
            cells.append(f"{statistics.median(times):.2f} µs" + ("" if times is first else f" ({ratio:.2f})"))
        table.add_row(f"{chars:,}", *cells)
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "microseconds": results}, indent=1) + "\n")


def measured(chars: int, rounds: int) -> dict[str, list[float]]:
    """CPU microseconds a value by the way, in alternating rounds."""
    timed = {name: _timed(chars, *way) for name, way in WAYS.items()}
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, each in timed.items():
            times[name].append(each())
    return times


def _timed(chars: int, old: KeyVersion, new: KeyVersion, by_rotation: bool) -> Callable[[], float]:  # noqa: FBT001
    count = min(BATCH_ROWS, BATCH_CHARS // chars)
    values = [_written(old, "x" * chars) for _ in range(count)]
    if by_rotation:
        values = [value for value in _rotated([_written(V1, "x" * chars) for _ in range(count)], old) if value]
    # Copied, so that they stand in memory alike, whoever made them.
    rows = [(bytes(bytearray(value)),) for value in values]
    codec = format_of(NATIVE).native_codec(RING, new, (LABEL,))
    if codec is None:
        raise SystemExit("the native codec was not built; `uv sync` with a C compiler builds it")
    repeats = max(1, 10 * BATCH_ROWS // count // (1 + chars // 400))

    def once() -> float:
        started = time.process_time()
        for _ in range(repeats):
            packed = codec.reencrypt(rows, 0, 1)
        seconds = time.process_time() - started
        if packed is None or packed.changed != count:
            raise SystemExit("the codec did not rewrite every value; its figures mean nothing")
        return seconds / repeats / count * 1e6

    return once


def _written(version: KeyVersion, text: str) -> bytes:
    """As an application writes a value: each with a nonce of its own."""
    nonce = os.urandom(version.generation.nonce_bytes)
    body = RING.cipher(version).encrypt(nonce, text.encode(), associated_data(version, LABEL))
    return str(Ciphertext(version, nonce, body)).encode()


def _rotated(values: list[bytes], version: KeyVersion) -> list[Value]:
    return format_of(NATIVE).reencryptor(RING, version, (LABEL,)).reencrypt([values]).columns[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="alternating rounds; medians are given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
