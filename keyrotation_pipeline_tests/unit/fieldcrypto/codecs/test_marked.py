"""Values that name their key by another library's marker, against values and code of these libraries."""

import base64
import json
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.errors import (
    DeterministicValueError,
    InvalidKeyError,
    KeyRotationError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.batch import FAULTY_MACHINE, Failure
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, marked_format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.marked import MarkedReencryptor, MarkedValue
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng import CLOAK_47NG
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng.codec import CloakKey
from keyrotation_pipeline.fieldcrypto.formats.fernet_keyed_wrapper import KEYED_WRAPPER
from keyrotation_pipeline.fieldcrypto.formats.n8n_keyid import N8N
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import PBKDF2_SHA1, RAILS
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption.codec import RailsEnvelope, RailsKey
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind
from keyrotation_pipeline_tests import marked_libraries
from keyrotation_pipeline_tests.marked_libraries import SALT, Cloak, Library, Rails

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "vectors" / "marked.json").read_text())
RAILS_HERE = replace(RAILS, salt=SALT)
ALL = [
    pytest.param(RAILS_HERE, marked_libraries.RAILS, id="rails"),
    pytest.param(RAILS_HERE, marked_libraries.RAILS_ENVELOPES, id="rails, envelopes"),
    pytest.param(CLOAK_47NG, marked_libraries.CLOAK, id="47ng"),
    pytest.param(KEYED_WRAPPER, marked_libraries.KEYED_WRAPPER, id="wrapper"),
    pytest.param(N8N, marked_libraries.N8N, id="n8n"),
]
PLAINTEXTS = [b"", b"x", b"xy", b"xyz", "Müller-Lüdenscheidt 🔑".encode(), bytes(range(256)), b"y" * 9_999]


def ring_of(declared: ValueFormat, listed: str) -> KeyRing:
    """The oldest key of a list is v1."""
    keys = notation_of(declared).keys_in(listed, "KEYS")
    return KeyRing({KeyVersion(number): key for number, key in enumerate(reversed(keys), 1)}, KeyVersion(len(keys)))


def texts_of(declared: ValueFormat, ring: KeyRing) -> dict[KeyVersion, str]:
    """The keys as the application has them."""
    return {version: notation_of(declared).text_of([ring.material(version)]).strip("[]") for version in ring.versions}


def made(declared: ValueFormat, count: int = 2) -> KeyRing:
    keys: dict[KeyVersion, KeyMaterial] = {}
    for number in range(1, count + 1):
        keys[KeyVersion(number)] = new_key(declared, held=keys.values())
    return KeyRing(keys, KeyVersion(count))


def markers(declared: ValueFormat, ring: KeyRing) -> dict[KeyVersion, str]:
    code = marked_format_of(declared)
    assert code is not None
    return code.markers(ring)


@pytest.mark.parametrize(("declared", "library"), ALL)
@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_the_library_reads_what_was_rewritten(declared: ValueFormat, library: Library, plaintext: bytes) -> None:
    ring = made(declared)
    texts = texts_of(declared, ring)
    stored = library.alone(texts[V2]).encrypt(plaintext)
    rewritten = format_of(declared).reencryptor(ring, V1).reencrypt([[stored, None, b""]])
    ((new, null, empty),) = rewritten.columns
    assert (null, empty, rewritten.failures) == (None, None, [])
    assert new is not None
    assert library.alone(texts[V1]).decrypt(new.decode()) == plaintext
    assert format_of(declared).reencryptor(ring, V1).reencrypt([[new]]).columns == [[None]]


def damaged(value: bytes) -> bytes:
    """The same form with another tag, or payload."""
    if value.startswith(b"enc:"):
        begins, _, token = value.rpartition(b":")
        parts = base64.b64decode(token)
        return begins + b":" + base64.b64encode(parts[:-8] + b"AAAA" + parts[-4:])
    return value.replace(b'"p":"', b'"p":"AAAA', 1) if b'"p":"' in value else value[:-6] + b"AAAA" + value[-2:]


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_what_no_key_opens_is_left_as_it_is_and_named(declared: ValueFormat, library: Library) -> None:
    ring = made(declared)
    texts = texts_of(declared, ring)
    good = library.alone(texts[V1]).encrypt(b"text")
    stranger = library.alone(library.generate()).encrypt(b"text")
    twice = library.alone(texts[V1]).encrypt(good)
    bad = damaged(good)
    defects = [UNDER_NO_KEY, Defect(DefectKind.ENCRYPTED_TWICE, V1), Defect(DefectKind.NOT_AUTHENTIC, V1), NOT_A_VALUE]
    reencryptor = format_of(declared).reencryptor(ring, V2)
    rewritten = reencryptor.reencrypt([[stranger, twice, bad, b"plain", good]])
    assert [value is None for value in rewritten.columns[0]] == [True, True, True, True, False]
    assert rewritten.failures == [Failure(row, 0, defect) for row, defect in enumerate(defects)]
    held, failures = reencryptor.check([[stranger, twice, bad, b"plain", good, b"", None]])
    assert (held, failures) == ([{V1: 1, None: 1}], rewritten.failures)


