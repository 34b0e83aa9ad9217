"""Values made to break the scan: nothing is raised, nothing takes long, and nothing of them is shown."""

import base64
import json
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.readings import read
from keyrotation_pipeline.scan.report import Place
from keyrotation_pipeline_tests.vectors.foreign_values import MARKED

COLUMN = Place("public.t", "data", None, elements=False, type="text")
MEGABYTE = 1_000_000
SLOWEST_SECONDS = 0.05
DEEP = '{"p":' * 200_000

HOSTILE: dict[str, str | bytes] = {
    "letters": "a" * MEGABYTE,
    "base64": "Ab1+" * (MEGABYTE // 4),
    "broken base64": "Ab1+" * (MEGABYTE // 4) + "=",
    "base64 of base64 of base64": base64.b64encode(
        base64.b64encode(base64.b64encode(b"Ab1+" * (MEGABYTE // 10)))
    ).decode(),
    "lines of base64": ("Ab1+" * 16 + "\n") * (MEGABYTE // 65),
    "lines": "\n" * MEGABYTE + "x",
    "spaces": "x" + " " * MEGABYTE + "x",
    "hex": "0123456789abcdef" * (MEGABYTE // 16),
    "hex and one more": "0123456789abcdef" * (MEGABYTE // 16) + "!",
    "colons": "a:" * (MEGABYTE // 2),
    "prefixes": "enc:" * (MEGABYTE // 4),
    "hex parts": "ab" * 12 + ":" + "ab" * 16 + ":" + "ab" * (MEGABYTE // 2) + "!",
    "dots": "ey" + "." * MEGABYTE,
    "a JWE's header": "ey" + "A" * MEGABYTE + "....",
    "dashes": "--" * (MEGABYTE // 2),
    "stars": "Fe26.2*" + "*" * MEGABYTE,
    "braces": "{" * MEGABYTE,
    "brackets": "[" * MEGABYTE,
    "deep JSON": DEEP,
    "deep JSON with the keys of an envelope": '{"p":"","h":{"iv":"","at":' + DEEP,
    "deep JSON in base64": base64.b64encode(('{"iv":' * 100_000).encode()).decode(),
    "a number without end": '{"p":' + "9" * MEGABYTE + ',"h":{"iv":"","at":""}}',
    "fernet": "gAAAAABrCbGW" + "A" * MEGABYTE,
    "a long Fernet token": base64.urlsafe_b64encode(
        b"\x80\0\0\0\0\x6b\x09\xb1\x96" + b"x" * (48 + 16 * 40_000)
    ).decode(),
    "laravel": base64.b64encode(json.dumps({"iv": "A" * 16, "value": "A" * 700_000, "mac": ""}).encode()).decode(),
    "armor": "-----BEGIN PGP MESSAGE-----\n\n" + "Ab1+" * (MEGABYTE // 4) + "\n-----END PGP MESSAGE-----",
    "armor without end": "-----BEGIN PGP MESSAGE-----" + "\n" * MEGABYTE,
    "lone surrogates": "\ud800gAAAAA" * 1000,
    "a surrogate in base64": "Ab1+" * 100 + "\udfff",
    "NUL": "\0" * 1000,
    "digits of other scripts": "٣" * 1000,
    "white space only": " \t\n" * 100,
    "packets": b"\xc3\x04\x04\x09\x00\x00" * (MEGABYTE // 6),
    "partial packets": b"\xd2\xe0" * (MEGABYTE // 2),
    "SDK lengths": b"\x02\x05\x78" + b"\xff" * MEGABYTE,
    "quotes": b'"' * MEGABYTE,
    "containers": b"%%%" * (MEGABYTE // 3),
    "grafana": b"#" + b"A" * MEGABYTE,
    "a label of 255 bytes": b"\x01\xff" + b"A" * MEGABYTE,
    "zeros": bytes(MEGABYTE),
    "invalid UTF-8": b"\xff\xfe" * 1000,
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_value_is_read_at_once(value: str | bytes) -> None:
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        read(value)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < SLOWEST_SECONDS
    classify_table({COLUMN: [value, value]})


def test_they_are_classified_together() -> None:
    assert isinstance(classify_table({COLUMN: list(HOSTILE.values())}), tuple)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.one_of(st.text(), st.binary())), max_size=3))
def test_no_value_is_ever_refused(columns: dict[str, list[str | bytes]]) -> None:
    table = {Place("public.t", column, None, elements=False, type="text"): values for column, values in columns.items()}
    assert isinstance(classify_table(table), tuple)


def damaged(value: str | bytes, rng: random.Random) -> str | bytes:
    """Replaces, removes or repeats a part."""
    start, size = rng.randrange(len(value)), rng.randrange(1, 6)
    if isinstance(value, bytes):
        return value[:start] + rng.randbytes(rng.choice((0, size))) + value[start + rng.choice((0, size)) :]
    inserted = "".join(rng.choices('A9+/=-_:.*{}"\\ \nü\ud800', k=rng.choice((0, size))))
    return value[:start] + inserted + value[start + rng.choice((0, size)) :]


@pytest.mark.parametrize("entry", MARKED, ids=lambda entry: f"{entry.format}: {entry.made_by}")
def test_damaged_values_are_read_without_error(entry: object) -> None:
    rng = random.Random(0)
    values = [damaged(value, rng) for value in entry.values for _ in range(30)]  # type: ignore[attr-defined]
    for stored in (values, [value if isinstance(value, bytes) else value.encode(errors="replace") for value in values]):
        assert isinstance(classify_table({COLUMN: stored}), tuple)


@pytest.mark.parametrize("entry", MARKED, ids=lambda entry: f"{entry.format}: {entry.made_by}")
@pytest.mark.parametrize("shown", [repr, str], ids=["repr", "str"])
def test_no_reading_shows_a_value(entry: object, shown: Callable[[object], str]) -> None:
    for value in entry.values:  # type: ignore[attr-defined]
        text = value if isinstance(value, str) else value.hex()
        reading = read(value)
        assert text[-24:].strip() not in shown(reading) + shown(reading.hit)
