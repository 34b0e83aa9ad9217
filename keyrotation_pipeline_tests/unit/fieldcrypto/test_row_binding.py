"""Values that are bound to their row open there, under every version from the declared one on, and nowhere else."""

import base64
import random
from pathlib import Path

import pytest

import keyrotation_pipeline
from keyrotation_pipeline.errors import DecryptionError, InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import Row, associated_data, joined
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.formats.native.codec import NativeFormat
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.fieldcrypto.xaes import KcXaes256Gcm

V1, V2X, V3X, V4 = KeyVersion(1), KeyVersion(2, 2), KeyVersion(3, 2), KeyVersion(4)
KEYS = {version: KeyMaterial.generate() for version in (V1, V2X, V3X, V4)}
LABEL = "clients.ssn"
FROM = 3
GUIDE = Path(keyrotation_pipeline.__file__).parents[1] / "docs" / "guides" / "second-generation.md"


def sealed(version: KeyVersion, text: str, key: bytes) -> bytes:
    return encrypt(KeyRing(KEYS, version), text, LABEL, Row(FROM, key)).encode()


def test_the_example_of_the_guide_is_right() -> None:
    key, nonce = bytes(range(32)), bytes(range(24))
    row = b"2b53382d-dff0-4884-9e4d-e1c45d844d8f"
    bound = b"keyrotation-value-v2\0clients.ssn\0" + row
    assert associated_data(V3X, LABEL, Row(FROM, row)) == bound
    value = str(Ciphertext(V3X, nonce, KcXaes256Gcm(key).encrypt(nonce, b"078-05-1120", bound)))
    text = GUIDE.read_text()
    assert f"```text\n{value}\n```" in text
    assert base64.b64encode(key).decode() in text


def test_what_a_value_is_bound_to_follows_from_its_version() -> None:
    ring = KeyRing(KEYS, V1)
    for version, elsewhere in ((V1, True), (V2X, True), (V3X, False), (V4, True)):
        stored = sealed(version, "Ada", b"7").decode()
        assert decrypt(ring, stored, LABEL, Row(FROM, b"7")) == "Ada"
        for other in (b"8", b"", b"7\0", b"77"):
            if elsewhere:
                assert decrypt(ring, stored, LABEL, Row(FROM, other)) == "Ada"
            else:
                with pytest.raises(DecryptionError):
                    decrypt(ring, stored, LABEL, Row(FROM, other))
    with pytest.raises(DecryptionError):  # as one that is bound to its column alone
        decrypt(ring, sealed(V3X, "Ada", b"7").decode(), LABEL)
    with pytest.raises(InvalidBindingError, match="bound to its row, which is unknown here"):
        decrypt(ring, sealed(V3X, "Ada", b"7").decode(), LABEL, Row(FROM, None))


def test_none_of_ten_thousand_exchanged_values_passes_either_codec() -> None:
    chance, keys = random.Random(3), [str(number).encode() for number in range(200)]
    ring = KeyRing(KEYS, V3X)
    code = NativeFormat(FROM)
    values = {key: sealed(V3X, f"text {key!r}", key) for key in keys}
    native, python = code.native_codec(ring, V2X, [LABEL]), code.reencryptor(ring, V2X, [LABEL])
    swapped = [joined(row, values[other]) for row, other in (chance.sample(keys, 2) for _ in range(10_000))]
    rewritten = python.reencrypt([swapped])
    assert {each.defect for each in rewritten.failures} == {Defect(DefectKind.NOT_AUTHENTIC, V3X)}
    assert (len(rewritten.failures), set(rewritten.columns[0])) == (10_000, {None})
    assert not any(native.reencrypt([(value,)], 0, 1) for value in swapped) if native else True
    assert code.plaintext(ring, swapped[0], LABEL) == Defect(DefectKind.NOT_AUTHENTIC, V3X)
    assert code.opened_by(ring, swapped[0], LABEL) == (V3X, None)
    good = [(joined(key, value),) for key, value in values.items()]
    assert native is None or native.reencrypt(good, 0, 1) is not None
    assert code.opened_by(ring, good[0][0], LABEL) == (V3X, V3X)


@pytest.mark.parametrize(("before", "after"), [(V1, V3X), (V2X, V3X), (V3X, V2X), (V3X, V4), (V1, V2X)])
def test_a_batch_is_bound_and_unbound_without_its_keys_in_the_new_values(before: KeyVersion, after: KeyVersion) -> None:
    ring, keys = KeyRing(KEYS, after), ["1", "ü:", "2b53382d"]
    batch = [joined(key.encode(), sealed(before, f"t{key}", key.encode())) for key in keys]
    new = NativeFormat(FROM).reencryptor(ring, after, [LABEL]).reencrypt([[*batch, None, b""]])
    assert new.failures == []
    assert new.columns[0][3:] == [None, None]
    for key, value in zip(keys, new.columns[0], strict=False):
        assert value is not None
        assert decrypt(ring, value.decode(), LABEL, Row(FROM, key.encode())) == f"t{key}"


def test_a_row_without_a_key_is_none_to_bind_to() -> None:
    ring = KeyRing(KEYS, V3X)
    value = joined(None, sealed(V2X, "Ada", b"7"))
    code = NativeFormat(FROM)
    assert code.reencryptor(ring, V3X, [LABEL]).reencrypt([[value]]).failures[0].defect == Defect(
        DefectKind.NOT_AUTHENTIC, V2X
    )
    native = code.native_codec(ring, V3X, [LABEL])
    assert native is None or native.reencrypt([(value,)], 0, 1) is None
    assert code.plaintext(ring, value, LABEL) == Defect(DefectKind.NOT_AUTHENTIC, V2X)
    assert code.opened_by(ring, value, LABEL) == (V2X, None)


def test_an_element_of_an_array_has_no_row_to_bind_to() -> None:
    native = NativeFormat(FROM).native_codec(KeyRing(KEYS, V3X), V3X, [LABEL])
    array = joined(b"7", b"{" + sealed(V1, "Ada", b"7") + b"}")
    assert native is None or native.reencrypt([(array,)], 0, 1, arrays={0}) is None
