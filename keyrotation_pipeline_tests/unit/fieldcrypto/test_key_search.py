"""A key is found in every form in which somebody could write it into a secret, and nothing else is taken for one."""

import base64
import json
import os
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.key_search import key_in
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase

RAW = bytes(range(251, 256)) + os.urandom(27)  # its base64 has + and /
B64 = base64.b64encode(RAW)
URLSAFE = base64.urlsafe_b64encode(RAW)
KNOWN = {KeyMaterial(RAW).fingerprint, KeyMaterial(os.urandom(32)).fingerprint}

FORMS: dict[str, Callable[[], bytes]] = {
    "base64": lambda: B64,
    "base64 and a newline": lambda: B64 + b"\n",
    "base64 without padding": lambda: B64.rstrip(b"="),
    "URL-safe base64": lambda: URLSAFE,
    "URL-safe base64 without padding": lambda: URLSAFE.rstrip(b"="),
    "base64 in lines": lambda: B64[:20] + b"\r\n" + B64[20:],
    "hex": lambda: RAW.hex().encode(),
    "hex in capitals": lambda: RAW.hex().upper().encode(),
    "hex in groups": lambda: RAW.hex(" ").encode(),
    "raw": lambda: RAW,
    "raw among other bytes": lambda: b"\x00\xff" + RAW + b"\n",
    "base64 of base64, as in a Secret": lambda: base64.b64encode(B64),
    "base64 of base64 and a newline": lambda: base64.b64encode(B64 + b"\n"),
    "base64 of hex": lambda: base64.b64encode(RAW.hex().encode()),
    "hex of base64": lambda: B64.hex().encode(),
    "the password of a URL": lambda: b"postgresql://app:" + quote(B64, safe="").encode() + b"@db/clinic",
    "the password of a URL, not encoded": lambda: b"smtp://u:" + B64 + b"@mail",
    "a parameter of a webhook": lambda: b"https://hooks.example/x?token=" + quote_plus(B64).encode() + b"&y=1",
    "encoded twice": lambda: quote(quote(B64, safe=""), safe="").encode(),
    "a part of a path": lambda: b"https://hooks.example/services/" + URLSAFE + b"/send",
    "after other characters of base64": lambda: b"abc" + B64,
    "JSON, as in Secrets Manager": lambda: json.dumps({"v2": B64.decode(), "primary": "v2"}).encode(),
    "a line of a file of variables": lambda: b"export ENCRYPTION_MASTER_KEY_V2='" + B64 + b"'\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_found_in_every_form(form: str) -> None:
    assert key_in(FORMS[form](), KNOWN) == KeyMaterial(RAW).fingerprint


PASSPHRASES = ("correct horse battery", "twelve chars", "a:b,c=d/e@f?g&h#i|j", "$wVd+x!9-._~^", "x" * 256)
PLACES = {
    "alone": "{}",
    "a line of YAML": "key: {}\n",
    "a line among others": "user\n{}\nhost\n",
    "a list": "primary_key: [aaaaaaaaaaaaaaaa,{}]",
    "quoted": "export KEY='{}'",
    "the password of a URL, not encoded": "postgresql://app:{}@db/clinic",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", PASSPHRASES)
def test_a_passphrase_of_any_length_is_found(text: str, place: str) -> None:
    known = Passphrase(text.encode())
    written = PLACES[place].format(text).encode()
    encoded = (written, quote(written, safe="").encode(), base64.b64encode(written), written.hex().encode())
    assert {key_in(each, {*KNOWN, known.fingerprint}) for each in encoded} == {known.fingerprint}


@pytest.mark.parametrize("text", PASSPHRASES)
def test_a_passphrase_is_found_as_backups_and_stores_hold_it(text: str) -> None:
    known = Passphrase(text.encode())
    assert key_in(base64_of(known).encode(), {known.fingerprint}) == known.fingerprint


@pytest.mark.parametrize("text", [
    pytest.param(b"", id="nothing"),
    pytest.param(b"hunter2", id="a short password"),
    pytest.param(base64.b64encode(bytes(32)), id="another key"),
    pytest.param(B64[:40], id="the beginning of a key"),
    pytest.param(b"https://u:p@host/%zz?x=%", id="percent signs of nothing"),
    pytest.param(b"A" * 1001, id="much base64"),
    pytest.param(b"a" * 999, id="much hex"),
])  # fmt: skip
def test_nothing_else_is_taken_for_a_key(text: bytes) -> None:
    assert key_in(text, KNOWN) is None


def test_nothing_is_found_where_no_key_is_known() -> None:
    assert key_in(B64, ()) is None
