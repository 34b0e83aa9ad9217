"""Mutated values through both codecs: what one accepts the other accepts, and both give the same bytes.

As a program, `python -m … FORMAT COUNT SEED`: for a run under AddressSanitizer.
"""

import base64
import os
import random
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TextArray
from keyrotation_pipeline.fieldcrypto.arrays import check_elements, reencrypt_elements
from keyrotation_pipeline.fieldcrypto.batch import Value, ValueReencryptor
from keyrotation_pipeline.fieldcrypto.binding import Row, associated_data, joined
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import column_rings
from keyrotation_pipeline.fieldcrypto.codecs.format import Format, format_of
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.marked import Envelope, MarkedValue
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM, FOR_EACH_COLUMN
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng import CLOAK_47NG
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng.codec import CloakEnvelope
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import RAILS
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption.codec import RailsEnvelope, derived
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import CompiledIndex
from keyrotation_pipeline.fieldcrypto.plaintext_columns import PlaintextReencryptor
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm, Normalisation
from keyrotation_pipeline_tests.integration.encrypted_rows import V2, sealed
from keyrotation_pipeline_tests.vectors.two_keys import opened_by_both

INDEX = IndexForm("clients.email", (Normalisation.STRIP, Normalisation.LOWER), 20)
VERSIONS = (1, 1, 1, 3, 11, 999_999, 2)
PLAINTEXTS = tuple("é" * (size % 3) + "x" * size for size in range(40))


@dataclass(frozen=True)
class Fuzzed:
    """A format under test: how a good value is made, its alphabet, what else to put into it, and its nonces.

    Args:
        arrays: whether the values are elements of arrays.
        is_drawn_singly: whether the reference draws each nonce as it needs it.
        raw: the key that a key material comes to.
        labels: of two columns.
        keys: those of a column, by its number.
        indexed: whether those of the first column get a search index.
        plaintext: whether the first column was never encrypted, and what is no value in it becomes one.
        left: a pattern of what the compiled codec leaves to the reference, though nothing may be wrong with it.
    """

    values: ValueFormat
    good: Callable[[KeyRing, int, str], bytes]
    alphabet: bytes
    strange: bytes
    prefixes: Sequence[bytes]
    nonce_bytes: int
    numbers: Sequence[int] = VERSIONS
    versions: tuple[KeyVersion, ...] = tuple(map(KeyVersion, sorted(set(VERSIONS))))
    target: KeyVersion = V2
    labels: tuple[str, str] | tuple[()] = ()
    keys: Callable[[KeyRing, int], KeyRing] = lambda ring, _: ring
    arrays: bool = False
    is_drawn_singly: bool = False
    indexed: bool = False
    left: bytes = b"(?!)"
    plaintext: bool = False
    raw: Callable[[KeyMaterial], bytes] = raw_of


def twice(ring: KeyRing, version: int, text: str) -> bytes:
    """Our own, some of them of a text that is a value itself, or only begins like one."""
    content = {PLAINTEXTS[7]: sealed(ring, version, ""), PLAINTEXTS[8]: f"v1:{'A' * 16}:{'A' * 23}"}.get(text, text)
    return sealed(ring, version, content).encode()


def token(ring: KeyRing, version: int, text: str) -> bytes:
    """Made by the library, some of them of a text that is a token itself."""
    fernet = Fernet(base64.urlsafe_b64encode(raw_of(ring.material(KeyVersion(version)))))
    return fernet.encrypt(fernet.encrypt(b"") if text == PLAINTEXTS[7] else text.encode())


STANDARD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
FORMATS: dict[str, Fuzzed] = {
    "native": Fuzzed(
        NATIVE,
        twice,
        STANDARD,
        b"Av:=+/ -_\n\r\t\x00\x80\xff:=v12",
        (b"v1", b"v2", b"v7", b"v01", b"V1", b"v999999", b"v1000000", b""),
        12,
    ),
    "fernet": Fuzzed(
        FERNET,
        token,
        STANDARD[:-2] + b"-_",
        b"gA=+/ -_\n\x00\x80\xff",
        (b"g", b"h", b"gAAAAAA", b"gAAAA", b""),
        16,
    ),
}


