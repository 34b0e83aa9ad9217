"""What the reencryptors of all formats have in common."""

import base64
import os
from collections.abc import Callable
from itertools import chain

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.fieldcrypto.batch import Reencryptor, Value
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedReencryptor
from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import FernetReencryptor
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed

V1, V2 = KeyVersion(1), KeyVersion(2)


def own(ring: KeyRing, lengths: list[int]) -> list[Value]:
    columns = [[sealed(ring, 1, "x").encode()] * length for length in lengths]
    new = chain.from_iterable(Reencryptor(ring, V2).reencrypt(columns).columns)
    return [value and base64.b64decode(value.split(b":")[1]) for value in new]


def fernet(ring: KeyRing, lengths: list[int]) -> list[Value]:
    old = Fernet(base64.urlsafe_b64encode(raw_of(ring.material(V1))))
    columns = [[old.encrypt(b"x")] * length for length in lengths]
    new = chain.from_iterable(FernetReencryptor(ring, V2).reencrypt(columns).columns)
    return [value and base64.urlsafe_b64decode(value)[9:25] for value in new]


def aes_gcm(ring: KeyRing, lengths: list[int]) -> list[Value]:
    nonce, old = os.urandom(12), AESGCM(raw_of(ring.material(V1)))
    value = base64.b64encode(nonce + old.encrypt(nonce, b"x", None))
    reencryptor = UnmarkedReencryptor(ring, V2, Layout("b64(nonce12 ct tag16)"))
    new = chain.from_iterable(reencryptor.reencrypt([[value] * length for length in lengths]).columns)
    return [value and base64.b64decode(value)[:12] for value in new]


@pytest.mark.parametrize("nonces", [own, fernet, aes_gcm])
@pytest.mark.parametrize("lengths", [[3, 1, 2], [1, 3], [0, 2, 1]], ids=str)
def test_no_nonce_is_used_twice_where_columns_are_of_unequal_length(
    nonces: Callable[[KeyRing, list[int]], list[Value]], lengths: list[int]
) -> None:
    used = nonces(ring_of(1, 2), lengths)
    assert None not in used
    assert len(set(used)) == sum(lengths)
