import copy
import os
import pickle
import traceback

import pytest

from keyrotation_pipeline.errors import InvalidKeyError, NothingEncryptedYetError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing, variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V2, V10 = KeyVersion(1), KeyVersion(2), KeyVersion(10)
ONE, TWO, TEN = KeyMaterial.generate(), KeyMaterial.generate(), KeyMaterial.generate()
KEY, KEY_V2, KEY_V10 = base64_of(ONE), base64_of(TWO), base64_of(TEN)


@pytest.mark.parametrize(
    ("environment", "versions", "primary"),
    [
        pytest.param({"ENCRYPTION_MASTER_KEY": KEY}, (V1,), V1, id="one key"),
        pytest.param({"ENCRYPTION_MASTER_KEY": f" {KEY}\n"}, (V1,), V1, id="white space around it"),
        pytest.param({"ENCRYPTION_MASTER_KEY_V2": KEY_V2}, (V2,), V2, id="only a later key"),
        pytest.param({"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V2": ""}, (V1,), V1, id="empty V2"),
        pytest.param(
            {"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V2": KEY_V2, "ENCRYPTION_PRIMARY_VERSION": "v1"},
            (V1, V2), V1, id="dual key, still writing v1",
        ),
        pytest.param(
            {"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V2": KEY_V2, "ENCRYPTION_PRIMARY_VERSION": "v2"},
            (V1, V2), V2, id="promoted",
        ),
        pytest.param(
            {"ENCRYPTION_MASTER_KEY_V10": KEY_V10, "ENCRYPTION_MASTER_KEY_V2": KEY_V2,
             "ENCRYPTION_PRIMARY_VERSION": "v10"},
            (V2, V10), V10, id="a gap, and numbers in order",
        ),
        pytest.param({"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_PRIMARY_VERSION": ""}, (V1,), V1, id="empty primary"),
        pytest.param({"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V01": " "}, (V1,), V1, id="empty misnamed"),
        pytest.param({"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_FILE": "x"}, (V1,), V1, id="other name"),
    ],
)  # fmt: skip
def test_ring_holds_the_keys_that_are_set(
    environment: dict[str, str], versions: tuple[KeyVersion, ...], primary: KeyVersion
) -> None:
    ring = KeyRing.from_environment(environment)
    assert ring.versions == versions
    assert ring.primary == primary
    assert ring.names_primary == bool(environment.get("ENCRYPTION_PRIMARY_VERSION"))
    assert all(ring.material(version) == {V1: ONE, V2: TWO, V10: TEN}[version] for version in versions)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        pytest.param({}, "no key is set; set ENCRYPTION_MASTER_KEY to the base64 of 32 bytes", id="none"),
        pytest.param({"ENCRYPTION_MASTER_KEY": ""}, "no key is set; set ENCRYPTION_MASTER_KEY", id="empty"),
        pytest.param(
            {"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V2": KEY_V2},
            "none is the primary; set ENCRYPTION_PRIMARY_VERSION to v1 or v2", id="several, no primary",
        ),
        pytest.param(
            {"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_PRIMARY_VERSION": "v2"},
            "is v2, but ENCRYPTION_MASTER_KEY_V2 is not set", id="primary is not set",
        ),
        pytest.param(
            {"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_PRIMARY_VERSION": "2"},
            "ENCRYPTION_PRIMARY_VERSION does not name a key version; write it as v1", id="primary without v",
        ),
        pytest.param({"ENCRYPTION_MASTER_KEY_V1": KEY}, "call it ENCRYPTION_MASTER_KEY$", id="V1"),
        pytest.param({"ENCRYPTION_MASTER_KEY_V02": KEY}, "call it ENCRYPTION_MASTER_KEY_V2$", id="V02"),
        pytest.param({"ENCRYPTION_MASTER_KEY_v2": KEY}, "call it ENCRYPTION_MASTER_KEY_V2$", id="lower-case v"),
        pytest.param({"ENCRYPTION_MASTER_KEY_2": KEY}, "call it ENCRYPTION_MASTER_KEY_V2$", id="number alone"),
        pytest.param({"ENCRYPTION_MASTER_KEY_V0": KEY}, "ENCRYPTION_MASTER_KEY_V0 .*1 to 999999$", id="V0"),
        pytest.param({"ENCRYPTION_MASTER_KEY_V1000000": KEY}, "V1000000 .*1 to 999999$", id="V1000000"),
        pytest.param({"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V2": KEY[:-4]}, "V2 does not", id="short"),
        pytest.param({"ENCRYPTION_MASTER_KEY": "pass phrase"}, "_KEY does not hold a key", id="no base64"),
        pytest.param({"ENCRYPTION_MASTER_KEY": "ü" * 44}, "ENCRYPTION_MASTER_KEY does not hold a key", id="no ASCII"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_with_what_to_set(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidKeyError, match=sentence):
        KeyRing.from_environment(environment)


@pytest.mark.parametrize("variable", ["ENCRYPTION_MASTER_KEY", "ENCRYPTION_PRIMARY_VERSION"])
def test_what_a_variable_holds_is_never_shown(variable: str) -> None:
    secret = KEY[:-4]
    with pytest.raises(InvalidKeyError) as caught:
        KeyRing.from_environment({"ENCRYPTION_MASTER_KEY": KEY, variable: secret})
    assert secret[:8] not in str(caught.value)


def test_variables_are_named_as_in_the_source_procedure() -> None:
    assert [variable_of(version) for version in (V1, V2, V10)] == [
        "ENCRYPTION_MASTER_KEY",
        "ENCRYPTION_MASTER_KEY_V2",
        "ENCRYPTION_MASTER_KEY_V10",
    ]


def test_a_cipher_is_made_once_a_version() -> None:
    ring = KeyRing({V1: ONE, V2: TWO}, V1)
    assert ring.cipher(V2) is ring.cipher(V2)
    assert ring.cipher(V2).decrypt(bytes(12), ring.cipher(V2).encrypt(bytes(12), b"x", None), None) == b"x"


def test_a_version_that_is_not_held_has_neither_key_nor_cipher() -> None:
    ring = KeyRing({V1: ONE}, V1)
    for ask in (ring.material, ring.cipher):
        with pytest.raises(UnknownKeyVersionError, match="v2"):
            ask(V2)


def test_a_primary_that_is_not_held_is_refused() -> None:
    with pytest.raises(InvalidKeyError, match="primary v2 is not in the key ring"):
        KeyRing({V1: ONE}, V2)


def test_a_ring_cannot_change() -> None:
    keys = {V1: ONE}
    ring = KeyRing(keys, V1)
    keys[V2] = TWO
    assert ring.versions == (V1,)
    with pytest.raises(AttributeError):
        ring.primary = V2  # type: ignore[misc]


@pytest.mark.parametrize("secret", [ONE, KeyRing({V1: ONE}, V1)], ids=["key", "ring"])
def test_no_key_is_shown_or_leaves_the_process(secret: object) -> None:
    shown = repr(secret) + str(secret)
    assert not any(form in shown for form in (KEY[:8], raw_of(ONE).hex()[:8], repr(raw_of(ONE))[2:10]))
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(secret)


@pytest.mark.parametrize("size_bytes", [0, 16, 31, 33, 64])
def test_a_key_has_32_bytes(size_bytes: int) -> None:
    with pytest.raises(InvalidKeyError, match=f"this one has {size_bytes}"):
        KeyMaterial(os.urandom(size_bytes))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A" * 20 + "?" + "B" * 23, id="one character is not base64"),
        pytest.param(KEY[:-1], id="padding lost"),
        pytest.param(KEY[:40], id="too short"),
        pytest.param(KEY + KEY, id="twice"),
        pytest.param(f"key: {KEY}", id="with a label"),
    ],
)
def test_no_part_of_a_text_that_is_no_key_is_in_the_error(text: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        key_from_base64(text)
    shown = "".join(traceback.format_exception(caught.value)[-1:]) + repr(caught.value) + str(caught.value.__context__)
    assert not [text[at : at + 6] for at in range(len(text) - 5) if text[at : at + 6] in shown]


def test_a_fingerprint_names_one_key() -> None:
    assert KeyMaterial(bytes(32)).fingerprint == "1a78314d2acbe75e3b2abd0c6aba2eebc80cc96249d8d859a149c0683dcbf995"
    assert ONE.fingerprint == key_from_base64(KEY).fingerprint != TWO.fingerprint


@pytest.mark.parametrize("name", ["", "v", "v0", "v01", "v1000000", "V1", " v1", "v1 ", "v1\n", "1", "v\u0661"])
def test_only_canonical_names_are_versions(name: str) -> None:
    with pytest.raises(InvalidKeyError):
        KeyVersion.parse(name)


def test_versions_sort_by_number() -> None:
    assert sorted([V10, V2, V1]) == [V1, V2, V10]
    assert KeyVersion.parse("v9").next() == V10


DUAL = {"ENCRYPTION_MASTER_KEY": KEY, "ENCRYPTION_MASTER_KEY_V2": KEY_V2}


@pytest.mark.parametrize(
    ("primary", "compromised", "refusal"),
    [
        pytest.param("v2", "v1", None, id="the former one"),
        pytest.param("v2", " v1, v10 \n", None, id="one that is not there in addition"),
        pytest.param("v1", "", None, id="none"),
        pytest.param("v1", "v1", "v1 is compromised, so nothing is encrypted under it again; name", id="the primary"),
        pytest.param("v2", "v1,v2", "v2 is compromised, so nothing is encrypted", id="both"),
        pytest.param("v2", "v1 v3", "ENCRYPTION_COMPROMISED_VERSIONS does not name key versions", id="no list"),
        pytest.param("v2", KEY, "ENCRYPTION_COMPROMISED_VERSIONS does not name key versions", id="a key"),
    ],
)
def test_nothing_is_encrypted_under_a_compromised_version(primary: str, compromised: str, refusal: str | None) -> None:
    environment = {**DUAL, "ENCRYPTION_PRIMARY_VERSION": primary, "ENCRYPTION_COMPROMISED_VERSIONS": compromised}
    if refusal is None:
        assert KeyRing.from_environment(environment).versions == (V1, V2)
        return
    with pytest.raises(InvalidKeyError, match=refusal) as refused:
        KeyRing.from_environment(environment)
    assert KEY not in str(refused.value)


def test_without_a_key_the_primary_is_plaintext_under_which_nothing_is_encrypted() -> None:
    named = {"ENCRYPTION_PRIMARY_VERSION": "plaintext"}
    ring = KeyRing.from_environment(named)
    assert (ring.versions, ring.primary, str(ring.primary)) == ((), PLAINTEXT, "plaintext")
    assert KeyVersion.parse("plaintext") == PLAINTEXT < KeyVersion(1) == PLAINTEXT.next()
    with_key = KeyRing.from_environment({**named, "ENCRYPTION_MASTER_KEY": base64_of(KeyMaterial(bytes(32)))})
    assert (with_key.versions, with_key.primary) == ((KeyVersion(1),), PLAINTEXT)
    with pytest.raises(NothingEncryptedYetError, match="encrypted_from=1"):
        encrypt(with_key, "Anna")