def laid_out(text: str, aad: str = "") -> Fuzzed:
    """A layout: among its good values some without padding or in upper case, within another, and opened by two keys."""
    layout = Layout(text)

    def good(ring: KeyRing, version: int, plaintext: str) -> bytes:
        data = os.urandom(len(plaintext) % 40) if aad else None
        value = stored(ring, version, plaintext, data)
        return value if data is None else joined(None if plaintext == PLAINTEXTS[5] else data, value)

    def stored(ring: KeyRing, version: int, plaintext: str, data: bytes | None) -> bytes:
        nonce = os.urandom(layout.nonce_bytes)
        content = stored(ring, version, "", data) if plaintext == PLAINTEXTS[7] else plaintext.encode()
        body = AESGCM(raw_of(ring.material(KeyVersion(version)))).encrypt(nonce, content, data)
        if not aad and plaintext == PLAINTEXTS[11] and version != V2.number and layout.nonce_bytes == SHORT_NONCE:
            nonce, body = opened_by_both(*(raw_of(ring.material(KeyVersion(n))) for n in (version, V2.number)))
        value = layout.join(nonce, body)
        changed = {0: value.replace(b"=", b""), 1: value.upper()}.get(len(plaintext) % 3, value)
        taken = layout.split(changed)
        return changed if taken is not None and (taken.nonce, taken.body) == (nonce, body) else value

    strange = b"=:+/-_.AFaf09 \n\x00\x80\xff" + layout.head[:2]
    declared = replace(AES_GCM, layout=text, aad=aad)
    return Fuzzed(declared, good, STANDARD, strange, (b"", b"enc:", b"ENC:", b"ab"), layout.nonce_bytes)


def marked(envelope: Envelope) -> Callable[[KeyRing, int, str], bytes]:
    """Returns what makes a value that names its key; a few are encrypted twice, compressed, or have a data key."""

    def good(ring: KeyRing, version: int, text: str) -> bytes:
        is_rails = isinstance(envelope, RailsEnvelope)
        kept = (b"", b',"c":true') if is_rails and text == PLAINTEXTS[11] else (b"", b"")
        data_key = MarkedValue(b"", b"", b"", (b"",)) if is_rails and text == PLAINTEXTS[9] else None
        content = good(ring, version, "") if text == PLAINTEXTS[7] else text.encode()
        key = envelope.key(ring.material(KeyVersion(version)))
        return key.sealed(content, MarkedValue(b"", b"", b"", kept, data_key=data_key))

    return good


SALT = "the salt"
FORMATS |= {
    "47ng": Fuzzed(
        CLOAK_47NG,
        marked(CloakEnvelope()),
        STANDARD[:-2] + b"-_",
        b"v1.aesgcm256.=+/-_. A\n\x00\x80\xff",
        (b"v1.aes", b"v1.AES", b"v2.aes", b""),
        12,
        is_drawn_singly=True,
    ),
    **{
        name: Fuzzed(
            replace(RAILS, salt=SALT, deterministic=deterministic),
            marked(envelope),
            STANDARD,
            b'{"p":,hiatc}=+/-_ \n\x00\x80\xff',
            (b'{"p":"', b'{"h":{', b'{"P":"', b""),
            12,
            is_drawn_singly=True,
            left=rb'"at":"[^"]*"(?!,"i":"[^"]*"\}\}$)',
            raw=lambda material: derived(material, "sha256", SALT),
        )
        for name, deterministic in {"rails": False, "rails, deterministic": True}.items()
        for envelope in [RailsEnvelope("sha256", SALT, deterministic=deterministic)]
    },
}
SHORT_NONCE = 12
FORMATS |= {
    name: laid_out(text)
    for name, text in {
        "b64": "b64(nonce12 ct tag16)",
        "b64url with a head": "enc:b64url(tag16 ct nonce16).",
        "hex in three groups": "hex(nonce12):hex(tag16):hex(ct)",
        "hex in two groups": "{hex(ct tag16)-hex(nonce16)}",
        "bytes": "raw(nonce12 ct tag16)",
        "bytes with a head": "e:raw(0x0a01 tag16 ct nonce16)",
    }.items()
}

