"""AES-GCM layouts against `cryptography`'s AESGCM, and against values that other libraries stored."""

import base64
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import (
    InvalidBindingError,
    InvalidKeyError,
    InvalidLayoutError,
    KeyRotationError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.batch import FAULTY_MACHINE, Failure, ReencryptedBatch
from keyrotation_pipeline.fieldcrypto.binding import AssociatedData, Piece, joined
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import derived_ring, place_ring
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, as_list
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout, Sealed
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedFormat, UnmarkedReencryptor
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM, FOR_EACH_COLUMN
from keyrotation_pipeline.fieldcrypto.formats.derivations import SHA256
from keyrotation_pipeline.fieldcrypto.formats.lockbox import LOCKBOX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.probe import Fit, fits, fitting, fitting_derivation
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind
from keyrotation_pipeline_tests.vectors.foreign_values import FOREIGN
from keyrotation_pipeline_tests.vectors.two_keys import opened_by_both

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "vectors" / "aes_gcm.json").read_text())
B64 = Layout("b64(nonce12 ct tag16)")
LAYOUTS = [
    "b64(nonce12 ct tag16)",
    "b64(nonce16 tag16 ct)",
    "b64url(ct nonce12 tag16)",
    "hex(nonce12):hex(tag16):hex(ct)",
    "hex(tag16 ct nonce16)",
    "enc:v1.b64url(nonce12).b64url(ct tag16)",
    "b64(ct)--b64(nonce12)--b64(tag16)",
    "{b64(nonce12 ct tag16)}",
    "raw(nonce16 tag16 ct)",
    "v=raw(ct tag16 nonce12)",
    "raw(0x01ff nonce12 tag16 ct)",
    "v%raw(0x00 nonce12 ct tag16)",
    "b64lines(ct tag16); b64lines(nonce12)",
    "v=b64url(tag16 ct); hex(nonce16)",
    "raw(ct tag16); raw(nonce12)",
]
PLAINTEXTS = [b"", b"x", b"xy", b"xyz", b"x" * 16, "Müller 🔑".encode(), bytes(range(256)), b"y" * 9_999]


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V2)


def stored(layout: Layout, key: KeyMaterial, text: bytes) -> bytes:
    nonce = os.urandom(layout.nonce_bytes)
    return layout.join(nonce, AESGCM(raw_of(key)).encrypt(nonce, text, None))


def read(layout: Layout, key: KeyMaterial, value: bytes) -> bytes:
    sealed = layout.split(value)
    assert sealed is not None
    return AESGCM(raw_of(key)).decrypt(sealed.nonce, sealed.body, None)


def as_stored(entry: dict[str, Any]) -> list[bytes]:
    is_hex = entry["encoding"] == "hex"
    return [bytes.fromhex(each["stored"]) if is_hex else each["stored"].encode() for each in entry["values"]]


@pytest.mark.parametrize("text", LAYOUTS)
@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_a_layout_takes_apart_what_it_put_together(text: str, plaintext: bytes, ring: KeyRing) -> None:
    layout = Layout(text)
    value = stored(layout, ring.material(V1), plaintext)
    assert layout.shortest_bytes <= len(value)
    (new,) = (
        UnmarkedReencryptor(ring, V2, layout)
        .reencrypt([[value, None, b"", stored(layout, ring.material(V2), b"z")]])
        .columns
    )
    assert new[1:] == [None, None, None]
    assert new[0] is not None
    assert read(layout, ring.material(V2), new[0]) == plaintext
    assert UnmarkedReencryptor(ring, V2, layout).check([[value, new[0], b"", None]]) == ([{V1: 1, V2: 1, None: 1}], [])


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("b64(nonce12 ct tag16)", lambda value: value.rstrip(b"=")),
        ("b64url(nonce12).b64url(ct tag16)", lambda value: value.replace(b"=", b"")),
        ("hex(nonce12):hex(tag16):hex(ct)", bytes.upper),
    ],
)
def test_padding_and_case_are_kept_as_found(text: str, change: Callable[[bytes], bytes], ring: KeyRing) -> None:
    layout = Layout(text)
    for size in range(6):
        value = change(stored(layout, ring.material(V1), b"x" * size))
        ((new,),) = UnmarkedReencryptor(ring, V2, layout).reencrypt([[value]]).columns
        assert new is not None
        assert change(new) == new
        assert len(new) == len(value)
        assert read(layout, ring.material(V2), new) == b"x" * size


