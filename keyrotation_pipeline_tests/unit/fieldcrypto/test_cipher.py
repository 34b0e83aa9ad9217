from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.errors import (
    AlreadyEncryptedError,
    DecryptionError,
    KeyRotationError,
    PlaintextEncodingError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion, parse
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V2 = KeyVersion(1), KeyVersion(2)
KEYS = {V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}
RING = KeyRing(KEYS, V2)

Seal = Callable[[KeyRing, int, str], str]


@settings(deadline=None)
@given(st.text())
def test_every_text_comes_back(plaintext: str) -> None:
    stored = encrypt(RING, plaintext)
    assert stored.startswith("v2:")
    assert decrypt(RING, stored) == plaintext


@settings(deadline=None)
@given(st.text())
def test_no_two_encryptions_are_alike(plaintext: str) -> None:
    assert encrypt(RING, plaintext) != encrypt(RING, plaintext)


def test_a_value_is_read_by_the_version_that_it_names(seal: Seal) -> None:
    assert decrypt(RING, seal(RING, 1, "Anna")) == "Anna"
    assert decrypt(RING, seal(RING, 2, "Anna")) == "Anna"


def test_other_keys_are_never_tried(seal: Seal) -> None:
    mislabelled = "v2:" + seal(RING, 1, "Anna").removeprefix("v1:")
    with pytest.raises(DecryptionError, match="key version v2 "):
        decrypt(RING, mislabelled)


def test_a_version_that_the_ring_lacks_is_an_error_though_another_key_would_fit(seal: Seal) -> None:
    both_alike = KeyRing({V1: KEYS[V1], V2: KEYS[V1]}, V1)
    with pytest.raises(UnknownKeyVersionError, match="v2 is not in the key ring") as caught:
        decrypt(KeyRing({V1: KEYS[V1]}, V1), seal(both_alike, 2, "Anna"))
    assert caught.value.version == "v2"


@pytest.mark.parametrize("part", ["nonce", "body", "tag"])
def test_one_changed_bit_anywhere_is_found(part: str) -> None:
    value = parse(encrypt(RING, "Anna Schmidt"))
    nonce, body = bytearray(value.nonce), bytearray(value.body)
    {"nonce": nonce, "body": body, "tag": body}[part][-1 if part == "tag" else 0] ^= 1
    with pytest.raises(DecryptionError):
        decrypt(RING, str(Ciphertext(value.version, bytes(nonce), bytes(body))))


def failure(act: Callable[[], object]) -> KeyRotationError:
    with pytest.raises(KeyRotationError) as caught:
        act()
    return caught.value


def latin1_value() -> str:
    return str(Ciphertext(V1, bytes(12), RING.cipher(V1).encrypt(bytes(12), "Müller".encode("latin-1"), None)))


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        pytest.param(lambda: encrypt(RING, latin1_value()), AlreadyEncryptedError, id="a value"),
        pytest.param(lambda: encrypt(RING, "Müller\ud800"), PlaintextEncodingError, id="lone surrogate"),
        pytest.param(lambda: decrypt(RING, latin1_value()), PlaintextEncodingError, id="not UTF-8"),
        pytest.param(lambda: decrypt(RING, "v1:Müller"), KeyRotationError, id="malformed"),
    ],
)
def test_an_error_carries_no_content_in_text_or_context(act: Callable[[], object], kind: type[Exception]) -> None:
    error = failure(act)
    assert isinstance(error, kind)
    assert "ller" not in str(error) + repr(vars(error))
    assert error.__context__ is None  # Python's own Unicode errors hold the text