def test_a_value_without_a_reference_is_opened_by_trying_and_gets_one() -> None:
    ring = made(RAILS_HERE)
    texts = texts_of(RAILS_HERE, ring)
    old = [Rails([texts[version]], references=False).encrypt(b"text") for version in (V1, V2)]
    stranger = Rails(["stranger" * 4], references=False).encrypt(b"text")
    code = format_of(RAILS_HERE)
    ((new, own, none),) = code.reencryptor(ring, V2).reencrypt([[*old, stranger]]).columns
    assert none is None
    for value in (new, own):  # the one under the target as well, since SQL cannot tell it from the others
        assert value is not None
        assert '"i":"' in value.decode()
        assert Rails([texts[V2]]).decrypt(value.decode()) == b"text"
    assert [code.opened_by(ring, value) for value in old] == [(V1, V1), (V2, V2)]
    assert code.opened_by(ring, stranger) == (V2, None)


def test_a_value_that_two_keys_open_is_left_alone() -> None:
    class Everything(RailsKey):
        def opened(self, value: MarkedValue) -> bytes | None:  # noqa: ARG002
            return b"either"

    class Envelope(RailsEnvelope):
        def key(self, material: KeyMaterial) -> RailsKey:
            return Everything(raw_of(material)[:32])

    ring = made(RAILS_HERE)
    unnamed = Rails(["stranger" * 4], references=False).encrypt(b"text")
    rewritten = MarkedReencryptor(Envelope("sha256", SALT), ring, V2).reencrypt([[unnamed]])
    assert rewritten.failures == [Failure(0, 0, Defect(DefectKind.SEVERAL_KEYS))]


def packed(library: Rails, text: bytes) -> bytes:
    """A value with a compressed payload, as Rails writes each of more than 140 bytes."""
    return library.encrypt(zlib.compress(text)).replace(b',"i":', b',"c":true,"i":')


def test_a_value_within_a_compressed_value_is_encrypted_twice() -> None:
    ring = made(RAILS_HERE)
    library = Rails([texts_of(RAILS_HERE, ring)[V1]])
    twice, json_text = packed(library, library.encrypt(b"x" * 40)), packed(library, b'{"p":"' + b"no value" * 30)
    bomb, broken = packed(library, b'{"p":"' + b"A" * (1 << 27)), library.encrypt(b"{")
    broken = broken.replace(b',"i":', b',"c":true,"i":')
    reencryptor = format_of(RAILS_HERE).reencryptor(ring, V2)
    rewritten = reencryptor.reencrypt([[twice, bomb, json_text, broken]])
    again = Defect(DefectKind.ENCRYPTED_TWICE, V1)
    assert rewritten.failures == [Failure(0, 0, again), Failure(1, 0, again)]
    assert [new is not None for new in rewritten.columns[0]] == [False, False, True, True]
    assert reencryptor.check([[twice]])[1] == [Failure(0, 0, again)]


def test_compression_and_other_headers_are_kept() -> None:
    ring = made(RAILS_HERE)
    texts = texts_of(RAILS_HERE, ring)
    packed = zlib.compress(b"text" * 100)
    value = Rails([texts[V1]]).encrypt(packed).decode()
    first, last = value.split(',"i":"')
    extra = f'{first},"e":"QVNDSUktOEJJVA==","i":"{last[:-2]},"c":true}}}}'
    bare = f'{first},"e":"QVNDSUktOEJJVA==","c":true}}}}'
    for stored in (extra, bare):
        ((new,),) = format_of(RAILS_HERE).reencryptor(ring, V2).reencrypt([[stored.encode()]]).columns
        assert new is not None
        headers = json.loads(new)["h"]
        assert [*headers] == ["iv", "at", "e", "i", "c"]
        assert (headers["e"], headers["c"]) == ("QVNDSUktOEJJVA==", True)
        assert Rails([texts[V2]]).decrypt(new.decode()) == packed


