"""Texts that are, or are nearly, stored values: one table for the parser, Python's regex and PostgreSQL's."""

import base64
import re

from keyrotation_pipeline.fieldcrypto.grammar import VALUE_PATTERN

NONCE = "AAECAwQFBgcICQoL"
BODY = base64.b64encode(bytes(range(16))).decode()  # 16 bytes: ends in ==
assert BODY.endswith("w==")

LONG_NONCE = base64.b64encode(bytes(range(24))).decode()
LONG_BODY = base64.b64encode(bytes(range(48))).decode()

ACCEPTED = {
    "an empty text": f"v1:{NONCE}:{BODY}",
    "17 bytes": f"v1:{NONCE}:{base64.b64encode(bytes(17)).decode()}",
    "18 bytes": f"v1:{NONCE}:{base64.b64encode(bytes(18)).decode()}",
    "plus and slash": f"v1:{'+/' * 8}:{base64.b64encode(bytes([255] * 18)).decode()}",
    "two digits": f"v10:{NONCE}:{BODY}",
    "six digits": f"v999999:{NONCE}:{BODY}",
    "second generation, an empty text": f"v1x:{LONG_NONCE}:{LONG_BODY}",
    "second generation, 49 bytes": f"v2x:{LONG_NONCE}:{base64.b64encode(bytes(49)).decode()}",
    "second generation, 50 bytes": f"v2x:{LONG_NONCE}:{base64.b64encode(bytes(50)).decode()}",
    "second generation, six digits": f"v999999x:{LONG_NONCE}:{LONG_BODY}",
    "30 kB": f"v2:{NONCE}:{base64.b64encode(bytes(30_000)).decode()}",
}

REFUSED = {
    "second generation, nonce of the first": f"v1x:{NONCE}:{LONG_BODY}",
    "first generation, nonce of the second": f"v1:{LONG_NONCE}:{LONG_BODY}",
    "nonce between the two": f"v1:{LONG_NONCE[:24]}:{LONG_BODY}",
    "second generation, body of 47 bytes": f"v1x:{LONG_NONCE}:{base64.b64encode(bytes(47)).decode()}",
    "second generation, body of 46 bytes": f"v1x:{LONG_NONCE}:{base64.b64encode(bytes(46)).decode()}",
    "second generation, body of the first": f"v1x:{LONG_NONCE}:{BODY}",
    "second generation, capital": f"v1X:{LONG_NONCE}:{LONG_BODY}",
    "second generation, twice": f"v1xx:{LONG_NONCE}:{LONG_BODY}",
    "second generation, no number": f"vx:{LONG_NONCE}:{LONG_BODY}",
    "second generation, leading zero": f"v01x:{LONG_NONCE}:{LONG_BODY}",
    "second generation, seven digits": f"v1000000x:{LONG_NONCE}:{LONG_BODY}",
    "second generation, stray bits": f"v1x:{LONG_NONCE}:{base64.b64encode(bytes(49)).decode()[:-3]}B==",
    "nothing": "",
    "a name": "Anna",
    "version only": "v1:",
    "no version": f"{NONCE}:{BODY}",
    "v0": f"v0:{NONCE}:{BODY}",
    "leading zero": f"v01:{NONCE}:{BODY}",
    "seven digits": f"v1000000:{NONCE}:{BODY}",
    "capital V": f"V1:{NONCE}:{BODY}",
    "negative": f"v-1:{NONCE}:{BODY}",
    "arabic digit": f"v\u0661:{NONCE}:{BODY}",
    "full-width v": f"\uff561:{NONCE}:{BODY}",
    "space before": f" v1:{NONCE}:{BODY}",
    "space after": f"v1:{NONCE}:{BODY} ",
    "newline after": f"v1:{NONCE}:{BODY}\n",
    "newline before": f"\nv1:{NONCE}:{BODY}",
    "newline inside": f"v1:{NONCE}:{BODY[:4]}\n{BODY[4:]}",
    "second line is a value": f"Anna\nv1:{NONCE}:{BODY}",
    "first line is a value": f"v1:{NONCE}:{BODY}\nAnna",
    "space for colon": f"v1 {NONCE} {BODY}",
    "nonce of 11 bytes": f"v1:AAECAwQFBgcICQo=:{BODY}",
    "nonce of 13 bytes": f"v1:AAECAwQFBgcICQoLDA==:{BODY}",
    "no nonce": f"v1::{BODY}",
    "url alphabet in nonce": f"v1:{'-_' * 8}:{BODY}",
    "url alphabet in body": f"v1:{NONCE}:{'-_' * 12}",
    "no body": f"v1:{NONCE}:",
    "body of 15 bytes": f"v1:{NONCE}:{base64.b64encode(bytes(15)).decode()}",
    "body of 14 bytes": f"v1:{NONCE}:{base64.b64encode(bytes(14)).decode()}",
    "no padding": f"v1:{NONCE}:{BODY[:-2]}",
    "half the padding": f"v1:{NONCE}:{BODY[:-1]}",
    "too much padding": f"v1:{NONCE}:{BODY}=",
    "a group of padding": f"v1:{NONCE}:{'A' * 24}====",
    "padding inside": f"v1:{NONCE}:{BODY}{BODY}",
    "one character over": f"v1:{NONCE}:{'A' * 25}",
    "stray bits before ==, all else zero": f"v1:{NONCE}:{'A' * 21}B==",
    "stray bits before ==": f"v1:{NONCE}:{BODY[:-3]}x==",
    "stray bits before =": f"v1:{NONCE}:{'A' * 22}B=",
    "a fourth part": f"v1:{NONCE}:{BODY}:{BODY}",
    "two values": f"v1:{NONCE}:{BODY}v1:{NONCE}:{BODY}",
    "accent in body": f"v1:{NONCE}:{'é' * 24}",
    "full-width digit in body": f"v1:{NONCE}:{'A' * 20}\uff11\uff11==",
}