@pytest.mark.parametrize(
    "value",
    [
        b"plaintext",
        b"A" * 36,  # too short: 27 bytes
        b"A" * 38 + b"==\n",
        b" " + b"A" * 40,
        b"A" * 38 + b"=",
        b"A" * 37 + b"B==",  # stray bits
        b"A" * 39 + b"-",
        b"=" * 40,
    ],
)
def test_what_an_encoder_never_writes_is_not_a_value(value: bytes, ring: KeyRing) -> None:
    assert UnmarkedReencryptor(ring, V2, B64).reencrypt([[value]]).failures == [Failure(0, 0, NOT_A_VALUE)]


def test_digits_in_both_cases_are_not_a_value(ring: KeyRing) -> None:
    layout = Layout("hex(nonce12):hex(ct tag16)")
    lower = layout.join(b"\xaa" * 12, b"\xbb" * 16)
    nonce, body = lower.split(b":")
    for value in (nonce.upper() + b":" + body, nonce + b":B" + body[1:], lower[:-1], lower + b"0", lower + b":"):
        assert layout.split(value) is None
    assert UnmarkedReencryptor(ring, V2, layout).reencrypt([[lower]]).failures == [Failure(0, 0, UNDER_NO_KEY)]


def test_a_damaged_value_and_one_under_another_key_are_left_alone(ring: KeyRing) -> None:
    good = stored(B64, ring.material(V1), b"text")
    damaged = good[:20] + (b"A" if good[20:21] != b"A" else b"B") + good[21:]
    foreign = stored(B64, KeyMaterial.generate(), b"text")
    rewritten = UnmarkedReencryptor(ring, V2, B64).reencrypt([[good, damaged], [foreign, good]])
    assert rewritten.failures == [Failure(1, 0, UNDER_NO_KEY), Failure(0, 1, UNDER_NO_KEY)]
    assert [[value is None for value in column] for column in rewritten.columns] == [[False, True], [True, False]]
    held, failures = UnmarkedReencryptor(ring, V2, B64).check([[good, damaged], [foreign, good]])
    assert (held, failures) == ([{V1: 1}, {V1: 1}], rewritten.failures)


def test_a_value_that_two_keys_open_is_left_alone(ring: KeyRing) -> None:
    nonce, body = opened_by_both(raw_of(ring.material(V1)), raw_of(ring.material(V2)))
    value = B64.join(nonce, body)
    assert read(B64, ring.material(V1), value) != read(B64, ring.material(V2), value)
    both = Failure(0, 0, Defect(DefectKind.SEVERAL_KEYS))
    assert UnmarkedReencryptor(ring, V2, B64).reencrypt([[value]]) == ReencryptedBatch([[None]], [both])
    assert UnmarkedReencryptor(ring, V2, B64).check([[value]]) == ([{}], [both])
    assert UnmarkedReencryptor(KeyRing({V1: ring.material(V1)}, V1), V1, B64).check([[value]]) == ([{V1: 1}], [])


def test_a_value_within_a_value_is_left_alone_but_not_a_text_that_only_looks_like_one(ring: KeyRing) -> None:
    inner = stored(B64, ring.material(V1), b"text")
    twice = stored(B64, ring.material(V2), inner)
    alike = stored(B64, ring.material(V1), stored(B64, KeyMaterial.generate(), b"a token of somebody else"))
    rewritten = UnmarkedReencryptor(ring, V2, B64).reencrypt([[twice, alike]])
    assert rewritten.failures == [Failure(0, 0, Defect(DefectKind.ENCRYPTED_TWICE, V2))]
    assert rewritten.columns[0][1] is not None