@pytest.mark.parametrize("reference", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("headers", ["", ',"e":"QVNDSUktOEJJVA=="', ',"c":true'])
def test_a_value_with_a_data_key_gets_another_one_and_keeps_its_headers(headers: str, *, reference: bool) -> None:
    ring = made(RAILS_HERE)
    old, new = (Rails([text], envelope=True, references=reference) for text in texts_of(RAILS_HERE, ring).values())
    text = zlib.compress(b"text" * 100)
    value = old.encrypt(text).decode()
    value = f"{value[:-2]}{headers}}}}}" if "c" in headers else value.replace(',"k":', f'{headers},"k":')
    ((rewritten,),) = format_of(RAILS_HERE).reencryptor(ring, V2).reencrypt([[value.encode()]]).columns
    assert rewritten is not None
    stored = rewritten.decode()
    assert new.decrypt(stored) == text
    assert new.data_key(stored) != old.data_key(value)
    kept = json.loads(stored)["h"]
    names = [name for name in ("iv", "at", "e", "k", "i", "c") if name in {"i", *json.loads(value)["h"]}]
    assert ([*kept], [*kept["k"]["h"]]) == (names, ["iv", "at", "e"])
    assert f'{headers},"k":' in stored or stored.endswith(f"{headers}}}}}")


@pytest.mark.parametrize("between", ["", ',"i":"AAAAAQ=="'])
def test_a_value_with_many_headers_takes_no_longer_than_its_length(between: str) -> None:
    headers = ',"a":1' * 20_000
    value = f'{{"p":"AAAA","h":{{"iv":"{"A" * 16}","at":"{"A" * 22}=="{headers}{between}{headers}'.encode()
    began = time.thread_time()
    assert RailsEnvelope("sha256", SALT).parsed(value + b"}}") is not None
    assert RailsEnvelope("sha256", SALT).parsed(value + b"}") is None
    assert time.thread_time() - began < 5  # where each division of the headers is tried, it takes minutes


def test_what_stands_in_an_envelope_is_of_its_own_value_and_key() -> None:
    ring = made(RAILS_HERE)
    texts = texts_of(RAILS_HERE, ring)
    library = Rails([texts[V1]], envelope=True)
    one, two = (json.loads(library.encrypt(text)) for text in (b"one", b"two"))
    other = json.loads(Rails([texts[V2]], envelope=True).encrypt(b"one"))
    swapped = [one | {"h": one["h"] | {"k": each["h"]["k"]}} for each in (two, other)]
    stored = [json.dumps(each, separators=(",", ":")).encode() for each in swapped]
    rewritten = format_of(RAILS_HERE).reencryptor(ring, V2).reencrypt([stored])
    bad = Defect(DefectKind.NOT_AUTHENTIC, V1)
    assert rewritten.failures == [Failure(0, 0, bad), Failure(1, 0, bad)]


GOOD = '{"p":"QQ==","h":{"iv":"pFy24nx+jrAmm5FZ","at":"SQ0N/5343366cox2qThbDg==","i":"NGY4Mg=="}}'
_DATA_KEY = (
    '{"p":"KLBQkS7J0KhHmJ9RzSN8hM0FrJLkcwH7bNMn+LhjToY=","h":{"iv":"6OQ5VB/bwF1jkr0z","at":"dYfHVgLCsXWQ4I1nv3i+JA=="'
)
GOOD_ENVELOPE = GOOD.replace('"i":', f'"k":{_DATA_KEY},"e":"QVNDSUktOEJJVA=="}}}},"i":')
NOT_RAILS = [
    "",
    "{}",
    GOOD.replace('"p"', '"P"'),
    GOOD.replace(",", ", "),
    GOOD.replace("QQ==", "QQ="),
    GOOD.replace("QQ==", "QR=="),
    GOOD.replace("QQ==", "Q==="),
    GOOD.replace("QQ==", "QQ==QQ=="),
    GOOD.replace("QQ==", "Q-=="),
    GOOD.replace("pFy24nx+jrAmm5FZ", "pFy24nx+jrAmm5F="),
    GOOD.replace("SQ0N/5343366cox2qThbDg==", "SQ0N/5343366cox2qThbDh=="),
    GOOD.replace('"i":"NGY4Mg=="', '"i":"NGY4Mg=","i":"NGY4Mg=="'),
    GOOD.replace('"i":"NGY4Mg=="', '"i":"NGY4Mg==","i":"YWQ2OQ=="'),
    GOOD.replace('"i":"NGY4Mg=="', '"i":"NGY4Mg==","iv":"pFy24nx+jrAmm5FZ"'),
    GOOD.replace('"i":"NGY4Mg=="', '"k":{"p":"QQ==","h":{"iv":"pFy24nx+jrAmm5FZ","at":"SQ0N/5343366cox2qThbDg=="}}'),
    GOOD_ENVELOPE.replace('"p":"KLBQ', '"p":"KLB'),
    GOOD_ENVELOPE.replace('"p":"KLBQ', '"p":"KLBQKLBQ'),
    GOOD_ENVELOPE.replace("ToY=", "ToZ="),
    GOOD_ENVELOPE.replace('"e":"QVNDSUktOEJJVA=="', '"i":"NGY4Mg=="'),
    GOOD_ENVELOPE.replace('"e":"QVNDSUktOEJJVA=="', '"k":"QQ=="'),
    GOOD_ENVELOPE.replace('"e":"QVNDSUktOEJJVA=="', '"k":{"p":"QQ==","h":{}}'),
    GOOD_ENVELOPE.replace('}},"i"', '},"i"'),
    GOOD_ENVELOPE.replace('"h":{"iv":"pFy24nx+jrAmm5FZ"', '"h":{"iv":"pFy24nx+jrAmm5F"'),
    GOOD_ENVELOPE.replace(',"k":', ',"i":"NGY4Mg==","k":'),
    GOOD.replace('"i":"NGY4Mg=="', '"x":"\\"i\\":"'),
    GOOD.replace('"i"', '"\\u0069"'),
    GOOD + "\n",
    "\n" + GOOD,
    GOOD.replace("QQ==", "ü"),
    f"[{GOOD}]",
]
GOOD_CLOAK = "v1.aesgcm256.f877950f.G-2WDNNLDxokMRFF.Tm5srMuDy171p2wYWHN7dzo="
NOT_CLOAK = [
    GOOD_CLOAK.replace("v1", "v2"),
    GOOD_CLOAK.replace("f877950f", "F877950F"),
    GOOD_CLOAK.replace("f877950f", "f877950"),
    GOOD_CLOAK[:-1],
    GOOD_CLOAK + "=",
    GOOD_CLOAK.replace("dzo=", "dzp="),
    GOOD_CLOAK.replace("Tm5s", ""),
    GOOD_CLOAK.replace("-", "+"),
    GOOD_CLOAK + ".x",
    GOOD_CLOAK + "\n",
    "x" + GOOD_CLOAK,
]


@pytest.mark.parametrize("value", NOT_RAILS)
def test_what_rails_never_writes_is_no_value(value: str) -> None:
    envelope = RailsEnvelope("sha256", SALT)
    assert envelope.parsed(value.encode()) is None
    assert all(envelope.parsed(good.encode()) for good in (GOOD, GOOD_ENVELOPE))


GOOD_WRAPPER = next(each for each in VECTORS if each["format"] == KEYED_WRAPPER.name)["values"][0]["stored"]
_TOKEN = base64.b64decode(GOOD_WRAPPER.split(":")[3])
NOT_WRAPPER = [
    "",
    "enc:plaintext:QQ==",
    GOOD_WRAPPER.replace("enc:", "ENC:"),
    GOOD_WRAPPER.replace(":k1:", "::"),
    GOOD_WRAPPER.replace(":k1:", ":k 1:"),
    GOOD_WRAPPER.replace(":k1:", f":{'k' * 101}:"),
    GOOD_WRAPPER[:-1],
    GOOD_WRAPPER + "\n",
    GOOD_WRAPPER.rstrip("="),
    f"enc:fernet:k1:{_TOKEN.decode()}",
    f"enc:fernet:k1:{base64.b64encode(_TOKEN[:-4]).decode()}",
    f"enc:fernet:k1:{base64.b64encode(_TOKEN + b' ').decode()}",
    f"enc:fernet:k1:{base64.b64encode(b'plain text that is no token').decode()}",
    f"enc:fernet:k1:{base64.b64encode(bytes(range(256))).decode()}",
    f"enc:fernet:k1:{base64.b64encode(b'g' + _TOKEN[1:]).decode().replace('Z0', 'Zw', 1)}",
]


@pytest.mark.parametrize("value", NOT_WRAPPER)
def test_what_a_wrapper_never_holds_is_no_value(value: str) -> None:
    code, ring = format_of(KEYED_WRAPPER), made(KEYED_WRAPPER)
    assert code.opened_by(ring, value.encode()) is None
    assert code.opened_by(ring, GOOD_WRAPPER.encode()) == (V2, None)


@pytest.mark.parametrize("value", NOT_CLOAK)
def test_what_cloak_never_writes_is_no_value(value: str) -> None:
    code, ring = format_of(CLOAK_47NG), made(CLOAK_47NG)
    assert code.opened_by(ring, value.encode()) is None
    assert code.opened_by(ring, GOOD_CLOAK.encode()) == (V2, None)


def test_a_new_key_is_named_unlike_any_other() -> None:
    most = {base64.b64encode(f"{number:04x}".encode()).decode() for number in range(0xC000)}
    for _ in range(3):
        assert markers(RAILS_HERE, KeyRing({V1: new_key(RAILS_HERE, most)}, V1))[V1] not in most


def test_another_salt_makes_other_keys() -> None:
    ring = made(RAILS_HERE)
    assert markers(replace(RAILS_HERE, salt=SALT[::-1]), ring) != markers(RAILS_HERE, ring)


def test_two_keys_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = made(CLOAK_47NG)
    make = CloakKey.__init__

    def alike(self: CloakKey, material: KeyMaterial) -> None:
        make(self, material)
        self.marker = b"00000000"

    monkeypatch.setattr(CloakKey, "__init__", alike)
    with pytest.raises(InvalidKeyError, match="values name the keys v1 and v2 by the same text"):
        format_of(CLOAK_47NG).reencryptor(ring, V1)
    with pytest.raises(InvalidKeyError, match="values name the keys v1 and v2 by the same text"):
        markers(CLOAK_47NG, ring)


def test_a_faulty_machine_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = made(CLOAK_47NG)
    stored = Cloak([texts_of(CLOAK_47NG, ring)[V1]]).encrypt(b"text")
    seal = CloakKey.sealed
    monkeypatch.setattr(CloakKey, "sealed", lambda self, text, old: seal(self, text + b"!", old))
    with pytest.raises(KeyRotationError, match=FAULTY_MACHINE[:40]):
        format_of(CLOAK_47NG).reencryptor(ring, V2).reencrypt([[stored]])


def test_a_passphrase_is_stored_as_one_and_is_no_key_of_ours() -> None:
    passphrase = Passphrase(b"oldoldoldoldoldoldoldoldoldoldold")
    stored = key_from_base64(base64_of(passphrase))
    assert isinstance(stored, Passphrase)
    assert (stored, stored.fingerprint) == (passphrase, passphrase.fingerprint)
    with pytest.raises(UnknownKeyVersionError):
        KeyRing({V1: Passphrase(b"x" * 32)}, V1).cipher(V1)
    with pytest.raises(InvalidKeyError):
        key_from_base64(base64.b64encode(b"x" * 33).decode())
    for wrong in (b"short", b"x" * 257, b"tab\there, and long enough", "ümlaut, and long enough".encode()):
        with pytest.raises(InvalidKeyError, match="12 to 256 characters"):
            Passphrase(wrong)


@pytest.mark.parametrize(
    ("listed", "written"),
    [
        pytest.param("a" * 32, f"[{'a' * 32}]", id="a passphrase alone"),
        pytest.param(f"[{'a' * 32}, {'b' * 32}]", f"[{'a' * 32},{'b' * 32}]", id="two"),
        pytest.param(f'["{"a" * 32}","{"b" * 32}"]', f"[{'a' * 32},{'b' * 32}]", id="quoted"),
        pytest.param(f"['{'1' * 32}']", f'["{"1" * 32}"]', id="that YAML takes for a number"),
        pytest.param(f"[{'a=' * 16}]", f'["{"a=" * 16}"]', id="with a sign"),
    ],
)
def test_a_list_of_passphrases_is_written_as_yaml(listed: str, written: str) -> None:
    notation = notation_of(RAILS)
    keys = notation.keys_in(listed, "KEYS")
    assert notation.text_of(keys) == written
    assert notation.keys_in(written, "KEYS") == keys


def test_the_last_passphrase_encrypts_and_the_first_key_of_cloak() -> None:
    first, second = notation_of(RAILS).keys_in(f"[{'a' * 32},{'b' * 32}]", "KEYS")
    assert (raw_of(first), raw_of(second)) == (b"b" * 32, b"a" * 32)
    texts = [marked_libraries.CLOAK.generate() for _ in range(2)]
    keys = notation_of(CLOAK_47NG).keys_in(",".join(texts), "KEYS")
    assert notation_of(CLOAK_47NG).text_of(keys) == ",".join(texts)


@pytest.mark.parametrize(
    ("declared", "listed", "message"),
    [
        pytest.param(RAILS, "[short]", "entry 1 of KEYS is not a passphrase", id="short"),
        pytest.param(RAILS, f"- {'a' * 32}\n- {'b' * 32}", "entry 1 of KEYS is not a passphrase", id="a block of YAML"),
        pytest.param(RAILS, f"[{'a' * 32},{'a' * 32}]", "entries 1 and 2 of KEYS are the same", id="twice"),
        pytest.param(RAILS, f"[{'a' * 32},]", "entry 2 of KEYS is not a passphrase", id="a comma too many"),
        pytest.param(CLOAK_47NG, "k1.aesgcm256.AAAA", "entry 1 of KEYS is not a key", id="not 32 bytes"),
        pytest.param(
            CLOAK_47NG,
            f"k1.aesgcm256.{base64.urlsafe_b64encode(bytes(32)).decode().rstrip('=')}",
            "which the fingerprint is of",
            id="without its padding",
        ),
    ],
)
def test_what_is_no_list_is_refused_without_its_content(declared: ValueFormat, listed: str, message: str) -> None:
    with pytest.raises(InvalidKeyError, match=message) as raised:
        notation_of(declared).keys_in(listed, "KEYS")
    assert "a" * 32 not in str(raised.value)


def test_the_signed_text_names_derivation_and_salt() -> None:
    assert RAILS_HERE.signed() == (
        "rails-ar-encryption, keys derived by pbkdf2-sha256 with the salt of SHA-256 9bcde600e505d720, "
        "identified by the marker in each value"
    )
    assert CLOAK_47NG.signed() == "cloak-47ng, keys as they are, identified by the marker in each value"
    assert SALT not in repr(RAILS_HERE)


def test_deterministic_values_are_those_that_the_library_would_write() -> None:
    declared = replace(RAILS_HERE, deterministic=True)
    ring = made(declared)
    texts = texts_of(declared, ring)
    code = format_of(declared)
    for text in (b"", b"ana@example.com", b"x" * 9_999):
        expected = Rails([texts[V2]], deterministic=True).encrypt(text)
        olds = [Rails([texts[V1]], references=named, deterministic=True).encrypt(text) for named in (True, False)]
        own = Rails([texts[V2]], references=False, deterministic=True).encrypt(text)
        ((*new, still),) = code.reencryptor(ring, V2).reencrypt([[*olds, own, expected]]).columns
        assert new == [expected] * 3
        assert still is None
    assert "; equal texts have equal values" in declared.signed()


def test_real_deterministic_values_are_resealed_and_found() -> None:
    vector = VECTORS[3]
    declared = replace(RAILS, derivation=PBKDF2_SHA1, salt=vector["salt"], deterministic=True)
    first, second = "x" * 32, vector["keys"][0]
    ring = ring_of(declared, json.dumps([second, first]))
    for value in vector["values"]:
        assert format_of(declared).plaintext(ring, value["stored"].encode()) == value["plaintext"].encode()
        ((new,),) = format_of(declared).reencryptor(ring, V1).reencrypt([[value["stored"].encode()]]).columns
        library = Rails([second], digest="sha1", deterministic=True)
        assert new == library.encrypt(value["plaintext"].encode())
        assert new.replace(b',"i":"', b"#").split(b"#")[0] == value["stored"].encode()[:-2]


def test_deterministic_values_are_refused_where_they_are_not_declared() -> None:
    ring = made(RAILS_HERE)
    value = Rails([texts_of(RAILS_HERE, ring)[V1]], deterministic=True).encrypt(b"ana@example.com")
    with pytest.raises(DeterministicValueError, match=r"set \[format\] deterministic = true"):
        format_of(RAILS_HERE).reencryptor(ring, V2).reencrypt([[value]])
    with pytest.raises(DeterministicValueError):
        format_of(RAILS_HERE).opened_by(ring, value)