FORMATS |= {
    "bound b64": laid_out("b64(nonce12 ct tag16)", "{table}"),
    "bound bytes": laid_out("raw(0x0a01 tag16 ct nonce16)", "{table}"),
    "two columns of bytes": laid_out("raw(ct tag16); raw(nonce12)"),
    "two columns of lines": laid_out("b64lines(ct tag16); b64lines(nonce12)"),
    "bound lines": laid_out("b64lines(nonce16 tag16 ct)", "{table}"),
    "two columns of b64": laid_out("b64(tag16 ct); b64(nonce12)"),
    "b64url in two groups": laid_out("v.b64url(nonce12).b64url(tag16 ct)."),
}

# A key of its own for each column.
_LOCKBOX_LABELS = ("clients.email_ciphertext", "clients.phone_ciphertext")
FORMATS |= {
    name: replace(
        laid_out(layout, aad),
        values=replace(AES_GCM, layout=layout, aad=aad, derivation=FOR_EACH_COLUMN),
        labels=_LOCKBOX_LABELS,
        keys=lambda ring, column: column_rings(FOR_EACH_COLUMN, ring, _LOCKBOX_LABELS)[column],
    )
    for name, layout, aad in (
        ("lockbox", "b64(nonce12 ct tag16)", ""),
        ("lockbox, bound bytes", "raw(nonce12 ct tag16)", "{table}"),
    )
}

LABEL = "clients.email"
X = KeyVersion(1, 2).generation.number


def bound(ring: KeyRing, number: int, text: str) -> bytes:
    """A value of either generation, made by its cipher alone; a few are another column's, or encrypted twice."""
    content = bound(ring, number, "") if text == PLAINTEXTS[13] else text.encode()
    version = next(each for each in ring.versions if each.number == number)
    label = "clients.phone" if text == PLAINTEXTS[7] else LABEL
    nonce = os.urandom(version.generation.nonce_bytes)
    body = ring.cipher(version).encrypt(nonce, content, associated_data(version, label))
    return str(Ciphertext(version, nonce, body)).encode()


_SECOND = Fuzzed(
    NATIVE,
    bound,
    STANDARD,
    b"Avx:=+/ -_\n\r\t\x00\x80\xff:=v12x",
    (b"v1", b"v1x", b"v2x", b"v2", b"v3", b"v3x", b"v7x", b"v03x", b"V3x", b"v3X", b"v999999x", b"v1000000x", b""),
    24,
    versions=tuple(KeyVersion(number, X if number > 1 else 1) for number in sorted(set(VERSIONS))),
    target=KeyVersion(2, X),
    labels=(LABEL, LABEL),
)


def bound_to_a_row(since: int) -> Callable[[KeyRing, int, str], bytes]:
    """Returns what makes the same with the key of a row before it; of some another's, unknown, or too long."""

    def good(ring: KeyRing, number: int, text: str) -> bytes:
        version = next(each for each in ring.versions if each.number == number)
        key = os.urandom(2000 if text == PLAINTEXTS[9] else len(text) % 40)
        row = Row(since, key if text != PLAINTEXTS[11] else b"another")
        nonce = os.urandom(version.generation.nonce_bytes)
        body = ring.cipher(version).encrypt(nonce, text.encode(), associated_data(version, LABEL, row))
        return joined(None if text == PLAINTEXTS[5] else key, str(Ciphertext(version, nonce, body)).encode())

    return good


FUZZED = {
    **FORMATS,
    "into the second generation": _SECOND,
    "back from the second generation": replace(
        _SECOND,
        nonce_bytes=12,
        target=V2,
        versions=tuple(KeyVersion(number, 1 if number < 3 else X) for number in sorted(set(VERSIONS))),
    ),
    **{
        f"{name} rows": replace(
            _SECOND,
            values=replace(NATIVE, row="id", row_from=since),
            good=bound_to_a_row(since),
            prefixes=(*_SECOND.prefixes, b"-", b"ab", b"AB", b"abc"),
            # A key longer than the compiled codec takes, and an empty text, which is read without a key.
            left=rb"^[0-9a-fA-F]{2049,}:|^[^:]*:$",
        )
        for name, since in {"into": 2, "out of": 3}.items()
    },
    **{
        name: replace(of, plaintext=True, target=of.versions[-1], prefixes=(*of.prefixes, b"Ada", b"v2: "))
        for name, of in {"plaintext": FORMATS["native"], "plaintext into the second generation": _SECOND}.items()
    },
    "indexed": replace(FORMATS["native"], indexed=True),
    "indexed rows": replace(
        _SECOND,
        indexed=True,
        values=replace(NATIVE, row="id", row_from=2),
        good=bound_to_a_row(2),
        left=rb"^[0-9a-fA-F]{2049,}:|^[^:]*:$",
    ),
    "arrays": replace(FORMATS["native"], arrays=True, left=rb"\\"),
    "arrays of tokens": replace(FORMATS["fernet"], arrays=True, left=rb"\\"),
    "arrays of a layout in braces": replace(FORMATS["hex in two groups"], arrays=True, left=rb"\\"),
    "arrays into the second generation": replace(_SECOND, arrays=True, left=rb"\\"),
}