def test_associated_data_bind_a_value_to_its_column_and_row(ring: KeyRing) -> None:
    def bound(version: KeyVersion, text: bytes, data: bytes) -> bytes:
        nonce = os.urandom(12)
        return B64.join(nonce, AESGCM(raw_of(ring.material(version))).encrypt(nonce, text, data))

    first, second = bound(V1, b"e7", b"users|email|7"), bound(V2, b"e8", b"users|email|8")
    twice = bound(V1, bound(V2, b"e9", b"users|email|9"), b"users|email|9")
    data = [b"users|email|7", b"users|email|8", b"users|email|9", b"users|phone|7", None]
    column = [joined(*each) for each in zip(data, [first, second, twice, first, first], strict=True)]
    rewritten = UnmarkedReencryptor(ring, V2, B64, bound=True).reencrypt([[*column, None, b""]])
    defects = [Defect(DefectKind.ENCRYPTED_TWICE, V1), UNDER_NO_KEY, UNDER_NO_KEY]
    assert rewritten.failures == [Failure(row, 0, defect) for row, defect in enumerate(defects, 2)]
    new, *others = rewritten.columns[0]
    assert new is not None
    sealed = B64.split(new)
    assert sealed is not None
    assert AESGCM(raw_of(ring.material(V2))).decrypt(sealed.nonce, sealed.body, b"users|email|7") == b"e7"
    assert others == [None] * 6
    held, failures = UnmarkedReencryptor(ring, V2, B64, bound=True).check([[*column, None, b""]])
    assert (held, failures) == ([{V1: 1, V2: 1, None: 1}], rewritten.failures)
    code = UnmarkedFormat(B64, bound=True)
    assert code.opened_by(ring, column[0]) == (V1, V1)
    assert code.opened_by(ring, column[4]) == (V2, None)
    assert code.plaintext(ring, column[1]) == b"e8"
    assert code.plaintext(ring, first) == NOT_A_VALUE
    assert code.plaintext(ring, b"") == NOT_A_VALUE


@pytest.mark.parametrize(
    ("made_by", "layout", "key", "data"),
    [
        (
            "tink AES256_GCM TINK prefix 1.16.1",
            "raw(0x0175485295 nonce12 ct tag16)",
            base64.b64decode("GiBGH3ptUF5b9n6aYIOnJSlzmQAodl+sZKO82QGi/VRA8w==")[2:],
            b"clients.ssn",
        ),
        (
            "Cloak Cloak.Ciphers.AES.GCM AES.GCM.V1 1.1.4",
            "raw(0x010a4145532e47434d2e5631 nonce12 tag16 ct)",
            bytes.fromhex("590a09e90a8cbdbb07b0b49a88132fd25bb35a3fe3f851719f18663f5417d3d5"),
            b"AES256GCM",
        ),
    ],
    ids=["Tink", "Cloak"],
)
def test_real_values_with_associated_data_are_opened_and_sealed_again_with_it(
    made_by: str, layout: str, key: bytes, data: bytes
) -> None:
    (entry,) = (each for each in FOREIGN if each.made_by == made_by)
    ring, code = (
        KeyRing({V1: KeyMaterial(key), V2: KeyMaterial.generate()}, V2),
        UnmarkedFormat(Layout(layout), bound=True),
    )
    read = [joined(data, value) for value in entry.values if isinstance(value, bytes)]
    (new,) = code.reencryptor(ring, V2).reencrypt([read]).columns
    texts = []
    for value in new:
        sealed = Layout(layout).split(value or b"")
        assert sealed is not None
        texts.append(AESGCM(raw_of(ring.material(V2))).decrypt(sealed.nonce, sealed.body, data).decode())
    assert texts == ["A", "Ana Pérez", "1984-07-12"]
    compiled = code.native_codec(ring, V2)
    assert compiled is None or compiled.check([(value,) for value in read], 0, 1) == [{V1: 3}]
    assert code.plaintext(ring, joined(data + b"x", entry.values[0])) == UNDER_NO_KEY  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        ("{table}|{column}|{id}", [("Users",), ("|",), ("email",), ("|",), ("id", True)]),
        ("clients.ssn", [("clients.ssn",)]),
        ("{tenant id}{id}", [("tenant id", True), ("id", True)]),
    ],
)
def test_a_template_names_table_column_and_columns_of_the_row(template: str, pieces: list[tuple[Any, ...]]) -> None:
    data = AssociatedData(template)
    assert data.pieces("Users", "email") == tuple(Piece(*each) for each in pieces)
    assert data.row_columns == tuple(each[0] for each in pieces if len(each) > 1)


