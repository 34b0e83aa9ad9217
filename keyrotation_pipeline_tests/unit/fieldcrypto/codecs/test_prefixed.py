"""Values of bytes that begin with what names their key: Cloak for Elixir, against values that it stored itself."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.batch import Failure
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, marked_format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.marked import next_named
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng import CLOAK_47NG
from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto import CLOAK_ECTO
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.tink import TINK
from keyrotation_pipeline.fieldcrypto.formats.tink import codec as tink
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import AesKey, KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind
from keyrotation_pipeline.settings.value_formats import FormatSettings
from keyrotation_pipeline_tests import marked_libraries
from keyrotation_pipeline_tests.marked_libraries import CloakEcto, Library

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "vectors" / "prefixed.json").read_text())
ALL = [
    pytest.param(CLOAK_ECTO, marked_libraries.CLOAK_ECTO, id="Cloak for Elixir"),
    pytest.param(TINK, marked_libraries.TINK, id="Tink"),
]
PLAINTEXTS = [b"", b"x", "Müller 🔑".encode(), bytes(range(256)), b"y" * 9_999]


def made(declared: ValueFormat, count: int = 2) -> KeyRing:
    """Keys that follow each other, as rotations make them."""
    keys: dict[KeyVersion, Any] = {}
    for number in range(1, count + 1):
        keys[KeyVersion(number)] = new_key(declared, held=keys.values())
    return KeyRing(keys, KeyVersion(count))


def text_of(declared: ValueFormat, ring: KeyRing, version: KeyVersion) -> str:
    """A key as the application has it in its list."""
    listed = notation_of(declared).text_of([ring.material(version)])
    return tink.entries(listed)[0] if declared.name == TINK.name else listed


def settings(**options: Any) -> ValueFormat:  # noqa: ANN401
    return FormatSettings.model_validate({"name": "cloak-ecto", "keys": {"env": "CLOAK_KEYS"}, **options}).value_format


@pytest.mark.parametrize(("present", "declared"), [(16, 12), (12, 16)])
def test_another_length_of_nonces_opens_nothing(present: int, declared: int) -> None:
    vector = next(each for each in VECTORS if each.get("iv_length") == present)
    key = AesKey(bytes.fromhex(vector["key"]), vector["label"])
    values = [bytes.fromhex(each["stored"]) for each in vector["values"]]
    _, failures = format_of(settings(iv_length=declared)).reencryptor(KeyRing({V1: key}, V1), V1).check([values])
    assert failures == [Failure(row, 0, Defect(DefectKind.NOT_AUTHENTIC, V1)) for row in range(len(values))]


@pytest.mark.parametrize(("declared", "library"), ALL)
@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_the_library_reads_what_was_rewritten(declared: ValueFormat, library: Library, plaintext: bytes) -> None:
    ring = made(declared, 3)
    values = [library.alone(text_of(declared, ring, version)).encrypt(plaintext) for version in (V1, V2, V3)]
    rewritten = format_of(declared).reencryptor(ring, V3).reencrypt([[*values, None, b""]])
    assert rewritten.failures == []
    first, second, *others = rewritten.columns[0]
    assert others == [None, None, None]
    for new in (first, second):
        assert library.alone(text_of(declared, ring, V3)).decrypt(new) == plaintext
    held = format_of(declared).reencryptor(ring, V3).check([[*values, first, None, b""]])
    assert held == ([{V1: 1, V2: 1, V3: 2, None: 1}], [])


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_what_no_key_opens_is_left_as_it_is_and_named(declared: ValueFormat, library: Library) -> None:
    ring = made(declared)
    one, two = (library.alone(text_of(declared, ring, version)) for version in (V1, V2))
    good = one.encrypt(b"good")
    twice, stranger = one.encrypt(two.encrypt(b"text")), library.alone(library.generate()).encrypt(b"x")
    values = [good[:-1] + bytes([good[-1] ^ 1]), twice, stranger, good[:20], b"plain text", b"\x01"]
    failures = [
        Failure(0, 0, Defect(DefectKind.NOT_AUTHENTIC, V1)),
        Failure(1, 0, Defect(DefectKind.ENCRYPTED_TWICE, V1)),
        Failure(2, 0, UNDER_NO_KEY),
        *(Failure(row, 0, NOT_A_VALUE) for row in (3, 4, 5)),
    ]
    reencryptor = format_of(declared).reencryptor(ring, V2)
    assert reencryptor.reencrypt([values]).failures == reencryptor.check([values])[1] == failures


@pytest.mark.parametrize(
    ("declared", "key"),
    [
        (CLOAK_ECTO, KeyMaterial(bytes(32))),
        (TINK, AesKey(bytes(32), "AES.GCM.V1")),
        (TINK, KeyMaterial(bytes(32))),
        (TINK, AesKey(bytes(24), "1")),
        (CLOAK_ECTO, AesKey(bytes(16), "a")),
        (FERNET, AesKey(bytes(32), "AES.GCM.V1")),
        (FERNET, AesKey(bytes(16))),
        (CLOAK_47NG, AesKey(bytes(32), "7")),
    ],
)
def test_keys_of_another_format_are_never_delivered(declared: ValueFormat, key: KeyMaterial) -> None:
    with pytest.raises(InvalidKeyError, match=r"imported under another \[format\], and"):
        notation_of(declared).text_of([key])


def test_a_new_label_counts_on_from_the_highest() -> None:
    assert [new_key(CLOAK_ECTO).name, made(CLOAK_ECTO, 3).material(V3).name] == ["AES.GCM.V1", "AES.GCM.V3"]
    for labels, expected in (
        (["default"], "AES.GCM.V1"),
        (["clinic-2", "AES.GCM.V1"], "clinic-3"),
        (["k9"], "k10"),
        (["k", "AES.GCM.V9", "AES.GCM.V10"], "AES.GCM.V11"),
    ):
        held = [AesKey(bytes([number] * 32), label) for number, label in enumerate(labels)]
        assert new_key(CLOAK_ECTO, held=held).name == expected


def test_keys_of_one_label_are_refused() -> None:
    ring = KeyRing({V1: AesKey(bytes(32), "a"), V2: AesKey(bytes(range(32)), "a")}, V2)
    with pytest.raises(InvalidKeyError, match="values name the keys v1 and v2 by the same text"):
        format_of(CLOAK_ECTO).reencryptor(ring, V2)


@pytest.mark.parametrize(
    "listed",
    [
        "AES.GCM.V1",
        ":" + base64.b64encode(bytes(32)).decode(),
        "AES.GCM.V1:AAAA",
        "a b:" + base64.b64encode(bytes(32)).decode(),
        "AES.GCM.V1:" + base64.b64encode(bytes(16)).decode(),
    ],
)
def test_what_is_no_key_with_its_label_is_refused_without_its_content(listed: str) -> None:
    with pytest.raises(InvalidKeyError, match="entry 1 of KEYS is not a key with its name") as raised:
        notation_of(CLOAK_ECTO).keys_in(listed, "KEYS")
    assert not re.search("A{10}", str(raised.value))


def test_a_list_is_written_as_it_was_read() -> None:
    ring = made(CLOAK_ECTO)
    listed = ",".join(text_of(CLOAK_ECTO, ring, version) for version in (V2, V1))
    keys = notation_of(CLOAK_ECTO).keys_in(listed, "KEYS")
    assert ([key.name for key in keys], notation_of(CLOAK_ECTO).text_of(keys)) == (["AES.GCM.V2", "AES.GCM.V1"], listed)


def test_the_marker_of_a_key_is_how_every_value_under_it_begins() -> None:
    code = marked_format_of(CLOAK_ECTO)
    assert code is not None
    ring = made(CLOAK_ECTO)
    value = CloakEcto([text_of(CLOAK_ECTO, ring, V1)]).encrypt(b"x")
    assert value.startswith(bytes.fromhex(code.markers(ring)[V1]))
    assert settings(iv_length=16).signed() == (
        "cloak-ecto, keys as they are, identified by the marker in each value; layout raw(nonce16 tag16 ct)"
    )


KEYSET = next(each["keyset"] for each in VECTORS if each["format"] == "tink")
KEY = KEYSET["key"][0]


@pytest.mark.parametrize(
    ("keyset", "message"),
    [
        ("{}", "a keyset of Tink is JSON such as"),
        ("not JSON", "a keyset of Tink is JSON such as"),
        ("[1]", "a keyset of Tink is JSON such as"),
        ({**KEYSET, "primaryKeyId": 7}, "with a key of the primary's id"),
        ({**KEYSET, "key": [KEY, KEY]}, "with a key of the primary's id"),
        ({**KEYSET, "key": [{**KEY, "status": "DISABLED"}]}, "remove a disabled one from the keyset"),
        (
            {**KEYSET, "key": [{**KEY, "outputPrefixType": "RAW"}]},
            f"key {KEY['keyId']} of KEYS is no enabled AesGcmKey with the prefix TINK",
        ),
        (
            {**KEYSET, "key": [{**KEY, "keyData": {**KEY["keyData"], "typeUrl": "x"}}]},
            "no enabled AesGcmKey with the prefix TINK",
        ),
        (
            {**KEYSET, "key": [{**KEY, "keyData": {**KEY["keyData"], "value": "GiAA"}}]},
            "no enabled AesGcmKey with the prefix TINK",
        ),
    ],
)
def test_a_keyset_that_is_not_rotated_here_is_refused_without_its_content(keyset: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(InvalidKeyError, match=message) as raised:
        notation_of(TINK).keys_in(keyset if isinstance(keyset, str) else json.dumps(keyset), "KEYS")
    assert KEY["keyData"]["value"] not in str(raised.value)


def test_the_primary_of_a_keyset_encrypts_wherever_it_stands() -> None:
    ring = made(TINK, 3)
    keys = [ring.material(version) for version in (V3, V1, V2)]
    keyset = json.loads(notation_of(TINK).text_of(keys))
    assert (keyset["primaryKeyId"], len(keyset["key"])) == (int(keys[0].name), 3)
    keyset["key"] = [*keyset["key"][1:], keyset["key"][0]]
    assert notation_of(TINK).keys_in(json.dumps(keyset), "KEYS") == tuple(keys)
    assert tink.as_keyset(keys[:1]).startswith('{"primaryKeyId":')


def test_a_disabled_key_before_the_primary_is_named_by_its_id() -> None:
    disabled = {**KEY, "keyId": 7, "status": "DISABLED"}
    with pytest.raises(InvalidKeyError, match="key 7 of KEYS is no enabled AesGcmKey"):
        notation_of(TINK).keys_in(json.dumps({**KEYSET, "key": [disabled, KEY]}), "KEYS")


def test_two_keys_of_one_name_are_refused_by_their_name() -> None:
    first, second = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    with pytest.raises(InvalidKeyError, match=r"entry 2 of KEYS has the name of another key, AES\.GCM\.V1") as raised:
        notation_of(CLOAK_ECTO).keys_in(f"AES.GCM.V1:{first},AES.GCM.V1:{second}", "KEYS")
    assert second not in str(raised.value)


def test_names_count_on_however_long_their_number_is() -> None:
    names = ["key999999", "key1000000"]
    for taken in ([], names[:1], names, ["key20261129123456"]):
        made_key = next_named(taken, "key1")
        assert made_key.name not in taken
    assert next_named(names, "key1").name == "key1000001"
