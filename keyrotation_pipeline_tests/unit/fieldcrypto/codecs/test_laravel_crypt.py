"""Laravel's payloads, against real ones and code from its own text."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.batch import Failure
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.laravel_crypt import LARAVEL
from keyrotation_pipeline.fieldcrypto.formats.laravel_crypt.codec import CIPHERS, LaravelPayload
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.probe import fits, fitting
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind
from keyrotation_pipeline_tests import laravel

V1, V2 = KeyVersion(1), KeyVersion(2)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "vectors" / "laravel.json").read_text())
PLAINTEXTS = ["", "x", "y" * 15, "z" * 16, "Müller-Lüdenscheidt 🔑", 's:5:"hallo";', "long " * 500]


def with_cipher(cipher: str) -> ValueFormat:
    return replace(LARAVEL, layout=cipher)


def ring_of(cipher: str, *keys: str) -> KeyRing:
    """The oldest key comes first."""
    listed = notation_of(with_cipher(cipher)).keys_in(",".join(keys), "APP_KEYS")
    return KeyRing({KeyVersion(number): key for number, key in enumerate(listed, 1)}, KeyVersion(len(listed)))


def rewritten(cipher: str, ring: KeyRing, *stored: str) -> list[str | None]:
    ((*new,),) = (
        format_of(with_cipher(cipher)).reencryptor(ring, V2).reencrypt([[each.encode() for each in stored]]).columns
    )
    return [None if each is None else each.decode() for each in new]


def changed(stored: str, old: str, new: str) -> str:
    payload = base64.b64decode(stored).decode()
    assert old in payload
    return base64.b64encode(payload.replace(old, new).encode()).decode()


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("text", PLAINTEXTS, ids=len)
def test_the_library_reads_what_was_rewritten(cipher: str, text: str) -> None:
    old, new = laravel.new_key(CIPHERS[cipher]), laravel.new_key(CIPHERS[cipher])
    ring, stored = ring_of(cipher, old, new), laravel.encrypt(old, text, cipher)
    (value,) = rewritten(cipher, ring, stored)
    assert value is not None
    assert laravel.decrypt([new], value) == text
    assert len(value) == len(stored) >= LaravelPayload(cipher).shortest_bytes
    assert rewritten(cipher, ring, value, "") == [None, None]
    held, failures = (
        format_of(with_cipher(cipher)).reencryptor(ring, V2).check([[stored.encode(), value.encode(), None]])
    )
    assert (held, failures) == ([{V1: 1, V2: 1}], [])


def test_a_payload_of_an_older_version_keeps_that_it_has_no_tag_and_loses_what_escapes_slashes() -> None:
    old, new = (laravel.new_key() for _ in range(2))
    stored = next(each for each in iter(lambda: laravel.encrypt(old, "text"), "") if b"/" in base64.b64decode(each))
    older = changed(changed(stored, ',"tag":""', ""), "/", "\\/")
    (value,) = rewritten("AES-256-CBC", ring_of("AES-256-CBC", old, new), older)
    assert value is not None
    assert "tag" not in json.loads(base64.b64decode(value))
    assert "\\" not in base64.b64decode(value).decode()
    assert laravel.decrypt([new], value) == "text"
    assert len(value) <= len(older)


def test_what_no_key_opens_is_left_as_it_is_and_named() -> None:
    cipher = "AES-256-CBC"
    old, new, other = (laravel.new_key() for _ in range(3))
    good = laravel.encrypt(old, "text")
    mac = json.loads(base64.b64decode(good))["mac"]
    twice, serialised = laravel.encrypt(old, good), laravel.encrypt(old, f's:{len(good)}:"{good}";')
    foreign, damaged = laravel.encrypt(other, "text"), changed(good, mac, mac[::-1])
    stored = [foreign, damaged, twice, serialised, "plain", laravel.encrypt(old, "text", "AES-256-GCM"), good]
    again = Defect(DefectKind.ENCRYPTED_TWICE, V1)
    defects = [UNDER_NO_KEY, UNDER_NO_KEY, again, again, NOT_A_VALUE, NOT_A_VALUE]
    reencryptor = format_of(with_cipher(cipher)).reencryptor(ring_of(cipher, old, new), V2)
    done = reencryptor.reencrypt([[each.encode() for each in stored]])
    assert done.failures == [Failure(row, 0, defect) for row, defect in enumerate(defects)]
    assert [each is not None for each in done.columns[0]] == [False] * 6 + [True]


GOOD = VECTORS[0]["values"][1]["stored"]
GCM = VECTORS[2]["values"][1]["stored"]
NOT_PAYLOADS = [
    ("AES-256-CBC", "eyJpdiI6"),
    ("AES-256-CBC", GOOD.rstrip("=")[:-1]),
    ("AES-256-CBC", f"{GOOD}\n"),
    ("AES-256-CBC", f" {GOOD}"),
    ("AES-256-CBC", f"{GOOD[:40]}\n{GOOD[40:]}"),
    ("AES-256-CBC", changed(GOOD, '"iv":', '"iv": ')),
    ("AES-256-CBC", changed(GOOD, '"tag":""', '"tag":"QQ=="')),
    ("AES-256-CBC", changed(GOOD, '"tag"', '"gat"')),
    ("AES-256-CBC", changed(GOOD, '"value":"', '"value":"AAAA')),
    ("AES-256-CBC", changed(GOOD, "==", "=")),
    ("AES-256-CBC", changed(GOOD, '"mac":"e', '"mac":"E')),
    ("AES-256-CBC", changed(GOOD, '"mac":"e', '"mac":"')),
    ("AES-256-CBC", GCM),
    ("AES-256-GCM", GOOD),
    ("AES-256-GCM", changed(GCM, '"mac":""', f'"mac":"{"0" * 64}"')),
    ("AES-256-GCM", base64.b64encode(b'{"iv":"DcsIaVIz4bGsoxZb","value":"","mac":""}').decode()),
    ("AES-256-GCM", base64.b64encode(b'{"iv":"DcsIaVIz4bGsoxZb","value":"","mac":"","tag":"QQ=="}').decode()),
]


@pytest.mark.parametrize(("cipher", "value"), NOT_PAYLOADS)
def test_what_laravel_never_writes_is_no_value(cipher: str, value: str) -> None:
    assert LaravelPayload(cipher).split(value.encode()) is None
    assert LaravelPayload("AES-256-CBC").split(GOOD.encode()) is not None
    assert LaravelPayload("AES-256-GCM").split(GCM.encode()) is not None


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_new_key_is_as_long_as_the_cipher_needs_and_written_as_artisan_prints_it(cipher: str) -> None:
    declared = with_cipher(cipher)
    for present in (None, ring_of("AES-256-CBC", laravel.new_key()).material(V1)):
        key = new_key(declared, present=present)
        assert len(raw_of(key)) == CIPHERS[cipher]
        listed = notation_of(declared).text_of([key, new_key(declared)])
        first, _ = listed.split(",")
        assert laravel.decrypt([first], laravel.encrypt(first, "text", cipher)) == "text"
        assert notation_of(declared).keys_in(listed, "APP_KEYS")[0] == key


@pytest.mark.parametrize("text", ["", "base64:", "base64:QQ==", "a" * 32, f"base64:{'Qk' * 10}Qg==", f"{'Qk' * 21}I="])
def test_what_is_no_key_of_the_cipher_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(InvalidKeyError, match=r"^entry 1 of APP_KEYS is not an APP_KEY of this cipher") as refused:
        notation_of(LARAVEL).keys_in(text, "APP_KEYS")
    assert len(text) < 9 or text not in str(refused.value)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_probe_finds_the_cipher(cipher: str) -> None:
    old = laravel.new_key(CIPHERS[cipher])
    found, *others = fits(old, "APP_KEYS", [laravel.encrypt(old, text, cipher).encode() for text in ("a", "b")])
    assert (found.format, found.layout, found.opened, others) == ("laravel-crypt", cipher, 2, [])


@pytest.mark.parametrize("declared", CIPHERS)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_where_no_value_opens_only_a_cipher_that_takes_such_keys_is_named(declared: str, cipher: str) -> None:
    old = laravel.new_key(CIPHERS[cipher])
    found = fitting(with_cipher(declared), ring_of(cipher, old), [laravel.encrypt(old, "a", cipher).encode()])
    assert found == cipher


def test_only_a_gcm_cipher_bounds_how_much_a_key_may_encrypt() -> None:
    assert [with_cipher(cipher).encrypts_by_gcm for cipher in CIPHERS] == [cipher.endswith("GCM") for cipher in CIPHERS]


def test_the_signed_format_names_the_cipher() -> None:
    assert "; cipher AES-128-GCM" in with_cipher("AES-128-GCM").signed()