@pytest.mark.parametrize("template", ["{table", "table}", "{}", "{{table}}", "", "a\nb", "a\u202eb"])
def test_a_template_that_could_be_misread_is_refused(template: str) -> None:
    with pytest.raises(InvalidLayoutError, match=r'write it as in "\{table\}'):
        AssociatedData(template)


def test_a_value_and_its_nonce_are_no_value_without_each_other_or_with_another_separator(ring: KeyRing) -> None:
    layout = Layout("b64lines(ct tag16); b64(nonce12)")
    value = stored(layout, ring.material(V1), b"x" * 100)
    assert value.count(b"\n") == 3  # lines of 60 characters
    body, nonce = value.split(b";")
    for bad in (body, body + b";", b";" + nonce, nonce + b";" + body, value + b";", body[:-1] + b";" + nonce):
        assert UnmarkedReencryptor(ring, V2, layout).reencrypt([[bad]]).failures == [Failure(0, 0, NOT_A_VALUE)]
    other = stored(layout, ring.material(V1), b"y").split(b";")[1]
    assert UnmarkedReencryptor(ring, V2, layout).reencrypt([[body + b";" + other]]).failures == [
        Failure(0, 0, UNDER_NO_KEY)
    ]


def test_a_new_value_that_does_not_decrypt_stops_everything(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    value = stored(B64, ring.material(V1), b"text")
    join = Layout.join

    def flipped(self: Layout, nonce: bytes, body: bytes, like: Sealed | None = None) -> bytes:
        return join(self, nonce, body[:-1] + bytes([body[-1] ^ 1]), like)

    monkeypatch.setattr(Layout, "join", flipped)
    with pytest.raises(KeyRotationError, match=FAULTY_MACHINE[:40]):
        UnmarkedReencryptor(ring, V2, B64).reencrypt([[value]])


def test_the_target_must_be_in_the_ring(ring: KeyRing) -> None:
    with pytest.raises(UnknownKeyVersionError):
        UnmarkedReencryptor(ring, V3, B64)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "each of nonce12 or nonce16"),
        ("b64(nonce12 ct)", "each of nonce12 or nonce16"),
        ("b64(nonce12 nonce16 ct tag16)", "each of nonce12 or nonce16"),
        ("b64(nonce12 ct tag16 ct)", "each of nonce12 or nonce16"),
        ("b64(nonce13 ct tag16)", "'nonce13' is not known"),
        ("b32(nonce12 ct tag16)", "each of nonce12 or nonce16"),
        ("b64(nonce12 ct tag16", "each of nonce12 or nonce16"),
        ("(b64(nonce12 ct tag16))", "neither a group nor plain ASCII"),
        ("schlüssel:b64(nonce12 ct tag16)", "neither a group nor plain ASCII"),
        ("hex(nonce12)hex(tag16 ct)", "does not end a group"),
        ("hex(nonce12)a:hex(tag16 ct)", "does not end a group"),
        ("b64url(nonce12)--b64url(tag16 ct)", "does not end a group"),
        ("b64(nonce12 tag16 ct)=", "does not end a group"),
        ("raw(nonce12):raw(tag16 ct)", "nothing can follow"),
        ("raw(nonce12 ct tag16):", "nothing can follow"),
        ("raw(nonce12 0x01 ct tag16)", "'0x01' is not known"),
        ("raw(0x1 nonce12 ct tag16)", "'0x1' is not known"),
        ("b64(0x01 nonce12 ct tag16)", "'0x01' is not known"),
        ("b64(nonce12 ct); b64(tag16)", "nothing but the nonce"),
        ("b64(ct tag16); b64(nonce12); hex(nonce12)", "nothing but the nonce"),
        ("b64(ct tag16);", "nothing but the nonce"),
        ("b64(nonce12 ct tag16); b64(nonce12)", "each of nonce12 or nonce16"),
        ("v=raw(ct tag16); raw(nonce12)", "raw bytes are a column of their own"),
    ],
)
def test_what_is_no_layout_or_could_be_read_in_two_ways_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidLayoutError, match=why):
        Layout(text)