def mutations(chance: random.Random, of: Fuzzed) -> tuple[Callable[[bytearray], None], ...]:
    """What can befall a value; each changes it in place."""

    def anywhere(value: bytearray) -> int:
        return chance.randrange(len(value)) if value else 0

    def another_byte(value: bytearray) -> None:
        if value:
            value[anywhere(value)] = chance.choice(of.strange if chance.random() < 0.6 else bytes(range(256)))

    def cut(value: bytearray) -> None:
        del value[anywhere(value) :]

    def inserted(value: bytearray) -> None:
        value.insert(anywhere(value), chance.choice(of.strange + of.alphabet))

    def removed(value: bytearray) -> None:
        del value[anywhere(value) : anywhere(value) + 1]

    def stray_bits(value: bytearray) -> None:
        last = len(value.rstrip(b"=")) - 1
        if last >= 0 and value[last] in of.alphabet:
            value[last] = of.alphabet[(of.alphabet.index(value[last]) + chance.choice((1, 2, 4, 16))) % 64]

    def padded(value: bytearray) -> None:
        value += b"=" * chance.randrange(1, 4)

    def swapped(value: bytearray) -> None:
        one, other = anywhere(value), anywhere(value)
        if value:
            value[one], value[other] = value[other], value[one]

    def another_version(value: bytearray) -> None:
        value[: value.find(b":") if b":" in value else 6] = chance.choice(of.prefixes)

    return another_byte, another_byte, cut, inserted, removed, stray_bits, padded, swapped, another_version


def values(chance: random.Random, ring: KeyRing, of: Fuzzed) -> Callable[[], Value]:
    """A source of values: half of them good, the others mutated once or more."""
    good = [of.good(ring, version, text) for text in PLAINTEXTS for version in of.numbers]
    befalls = mutations(chance, of)

    def value() -> Value:
        kind = chance.random()
        if kind < 0.04:
            return None if kind < 0.02 else b""
        mutated = bytearray(chance.choice(good))
        while chance.random() < 0.55:
            chance.choice(befalls)(mutated)
        return bytes(mutated)

    return value


def arrays_of(chance: random.Random, value: Callable[[], Value]) -> Callable[[], Value]:
    """A source of arrays as the server writes them."""

    def element() -> bytes:
        each = value()
        if each is None:
            return b"NULL"
        plain = each and each.upper() != b"NULL" and not re.search(rb'[\s{},"\\]', each)
        return each if plain else b'"' + re.sub(rb'(["\\])', rb"\\\1", each) + b'"'

    def array() -> Value:
        row = [element() for _ in range(chance.randrange(4))]
        match chance.randrange(8):
            case 0:
                return None
            case 1 if row:
                return b"{{%b},{%b}}" % ((b",".join(row),) * 2)
            case 2 if row:
                return b"[-1:%d]={%b}" % (len(row) - 2, b",".join(row))
            case _:
                return b"{%b}" % b",".join(row)

    return array


def reference(of: Fuzzed, code: Format, ring: KeyRing, labels: Sequence[str]) -> ValueReencryptor:
    """What the compiled codec is compared with."""
    return (
        PlaintextReencryptor(ring, of.target, labels, {0: None})
        if of.plaintext
        else code.reencryptor(ring, of.target, labels)
    )