NEAR_MISSES = {
    "second generation, capital": "v1X:x",
    "second generation, leading zero": "v01x:",
    "second generation, space before colon": "v1x :x",
    "leading zero": "v01:x",
    "space before": " v1:x",
    "several before": "\t \r\n\f\v v1:x",
    "capital": "V1:x",
    "space before colon": "v1 :x",
    "truncated": "v1:",
    "zero": "v0:",
    "many digits": "v12345678:",
}

NO_NEAR_MISSES = {
    "another letter": "v1y:",
    "two letters": "v1xx:",
    "nothing": "",
    "a name": "Anna",
    "no digits": "v:",
    "not at the start": "see v1:",
    "no colon": "v1 ward",
    "arabic digit": "v\u0661:",
    "no-break space before": "\u00a0v1:",
    "information separator before": "\x1cv1:",
}

# Texts that people write, and pieces of values: none is a value, and each may be encrypted like any other text.
_BEGINNINGS = ("v1", "v2", "V1", "v2x", "v01", "v999999", "v999999x", " v2", "v12345678")
_GOING_ON = (": final version of the plan", ":", ":note", ": see above", ":see:below", ": " + NONCE, f":{NONCE}:")
_PIECES = [value[:end] for value in ACCEPTED.values() if len(value) < 1000 for end in range(1, len(value))]
_INTERRUPTED = [
    f"{value[:at]}{piece}{value[at:]}"
    for value in (ACCEPTED["an empty text"], ACCEPTED["second generation, an empty text"])
    for at in range(len(value))
    for piece in (" ", "é", "-")
]
LIKE_VALUES = [
    *filter(None, [*REFUSED.values(), *NEAR_MISSES.values(), *NO_NEAR_MISSES.values()]),
    *(f"{beginning}{rest}" for beginning in _BEGINNINGS for rest in _GOING_ON),
    *(piece for piece in _PIECES if not re.fullmatch(VALUE_PATTERN, piece)),
    *_INTERRUPTED,
]
assert len(LIKE_VALUES) > 1000
