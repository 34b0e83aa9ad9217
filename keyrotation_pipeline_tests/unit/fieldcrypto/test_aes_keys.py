"""Keys of AES of an application's own library: of any length, with or without a name, and never one of our format."""

import base64
import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.key_search import key_in
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import AesKey, KeyMaterial

V1, V2 = KeyVersion(1), KeyVersion(2)
RAW = os.urandom(16)


@pytest.mark.parametrize("key", [AesKey(RAW), AesKey(RAW * 2, "AES.GCM.V1"), AesKey(os.urandom(24), "a-b_c.D")])
def test_a_key_and_its_name_are_stored_and_read_back(key: AesKey) -> None:
    again = key_from_base64(f"{base64_of(key)}\n")
    assert (again, again.name, again.fingerprint, hash(again)) == (key, key.name, key.fingerprint, hash(key))
    assert repr(again) == f"KeyMaterial({key.fingerprint[:16]})"


def test_the_same_bytes_under_another_name_are_another_key_of_the_same_fingerprint() -> None:
    raw = os.urandom(32)
    keys = [KeyMaterial(raw), AesKey(raw, "a"), AesKey(raw, "b")]
    assert [each == other for each in keys for other in keys].count(True) == len(keys)
    assert len({key.fingerprint for key in keys}) == 1


@pytest.mark.parametrize(
    ("raw", "name"), [(bytes(15), ""), (bytes(33), ""), (b"", "a"), (bytes(32), "a:b"), (bytes(32), "a" * 101)]
)
def test_other_lengths_and_names_are_refused(raw: bytes, name: str) -> None:
    with pytest.raises(InvalidKeyError):
        AesKey(raw, name)


@pytest.mark.parametrize("text", ["aes:", "aes::", "aes::AAAA", "aes:AAAA", "named:a:AAAA", ":" + "A" * 43 + "="])
def test_a_stored_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        key_from_base64(text)


def test_our_own_format_takes_none() -> None:
    ring = KeyRing({V1: AesKey(bytes(32), "a")}, V1)
    with pytest.raises(UnknownKeyVersionError):
        ring.cipher(V1)
    with pytest.raises(UnknownKeyVersionError):
        format_of(NATIVE).reencryptor(ring, V1)


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("encoding", KeyEncoding)
def test_a_list_has_keys_of_any_length_of_aes(size: int, encoding: KeyEncoding) -> None:
    raw = os.urandom(size)
    text = {KeyEncoding.HEX: raw.hex(), KeyEncoding.B64: base64.b64encode(raw).decode()}.get(
        encoding, base64.urlsafe_b64encode(raw).decode()
    )
    notation = notation_of(AES_GCM, encoding)
    (key,) = notation.keys_in(text, "KEYS")
    assert (raw_of(key), isinstance(key, AesKey), notation.text_of([key])) == (raw, size < 32, text)
    with pytest.raises(InvalidKeyError, match="give the URL-safe base64 of 32 bytes" if size < 32 else "zz"):
        notation_of(FERNET).keys_in(text if size < 32 and encoding is KeyEncoding.B64URL else "zz", "zz")


def test_what_is_no_key_of_aes_is_refused_with_what_would_be_one() -> None:
    with pytest.raises(
        InvalidKeyError, match="entry 1 of KEYS is not a key; give the hexadecimal digits of 16 or 24 or"
    ):
        notation_of(AES_GCM, KeyEncoding.HEX).keys_in("ab" * 20, "KEYS")


def test_a_new_key_is_as_long_as_the_one_that_it_replaces_unless_another_length_is_declared() -> None:
    made = [new_key(AES_GCM, (), present) for present in (None, AesKey(RAW), AesKey(os.urandom(24)))]
    made.append(new_key(replace(AES_GCM, key_bytes=32), (), AesKey(RAW)))
    made.append(new_key(replace(AES_GCM, key_bytes=16), (), KeyMaterial.generate()))
    assert [len(raw_of(key)) for key in made] == [32, 16, 24, 32, 16]
    assert "; new keys of 16 bytes" in replace(AES_GCM, key_bytes=16).signed()


def test_values_move_from_aes_128_to_aes_256() -> None:
    layout = Layout("raw(nonce12 ct tag16)")
    ring = KeyRing({V1: AesKey(RAW), V2: KeyMaterial.generate()}, V2)
    code, nonce = format_of(replace(AES_GCM, layout=layout.text)), os.urandom(12)
    value = nonce + AESGCM(RAW).encrypt(nonce, b"text", None)
    ((new,),) = code.reencryptor(ring, V2).reencrypt([[value]]).columns
    assert new is not None
    assert AESGCM(raw_of(ring.material(V2))).decrypt(new[:12], new[12:], None) == b"text"
    assert code.native_codec(ring, V2) is None
    assert code.opened_by(ring, value) == (V1, V1)


@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_key_of_any_length_is_found_in_a_text(size: int) -> None:
    raw = os.urandom(size)
    known = AesKey(raw, "a").fingerprint
    forms = [b"x" + raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), b"k=" + base64.urlsafe_b64encode(raw)]
    assert [key_in(form, {known}) for form in forms] == [known] * len(forms)
