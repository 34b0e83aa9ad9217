"""Values of the second generation open in their own column, under one key, and nowhere else."""

import os
import random
from itertools import product

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import DecryptionError, InvalidBindingError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.batch import Reencryptor
from keyrotation_pipeline.fieldcrypto.binding import associated_data, checked_label, default_label
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt, opened_by, plaintext
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion, parse
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.fieldcrypto.xaes import KcXaes256Gcm
from keyrotation_pipeline_tests.vectors.two_keys import opened_by_both, sealed_by_both

V1, V2X, V3X, V4 = KeyVersion(1), KeyVersion(2, 2), KeyVersion(3, 2), KeyVersion(4)
RING = KeyRing({version: KeyMaterial.generate() for version in (V1, V2X, V3X, V4)}, V2X)
LABELS = ("clients.email", "clients.phone", "billing.invoices.note")


def test_a_value_is_read_in_its_own_column() -> None:
    stored = encrypt(RING, "Ada", "clients.email")
    assert stored.startswith("v2x:")
    assert decrypt(RING, stored, "clients.email") == "Ada"
    assert plaintext(RING, stored, "clients.email") == b"Ada"
    assert opened_by(RING, parse(stored), "clients.email") == V2X


def test_without_its_column_a_value_is_neither_written_nor_read() -> None:
    stored = encrypt(RING, "Ada", "clients.email")
    with pytest.raises(InvalidBindingError, match="bound to its column"):
        encrypt(RING, "Ada")
    with pytest.raises(InvalidBindingError, match="bound to its column"):
        decrypt(RING, stored)


@pytest.mark.parametrize("swaps", [2_000, pytest.param(10_000, marks=pytest.mark.extended)])
def test_no_value_that_was_put_into_another_column_opens(swaps: int) -> None:
    chance = random.Random(5)
    labels = [f"table{table}.column{column}" for table, column in product(range(20), range(20))]
    for _ in range(swaps):
        mine, other = chance.sample(labels, 2)
        stored = encrypt(RING, chance.choice(["", "Ada", "x" * 100]), mine)
        with pytest.raises(DecryptionError):
            decrypt(RING, stored, other)


@pytest.mark.parametrize("messages", [100, pytest.param(1_000, marks=pytest.mark.extended)])
def test_a_message_that_opens_under_two_keys_in_the_first_generation_opens_under_neither_in_the_second(
    messages: int,
) -> None:
    bound = associated_data(V2X, "clients.email")
    assert bound is not None
    for _ in range(messages):
        one, other = os.urandom(32), os.urandom(32)
        nonce, body = opened_by_both(one, other)
        assert AESGCM(one).decrypt(nonce, body, None) != AESGCM(other).decrypt(nonce, body, None)

        # The same against the keys that two keys of the second generation derive: GCM alone would open it under both.
        long_nonce = os.urandom(24)
        rings = [KeyRing({V2X: KeyMaterial(key)}, V2X) for key in (one, other)]
        (first, promise), (second, other_promise) = (KcXaes256Gcm(key).derived(long_nonce) for key in (one, other))
        body = sealed_by_both(first, second, long_nonce[12:], bound)
        for key in (first, second):
            AESGCM(key).decrypt(long_nonce[12:], body, bound)
        opened = [
            ring
            for ring in rings
            for commitment in (promise, other_promise, bytes(32))
            if not isinstance(
                plaintext(ring, str(Ciphertext(V2X, long_nonce, body + commitment)), "clients.email"), Defect
            )
        ]
        # Each commitment is to one key: whoever holds that key made the message, and the other refuses it.
        assert opened == rings


def test_commitments_of_different_keys_differ() -> None:
    nonce = bytes(24)
    assert len({KcXaes256Gcm(os.urandom(32)).derived(nonce)[1] for _ in range(1_000)}) == 1_000