def fuzz(name: str, count: int, seed: int) -> tuple[int, int]:
    """Compare the codecs on `count` values; returns how many batches both rewrote, and how many both refused."""
    chance, of = random.Random(seed), FUZZED[name]
    ring = KeyRing({version: KeyMaterial.generate() for version in of.versions}, of.target)
    code, sources = format_of(of.values), [values(chance, of.keys(ring, column), of) for column in (0, 1)]
    sources = [arrays_of(chance, each) for each in sources] if of.arrays else sources
    arrays, plaintext = (frozenset({0}) if said else frozenset[int]() for said in (of.arrays, of.plaintext))
    codecs = {
        columns: (code.native_codec(ring, of.target, labels), reference(of, code, ring, labels))
        for columns in (1, 2)
        for labels in [of.labels[:columns]]
    }
    indexer = Indexer(INDEX, ring)
    for columns, (native, _) in codecs.items() if of.indexed else ():
        assert columns
        assert native is not None
        native.index([CompiledIndex(0, indexer.key(of.target), INDEX.size_bytes, INDEX.normalise)])
    rewritten = refused = compared = 0
    nonces = b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", lambda size: nonces[:size])
        patch.setattr(secrets, "token_bytes", lambda size: nonces[:size].ljust(size, b"k"))
        patch.setattr(time, "time", lambda: 1_700_000_000.0)
        while compared < count:
            columns, rows = chance.choice(((1, 1), (1, 1), (1, 1), (1 if arrays else 2, 1), (1, 3)))
            number = columns * rows * (6 if arrays else 1)
            nonces = chance.randbytes(of.nonce_bytes * (1 if of.is_drawn_singly else number))
            nonces *= number if of.is_drawn_singly else 1
            moved = chance.random() < 0.05  # values of one column in the other
            batch = [tuple(sources[column ^ moved]() for column in range(columns)) for _ in range(rows)]
            compared += columns * rows
            native, python = codecs[columns]
            assert native is not None
            packed = native.reencrypt(batch, 0, columns, (), arrays, plaintext)
            stored = list(zip(*batch, strict=True))
            expected = reencrypt_elements([python], stored, arrays) if arrays else python.reencrypt(stored)
            left = any(map(re.compile(of.left).search, filter(None, chain.from_iterable(batch))))
            if packed is None:
                stays = of.indexed and any(
                    value and not new for value, new in zip(stored[0], expected.columns[0], strict=True)
                )
                assert expected.failures or left or stays, batch
                refused += 1
            else:
                assert not expected.failures, batch
                new = [values for values in zip(*expected.columns, strict=True) if any(values)]
                assert packed.rows == len(new)
                assert packed.changed == sum(value is not None for values in new for value in values)
                if new:
                    each_column = zip(*new, strict=True)
                    assert [TextArray(values).packed for values in each_column] == list(packed.arrays), batch
                if of.indexed:
                    texts = [value and code.plaintext(ring, value, (*of.labels, None)[0]) for value in stored[0]]
                    assert packed.indexes == (_indexes(indexer, of.target, expected.columns, texts),), batch
                rewritten += 1
            checked = native.check(batch, 0, columns, arrays)
            held, failures = check_elements([python], stored, arrays) if arrays else python.check(stored)
            assert checked == (None if failures or left else held), batch
    return rewritten, refused


def _indexes(
    indexer: Indexer, target: KeyVersion, columns: Sequence[Sequence[Value]], texts: Sequence[Value | Defect]
) -> list[bytes | int | None]:
    """What each row with a new value gets from the compiled codec; the number of a row whose text is not ASCII."""
    found: list[bytes | int | None] = []
    for row, new in enumerate(zip(*columns, strict=True)):
        text = texts[row] if new[0] else None
        if any(new):
            assert not isinstance(text, Defect)
            is_ascii = text is None or text.isascii()
            found.append(row if not is_ascii else text and indexer.under(target, text).encode())
            if text == b"":
                found[-1] = indexer.under(target, text).encode()
    return found


if __name__ == "__main__":  # how many values, a seed, and what is fuzzed
    for _name in sys.argv[3:]:
        sys.stdout.write("{} {} {}\n".format(*fuzz(_name, int(sys.argv[1]), int(sys.argv[2])), _name))
        sys.stdout.flush()
