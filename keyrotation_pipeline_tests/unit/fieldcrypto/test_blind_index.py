"""Blind indexes against what blind_index 2.8.1 printed with libargon2, and which keys take turns."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.fieldcrypto.blind_index import (
    Algorithm,
    BlindIndexer,
    BlindIndexForm,
    index_key,
    takes_turns,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V2, V3, V4 = map(KeyVersion, range(1, 5))
MASTER = KeyMaterial(bytes(31) + b"\x7f")
FORM = BlindIndexForm("billing.users", "email_bidx", "email_bidx_v2")


@pytest.mark.parametrize(
    ("algorithm", "whole", "half"),
    [
        ("argon2id", "ymtSF0fxYLiIDri8ViDKJP02mvspWkgmxzHJuq7EMVA=", "rZx3fEd4u4hCjtjwgPoVLQ=="),
        ("argon2id-slow", "tXlDOSPqWRHM7m+YZP5glDdxaJ5qWstUEFzJC1SAQss=", "Gbt9VzIV/TM3mOdH6E0MFA=="),
        ("pbkdf2-sha256", "LFSaNjWzKo5g2sYYoD9/9gujeiYe63KmTi6t081EXWI=", "LFSaNjWzKo5g2sYYoD9/9g=="),
        ("pbkdf2-sha256-slow", "ng8fsJ1X7RybKy62p3m2ZsLbizRAOJW1kbu+2vO1Wxo=", "ng8fsJ1X7RybKy62p3m2Zg=="),
        ("scrypt", "670WfULbQPERmIxiGXxLuAn9PMDylzqqx35D7f8Lkv4=", "670WfULbQPERmIxiGXxLuA=="),
    ],
)
def test_an_index_is_what_the_library_prints(algorithm: str, whole: str, half: str) -> None:
    ring = KeyRing({V2: MASTER}, V2)
    for form, index in (
        (replace(FORM, algorithm=Algorithm(algorithm)), whole),
        (replace(FORM, algorithm=Algorithm(algorithm), size_bytes=16), half),
    ):
        assert BlindIndexer(form, ring).under(V2, "Ana Pérez".encode()) == index
        assert form.is_index(index)
        assert len(index) == len(form.example(V2)) == form.longest_chars
        assert not form.is_index(index + "\n")
        assert not form.is_index(index[1:])


def test_the_key_of_an_index_is_that_of_its_column() -> None:
    real = "289737bab72fa97b1f4b081cef00d7b7d75034bcf3183c363feaf3e6441777bc"  # of the library's own test
    assert index_key(KeyMaterial(bytes(32)), "users", "email_bidx").hex() == real
    assert index_key(MASTER, "billing.users", "email_bidx_v2").hex() == (
        "35b70f65a65bfa9f320463445474fd62dcecf1173cd6733b864737d93efa1365"
    )
    indexer = BlindIndexer(replace(FORM, algorithm=Algorithm.PBKDF2_SHA256), KeyRing({V1: MASTER, V3: MASTER}, V1))
    assert (
        indexer.under(V1, b"x")
        == indexer.under(V3, b"x")
        != BlindIndexer(indexer.form, KeyRing({V2: MASTER}, V2)).under(V2, b"x")
    )


@pytest.mark.parametrize(
    ("digits", "right"),
    [
        ({V1: "1", V2: "2"}, True),
        ({V1: "a", V2: "f"}, True),
        ({V1: "0", V4: "b", V2: "1"}, True),
        ({V1: "1", V2: "3"}, False),
        ({V1: "0", V2: "1", V4: "2"}, False),
    ],
)
def test_last_digits_say_which_of_two_columns_a_key_goes_with(digits: dict[KeyVersion, str], right: bool) -> None:
    keys = {version: KeyMaterial(bytes(31) + bytes.fromhex(f"5{digit}")) for version, digit in digits.items()}
    assert takes_turns(V1, keys[V1], keys) is right