def test_a_number_or_a_key_for_both_generations_makes_no_ring() -> None:
    one, other = key_from_base64("QUFB" * 10 + "QUE="), KeyMaterial.generate()
    with pytest.raises(InvalidKeyError, match="v2 and v2x"):
        KeyRing({KeyVersion(2): one, V2X: other}, V2X)
    with pytest.raises(InvalidKeyError, match="v1 and v2x"):
        KeyRing({V1: one, V2X: key_from_base64("QUFB" * 10 + "QUE=")}, V2X)


def test_the_environment_names_the_generation() -> None:
    given = {"ENCRYPTION_MASTER_KEY": "QUFB" * 10 + "QUE=", "ENCRYPTION_MASTER_KEY_V2X": "QkJC" * 10 + "QkI="}
    ring = KeyRing.from_environment(given | {"ENCRYPTION_PRIMARY_VERSION": "v2x"})
    assert (ring.versions, ring.primary) == ((V1, V2X), V2X)
    for misnamed in ("ENCRYPTION_MASTER_KEY_V2x", "ENCRYPTION_MASTER_KEY_V02X", "ENCRYPTION_MASTER_KEY_V2_X"):
        with pytest.raises(InvalidKeyError, match=misnamed):
            KeyRing.from_environment({**given, misnamed: "QkJC" * 10 + "QkI="})
    with pytest.raises(InvalidKeyError, match="v2 and v2x"):
        KeyRing.from_environment(
            given | {"ENCRYPTION_MASTER_KEY_V2": "Q0ND" * 10 + "Q0M=", "ENCRYPTION_PRIMARY_VERSION": "v2x"}
        )


@pytest.mark.parametrize("target", [V4, V2X, V3X], ids=str)
def test_a_batch_of_both_generations_comes_to_the_target(target: KeyVersion) -> None:
    reencryptor = Reencryptor(RING, target, LABELS)
    texts = ["", "Ada", "Zürich 😀", "x" * 1000]
    columns = [
        [
            encrypt(KeyRing({v: RING.material(v) for v in RING.versions}, version), text, label).encode()
            for version in (V1, V2X, V3X)
            for text in texts
        ]
        for label in LABELS
    ]
    rewritten = reencryptor.reencrypt(columns)
    assert rewritten.failures == []
    for label, old, new in zip(LABELS, columns, rewritten.columns, strict=True):
        for before, after in zip(old, new, strict=True):
            if before.startswith(target.prefix.encode()):
                assert after is None
                continue
            assert after is not None
            assert after.startswith(target.prefix.encode())
            assert decrypt(RING, after.decode(), label) == decrypt(RING, before.decode(), label)


def test_a_value_of_another_column_is_named_and_left() -> None:
    moved = encrypt(RING, "Ada", "clients.phone").encode()
    rewritten = Reencryptor(RING, V3X, LABELS).reencrypt([[moved], [moved], [None]])
    assert [column[0] is None for column in rewritten.columns] == [True, False, True]
    assert [(each.column, each.defect) for each in rewritten.failures] == [(0, Defect(DefectKind.NOT_AUTHENTIC, V2X))]


def test_versions_are_told_apart_whatever_prefix_they_share() -> None:
    names = ["v1", "v1x", "v11", "v11x", "v12", "v12x", "v999999x"]
    versions = [KeyVersion.parse(name) for name in names]
    assert list(map(str, versions)) == names
    assert sorted(versions) == versions
    assert [KeyVersion.of_code(version.code) for version in versions] == versions
    prefixes = [version.prefix for version in versions]
    assert not [(one, other) for one in prefixes for other in prefixes if one != other and one.startswith(other)]


def test_labels_are_unambiguous_or_refused() -> None:
    assert default_label(None, "clients", "email") == default_label("public", "clients", "email") == "clients.email"
    assert default_label("billing", "invoices", "note") == "billing.invoices.note"
    for names in (("public", "a.b", "c"), ("public", "a", "b.c"), ("a.b", "c", "d")):
        with pytest.raises(InvalidBindingError, match="dot"):
            default_label(*names)
    for label in ("", "a\nb", "a\0b", "\u202eb", "x" * 1001):
        with pytest.raises(InvalidBindingError):
            checked_label(label)