SECRET = "secretkey1234"  # of the values of sqlalchemy-utils
(DERIVED,) = (each for each in VECTORS if each["library"].startswith("sqlalchemy-utils"))


def test_real_values_are_opened_by_what_their_keys_are_derived_from() -> None:
    declared = replace(AES_GCM, layout=DERIVED["layout"], derivation=SHA256)
    (old,) = notation_of(declared).keys_in(SECRET, "K")
    new = new_key(declared, present=old)
    ring, code, values = KeyRing({V1: old, V2: new}, V2), format_of(declared), as_stored(DERIVED)
    texts = [each["plaintext"].encode() for each in DERIVED["values"]]
    assert [code.plaintext(ring, value) for value in values] == texts
    assert [code.opened_by(ring, value) for value in values] == [(V1, V1)] * 3
    (after,) = code.reencryptor(ring, V2).reencrypt([values]).columns
    under = KeyMaterial(hashlib.sha256(raw_of(new)).digest())
    assert [read(Layout(declared.layout), under, value or b"") for value in after] == texts
    compiled = code.native_codec(ring, V2)
    assert compiled is None or compiled.check([(value,) for value in values], 0, 1) == [{V1: 3}]
    assert "aes-gcm, keys derived by sha256, identified by" in declared.signed()
    with pytest.raises(InvalidKeyError, match="does not say how"):
        format_of(replace(declared, derivation=None)).reencryptor(ring, V2)


(OF_LOCKBOX,) = (each for each in VECTORS if each["library"].startswith("lockbox"))
MASTER, EMAIL, PHONE = "00" * 32, "users.email_ciphertext", "users.phone_ciphertext"


def test_real_values_of_lockbox_are_opened_by_its_master_key_each_under_the_key_of_its_column() -> None:
    (old,) = notation_of(LOCKBOX).keys_in(MASTER, "K")
    ring = KeyRing({V1: old, V2: new_key(LOCKBOX, present=old)}, V2)
    code, values = format_of(LOCKBOX), as_stored(OF_LOCKBOX)
    texts = [each["plaintext"].encode() for each in OF_LOCKBOX["values"]]
    assert raw_of(place_ring(FOR_EACH_COLUMN, ring, EMAIL).material(V1)).hex() == OF_LOCKBOX["key"]
    assert [code.plaintext(ring, value, EMAIL) for value in values] == texts
    assert [code.opened_by(ring, value, PHONE) for value in values] == [(V2, None)] * 3
    labels = (PHONE, EMAIL)
    others = [stored(B64, place_ring(FOR_EACH_COLUMN, ring, PHONE).material(V1), text) for text in texts]
    rewritten = code.reencryptor(ring, V2, labels).reencrypt([others, values])
    assert rewritten.failures == []
    for label, column in zip(labels, rewritten.columns, strict=True):
        key = place_ring(FOR_EACH_COLUMN, ring, label).material(V2)
        assert [read(B64, key, value or b"") for value in column] == texts
    swapped = code.reencryptor(ring, V2, labels).reencrypt([values, others])
    assert swapped.failures == [Failure(row, column, UNDER_NO_KEY) for column in (0, 1) for row in range(3)]
    compiled = code.native_codec(ring, V2, labels)
    if compiled is not None:
        rows = list(zip(others, values, strict=True))
        assert compiled.check(rows, 0, 2) == [{V1: 3}, {V1: 3}]
        assert compiled.check([row[::-1] for row in rows], 0, 2) is None
        with pytest.raises(ValueError, match="keys, for each column"):
            compiled.check(rows, 0, 1)


def test_what_is_of_lockbox_is_never_opened_without_the_name_of_its_column() -> None:
    ring = KeyRing({V1: KeyMaterial(bytes(32))}, V1)
    for labels in ((), (None,), ("email_ciphertext",), ("users.",)):
        with pytest.raises(InvalidBindingError):
            format_of(LOCKBOX).reencryptor(ring, V1, labels)
        with pytest.raises(InvalidBindingError):
            format_of(LOCKBOX).native_codec(ring, V1, labels)


@pytest.mark.parametrize("text", ["00" * 31, "00" * 16, "x" * 64, ""])
def test_what_is_no_master_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError, match="entry 1 of K is not a master key of Lockbox") as refused:
        notation_of(LOCKBOX).keys_in(text, "K")
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(AES_GCM, 'derivation = "lockbox" and layout = "{}"', id="a master key taken for a key"),
        pytest.param(replace(AES_GCM, derivation=SHA256), 'derivation = "lockbox" and layout = "{}"', id="or a secret"),
    ],
)
def test_lockbox_is_found_by_opening_values(given: ValueFormat, said: str) -> None:
    declared = replace(given, layout=B64.text)
    (key,) = notation_of(declared, KeyEncoding.HEX).keys_in(MASTER, "K")
    values = as_stored(OF_LOCKBOX)
    assert fitting_derivation(declared, KeyRing({V1: key}, V1), values, EMAIL) == said.format(B64.text)
    assert fitting_derivation(declared, KeyRing({V1: key}, V1), values, PHONE) is None
    assert fits(MASTER, "K", values, EMAIL) == [Fit("aes-gcm", B64.text, "", 3, "lockbox")]
    assert fits(MASTER, "K", values) == fits(MASTER, "K", values, PHONE) == []
    (bare,) = notation_of(declared, KeyEncoding.HEX).keys_in(OF_LOCKBOX["key"], "K")
    if given.derivation is None:
        of_bare = fitting_derivation(LOCKBOX, KeyRing({V1: bare}, V1), values, EMAIL)
        assert of_bare == f'no derivation and layout = "{B64.text}"'


@pytest.mark.parametrize(
    ("given", "right", "said"),
    [
        pytest.param(None, SHA256, 'derivation = "sha256" and layout = "{}"', id="secrets taken for keys"),
        pytest.param(SHA256, None, 'no derivation and layout = "{}"', id="keys taken for secrets"),
    ],
)
@pytest.mark.parametrize("encoding", KeyEncoding)
def test_how_keys_are_derived_is_found_by_opening_values(
    given: Derivation | None, right: Derivation | None, said: str, encoding: KeyEncoding
) -> None:
    listed = as_list([KeyMaterial.generate()], encoding)
    layout = "b64(nonce12 tag16 ct)"
    declared, other = (replace(AES_GCM, layout=layout, derivation=each) for each in (given, right))
    ring, under = (KeyRing({V1: notation_of(each, encoding).keys_in(listed, "K")[0]}, V1) for each in (declared, other))
    value = stored(Layout(layout), derived_ring(right, under).material(V1), b"text")
    assert fitting(declared, ring, [value]) is None
    assert fitting_derivation(declared, ring, [value]) == said.format(layout)
    (fit,) = (
        each
        for each in fits(listed, "K", [value])
        if (each.layout, each.key_encoding or encoding) == (layout, encoding)
    )
    assert fit.derivation == str(right or "")


def test_no_login_reads_like_two_in_the_signed_text() -> None:
    two = replace(AES_GCM, logins=((V1, "app_g1"), (V2, "app_g2"))).signed()
    assert two.endswith("the login of the old version: v1 app_g1, v2 app_g2")
    for name in ("app_g1, v2 app_g2", "app_g1; bound to nothing", '"'):
        assert replace(AES_GCM, logins=((V1, name),)).signed().endswith(f"v1 {json.dumps(name)}")
